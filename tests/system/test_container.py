"""A pool whose engine is a container, as the package runs it: podman in the hardened unit.

Here: an image from a registry, pulled by the operator's command, run, killed and stopped by
systemd. Not here: the command that podman gets (tests/poolmgr/provision/test_container.py).
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from orchd.wire.errors import TABLE, Kind
from tests.fakes.certs import make_certificate
from tests.lab import boxes, image
from tests.lab.cache import Cache
from tests.lab.machine import Machine
from tests.lab.needs import DEBIAN_LLAMA, MACHINE, PACKAGING, require
from tests.lab.nvml import FakeNvml, uuid_of
from tests.lab.rootfs import Suite
from tests.system import archpkg
from tests.system.house import House, names_of, pool, task, text_of
from tests.system.lin import HOME, Lin

pytest_plugins = ("tests.lab.fixtures",)
pytestmark = [pytest.mark.system, pytest.mark.engine, pytest.mark.slow, pytest.mark.timeout(300)]

UNIT = pool("llama:0")
MODEL = Path("/var/lib/orchd/models/tiny.gguf")
REFERENCE = f'image = "{image.HOST}/{image.NAME}"'


def configuration(container: str) -> str:
    return f"""
[[pools]]
id = "llama"
engine = {{ id = "llamacpp" }}
model = {{ ref = "file:{MODEL}" }}
replicas = [[0]]
ctx = 2048
provisioning = {{ mode = "container", container = {{ {container} }} }}
"""


def wish(tokens: int = 12) -> dict[str, object]:
    return task("llamacpp", model_ref=f"file:{MODEL}", prompt="the", max_tokens=tokens)


@pytest.fixture(scope="module")
def contained(lab_cache: Cache) -> image.Image:
    """The image, in a registry's storage."""
    require((*MACHINE, *PACKAGING, *DEBIAN_LLAMA))
    return image.llama_image(lab_cache)


@pytest.fixture(scope="module")
def booted(
    package: Path,
    suite: Suite,
    lab_cache: Cache,
    gpus: FakeNvml,
    contained: image.Image,
    tiny_gguf: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[House]:
    """A machine with podman and the package, a registry of its own, and GPUs for containers."""
    scratch = tmp_path_factory.mktemp(f"boxes-{suite}")
    scratch.chmod(0o755)
    layers = archpkg.install(package, boxes.box_layers(suite, lab_cache), scratch / "layer")
    archpkg.pass_for_arch(layers, scratch / "check")
    binds = {**gpus.binds, **contained.binds}
    with Machine(layers, binds, cache=lab_cache, options=boxes.OPTIONS) as machine:
        boxes.prepare(machine, gpus.file.read_text())
        certificate, key = make_certificate(scratch, "registry.lab")
        image.start_registry(machine, certificate, key)
        shutil.copy2(tiny_gguf, machine.path(MODEL))
        house = House(machine)
        house.configure(configuration(f'{REFERENCE}, digest = "{contained.digest}"'))
        code, said = provision(house)
        assert code == TABLE[Kind.PROVISION_FAILED].exit_code  # nobody trusts it yet
        assert "certificate signed by unknown authority" in said[-1]["human"]
        image.trust(machine, certificate)
        code, said = provision(house)
        assert code == 0, said
        yield house


def provision(house: House) -> tuple[int, list[dict[str, str]]]:
    """How `orchctl provision` ended, which root runs, and what it told."""
    # in a scope, which is there for as long as anything of it is
    scope = ["systemd-run", "--quiet", "--scope", "--unit=operator", "--collect"]
    argv = ["env", f"FAKE_NVML={boxes.DRIVER_LOG}", "orchctl", "provision", "llama"]
    done = house.machine.run([*scope, *argv], timeout_s=120, check=False)
    house.wait(
        lambda: house.property("operator.scope", "ActiveState") == "inactive",
        "no process of provisioning stays",
    )
    return done.returncode, [json.loads(line) for line in done.stderr.splitlines()]


@pytest.fixture
def box(house: House, contained: image.Image) -> House:
    """The machine with the pool's image configured by its digest, and its unit."""
    house.configure(configuration(f'{REFERENCE}, digest = "{contained.digest}"'))
    house.drop_in(UNIT, boxes.UNIT_SETTINGS)
    return house


def engine_pid(house: House) -> int:
    """The engine's process, as the machine counts."""
    found = [pid for pid in house.engine_pids("llama:0") if "/llama-server" in cmdline(house, pid)]
    assert len(found) == 1, found
    return found[0]


def cmdline(house: House, pid: int) -> str:
    """A process's program and arguments; empty when it has gone."""
    try:
        return house.machine.path(f"/proc/{pid}/cmdline").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return ""


def left(house: House) -> list[str]:
    """What there is of podman and its containers in the machine: processes, files, mounts."""
    programs = "for p in /proc/[0-9]*/cmdline; do tr '\\0' ' ' < $p; echo; done"
    said = house.machine.run(programs, check=False).stdout.splitlines()
    words = ("/podman ", "conmon", "llama-server", "crun")
    files = house.machine.run("find /var/tmp /run/poolmgr -mindepth 1").stdout.splitlines()
    mounts = house.machine.path("/proc/1/mountinfo").read_text().splitlines()
    return [
        *(line for line in said if any(word in line for word in words)),
        *(line for line in files if UNIT in line or "orchd-podman" in line or "engine" in line),
        *(line for line in mounts if " /var/cache/orchd/" in line or " /var/tmp/" in line),
    ]


def again(house: House, before: int) -> int:
    """The engine's process, another one than before, once its pool is back and serves."""
    house.wait(lambda: house.health("llama").get("ready"), "the pool is back")
    house.wait(lambda: names_of(house.complete(wish()))[-1] == "end", "it serves")
    pid = engine_pid(house)
    assert pid != before
    assert not house.alive(before)
    (one,) = [pid for pid in house.engine_pids("llama:0") if "/conmon" in cmdline(house, pid)]
    assert one  # and one container, not two
    return pid


@pytest.mark.req("ORCH-3801", "ORCH-3802", "ORCH-3205")
def test_a_tag_is_pulled_with_a_warning_and_its_digest_is_kept(
    house: House, contained: image.Image
) -> None:
    house.configure(configuration(f'{REFERENCE}, tag = "{image.TAG}"'))
    code, said = provision(house)
    assert code == 0, said
    assert "image_not_pinned" in [event["event"] for event in said]
    shown = house.machine.run("cat /var/cache/orchd/engines/catalog/*.json").stdout
    assert f"{image.HOST}/{image.NAME}@{contained.digest}" in shown
    # the operator was root; what he has brought is the pools', nobody else may read it
    script = "stat --format=%U:%a /var/cache/orchd/engines/images"
    assert house.machine.run(script).stdout == "poolmgr:700\n"
    assert provision(house)[1][-1]["event"] == "engine_here"  # nobody is asked again


@pytest.mark.req("ORCH-3801", "SYSD-28")
def test_a_container_serves_in_the_hardened_unit(box: House) -> None:
    box.start("llama:0")
    box.wait_ready("llama")
    assert "on GPU 0 (NVIDIA Fake 4090), verified" in box.property(UNIT, "StatusText")
    first, second = box.complete(wish()), box.complete(wish())
    assert names_of(first) == ["started", "token", "end"]
    assert json.loads(first[-1].data)["tokens_out"] == 12
    assert text_of(first) == text_of(second) != ""

    pid = engine_pid(box)
    status = box.machine.path(f"/proc/{pid}/status").read_text()
    uid = box.machine.run("id -u poolmgr").stdout.strip()
    assert f"\nUid:\t{uid}\t{uid}\t{uid}\t{uid}\n" in status
    assert "\nCapEff:\t0000000000000000\n" in status
    assert "\nNoNewPrivs:\t1\n" in status
    # its root is the pool's user, and there is nobody else in there
    mapped = box.machine.path(f"/proc/{pid}/uid_map").read_text().split()
    assert mapped == ["0", uid, "1"]
    assert len(box.machine.path(f"/proc/{pid}/net/dev").read_text().splitlines()) == 3  # lo
    seen = box.machine.path(f"/proc/{pid}/environ").read_text().split("\0")
    assert f"LAB_GPU_0={uuid_of(0)}" in seen
    assert not [word for word in seen if word.startswith("LAB_GPU_1")]
    root = box.machine.path(f"/proc/{pid}/root")
    assert (root / "dev/nvidia0").is_char_device()
    assert not (root / "dev/nvidia1").exists()
    assert (root / "usr/bin/libcuda.so").read_text() == "a library of the driver\n"  # by a hook
    (models,) = [
        line.split()[5]
        for line in box.machine.path(f"/proc/{pid}/mountinfo").read_text().splitlines()
        if f" {MODEL.parent} " in line
    ]
    assert models.startswith("ro")
    # and it is under the unit's filters, in the unit's cgroup
    assert pid in box.engine_pids("llama:0")
    box.machine.run(["systemd-analyze", "security", "--threshold=35", UNIT])


@pytest.mark.req("ORCH-3801", "SYSD-28")
def test_a_task_in_a_container_is_cancelled(box: House) -> None:
    box.start("llama:0")
    box.wait_ready("llama")
    # a tiny model says 1500 tokens in half a second, or ends before: a busy machine may be late
    assert "canceled" in (cancelled(box) for _ in range(5))
    assert names_of(box.complete(wish()))[-1] == "end"  # its slot is free


def cancelled(box: House) -> str:
    """How a task ends that is cancelled after its first token."""
    long = wish(1500)
    assert box.ask("POST", "/v1/tasks", long).status == 202
    with box.stream(long["task_id"]) as events:
        next(event for event in events if event.name == "token")
        assert box.ask("POST", f"/v1/tasks/{long['task_id']}/cancel").status == 204
        return str(json.loads(list(events)[-1].data)["finish_reason"])


@pytest.mark.req("ORCH-3801", "SYSD-09", "SYSD-28")
def test_no_container_outlives_its_pool(box: House) -> None:
    box.drop_in(UNIT, f"{boxes.UNIT_SETTINGS}RestartSec=200ms\nRestartSteps=0\n")
    box.start("llama:0")
    box.wait_ready("llama")
    pid = engine_pid(box)
    box.kill(pid)
    box.wait(lambda: not box.health("llama").get("ready"), "the pool has noticed")
    pid = again(box, pid)
    box.kill(box.main_pid(UNIT))
    box.wait(lambda: not box.alive(pid), "the engine is gone with its poolmgr")
    pid = again(box, pid)
    box.machine.systemctl("stop", "orchd.target", UNIT)
    assert not box.alive(pid)
    assert left(box) == []


@pytest.mark.req("ORCH-3801", "ORCH-3804")
def test_docker_runs_it_where_there_is_no_podman(box: House) -> None:
    machine = box.machine
    machine.run("mv /usr/bin/podman /usr/bin/podman.away; usermod --append --groups docker poolmgr")
    try:
        boxes.start_docker(machine, cdi=False)
        code, said = provision(box)
        assert code == TABLE[Kind.PROVISION_FAILED].exit_code
        assert "nvidia-ctk runtime configure --runtime=docker" in said[-1]["human"]
        boxes.start_docker(machine, cdi=True)
        code, said = provision(box)
        assert code == 0, said
        assert "with docker" in next(e["human"] for e in said if e["event"] == "engine_pull")
        box.start("llama:0")
        box.wait_ready("llama")
        assert names_of(box.complete(wish())) == ["started", "token", "end"]
        (name,) = docker(box)
        box.kill(box.main_pid(UNIT))
        box.wait(lambda: docker(box) not in ([], [name]), "another container")
        box.wait(lambda: box.property(UNIT, "ActiveState") == "active", "the pool is back")
        box.kill(box.main_pid(UNIT))
        machine.systemctl("stop", "orchd.target", UNIT)
        assert docker(box) == []  # also where no poolmgr was left to end it
    finally:
        machine.run("mv /usr/bin/podman.away /usr/bin/podman; systemctl stop dockerd")


def docker(house: House) -> list[str]:
    """The containers that docker has, running or not."""
    return house.machine.run("docker ps --all --quiet --no-trunc").stdout.split()


@pytest.mark.req("ORCH-3801", "SYSD-22", "SYSD-28")
def test_a_user_s_own_instance_runs_it_with_the_user_s_podman(
    house: House, contained: image.Image
) -> None:
    machine, lin = house.machine, Lin(house.machine)
    lin.make()
    lin.put("models/tiny.gguf", machine.path(MODEL).read_bytes())
    text = configuration(f'{REFERENCE}, digest = "{contained.digest}"')
    text = text.replace(str(MODEL.parent), f"{HOME}/models")
    lin.put(".config/orchd/orchd.toml", text.encode())
    setting = f"[Service]\nEnvironment=FAKE_NVML={boxes.DRIVER_LOG}\n"
    lin.put(f".config/systemd/user/{UNIT}.d/test.conf", setting.encode())
    with lin.logged_in():
        lin.run("env", f"FAKE_NVML={boxes.DRIVER_LOG}", "orchctl", "provision", "llama")
        # podman's own process would lend its ids to any other, also where nobody gains privileges
        lin.run("podman", "system", "migrate")
        lin.systemctl("start", "orchd.target", UNIT)
        assert "verified" in lin.systemctl("show", "--property=StatusText", UNIT)
        (engine,) = engines(house)
        mapped = machine.path(f"/proc/{engine}/uid_map").read_text()
        assert len(mapped.splitlines()) == 2  # the user, and the subordinate ids
        lin.systemctl("stop", "orchd.target", UNIT)
        assert engines(house) == []


def engines(house: House) -> list[int]:
    """All engines of the machine."""
    said = house.machine.run("grep -l llama-server /proc/[0-9]*/comm", check=False).stdout
    return [int(Path(line).parent.name) for line in said.split()]


CLOSED = (
    "RestrictNamespaces=yes",
    "SystemCallFilter=~@mount",
    "SystemCallFilter=~@chown",
    "SystemCallFilter=~setresuid setresgid",
    "SystemCallFilter=~sethostname",
    "ProtectKernelTunables=yes",
    "ProtectKernelLogs=yes",
    "ProtectHostname=yes",
)
"""Each of what the drop-in of such a pool opens."""


@pytest.mark.req("SYSD-28")
def test_the_unit_is_opened_no_further_than_podman_needs(box: House, suite: Suite) -> None:
    for line in CLOSED if suite is Suite.TRIXIE else CLOSED[-3:]:
        box.drop_in(UNIT, f"{boxes.UNIT_SETTINGS}Restart=no\n{line}\n")
        box.machine.systemctl("start", UNIT, check=False)
        status = box.property(UNIT, "StatusText")
        assert box.property(UNIT, "ActiveState") == "failed", line
        assert "the engine exited with code" in status, (line, status)
        box.machine.systemctl("reset-failed", UNIT)
