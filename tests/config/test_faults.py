"""Bad configurations: what each one is answered with, with line and path."""

from __future__ import annotations

import pytest

from orchd.config.faults import ConfigError
from orchd.config.load import MAX_FILE_BYTES, load

GOOD = {
    "id": '"a"', "engine": '{ id = "mock" }', "model": '{ ref = "x" }', "replicas": "[[0]]",
    "ctx": "100",
}  # fmt: skip
LLAMA = {"engine": '{ id = "llamacpp" }', "model": '{ ref = "file:/m.gguf" }'}
EXTERNAL = 'provisioning = { mode = "external"'


def pool(**keys: str | None) -> str:
    """Return a pool's table, one key on a line, in this order: id engine model replicas ctx."""
    lines = {**GOOD, **keys}
    return "[[pools]]\n" + "".join(f"{k} = {v}\n" for k, v in lines.items() if v is not None)


def faults(tmp_path, data: str | bytes) -> list[tuple[int | None, str, str]]:
    path = tmp_path / "c.toml"
    path.write_bytes(data.encode() if isinstance(data, str) else data)
    with pytest.raises(ConfigError) as caught:
        load(path, environ={})
    found = []
    for fault in caught.value.faults:
        where = fault.where.removeprefix(str(path))
        found.append((int(where[1:]) if where else None, fault.path, fault.message))
    return found


def test_the_good_pool_is_good(tmp_path):
    (tmp_path / "c.toml").write_text(pool() + pool(id='"b"', **LLAMA))
    assert len(load(tmp_path / "c.toml", environ={"ORCHD_RUN_DIR": "/run"}).pools) == 2


P = "$.pools[0]"
PLUGIN = f"name = 'hosts'\npath = '/x'\nsha256 = '{'0' * 64}'"
# text, line, path, a part of the message
TABLE = [
    ("a = ", 1, "$", "is not TOML"),
    ("\n\n= 3", 3, "$", "is not TOML"),
    ('x = "', 1, "$", "is not TOML"),
    ("a = 1\na = 2", 2, "$", "is not TOML: Cannot overwrite a value"),
    ("a = " + "[" * 5000, 1, "$", "is not TOML"),
    (b"\n# \xff\xfe", 2, "$", "is not UTF-8"),
    (b"#" * (MAX_FILE_BYTES + 1), None, "$", "is larger than 1 MiB"),
    ("\nfoo = 1", 2, "$.foo", "is not a known key (known: bind_addr, "),
    ("bind_adr = 1", 1, "$.bind_adr", "did you mean bind_addr?"),
    ("[policy.outbound]\nallow = ['https://a.b']", 2, "$.policy.outbound.allow[0]", "must be host"),
    ("[policy.outbound]\nproxy = 'http://me:secret@p:1'", 2, "$.policy.outbound.proxy", "http://host"),
    ("[policy.outbound]\nmax_mb = 0", 2, "$.policy.outbound.max_mb", "of at least 1"),
    ("[policy.outbound]\nrequests_per_min = 100001", 2, "$.policy.outbound.requests_per_min",
     "at most 100000"),
    ("[[policy.plugins]]\npath = '/x'\nsha256 = 'x'", 1, "$.policy.plugins[0].name", "is required"),
    *(
        (f"[[policy.plugins]]\n{PLUGIN}\n{line}", 5, f"$.policy.plugins[0].{key}", said)
        for line, key, said in (
            ("fuel = 100000001", "fuel", "at most 100000000, not 100000001"),
            ("memory_mb = 65", "memory_mb", "at most 64"),
            ("deadline_ms = 1001", "deadline_ms", "at most 1000"),
            ("decides = []", "decides", "outbound, admission or both"),
            ("decides = ['inbound']", "decides[0]", "must be one of outbound, admission"),
            ("on_error = 'ask'", "on_error", "must be one of deny, allow"),
            (f"args = {['x'] * 65}", "args", "at most 64 words, not 65"),
            (f"args = ['{'x' * 257}']", "args[0]", "at most 256 characters"),
            ("arg = []", "arg", "did you mean args?"),
        )
    ),
    (f"[[policy.plugins]]\n{PLUGIN.replace('hosts', 'Ho')}", 2, "$.policy.plugins[0].name",
     "lower case"),
    (f"[[policy.plugins]]\n{PLUGIN.replace('/x', 'x')}", 3, "$.policy.plugins[0].path",
     "must begin with /"),
    (f"[[policy.plugins]]\n{PLUGIN.replace('00', 'FF')}", 4, "$.policy.plugins[0].sha256",
     "64 hex digits"),
    (f"[[policy.plugins]]\n{PLUGIN}\n[[policy.plugins]]\n{PLUGIN}", 6, "$.policy.plugins[1].name",
     "the name of a plugin before it"),
    ("\n".join(f"[[policy.plugins]]\n{PLUGIN.replace('hosts', f'h{n}')}" for n in range(9)), 1,
     "$.policy.plugins", "at most 8 plugins, not 9"),
    ("[policy.fetch]\nenabled = true", 1, "$.policy.fetch.allow", "must name the hosts"),
    ("[policy.fetch]\nallow = ['a/b']", 2, "$.policy.fetch.allow[0]", "must be host"),
    ("[policy.fetch]\nprivate = ['10.0.0.1/8']", 2, "$.policy.fetch.private[0]", "a network"),
    ("[policy.fetch]\nmax_kb = 16385", 2, "$.policy.fetch.max_kb", "at most 16384"),
    ("[policy.fetch]\ntimeout_ms = 60001", 2, "$.policy.fetch.timeout_ms", "at most 60000"),
    ("[policy.fetch]\nrequests_per_min = 100001", 2, "$.policy.fetch.requests_per_min",
     "at most 100000"),
    ("pools = 3", 1, "$.pools", "must be a list, not 3"),
    ("pools = [3]", 1, "$.pools[0]", "must be an object, not 3"),
    ("bind_addr = 8484", 1, "$.bind_addr", "must be a string, not 8484"),
    ('bind_addr = "8484"', 1, "$.bind_addr", "must be IP:PORT"),
    ('bind_addr = "127.0.0.1"', 1, "$.bind_addr", "must be IP:PORT"),
    ('bind_addr = "127.0.0.1:65536"', 1, "$.bind_addr", "must be IP:PORT"),
    ('bind_addr = "127.0.0.1:٣"', 1, "$.bind_addr", "must be IP:PORT"),
    ('bind_addr = "example.org:80"', 1, "$.bind_addr", "must be IP:PORT"),
    ('auth_optional = "yes"', 1, "$.auth_optional", "must be true or false, not 'yes'"),
    ("cancel_on_disconnect = 1", 1, "$.cancel_on_disconnect", "must be true or false"),
    ('state_dir = ""', 1, "$.state_dir", "must be a string of 1 to 4096 characters"),
    ("[sse]\nmicrobatch_ms = 51", 2, "$.sse.microbatch_ms", "must be at most 50, not 51"),
    ("[sse]\nchannel_cap = 31", 2, "$.sse.channel_cap", "must be 32: others come"),
    ("[sse]\nnarration_period_ms = 249", 2, "$.sse.narration_period_ms", "0 or from 250 to"),
    ('cors_origins = ["*"]', 1, "$.cors_origins[0]", "an origin of this machine"),
    ('cors_origins = ["http://localhost/"]', 1, "$.cors_origins[0]", "(no path, no *)"),
    ('cors_origins = ["http://localhost.evil.example"]', 1, "$.cors_origins[0]", "such as"),
    (pool(model='{ ref = "mock:x", cache_dir = "c" }'), 4, f"{P}.model.cache_dir", "begin with /"),
    ("[sse]\nheartbeat_ms = 0", 2, "$.sse.heartbeat_ms", "an integer of at least 1, not 0"),
    ("[sse]\nheartbeat_ms = 1.0", 2, "$.sse.heartbeat_ms", "an integer of at least 1, not 1.0"),
    ("[sessions]\nmax_turns = 0", 2, "$.sessions.max_turns", "an integer of at least 1, not 0"),
    ("[sessions]\nbudget = { tokens = -1 }", 2, "$.sessions.budget.tokens", "not -1"),
    ("[sessions]\nbudget = { cost = 1.5 }", 2, "$.sessions.budget.cost", "a pool with a price"),
    (pool(price="{ tokens_out = -0.5 }"), 7, f"{P}.price.tokens_out", "at least 0, not -0.5"),
    ("[sse]\nx.y = 1", 2, "$.sse.x", "is not a known key"),
    ('devices = "nvml"', 1, "$.devices", "must be an object"),
    ('devices.backend = "cpu"', 1, "$.devices.backend", "must be one of nvml, simulated"),
    ("[devices]\nreserve = [{ gpu = 0, mb = 1 }, { gpu = 0, mb = 2 }]", 2,
     "$.devices.reserve[1].gpu", "0 has a reserve already"),
    ("devices.reserve_mb = -1", 1, "$.devices.reserve_mb", "at least 0"),
    ('devices.backend = "simulated"', 1, "$.devices.simulated", "at least one device"),
    ('[devices]\nsimulated = [{ name = "x", vram_mb = 1 }]', 2, "$.devices.simulated",
     'needs backend = "simulated"'),
    (pool(id=None), 1, f"{P}.id", "is required"),
    (pool(id='"A_b"'), 2, f"{P}.id", "must be a pool id (a-z, 0-9 and -, at most 63)"),
    (pool(id='"a/../b"'), 2, f"{P}.id", "must be a pool id"),
    (pool() + pool(), 8, "$.pools[1].id", "'a' is the id of $.pools[0] too"),
    (pool(engine='"mock"'), 3, f"{P}.engine", "must be an object"),
    (pool(engine="{ }"), 3, f"{P}.engine.id", "is required"),
    (pool(engine='{ id = "gguf" }'), 3, f"{P}.engine.id", "must be one of mock, llamacpp, vllm"),
    (pool(engine='{ id = "mock", tokens_per_s = "20" }'), 3, f"{P}.engine.tokens_per_s",
     "must be a number of at least 0, not '20'"),
    (pool(engine='{ id = "mock", tokens_per_s = -1 }'), 3, f"{P}.engine.tokens_per_s", "not -1"),
    (pool(engine='{ id = "mock", tokens_per_s = nan }'), 3, f"{P}.engine.tokens_per_s", "not nan"),
    (pool(engine='{ id = "mock", tokens_per_s = inf }'), 3, f"{P}.engine.tokens_per_s", "not inf"),
    (pool(engine='{ id = "mock", faults = { die = 3 } }'), 3, f"{P}.engine.faults.die",
     "is not a known key"),
    (pool(**{**LLAMA, "engine": '{ id = "llamacpp", first_token_ms = 3 }'}), 3,
     f"{P}.engine.first_token_ms", "is only for engine mock"),
    (pool(**{**LLAMA, "engine": '{ id = "llamacpp", kv_bytes_per_token = 3 }'}), 3,
     f"{P}.engine.kv_bytes_per_token", "is only for engine mock"),
    (pool(model="{ }"), 4, f"{P}.model.ref", "is required"),
    (pool(model='{ ref = "x", digest = "md5:1" }'), 4, f"{P}.model.digest", "sha256:<64 hex"),
    (pool(**{**LLAMA, "model": '{ ref = "hf:repo" }'}), 4, f"{P}.model.ref", "hf:org/repo"),
    (pool(**{**LLAMA, "model": '{ ref = "file:" }'}), 4, f"{P}.model.ref", "a path after file:"),
    (pool(replicas=None), 1, f"{P}.replicas", "must name at least one device mask"),
    (pool(replicas="[]"), 5, f"{P}.replicas", "must name at least one device mask"),
    (pool(replicas="[0]"), 5, f"{P}.replicas[0]", "must be a list of GPU indices such as [0]"),
    (pool(replicas="[[]]"), 5, f"{P}.replicas[0]", "names at least one GPU"),
    (pool(replicas="[[1, 0]]"), 5, f"{P}.replicas[0]", "in ascending order"),
    (pool(replicas="[[0, 0]]"), 5, f"{P}.replicas[0]", "each GPU once"),
    (pool(replicas="[[64]]"), 5, f"{P}.replicas[0]", "from 0 to 63"),
    (pool(replicas="[[true]]"), 5, f"{P}.replicas[0]", "must be a list of GPU indices"),
    (pool(replicas="[[0],\n [1],\n [0]]"), 7, f"{P}.replicas[2]", "is the mask of replicas[0] too"),
    (pool(devices="[0]"), 7, f"{P}.devices", "give it or replicas, not both"),
    (pool(replicas=None, devices="0"), 6, f"{P}.devices", "must be a list of GPU indices"),
    (pool(ctx='"8192"'), 6, f"{P}.ctx", "must be an integer of at least 1, not '8192'"),
    (pool(ctx="true"), 6, f"{P}.ctx", "must be an integer of at least 1, not True"),
    (pool(ctx=None), 1, f"{P}.ctx", "is required"),
    (pool(slots="0"), 7, f"{P}.slots", "must be an integer of at least 1"),
    (pool(max_tokens_out="101"), 7, f"{P}.max_tokens_out", "must be at most ctx (100), not 101"),
    (pool(queue="{ interactive = 0 }"), 7, f"{P}.queue.interactive", "of at least 1, not 0"),
    (pool(full_policy='"maybe"'), 7, f"{P}.full_policy",
     "must be one of reject, drop-lru, shed-low-priority, not 'maybe'"),
    (pool(queue="{ batch_after = 0 }"), 7, f"{P}.queue.batch_after", "of at least 1, not 0"),
    (pool(watchdog="{ wall_ms = 0 }"), 7, f"{P}.watchdog.wall_ms", "of at least 1, not 0"),
    (pool(watchdog="{ idle_ms = 999 }"), 7, f"{P}.watchdog.idle_ms", "must be at least 1000"),
    ("[throttle]\nburst = 0", 2, "$.throttle.burst", "of at least 1, not 0"),
    ("throttle.requests_per_s = -1", 1, "$.throttle.requests_per_s", "at least 0, not -1"),
    ("queued_prompts_mb = 0", 1, "$.queued_prompts_mb", "of at least 1, not 0"),
    (pool(tensor_split="[1, 1]"), 7, f"{P}.tensor_split", "one share for each GPU of the mask [0]"),
    (pool(tensor_split="[0]"), 7, f"{P}.tensor_split", "must have a share above 0"),
    (pool() + 'provisioning.mode = "container"', 7, f"{P}.provisioning.mode", "our own program"),
    (pool() + EXTERNAL + "}", 7, f"{P}.provisioning.url", "is required for mode external: unix:"),
    (pool() + EXTERNAL + ', url = "unix:x.sock" }', 7, f"{P}.provisioning.url", "must be unix:/"),
    (pool() + EXTERNAL + ', url = "http://10.0.0.1:80" }', 7, f"{P}.provisioning.url", "must be"),
    (pool() + EXTERNAL + ', url = "http://127.0.0.1:0" }', 7, f"{P}.provisioning.url", "must be"),
    (pool() + EXTERNAL + f', url = "unix:/{"x" * 107}" }}', 7, f"{P}.provisioning.url",
     "at most 107 bytes"),
    (pool() + EXTERNAL + ', url = "unix:/x", command = ["y"] }', 7, f"{P}.provisioning.command",
     "is not for mode external"),
    (pool(engine='{ id = "mock", args = ["-x"] }') + EXTERNAL + ', url = "unix:/x" }', 3,
     f"{P}.engine.args", "must be empty for mode external"),
    (pool() + 'provisioning = { url = "unix:/x" }', 7, f"{P}.provisioning.url",
     "is only for mode external"),
    (pool() + "provisioning = { gpu_attested = true }", 7, f"{P}.provisioning.gpu_attested",
     "only for mode external"),
    (pool() + "provisioning = { command = [] }", 7, f"{P}.provisioning.command", "a program"),
    (f'run_dir = "/{"r" * 90}"\n' + pool(), 3, f"{P}.id", "bytes too long: shorten it or run_dir"),
]  # fmt: skip
SIMULATED = 'devices = { backend = "simulated", simulated = [{ name = "S", vram_mb = 9 }] }\n'


@pytest.mark.req("OC-CONFIG-6001")
@pytest.mark.parametrize(("text", "line", "path", "message"), TABLE)
def test_one_fault_is_one_line(tmp_path, text, line, path, message):
    (found,) = faults(tmp_path, text)
    assert found[:2] == (line, path)
    assert message in found[2]


def test_simulated_devices_are_for_the_mock_only_and_are_there(tmp_path):
    (found,) = faults(tmp_path, SIMULATED + pool(**LLAMA))
    assert found[:2] == (4, f"{P}.engine.id")
    assert "must be mock while devices.backend is simulated" in found[2]
    (found,) = faults(tmp_path, SIMULATED + pool(replicas="[[0], [1]]"))
    assert found == (6, f"{P}.replicas[1]", "GPU 1 is not simulated: indices are 0 to 0")


@pytest.mark.req("OC-CONFIG-6001", "ORCH-3330")
def test_every_fault_at_once_in_the_order_of_the_file(tmp_path):
    text = (
        'bind_addr = "0.0.0.0:1"\n'
        + "[sse]\nheartbeat = 3\n"
        + pool(id='"b"', ctx='"x"', slots="0", full_policy='"drop"', model="{ }")
        + pool(id='"b"', engine='{ id = "gguf" }', max_tokens_out="1000")
        + "[pools.provisioning]\nmode = 'external'\nurl_ = 1\n"
    )
    assert [found[:2] for found in faults(tmp_path, text)] == [
        (1, "$.bind_addr"),
        (3, "$.sse.heartbeat"),
        (7, f"{P}.model.ref"),
        (9, f"{P}.ctx"),
        (10, f"{P}.slots"),
        (11, f"{P}.full_policy"),
        (13, "$.pools[1].id"),
        (14, "$.pools[1].engine.id"),
        (18, "$.pools[1].max_tokens_out"),
        (19, "$.pools[1].provisioning.url"),
        (21, "$.pools[1].provisioning.url_"),
    ]


def test_the_error_names_the_count_and_the_first_path(tmp_path):
    (tmp_path / "c.toml").write_text("x = 1\ny = 2")
    with pytest.raises(ConfigError) as caught:
        load(tmp_path / "c.toml", environ={})
    assert caught.value.message.startswith("2 errors in the configuration:\n  ")
    assert caught.value.fields.path == "$.x"
    assert caught.value.row.exit_code == 78
