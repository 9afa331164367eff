"""The lab itself: its machines enforce what they should, and leave nothing behind.

Here: tests of tests/lab with real parts. Not here: any test of the product.
"""

from __future__ import annotations

import http.client
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.lab.cache import Cache, file_digest
from tests.lab.llama import Command, llama_in_machine
from tests.lab.machine import CommandFailedError, Machine, wait_for
from tests.lab.needs import DEBIAN_LLAMA, MACHINE, Need, require, unified_cgroup
from tests.lab.nvml import FakeNvml
from tests.lab.rootfs import SYSTEMD_AT_LEAST, Suite
from tests.lab.venv import REPOSITORY, base_layers

if TYPE_CHECKING:  # at run time pytest must be the first to import it
    from tests.lab.fixtures import Boot

pytest_plugins = ("tests.lab.fixtures",)

TINY_SHA256 = "d44d56d531236f1469bbede4c3dbbc07c954c208c5f46131f5bfbb3c00d270b7"
SLOW_SHA256 = "0aa9e851c8feda79186997ef87723c3259fdd0e6770ed8a4ba1567a7d47f686b"
PYTHON = "/opt/orchd/bin/python"


class UnixConnection(http.client.HTTPConnection):
    """http.client over a unix socket."""

    def __init__(self, path: Path) -> None:
        super().__init__("localhost", timeout=20.0)
        self.path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(20.0)
        self.sock.connect(str(self.path))


def ask(path: Path, method: str, route: str, body: object = None) -> tuple[int, dict[str, object]]:
    connection = UnixConnection(path)
    try:
        headers = {"content-type": "application/json"}
        connection.request(method, route, json.dumps(body) if body else None, headers)
        answer = connection.getresponse()
        return answer.status, json.loads(answer.read())
    finally:
        connection.close()


def is_healthy(path: Path) -> bool:
    try:
        return ask(path, "GET", "/health")[0] == 200
    except OSError:
        return False


def traces(name: str, cache: Cache) -> list[str]:
    """Whatever still exists of a machine of that name (or of all whose name begins so)."""
    hierarchy = unified_cgroup()
    assert hierarchy is not None
    places = [hierarchy, Path("/sys/fs/cgroup/systemd"), cache.root / "machines"]
    found = [str(path) for place in places if place.is_dir() for path in place.glob(f"{name}*")]
    mounts = [line for line in Path("/proc/mounts").read_text().splitlines() if name in line]
    for process in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if f"--machine={name}" in process.read_text(errors="replace"):
                found.append(str(process))
        except OSError:
            continue
    return found + mounts


def test_cache_builds_once_and_again_when_missing_or_cut_short(tmp_path: Path) -> None:
    cache, built = Cache(tmp_path), []

    def recipe(folder: Path) -> None:
        built.append(folder)
        (folder / "half").write_text("")
        if len(built) == 1:
            raise RuntimeError("no network")
        assert sorted(p.name for p in folder.iterdir()) == ["half"]

    with pytest.raises(RuntimeError, match="no network"):
        cache.build("thing", {"version": 1}, recipe)
    assert not cache.has("thing", {"version": 1})
    entry = cache.build("thing", {"version": 1}, recipe)
    assert cache.build("thing", {"version": 1}, recipe) == entry
    assert len(built) == 2
    assert cache.build("thing", {"version": 2}, recipe) != entry
    entry.with_name(entry.name + ".json").unlink()  # as if the build had been killed
    assert cache.build("thing", {"version": 1}, recipe) == entry
    assert len(built) == 4


def test_a_missing_need_names_the_command_that_brings_it() -> None:
    need = Need("a thing", lambda: False, debian=("thing",), arch=("thing",))
    with pytest.raises(pytest.skip.Exception, match=r"needs a thing: .* thing$"):
        require([need])


@pytest.mark.system
@pytest.mark.slow
def test_a_machine_boots_our_suite(boot: Boot, suite: Suite, lab_cache: Cache) -> None:
    machine = boot()
    assert machine.systemctl("is-system-running").stdout == "running\n"
    version = int(machine.run(["systemctl", "--version"]).stdout.split()[1])
    assert version >= SYSTEMD_AT_LEAST[suite]
    for name in ("orchd", "poolmgr", "orchctl"):
        interpreter = machine.run(["head", "-1", f"/usr/bin/{name}"]).stdout
        assert interpreter == f"#!{PYTHON}\n"
    modules = (
        "attrs, cattrs, click, h11, h2, orjson, orchd, poolmgr, prometheus_client, pynvml, rich"
    )
    program = f"import {modules}, sdnotify, systemd.daemon, trio, xdg; print(orchd.__file__)"
    found = machine.run([PYTHON, "-W", "error", "-c", program], user="nobody").stdout
    assert found.startswith("/opt/orchd/lib/")
    machine.stop()
    assert traces(machine.container.name, lab_cache) == []


@pytest.mark.system
@pytest.mark.slow
def test_what_a_machine_offers(boot: Boot) -> None:
    machine = boot()
    machine.put("/etc/lab/deep/file", "text\n", 0o640)
    assert (
        machine.run("stat -c %a /etc/lab/deep/file; cat /etc/lab/deep/file").stdout == "640\ntext\n"
    )
    with pytest.raises(CommandFailedError, match="lost its way"):
        machine.run("echo lost its way >&2; exit 3")
    with pytest.raises(subprocess.TimeoutExpired):
        machine.run("sleep 600 & sleep 600", timeout_s=0.2)
    assert machine.run("pidof sleep", check=False).stdout == ""
    with pytest.raises(TimeoutError, match="a wonder"):
        machine.wait_for(lambda: False, 0.05, "a wonder")


@pytest.mark.system
@pytest.mark.slow
def test_a_layer_on_top_is_set_up_at_boot(boot: Boot, layers: list[Path], tmp_path: Path) -> None:
    for name, text in {
        "sysusers.d/lab.conf": "u labuser - -\n",
        "tmpfiles.d/lab.conf": "d /run/lab 0750 labuser labuser\n",
        "systemd/system/lab.service": "[Service]\nExecStart=true\n[Install]\nWantedBy=a.target\n",
    }.items():
        file = tmp_path / "layer/usr/lib" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    machine = boot(layers=[tmp_path / "layer", *layers])
    assert machine.run("stat -c '%U %a' /run/lab").stdout == "labuser 750\n"
    enabled = machine.systemctl("is-enabled", "lab.service", check=False).stdout
    assert enabled == "disabled\n"  # what a test does not enable is not


@pytest.mark.system
@pytest.mark.slow
def test_a_unit_becomes_ready_and_is_reached_from_outside(boot: Boot) -> None:
    machine = boot()
    machine.put("/opt/service.py", SERVICE)
    machine.put("/etc/systemd/system/lab.service", UNIT)
    machine.systemctl("daemon-reload")
    machine.systemctl("start", "lab.service")
    shown = machine.show("lab.service", "ActiveState", "StatusText")
    assert shown == {"ActiveState": "active", "StatusText": "at your service"}
    with socket.socket(socket.AF_UNIX) as by_path:
        by_path.connect(str(machine.path("/run/lab/x.sock")))
        assert by_path.recv(16) == b"unix"
    with machine.connect_tcp(8484) as by_port:
        assert by_port.recv(16) == b"tcp"
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", 8484), 1.0)  # the machine's loopback is its own
    entries = machine.journal("lab.service", "LAB_FIELD=42")
    assert [entry["MESSAGE"] for entry in entries] == ["a structured entry"]


UNIT = f"""
[Service]
Type=notify
DynamicUser=yes
RuntimeDirectory=lab
ExecStart={PYTHON} /opt/service.py
"""
SERVICE = """
import socket
from systemd import daemon, journal
unix = socket.socket(socket.AF_UNIX)
unix.bind("/run/lab/x.sock")
unix.listen()
tcp = socket.create_server(("127.0.0.1", 8484))
journal.send("a structured entry", LAB_FIELD="42")
daemon.notify("READY=1\\nSTATUS=at your service")
for server, text in ((unix, b"unix"), (tcp, b"tcp")):
    client, _ = server.accept()
    client.sendall(text)
"""


@pytest.mark.system
@pytest.mark.slow
def test_devices_and_addresses_are_guarded_by_the_kernel(boot: Boot) -> None:
    """Without the launcher's CAP_BPF these settings are accepted and do nothing."""
    machine = boot()
    # Nothing drives 195:0 and 195:1 here: whom the kernel lets through gets ENXIO, others EPERM.
    machine.run("mknod -m 666 /dev/nvidia0 c 195 0; mknod -m 666 /dev/nvidia1 c 195 1")
    probe = (
        "import errno, os\n"
        "for n in (0, 1):\n"
        "    try: os.open(f'/dev/nvidia{n}', os.O_RDWR)\n"
        "    except OSError as e: print(errno.errorcode[e.errno])\n"
    )
    alone = ["systemd-run", "--quiet", "--pipe", "--wait", "--property=User=nobody"]
    guard = ["--property=DevicePolicy=closed", "--property=DeviceAllow=/dev/nvidia0 rw"]
    free = machine.run([*alone, "python3", "-c", probe]).stdout.split()
    guarded = machine.run([*alone, *guard, "python3", "-c", probe]).stdout.split()
    assert (free, guarded) == (["ENXIO", "ENXIO"], ["ENXIO", "EPERM"])
    send = "import socket; socket.socket(type=socket.SOCK_DGRAM).sendto(b'x', ('127.0.0.1', 9))"
    machine.run([*alone, "python3", "-c", send])
    refused = machine.run(
        [*alone, "--property=IPAddressDeny=any", "python3", "-c", send], check=False
    )
    assert "PermissionError" in refused.stderr


@pytest.mark.system
@pytest.mark.slow
def test_a_broken_machine_shows_its_console_and_goes(tmp_path: Path) -> None:
    require(MACHINE)
    (tmp_path / "usr").mkdir()
    cache = Cache(tmp_path / "cache")
    with pytest.raises(RuntimeError, match=r"ended with status|No such file|not look like"):
        Machine([tmp_path / "usr"], cache=cache).start()
    assert traces(f"orchd-{os.getpid()}-", cache) == []


@pytest.mark.system
@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_nothing_stays_when_the_tests_are_killed(lab_cache: Cache, number: int) -> None:
    require(MACHINE)
    base_layers(Suite.TRIXIE, lab_cache)
    program = (
        "import time\n"
        "from tests.lab.machine import Machine\n"
        "from tests.lab.venv import base_layers\n"
        "with Machine(base_layers('trixie')) as machine:\n"
        "    print(machine.container.name, flush=True)\n"
        "    time.sleep(60)\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        cwd=REPOSITORY,
    ) as tests:
        assert tests.stdout is not None
        name = tests.stdout.readline().strip()
        assert traces(name, lab_cache)
        tests.send_signal(number)
        tests.wait(20.0)
    wait_for(lambda: not traces(name, lab_cache), 20.0, f"nothing left of {name}")


def test_the_tiny_models_are_the_same_everywhere(tiny_gguf: Path, slow_gguf: Path) -> None:
    assert (file_digest(tiny_gguf), file_digest(slow_gguf)) == (TINY_SHA256, SLOW_SHA256)


@contextmanager
def serving(command: Command, model: Path, path: Path) -> Iterator[Path]:
    """The real server with a model on a unix socket."""
    argv, env = command
    options = ["--model", str(model), "--host", str(path), "--parallel", "1", "--threads", "1"]
    with subprocess.Popen(
        [*argv, *options, "--ctx-size", "2048"],
        env={**os.environ, **env},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    ) as server:
        try:
            wait_for(lambda: is_healthy(path), 20.0, "the engine answers /health")
            yield path
        finally:
            server.terminate()
            server.wait(20.0)


@pytest.mark.engine
def test_the_real_engine_answers(llama_command: Command, tiny_gguf: Path, tmp_path: Path) -> None:
    with serving(llama_command, tiny_gguf, tmp_path / "x.sock") as path:
        assert ask(path, "GET", "/health") == (200, {"status": "ok"})
        wish = {"prompt": "the", "n_predict": 8, "ignore_eos": True, "seed": 1}
        status, answer = ask(path, "POST", "/completion", wish)
        assert (status, answer["tokens_predicted"]) == (200, 8)
        assert str(answer["content"]).isascii()


@pytest.mark.engine
@pytest.mark.system
@pytest.mark.slow
def test_the_real_engine_runs_inside_for_a_service_user(boot: Boot, tiny_gguf: Path) -> None:
    require(DEBIAN_LLAMA)
    binds, argv = llama_in_machine()
    machine = boot(binds={**binds, tiny_gguf: Path("/opt/tiny.gguf")})
    options = ["--model", "/opt/tiny.gguf", "--host", "/run/llama/x.sock", "--threads", "1"]
    as_user = ["systemd-run", "--quiet", "-pDynamicUser=yes", "-pRuntimeDirectory=llama"]
    machine.run([*as_user, "--unit=llama", *argv, *options])
    path = Path("/run/llama/x.sock")
    machine.wait_for(lambda: is_healthy(machine.path(path)), 20.0, "the engine answers /health")


NVML_PROBE = """
import pynvml as nvml
nvml.nvmlInit()
for index in range(nvml.nvmlDeviceGetCount()):
    gpu = nvml.nvmlDeviceGetHandleByIndex(index)
    memory = nvml.nvmlDeviceGetMemoryInfo(gpu)
    pids = [p.pid for p in nvml.nvmlDeviceGetComputeRunningProcesses(gpu)]
    print(nvml.nvmlDeviceGetName(gpu), memory.total >> 20, memory.used >> 20, pids, sep=";")
"""


def test_pynvml_sees_the_fake_and_its_changes(fake_nvml: FakeNvml) -> None:
    def look() -> list[str]:
        argv = [sys.executable, "-c", NVML_PROBE]
        env = {**os.environ, **fake_nvml.env}
        done = subprocess.run(argv, env=env, capture_output=True, text=True, check=False)
        return (done.stdout + done.stderr).splitlines()

    assert look() == ["NVIDIA Fake 4090;24576;0;[]", "NVIDIA Fake 3060;12288;0;[]"]
    fake_nvml.add_process(1, 4242, 900)
    assert look()[1] == "NVIDIA Fake 3060;12288;900;[4242]"
    fake_nvml.remove_process(4242)
    fake_nvml.set_gpu(0, used_mib=512)
    assert look() == ["NVIDIA Fake 4090;24576;512;[]", "NVIDIA Fake 3060;12288;0;[]"]
    fake_nvml.lose_gpu(1)
    assert "GPU is lost" in look()[-1]
    fake_nvml.unload_driver()
    assert "Driver Not Loaded" in look()[-1]


@pytest.mark.system
@pytest.mark.slow
def test_a_service_inside_sees_the_fake_change(boot: Boot, fake_nvml: FakeNvml) -> None:
    machine = boot(binds=fake_nvml.binds)
    argv = ["systemd-run", "--quiet", "--pipe", "--wait", "--property=DynamicUser=yes"]
    argv += [PYTHON, "-c", NVML_PROBE]
    assert machine.run(argv).stdout.splitlines()[0] == "NVIDIA Fake 4090;24576;0;[]"
    fake_nvml.set_gpu(0, used_mib=1024)
    assert machine.run(argv).stdout.splitlines()[0] == "NVIDIA Fake 4090;24576;1024;[]"
