"""`python -m tools.bench.booted`: what needs a booted systemd. As root, two minutes.

How long the units take to READY, how long the gaps after kill -9 are, how old a snapshot gets under
load, what the generator costs. The machine is the newest systemd that the tests boot.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import threading
import time
from functools import partial
from pathlib import Path
from typing import Final

import orjson

from tests.lab.cache import Cache
from tests.lab.machine import Machine
from tests.lab.needs import MACHINE, missing
from tests.lab.rootfs import Suite
from tests.system.house import GENERATOR, SIMULATED, House, installed, mock_pool, pool, task
from tools.bench import page
from tools.bench.figures import Figure, markdown

READY: Final = "From `systemctl start` to READY, engine mock, no load time (ms)"
GAPS: Final = "From kill -9 to READY again (s): systemd's step, and the start"
AGE: Final = "Age of the snapshot that orchd places by (ms)"
GENERATOR_COST: Final = "The generator, 16 replicas (ms)"
ORCHD: Final = "orchd.service"
POOL: Final = pool("demo:0")
STARTS: Final = 10
STEPS: Final = {ORCHD: (0.1, 0.2, 0.5, 1, 2, 5), POOL: (0.5, 1, 2, 4, 8)}
"""Roughly what specs/12-systemd.md promises, one for each kill."""
WATCHED_S: Final = 15.0
LOOK_S: Final = 0.01
TIMED: Final = """
import json, resource, subprocess, sys, tempfile, time
def run():
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    began = time.perf_counter()
    with tempfile.TemporaryDirectory() as out:
        subprocess.run([sys.argv[1], out, out, out], check=True)
    wall = time.perf_counter() - began
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return wall * 1e3, cpu * 1e3
found = {"unchanged": [], "changed": []}
for n in range(10):
    with open("/etc/orchd/orchd.toml", "a") as file:
        file.write(f"# {n}\\n")
    found["changed"].append(run())
    found["unchanged"].append(run())
print(json.dumps(found))
"""


def main() -> int:
    """Boot, measure, print; 1 when the machine lacks something."""
    parser = argparse.ArgumentParser(prog="python -m tools.bench.booted", description=__doc__)
    parser.add_argument("--write", type=Path, metavar="FILE", help="replace the tables of FILE")
    options = parser.parse_args()
    if absent := missing(MACHINE):
        print("\n".join(need.reason() for need in absent), file=sys.stderr)
        return 1
    depends = page.machine()
    with tempfile.TemporaryDirectory(prefix="orchd-booted-") as name:
        layer = Path(name, "layer")
        layer.mkdir()
        Path(name).chmod(0o755)
        with Machine(installed(Suite.SID, layer), cache=Cache.default()) as machine:
            figures = measure(House(machine))
            systemd = machine.run("systemctl --version").stdout.split()[1]
    text = f"{depends} systemd {systemd}.\n\n{markdown(figures)}"
    print(text)
    if options.write is not None:
        page.write(options.write, "tools.bench.booted", text)
    return 0


def measure(house: House) -> list[Figure]:
    """Everything, on one machine."""
    house.configure(SIMULATED, mock_pool(engine="tokens_per_s = 50", more="slots = 8"))
    house.machine.systemctl("daemon-reload")
    figures = [*ready(house, ORCHD), *ready(house, POOL)]
    house.start("demo:0")
    house.wait_ready()
    figures += ages(house)
    for unit in STEPS:
        figures += gaps(house, unit)
    return figures + generator(house)


def ready(house: House, unit: str) -> list[Figure]:
    """Each start by systemd's own clock, and the daemon's CPU until then (in ticks of 10 ms)."""
    wall, cpu = [], []
    for _ in range(STARTS):
        house.machine.systemctl("stop", unit)
        house.machine.systemctl("reset-failed", unit, check=False)
        house.machine.systemctl("start", unit)
        stat = house.machine.path(f"/proc/{house.main_pid(unit)}/stat").read_text()
        user, system = stat.rpartition(")")[2].split()[11:13]
        cpu.append((int(user) + int(system)) * 1e3 / os.sysconf("SC_CLK_TCK"))
        stamps = ("InactiveExitTimestampMonotonic", "ActiveEnterTimestampMonotonic")
        began, ended = (int(house.machine.show(unit, stamp)[stamp]) for stamp in stamps)
        wall.append((ended - began) / 1e3)
    what = "orchd" if unit == ORCHD else "poolmgr"
    return [
        Figure(section=READY, what=what, who="by the clock", runs=tuple(wall)),
        Figure(section=READY, what=what, who="CPU of the daemon", runs=tuple(cpu)),
    ]


def gaps(house: House, unit: str) -> list[Figure]:
    """Kill the daemon again and again, each time when it is READY."""
    house.machine.systemctl("stop", unit)
    house.machine.systemctl("reset-failed", unit, check=False)
    house.machine.systemctl("start", unit)
    figures = []
    for number, step in enumerate(STEPS[unit], 1):
        pid = house.main_pid(unit)
        house.kill(pid)
        killed = time.monotonic()
        house.wait(partial(back, house, unit, pid), f"{unit} is back", 60.0)
        gap = time.monotonic() - killed
        who = "orchd" if unit == ORCHD else "poolmgr"
        what = f"kill {number}"
        figures.append(Figure(section=GAPS, what=what, who=f"{who}: step", runs=(step,)))
        figures.append(Figure(section=GAPS, what=what, who=f"{who}: gap", runs=(gap,)))
    return figures


def back(house: House, unit: str, pid: int) -> bool:
    """Whether another process of the unit is READY."""
    found = house.machine.show(unit, "MainPID", "ActiveState")
    return found["ActiveState"] == "active" and found["MainPID"] not in ("0", str(pid))


def ages(house: House) -> list[Figure]:
    """Look at the pool's health a hundred times a second, at rest and with every slot busy."""
    figures = []
    for who, streams in (("at rest", 0), ("8 streams x 50 tokens/s", 8)):
        wishes = [task(max_tokens=round(50 * WATCHED_S) + 500, ctx=8192) for _ in range(streams)]
        readers = [threading.Thread(target=house.complete, args=(wish,)) for wish in wishes]
        for reader in readers:
            reader.start()
        if streams:
            house.wait(lambda: active(house) == 8, "all streams run")
        seen = watch(house)
        for wish in wishes:
            house.ask("POST", f"/v1/tasks/{wish['task_id']}/cancel")
        for reader in readers:
            reader.join()
        for what, value in (
            ("median", seen[len(seen) // 2]),
            ("p99", seen[len(seen) * 99 // 100]),
            ("longest", seen[-1]),
        ):
            goal = 5000.0 if what == "longest" else None  # stale from then on
            figures.append(Figure(section=AGE, what=what, who=who, runs=(value,), goal=goal))
    return figures


def active(house: House) -> int:
    """How many slots are busy."""
    return int(house.health()["metrics"]["slots_active"])


def watch(house: House) -> list[float]:
    """Ages in milliseconds, sorted; a snapshot is as old as the time since it was first seen."""
    found = []
    last, since = -1, time.monotonic()
    until = since + WATCHED_S
    while (now := time.monotonic()) < until:
        (replica,) = house.health()["replicas"]
        if replica["snapshot"]["seq"] != last:
            if last >= 0:
                found.append((time.monotonic() - since) * 1e3)
            last, since = replica["snapshot"]["seq"], time.monotonic()
        found.append((time.monotonic() - since) * 1e3)
        time.sleep(max(0.0, LOOK_S - (time.monotonic() - now)))
    return sorted(found)


def generator(house: House) -> list[Figure]:
    """As systemd runs it at a daemon-reload."""
    pools = [mock_pool(f"p{n}", "[[0], [1]]") for n in range(8)]
    house.configure(SIMULATED, *pools)
    house.machine.put("/root/timed.py", TIMED)
    argv = ["python3", "/root/timed.py", str(GENERATOR)]
    taken = orjson.loads(house.machine.run(argv, timeout_s=60).stdout)
    figures = []
    for what, runs in taken.items():
        for who, index, goal in (("by the clock", 0, None), ("CPU", 1, 150.0)):
            values = tuple(run[index] for run in runs)
            what_file = f"file {what}"
            figures.append(
                Figure(section=GENERATOR_COST, what=what_file, who=who, runs=values, goal=goal)
            )
    return figures


if __name__ == "__main__":
    sys.exit(main())
