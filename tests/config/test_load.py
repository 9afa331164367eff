"""Precedence, defaults by user and service, the token's sources."""

from __future__ import annotations

import os
import stat
import tempfile
from pathlib import Path

import attrs
import pytest

from orchd.config import load as loading
from orchd.config.devices import Backend, Devices, SimulatedDevice
from orchd.config.faults import ConfigError
from orchd.config.folders import make_private
from orchd.config.load import default_file, load
from orchd.config.pool import Mode
from orchd.config.schema import Common, Settings
from orchd.wire.errors import Kind
from orchd.wire.ids import DeviceMask, EngineId, PoolId, Positive, ReplicaId, Text
from orchd.wire.policy import FullPolicy

ISSUE = """
bind_addr = "127.0.0.1:9000"
state_dir = "/tmp/state"
[devices]
backend = "simulated"
simulated = [{ name = "Simulated 24 GB", vram_mb = 24576 }, { name = "Simulated 12 GB", vram_mb = 12288 }]
[[pools]]
id = "demo"
engine = { id = "mock", tokens_per_s = 200, first_token_ms = 20 }
model = { ref = "mock:lorem" }
replicas = [[0], [1]]
ctx = 8192
slots = 1
queue = { interactive = 64, batch = 256 }
full_policy = "reject"
"""  # noqa: E501 (as the issue writes it)
POOL = '[[pools]]\nid = "a"\nengine = { id = "llamacpp" }\nmodel = { ref = "m.gguf" }\nctx = 10\n'


@pytest.fixture
def write(tmp_path: Path):
    def write(text: str, name: str = "orchd.toml") -> Path:
        path = tmp_path / name
        path.write_text(text)
        return path

    return write


@pytest.fixture
def as_user(monkeypatch):
    monkeypatch.setattr(os, "geteuid", lambda: 1000)


def faults_of(*args, **kwargs) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        load(*args, **kwargs)
    assert caught.value.kind is Kind.CONFIG_INVALID
    return [str(fault) for fault in caught.value.faults]


def test_the_shape_of_the_issue(write):
    path = write(ISSUE)
    settings = load(path, environ={"ORCHD_RUN_DIR": "/run"})
    assert settings.bind == ("127.0.0.1", 9000)
    assert settings.state_dir == Path("/tmp/state")
    assert settings.source == path
    assert settings.devices == Devices(
        backend=Backend.SIMULATED,
        simulated=(
            SimulatedDevice(name=Text("Simulated 24 GB"), vram_mb=Positive(24576)),
            SimulatedDevice(name=Text("Simulated 12 GB"), vram_mb=Positive(12288)),
        ),
    )
    (pool,) = settings.pools
    assert pool.engine.id == EngineId("mock")
    assert (pool.engine.tokens_per_s, pool.engine.first_token_ms) == (200.0, 20.0)
    assert pool.replica_ids == ("demo:0", "demo:1")
    assert (pool.max_tokens, pool.full_policy) == (8192, FullPolicy.REJECT)
    assert pool.command == ()
    assert settings.front_socket == Path("/run/orchd/orchd.sock")
    assert settings.pool_socket(ReplicaId("demo:1")) == Path("/run/poolmgr/demo:1.sock")
    assert settings.engine_socket(ReplicaId("demo:1")) == Path("/run/poolmgr/demo:1.engine.sock")
    assert settings.pool(PoolId("demo")) is pool
    with pytest.raises(KeyError):
        settings.pool(PoolId("other"))


def test_devices_is_short_for_one_replica(write):
    pool = load(write(POOL + "devices = [0, 1]"), environ={}).pools[0]
    assert pool.replicas == (DeviceMask((0, 1)),)
    assert pool.devices is None
    assert pool.command == ("llama-server",)
    assert pool.mode is Mode.SOURCE


def test_every_key_of_the_file_is_in_force(write):
    """A key that is read and then lost would be one without effect."""
    said = {
        "bind_addr": '"127.0.0.1:9"',
        "auth_optional": "true",
        "trust_proxy_auth": "true",
        "cors_origins": '["http://localhost:5173"]',
        "cancel_on_disconnect": "false",
        "queued_prompts_mb": "7",
        "throttle": "{ requests_per_s = 2.5, burst = 3, tokens_per_min = 99 }",
        "sse": "{ heartbeat_ms = 77 }",
        "devices": '{ backend = "simulated", simulated = [{ name = "x", vram_mb = 1 }] }',
        "policy": '{ outbound = { deny = ["a.b"] } }',
        "artifacts": "{ max_mb = 5 }",
        "sessions": "{ max_turns = 3 }",
        "tls": '{ cert = "c", key = "k" }',
    }
    rest = {each.name for each in attrs.fields(Common)} - said.keys() - {"pools"}
    assert not rest, "a new key belongs into this test"
    text = "\n".join(f"{key} = {value}" for key, value in said.items())
    settings = load(write(text), environ={"ORCHD_RUN_DIR": "/run"})
    plain = load(write("", "plain.toml"), environ={"ORCHD_RUN_DIR": "/run"})
    for key in said:
        assert getattr(settings, key) != getattr(plain, key), key
    assert (settings.throttle.requests_per_s, settings.throttle.tokens_per_min) == (2.5, 99)


@pytest.mark.req("CONF-PRECEDENCE", "HME-003")
def test_flag_over_environment_over_file_over_default(write):
    path = write('bind_addr = "127.0.0.1:1"\nrun_dir = "/file"\nstate_dir = "/file"')
    environ = {"ORCHD_ADDR": "127.0.0.1:2", "ORCHD_RUN_DIR": "/env"}
    flags = {"bind_addr": "127.0.0.1:3"}
    assert load(path, environ=environ, overrides=flags).bind_addr == "127.0.0.1:3"
    assert load(path, environ=environ, overrides={"bind_addr": None}).bind_addr == "127.0.0.1:2"
    assert load(path, environ={}).bind_addr == "127.0.0.1:1"
    assert load(write("", "empty"), environ={}).bind_addr == "127.0.0.1:8484"
    settings = load(path, environ=environ)
    assert (settings.run_dir, settings.state_dir) == (Path("/env"), Path("/file"))


def test_which_file_is_read(write, tmp_path, monkeypatch, as_user):
    monkeypatch.setattr(loading, "SYSTEM_FILE", tmp_path / "etc.toml")
    environ = {"XDG_CONFIG_HOME": str(tmp_path / "xdg"), "ORCHD_RUN_DIR": "/r"}
    assert default_file(environ) is None
    settings = load(environ=environ)
    assert (settings.source, settings.pools) == (None, ())
    system = write("", "etc.toml")
    assert load(environ=environ).source == system
    (tmp_path / "xdg" / "orchd").mkdir(parents=True)
    own = write("", "xdg/orchd/orchd.toml")
    assert load(environ=environ).source == own
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    assert load(environ=environ).source == system
    named = write("", "named.toml")
    environ["ORCHD_CONFIG"] = str(named)
    assert load(environ=environ).source == named
    assert load(own, environ=environ).source == own


def test_a_named_file_that_is_not_there_is_said(tmp_path):
    (fault,) = faults_of(tmp_path / "no.toml", environ={})
    assert fault == f"{tmp_path}/no.toml: $: cannot be read: No such file or directory"
    (fault,) = faults_of(environ={"ORCHD_CONFIG": str(tmp_path)})
    assert "Is a directory" in fault


def test_folders_of_root_user_and_service(tmp_path, monkeypatch):
    def folders(uid: int, environ: dict[str, str]) -> tuple[str, str]:
        monkeypatch.setattr(os, "geteuid", lambda: uid)
        settings: Settings = load(environ=environ | {"ORCHD_CONFIG": str(empty)})
        return str(settings.run_dir), str(settings.state_dir)

    empty = tmp_path / "empty.toml"
    empty.write_text("")
    user = {"XDG_RUNTIME_DIR": "/run/user/7", "XDG_STATE_HOME": "/home/u/.state"}
    service = {"STATE_DIRECTORY": "/var/lib/orchd:/var/lib/b", "INVOCATION_ID": "1"}
    assert folders(0, {}) == ("/run", "/var/lib/orchd")
    assert folders(0, user) == ("/run", "/var/lib/orchd")
    assert folders(7, user) == ("/run/user/7", "/home/u/.state/orchd")
    assert folders(7, service) == ("/run", "/var/lib/orchd")
    own = {"ORCHD_RUN_DIR": "/r", "ORCHD_STATE_DIR": "/s"}
    assert folders(7, user | service | own) == ("/r", "/s")


def test_a_user_without_a_runtime_folder_gets_one_that_nobody_else_enters(tmp_path, monkeypatch):
    """In /tmp anybody may come first, and would be sent our prompts and token."""
    uid = os.geteuid()
    path = tmp_path / f"orchd-{uid}"
    for _ in range(2):  # made, and found again
        assert make_private(path, uid) is None
        assert stat.S_IMODE(path.stat().st_mode) == 0o700
    for mode in (0o750, 0o701):
        path.chmod(mode)
        assert "not a folder of yours alone" in str(make_private(path, uid))
    path.chmod(0o700)
    assert "remove it" in str(make_private(path, uid + 1)), "it is somebody else's"
    link = tmp_path / "link"
    link.symlink_to(path)
    assert "remove it" in str(make_private(link, uid)), "it leads to a folder of ours"
    assert "cannot be made" in str(make_private(tmp_path / "no" / "way", uid))

    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(os, "geteuid", lambda: uid + 1)
    (tmp_path / f"orchd-{uid + 1}").mkdir()
    (fault,) = faults_of(environ={"XDG_CONFIG_HOME": "/no"})
    assert fault.startswith(f"default: $.run_dir: {tmp_path}/orchd-{uid + 1} is not")


@pytest.mark.req("OC-CONFIG-6030", "CONF-PRECEDENCE")
def test_the_token_of_the_first_source_that_has_one(write, tmp_path):
    def token(text: str, **environ: str) -> str | None:
        secret = load(write(text), environ=environ).auth_token
        return secret.reveal() if secret else None

    (tmp_path / "cred").mkdir()
    (tmp_path / "cred" / "auth_token").write_text("from-credential\n")
    write("from-a-file\n", "token")
    env = {"ORCHD_AUTH_TOKEN": "from-environment"}
    assert token("") is None
    assert token('auth_token = "literal"') == "literal"
    assert token(f'auth_token = "file:{tmp_path}/token"') == "from-a-file"
    assert token('auth_token = "literal"', **env) == "from-environment"
    assert token("", CREDENTIALS_DIRECTORY=str(tmp_path), **env) == "from-environment"
    assert token("", CREDENTIALS_DIRECTORY=str(tmp_path / "cred"), **env) == "from-credential"


@pytest.mark.req("CONF-PRECEDENCE")
def test_the_token_is_never_shown(write, tmp_path):
    settings = load(write('auth_token = "hunter2hunter2"'), environ={})
    assert "hunter2" not in f"{settings!r} {settings} {settings.auth_token}"
    for text in ('auth_token = "hunter2 hunter2"', "auth_token = [2222]", 'auth_token = ""'):
        (fault,) = faults_of(write(text), environ={})
        assert "hunter2" not in fault
        assert "2222" not in fault
        assert fault.startswith(f"{tmp_path}/orchd.toml:1: $.auth_token: must be ")
    (fault,) = faults_of(write(""), environ={"ORCHD_AUTH_TOKEN": "hunter2\n"})
    assert "hunter2" not in fault
    assert fault.startswith("environment ORCHD_AUTH_TOKEN: $.auth_token: must be visible ASCII")
    (fault,) = faults_of(write('\nauth_token = "file:/nowhere"'), environ={})
    assert "cannot be read from /nowhere: No such file" in fault


@pytest.mark.req("AUTH-1002", "OC-CONFIG-6032", "HME-002")
@pytest.mark.parametrize("address", ["0.0.0.0:8484", "[::]:8484", "192.168.1.2:80"])
def test_beyond_loopback_only_with_a_token(write, address):
    path = write(f'bind_addr = "{address}"')
    (fault,) = faults_of(path, environ={})
    assert "NON_LOOPBACK_WITHOUT_TOKEN (40301)" in fault
    assert fault.startswith(f"{path}:1: $.bind_addr: ")
    assert load(path, environ={"ORCHD_AUTH_TOKEN": "t"}).bind_addr == address


@pytest.mark.req("HME-002")
@pytest.mark.parametrize(
    ("address", "bind"),
    [
        ("127.0.0.1:0", ("127.0.0.1", 0)),
        ("[::1]:8484", ("::1", 8484)),
        ("localhost:80", ("127.0.0.1", 80)),
    ],
)
def test_loopback_needs_no_token(write, address, bind):
    assert load(write(""), environ={"ORCHD_ADDR": address}).bind == bind


def test_model_files_are_found_from_the_configuration(write, tmp_path):
    relative = load(write(POOL + "devices = [0]"), environ={})
    assert relative.model_path(relative.pools[0]) == tmp_path / "m.gguf"
    absolute = load(write(POOL.replace("m.gguf", "file:/m/x.gguf") + "devices = [0]"), environ={})
    assert absolute.model_path(absolute.pools[0]) == Path("/m/x.gguf")
    mock = load(write(ISSUE), environ={})
    assert mock.model_path(mock.pools[0]) is None


def test_where_a_fault_came_from(write):
    path = write('bind_addr = "127.0.0.1:1"')
    (fault,) = faults_of(path, environ={"ORCHD_ADDR": "here"})
    assert fault.startswith("environment ORCHD_ADDR: $.bind_addr: must be IP:PORT")
    (fault,) = faults_of(path, environ={"ORCHD_ADDR": "here"}, overrides={"bind_addr": "there"})
    assert fault.startswith("flag bind_addr: $.bind_addr: must be IP:PORT")


@pytest.mark.req("OC-CTRL-2025")
def test_the_files_of_tls_begin_at_the_configuration(write):
    assert load(write("")).tls_files is None
    path = write('tls = { cert = "a.pem", key = "/k.pem" }')
    assert load(path).tls_files == (path.parent / "a.pem", Path("/k.pem"))


def test_a_certificate_without_its_key_is_a_fault(write):
    (fault,) = faults_of(write('[tls]\ncert = "a.pem"'))
    assert "$.tls.key" in fault
