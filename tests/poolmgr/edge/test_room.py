"""Memory around an engine: what running out of it teaches, and the wait for its return."""

from __future__ import annotations

from pathlib import Path

import pytest
import trio

from orchd.kit import log
from orchd.wire.errors import Kind, OrchError
from orchd.wire.ids import DeviceMask, ReplicaId
from poolmgr.core.capacity import STEP_BYTES
from poolmgr.core.gpus import Gpu, GpuProcess
from poolmgr.edge import room as module
from poolmgr.edge.oom import OomKills, oom_kills
from poolmgr.edge.room import Room
from poolmgr.provision.models import lessons
from tests.poolmgr.core.test_capacity import KEY, NEED
from tests.poolmgr.core.test_fit import GIB, gpu

MASK = DeviceMask((0,))
PID = 4_194_305  # above any that there can be


class Told:
    """Devices that answer one thing after the other; the last one for ever."""

    simulated = False

    def __init__(self, *answers: Gpu | OrchError) -> None:
        self._answers = list(answers)

    async def read(self) -> tuple[Gpu, ...]:
        await trio.lowlevel.checkpoint()
        answer = self._answers.pop(0) if len(self._answers) > 1 else self._answers[0]
        if isinstance(answer, OrchError):
            raise answer
        return (answer,)


GONE = OrchError(Kind.DRIVER_UNAVAILABLE, "the driver does not answer")


@pytest.mark.req("ORCH-3039")
@pytest.mark.parametrize(
    ("after", "free"),
    [
        (gpu(0, 8, 1), 7),  # as before
        (gpu(0, 8, 4), 4),  # others took 3 meanwhile: it had no more than that
        (gpu(0, 8, 4, "RTX", GpuProcess(PID, "x", 2 * GIB)), 6),  # its own, not yet back
        (gpu(0, 8, 0), 7),  # others left after it had failed
        (GONE, 7),
    ],
)
async def test_what_others_took_meanwhile_is_not_the_engines_need(
    tmp_path: Path, after: Gpu | OrchError, free: int
) -> None:
    path = tmp_path / "p:0.capacity"
    room = Room(path, ReplicaId("p:0"), MASK)
    assert room.taught(NEED, KEY).at_least == {}
    room.begin((gpu(0, 8, 1),))
    with log.capture() as events:
        await room.ran_out(Told(after), "on device 0: out of memory", {PID})
    assert lessons.load(path).recall(KEY) == {0: free * GIB + STEP_BYTES}
    assert room.taught(NEED, KEY).at_least == {0: free * GIB + STEP_BYTES}
    (event,) = [event for event in events if event["event"] == "capacity_learnt"]
    assert str(path) in event["human"]


HELD = gpu(0, 8, 2, "RTX", GpuProcess(PID, "llama-server", 2 * GIB), GpuProcess(1, "Xorg", GIB))
FREE = gpu(0, 8, 0, "RTX", GpuProcess(1, "Xorg", GIB))


@pytest.mark.req("OC-POOL-3012")
async def test_memory_that_returns_is_waited_for_and_no_longer(
    tmp_path: Path, autojump_clock: trio.testing.MockClock
) -> None:
    room = Room(tmp_path / "c", ReplicaId("p:0"), MASK)
    with log.capture() as events:
        began = trio.current_time()
        await room.wait_back(Told(HELD, HELD, FREE), {PID})
        assert trio.current_time() - began == pytest.approx(2 * module.LOOK_S)
        await room.wait_back(Told(GONE), {PID})
    assert events == []


@pytest.mark.req("OC-POOL-3012")
async def test_memory_that_does_not_return_has_a_holder(
    tmp_path: Path, autojump_clock: trio.testing.MockClock
) -> None:
    room = Room(tmp_path / "c", ReplicaId("p:0"), MASK)
    with log.capture() as events:
        began = trio.current_time()
        await room.wait_back(Told(HELD), {PID})
        assert trio.current_time() - began == pytest.approx(module.MEMORY_BACK_S)
    (event,) = events
    assert f"llama-server (pid {PID}) still holds 2.0 GiB of GPU 0" in event["human"]
    assert "Xorg" not in event["human"]


@pytest.mark.req("ORCH-3039")
def test_the_kernels_kills_for_memory_are_counted(tmp_path: Path) -> None:
    events, vmstat = tmp_path / "memory.events", tmp_path / "vmstat"
    vmstat.write_text("nr_free_pages 1\noom_kill 7\n")
    before = oom_kills(tmp_path, vmstat)
    assert before == OomKills(None, 7)
    events.write_text("low 0\nhigh 0\nmax 3\noom 1\noom_kill 1\noom_group_kill 0\n")
    vmstat.write_text("oom_kill 8\n")
    first = oom_kills(tmp_path, vmstat)
    assert first.since(before) == (None, 1)
    events.write_text("oom_kill 3\n")
    assert oom_kills(tmp_path, vmstat).since(first) == (2, 0)
    assert oom_kills(None).machine is not None  # this very kernel tells it
