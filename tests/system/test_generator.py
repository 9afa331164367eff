"""orchd.toml as units in a booted machine: at boot, after a change, with a fault, for the kernel.

Here: what systemd makes of the generator's output. Not here: which text it writes for which
configuration (tests/generator).
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.lab.cache import Cache
from tests.lab.machine import Machine
from tests.lab.nvml import FakeNvml
from tests.system.house import GENERATOR, SIMULATED, House, mock_pool, names_of, pool, task

pytest_plugins = ("tests.lab.fixtures",)
pytestmark = [pytest.mark.system, pytest.mark.slow]

MOST_S = 0.15
LLAMA = """
[[pools]]
id = "llama"
engine = {{ id = "llamacpp" }}
model = {{ ref = "file:{model}" }}
replicas = {replicas}
ctx = 8192
"""


def active(house: House, replica: str) -> bool:
    """Whether the pool's service is up."""
    return house.property(pool(replica), "ActiveState") == "active"


def refusals(house: House) -> list[str]:
    """What the generator has said."""
    found = house.journal(None, "SYSLOG_IDENTIFIER=orchd-generator")
    return [str(entry["MESSAGE"]) for entry in found]


@pytest.mark.req("SYSD-15")
def test_a_change_is_applied_by_two_commands(house: House) -> None:
    house.apply(SIMULATED, mock_pool("a"))
    house.wait(lambda: active(house, "a:0"), "a:0 is up")
    first = house.main_pid(pool("a:0"))
    house.apply(SIMULATED, mock_pool("a"), mock_pool("b", "[[0], [1]]"))
    house.wait(lambda: active(house, "b:0") and active(house, "b:1"), "b is up")
    assert house.main_pid(pool("a:0")) == first  # who did not change is not touched
    assert house.property(pool("b:1"), "SourcePath") == "/etc/orchd/orchd.toml"


@pytest.mark.req("SYSD-20")
def test_a_pool_that_is_removed_stops_with_the_next_start_of_the_target(house: House) -> None:
    house.apply(SIMULATED, mock_pool("a"), mock_pool("b"))
    house.wait(lambda: active(house, "a:0") and active(house, "b:0"), "both are up")
    kept = house.main_pid(pool("a:0"))
    house.configure(SIMULATED, mock_pool("a"))
    house.machine.systemctl("daemon-reload")
    assert active(house, "b:0")  # a reload alone takes nothing away
    house.machine.systemctl("start", "orchd.target")
    house.wait(
        lambda: (
            house.property(pool("b:0"), "ActiveState") == "inactive"
            and house.property("poolmgr@b:0.socket", "ActiveState") == "inactive"
        ),
        "b:0 and its socket are down",
    )
    assert house.main_pid(pool("a:0")) == kept
    house.machine.systemctl("daemon-reload")
    house.machine.systemctl("start", "orchd.target")
    assert house.property("orchd-removed.service", "LoadState") == "not-found"


@pytest.mark.req("SYSD-19")
def test_a_file_that_is_refused_keeps_the_last_good_units_and_says_so(house: House) -> None:
    house.apply(SIMULATED, mock_pool("a"))
    house.wait(lambda: active(house, "a:0"), "a:0 is up")
    pid = house.main_pid(pool("a:0"))
    house.apply(SIMULATED, mock_pool("a").replace("ctx", "cxt"), mock_pool("b"))
    assert active(house, "a:0")
    assert house.main_pid(pool("a:0")) == pid
    assert "a:0" in house.machine.run("ls /run/systemd/generator/orchd.target.wants").stdout
    assert house.property(pool("b:0"), "ActiveState") == "inactive"
    (line,) = refusals(house)
    assert line.startswith("No new units from /etc/orchd/orchd.toml, the last good ones stay: ")
    assert "/etc/orchd/orchd.toml:10: $.pools[0].ctx: is required (and 1 more)" in line
    assert line in house.machine.run("journalctl -u orchd.target --output=cat").stdout
    house.apply(SIMULATED, mock_pool("a"), mock_pool("b"))
    house.wait(lambda: active(house, "b:0"), "b:0 is up")
    assert len(refusals(house)) == 1


@pytest.mark.req("SYSD-12", "OC-POOL-3020")
def test_the_devices_of_an_instance_are_its_mask_s(house: House) -> None:
    house.configure(LLAMA.format(model="/srv/m.gguf", replicas="[[0], [1]]"))
    house.machine.systemctl("daemon-reload")
    for index in (0, 1):
        said = house.machine.run(
            f"systemctl show --value --property=DeviceAllow {pool(f'llama:{index}')}"
        ).stdout
        assert f"/dev/char/195:{index} rwm" in said
        assert f"/dev/char/195:{1 - index} " not in said
        assert "/dev/char/195:255 rwm" in said


@pytest.mark.req("SYSD-16")
def test_a_model_in_a_closed_home_is_read_and_the_home_is_not(house: House, gpus: FakeNvml) -> None:
    assert len(gpus.gpus) == 2
    house.machine.run(
        "mkdir -p /home/ada/models /home/ada/.ssh && chmod 700 /home/ada && "
        "echo weights > /home/ada/models/m.gguf && echo key > /home/ada/.ssh/id"
    )
    house.configure(LLAMA.format(model="/home/ada/models/m.gguf", replicas="[[0]]"))
    probe = "cat /home/ada/models/m.gguf; ls -A /home/ada; touch /home/ada/models/x; id -un"
    house.drop_in(
        pool("llama:0"),
        "[Service]\nType=oneshot\nRestart=no\nWatchdogSec=0\nExecStart=\n"
        f'ExecStart=/bin/sh -c "{probe}"\n',
    )
    house.machine.systemctl("start", pool("llama:0"))
    said = [line for line in house.said(pool("llama:0")).splitlines() if "systemd" not in line]
    assert "weights" in said
    assert "models" in said
    assert ".ssh" not in said
    assert any("Read-only file system" in line for line in said)
    assert "poolmgr" in said


@pytest.mark.req("SYSD-17")
def test_limits_are_in_force(house: House) -> None:
    more = "limits = { memory_mb = 700, cpu_percent = 150 }"
    house.apply(SIMULATED, mock_pool("a", more=more))
    house.wait(lambda: active(house, "a:0"), "a:0 is up")
    assert house.property(pool("a:0"), "MemoryMax") == str(700 << 20)
    assert house.property(pool("a:0"), "CPUQuotaPerSecUSec") in ("1.5s", "1.500000s")


# CPU seconds of one run each, so that neighbours on the machine do not count
TIMED = """
import json, os, resource, subprocess, sys, time
def once():
    before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
    subprocess.run(["rm", "-rf", "/tmp/out"], check=True)
    base = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([sys.argv[1], "/tmp/out", "/tmp/out", "/tmp/out"], check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - base.ru_utime - base.ru_stime
unchanged = [once() for _ in range(7)]
changed = []
for _ in range(7):
    os.unlink("/run/orchd-units.json")
    changed.append(once())
print(json.dumps({"unchanged": min(unchanged), "changed": min(changed)}))
"""


@pytest.mark.req("SYSD-21")
def test_it_is_fast(house: House, record_property) -> None:
    pools = [mock_pool(f"p{n}", "[[0], [1]]") for n in range(8)]
    house.configure(SIMULATED, *pools)
    house.machine.systemctl("daemon-reload")
    house.machine.put("/tmp/timed.py", TIMED)
    argv = ["python3", "/tmp/timed.py", str(GENERATOR)]
    took = json.loads(house.machine.run(argv).stdout)
    record_property("generator, CPU seconds", took)
    assert took["unchanged"] < MOST_S / 2
    assert took["changed"] < MOST_S


BootWith = Callable[[str], House]


@pytest.fixture
def boot_with(
    house_layers: list[Path], lab_cache: Cache, gpus: FakeNvml, tmp_path: Path
) -> Iterator[BootWith]:
    """Boot a machine with a configuration file, and with the suite enabled."""
    tmp_path.chmod(0o755)
    layer = tmp_path / "configured"
    (layer / "etc/orchd").mkdir(parents=True)
    wants = layer / "etc/systemd/system/multi-user.target.wants"
    wants.mkdir(parents=True)
    (wants / "orchd.target").symlink_to("/usr/lib/systemd/system/orchd.target")
    for path in [layer, *layer.rglob("*")]:
        if path.is_dir():
            path.chmod(0o755)
    with ExitStack() as machines:

        def boot(config: str) -> House:
            (layer / "etc/orchd/orchd.toml").write_text(config)
            machine = Machine([layer, *house_layers], binds=gpus.binds, cache=lab_cache)
            return House(machines.enter_context(machine))

        yield boot


@pytest.mark.req("SYSD-15")
def test_pools_are_up_after_a_boot(boot_with: BootWith) -> None:
    house = boot_with(SIMULATED + mock_pool("a", "[[0], [1]]"))
    house.wait(lambda: active(house, "a:0") and active(house, "a:1"), "both replicas are up")
    house.wait_ready("a")
    assert house.machine.systemctl("is-system-running").stdout == "running\n"


@pytest.mark.req("SYSD-19")
def test_a_boot_with_a_file_that_is_refused_is_a_boot(boot_with: BootWith) -> None:
    """The line about it goes to the kernel's log then, which a container does not have."""
    house = boot_with("bad = 1\n")
    assert house.machine.systemctl("is-system-running").stdout == "running\n"
    assert house.property("orchd.socket", "ActiveState") == "active"
    assert house.machine.run("test -e /dev/kmsg", check=False).returncode == 1
    house.apply(SIMULATED, mock_pool("a"))
    house.wait(lambda: active(house, "a:0"), "a:0 is up")


@pytest.mark.req("SYSD-23", "HME-031")
def test_orchd_takes_new_pools_in_and_drops_no_stream(house: House) -> None:
    slow = "tokens_per_s = 20"
    house.configure(SIMULATED, mock_pool("a", engine=slow))
    house.machine.systemctl("daemon-reload")
    house.start("a:0")
    house.wait_ready("a")
    orchd = house.main_pid("orchd.service")
    running = task(max_tokens=80)
    assert house.ask("POST", "/v1/tasks", running).status == 202
    with house.stream(running["task_id"]) as events:
        seen = [next(events) for _ in range(3)]
        began = time.monotonic()
        other = mock_pool("b").replace("mock:lorem", "mock:other")
        house.apply(SIMULATED, mock_pool("a", engine=slow), other)
        house.machine.systemctl("reload", "orchd.service")
        house.wait_ready("b")
        took_s = time.monotonic() - began
        assert names_of(house.complete(task(model_ref="mock:other")))[-1] == "end"
        seen += events
    assert names_of(seen) == ["started", "token", "end"]
    assert house.main_pid("orchd.service") == orchd
    assert took_s < 10
    house.configure(SIMULATED, "bad = 1")
    refused = house.machine.systemctl("reload", "orchd.service", check=False)
    assert refused.returncode != 0
    assert "bad: is not a known key" in house.said("orchd.service")
    assert house.main_pid("orchd.service") == orchd
    assert house.health("b")["ready"]
    house.configure(SIMULATED, mock_pool("a", engine=slow))
    house.machine.systemctl("reload", "orchd.service")
    status = house.property("orchd.service", "StatusText")
    assert "After a restart: pool b, which is gone" in status
