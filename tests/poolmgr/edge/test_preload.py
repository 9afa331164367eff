"""The steps that wait: loading and the watch on health, with an engine that follows a script."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import trio
from attrs import define, evolve

from orchd.config.devices import Backend, Devices, SimulatedDevice
from orchd.config.pool import Mode, Provisioning
from orchd.config.schema import Settings
from orchd.kit import log
from orchd.kit.client import Client, PeerError, Target
from orchd.kit.notify import Notifier
from orchd.wire import codec
from orchd.wire.errors import Kind, OrchError
from orchd.wire.ids import DeviceMask, Positive, ReplicaId, Text
from orchd.wire.shapes import Workload
from orchd.wire.snapshot import GpuProof
from poolmgr.core import lifewords as lw
from poolmgr.core.gpus import Gpu, GpuProcess
from poolmgr.core.life import Life
from poolmgr.core.slots import Slots
from poolmgr.edge import health as module
from poolmgr.edge.board import Board
from poolmgr.edge.engine import DOUBT_S
from poolmgr.edge.preload import Preload
from poolmgr.edge.reports import Kept, Reports
from poolmgr.engines.base import Load, Props
from poolmgr.engines.registry import adapter
from tests.poolmgr.provision.test_models import pool

TARGET = Target.unix(Path("/engine.sock"))
SERVING = (Load.SERVING, "ok")
LOADING = (Load.LOADING, "loading model")
BROKEN = (Load.BROKEN, "out of memory")
GONE = PeerError(TARGET, "connect", "cannot connect: Connection refused")
SLOW = PeerError(TARGET, "deadline", "no answer within 5 s")

Answer = tuple[Load, str] | PeerError


class Scripted:
    """An engine whose health answers are given; the last one for ever."""

    target = TARGET

    def __init__(self, *answers: Answer) -> None:
        self._answers = list(answers)
        self.probes = self.tokens = 0
        self.says = Props(engine_version="b1", slots=1, ctx_max=1024)
        self.fails: OrchError | None = None
        self.cancelled = 0
        self.ours = True
        self.replaced: str | None = None

    async def changed(self, _known: Props | None) -> str | None:
        return self.replaced

    async def probe(self) -> tuple[Load, str]:
        await trio.lowlevel.checkpoint()
        self.probes += 1
        answer = self._answers.pop(0) if len(self._answers) > 1 else self._answers[0]
        if isinstance(answer, PeerError):
            raise answer
        return answer

    async def props(self) -> Props:
        return self.says

    async def try_out(self, _workload: Workload) -> int | None:
        self.tokens += 1
        if self.fails is not None:
            raise self.fails
        return None

    async def try_cancel(self, max_tokens: int, *, alone: bool) -> float:
        assert alone == self.ours
        self.cancelled = max_tokens
        return 0.0

    async def kv_ratio(self) -> float | None:
        return 0.25


def reports(folder: Path) -> Reports:
    """Reports that nobody sends."""
    return Reports(folder / "selftests", Client(Target.unix(folder / "none.sock")))


async def steps(folder: Path, *answers: Answer, external: bool = False) -> tuple[Preload, Board]:
    how = Provisioning(mode=Mode.EXTERNAL, url="unix:/engine.sock") if external else Provisioning()
    mine = pool("mock:x", "mock", provisioning=how)
    device = SimulatedDevice(name=Text("S"), vram_mb=Positive(4096))
    devices = Devices(backend=Backend.SIMULATED, simulated=(device,))
    settings = Settings(state_dir=folder, run_dir=folder, devices=devices)
    mask, name, engine = DeviceMask((0,)), ReplicaId("p:0"), adapter(mine)
    board = Board(mine, name, mask, engine, Life(0.0), Slots(1), Notifier())
    made = Preload(settings, mine, name, mask, engine, board, reports(folder))
    said: list[lw.Event] = []
    await made.find_devices(said.append)
    await made.provision(said.append)
    assert said == [lw.DevicesFound("GPU 0 (S)"), lw.Provisioned("mock:x")]
    made.engine = Scripted(*answers)  # type: ignore[assignment]
    return made, board


def unheard(_event: lw.Event) -> None:
    """For steps that end with an error."""


NO_TOKEN = OrchError(Kind.SELF_TEST_FAILED, "no token came within 120 s")


@pytest.mark.req("ORCH-3049", "ORCH-3421")
async def test_ready_takes_an_identity_a_proof_and_a_token(tmp_path: Path) -> None:
    made, board = await steps(tmp_path)
    made.engine = engine = Scripted(SERVING)  # type: ignore[assignment]
    said: list[lw.Event] = []
    await made.self_test(said.append)
    assert said == [lw.SelfTestPassed("simulated")]
    assert board.snapshot().engine_version == "b1"
    assert (engine.tokens, engine.cancelled) == (1, 512)
    assert board.slots.active == 0
    engine.says = evolve(engine.says, ctx_max=Positive(512))
    with pytest.raises(OrchError, match=r"pools\[\]\.ctx is 1024"):
        await made.self_test(unheard)
    assert engine.tokens == 1  # one that is not what was configured is asked for nothing
    passed, failed = codec.loads(Kept, (tmp_path / "selftests").read_bytes()).pending
    assert [(step.name, step.result) for step in passed.steps] == [
        (name, "passed") for name in ("identity", "gpu", "decode", "cancel", "metrics", "log")
    ]
    assert passed.steps[4].said == "active_leases went 0, 1, 0"
    assert (passed.passed, passed.gpu_proof, passed.engine_version) == (True, "simulated", "b1")
    assert [(step.name, step.result) for step in failed.steps] == [("identity", "failed")]
    assert failed.cause is not None
    assert failed.cause.kind is Kind.CONFIG_INVALID


@pytest.mark.req("ORCH-3049")
async def test_a_log_that_takes_no_line_keeps_it_from_ready(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made, _ = await steps(tmp_path)
    made.engine = Scripted(SERVING)  # type: ignore[assignment]

    def full(_records: object, _program: str) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(log._state, "sink", full)
    with pytest.raises(OrchError, match="the log takes no lines") as caught:
        await made.self_test(unheard)
    assert caught.value.kind is Kind.SELF_TEST_FAILED


@pytest.mark.req("ORCH-3049")
async def test_what_breaks_with_an_external_engine_is_waited_out(
    tmp_path: Path, autojump_clock: trio.testing.MockClock
) -> None:
    ours, _ = await steps(tmp_path)
    external, _ = await steps(tmp_path, external=True)
    ours.engine = external.engine = engine = Scripted(SERVING)  # type: ignore[assignment]
    engine.fails = NO_TOKEN
    with pytest.raises(OrchError) as caught:
        await ours.self_test(unheard)
    assert caught.value is NO_TOKEN
    said: list[lw.Event] = []
    engine.ours = False
    await external.self_test(said.append)
    assert said == [lw.HealthLost(NO_TOKEN)]
    assert trio.current_time() >= module.HEALTH_S
    engine.says = evolve(engine.says, ctx_max=Positive(512))
    with pytest.raises(OrchError) as caught:  # but a wrong configuration is not
        await external.self_test(unheard)
    assert caught.value.kind is Kind.CONFIG_INVALID


@pytest.mark.req("OC-POOL-3003")
async def test_something_in_the_sockets_place_is_named(tmp_path: Path) -> None:
    made, _ = await steps(tmp_path)
    in_its_place = tmp_path / "poolmgr" / "p:0.engine.sock"
    in_its_place.mkdir(parents=True)
    with pytest.raises(OrchError) as caught:
        made.start()
    assert caught.value.kind is Kind.ENGINE_START_FAILED
    assert str(in_its_place) in caught.value.message
    made.close()
    assert in_its_place.exists()


async def test_loading_is_told_until_it_serves(
    tmp_path: Path, autojump_clock: trio.testing.MockClock
) -> None:
    made, _ = await steps(tmp_path, GONE, LOADING, SERVING)
    said: list[lw.Event] = []
    await made.load(said.append)
    assert said == [
        lw.StillLoading("it does not answer yet"),
        lw.StillLoading("loading model"),
        lw.Serving(),
    ]


@pytest.mark.req("OC-POOL-3002")
async def test_loading_has_an_end(tmp_path: Path, autojump_clock: trio.testing.MockClock) -> None:
    made, _ = await steps(tmp_path, LOADING)
    began = trio.current_time()
    with pytest.raises(OrchError) as caught:
        await made.load(unheard)
    assert caught.value.kind is Kind.ENGINE_UNHEALTHY
    assert trio.current_time() - began == pytest.approx(module.LOAD_S, abs=2.0)
    assert "loading model" in caught.value.message


async def test_an_engine_that_says_it_is_broken_is_not_waited_for(
    tmp_path: Path, autojump_clock: trio.testing.MockClock
) -> None:
    made, _ = await steps(tmp_path, BROKEN)
    with pytest.raises(OrchError, match="out of memory"):
        await made.load(unheard)


async def test_an_external_engine_is_waited_for_however_long(
    tmp_path: Path, autojump_clock: trio.testing.MockClock
) -> None:
    made, _ = await steps(tmp_path, *[GONE] * 4000, BROKEN, SERVING, external=True)
    said: list[lw.Event] = []
    await made.load(said.append)
    assert said[-1] == lw.Serving()
    assert trio.current_time() > 2 * module.LOAD_S
    first = said[0]
    assert isinstance(first, lw.StillLoading)
    assert first.error is not None
    assert "cannot connect" in first.error.message


@pytest.mark.req("OC-POOL-3010")
@pytest.mark.parametrize(
    ("answer", "probes", "kind"),
    [
        (SLOW, 3, Kind.ENGINE_HUNG),
        (BROKEN, 3, Kind.ENGINE_UNHEALTHY),
        (GONE, 1, Kind.ENGINE_UNHEALTHY),
    ],
)
async def test_an_engine_that_hangs_is_given_up_after_three_probes(
    tmp_path: Path, autojump_clock: trio.testing.MockClock, answer: Answer, probes: int, kind: Kind
) -> None:
    made, _ = await steps(tmp_path, SLOW, BROKEN, SERVING, answer)
    with pytest.raises(OrchError) as caught:
        await made.watch_health(unheard)
    assert caught.value.kind is kind
    assert made.engine.probes == 3 + probes  # type: ignore[union-attr]


async def test_an_engine_that_listens_no_more_has_the_time_to_be_seen_ended(
    tmp_path: Path, autojump_clock: trio.testing.MockClock
) -> None:
    """vLLM closes its socket, and then ends: its end is the cause."""
    made, _ = await steps(tmp_path, GONE)
    began = trio.current_time()
    with pytest.raises(OrchError):
        await made.watch_health(unheard)
    assert trio.current_time() - began >= module.HEALTH_S + DOUBT_S


@pytest.mark.req("ORCH-3022")
async def test_how_full_the_engine_is_is_asked_while_it_is_healthy(
    tmp_path: Path, autojump_clock: trio.testing.MockClock
) -> None:
    made, board = await steps(tmp_path, SERVING, SERVING, SLOW)
    seen: list[float | None] = []
    async with trio.open_nursery() as nursery:
        nursery.start_soon(made.watch_health, unheard)
        for _ in range(3):
            await trio.sleep(module.HEALTH_S + 0.1)
            seen.append(board.snapshot().kv_cache_usage_ratio)
        nursery.cancel_scope.cancel()
    assert seen == [0.25, 0.25, None]


@pytest.mark.req("OC-POOL-3012")
async def test_what_was_known_of_an_engine_that_was_lost_is_forgotten(
    tmp_path: Path, autojump_clock: trio.testing.MockClock
) -> None:
    made, board = await steps(tmp_path, SERVING, external=True)
    made.process.external_pid = os.getpid()
    board.engine.pid, board.engine.proof = made.process.external_pid, GpuProof.VERIFIED
    assert made.process.ram_bytes() > 0
    await made.load(unheard)
    known = board.snapshot()
    assert known.engine_pid is None
    assert known.gpu_proof is GpuProof.PENDING
    assert made.process.ram_bytes() == 0


async def test_an_external_engine_that_is_lost_may_come_back(
    tmp_path: Path, autojump_clock: trio.testing.MockClock
) -> None:
    made, _ = await steps(tmp_path, SERVING, GONE, external=True)
    said: list[lw.Event] = []
    await made.watch_health(said.append)
    (lost,) = said
    assert isinstance(lost, lw.HealthLost)
    assert lost.error.kind is Kind.ENGINE_UNHEALTHY


@pytest.mark.req("ORCH-3602", "ORCH-3046")
async def test_an_engine_that_was_replaced_is_proven_anew(
    tmp_path: Path, autojump_clock: trio.testing.MockClock
) -> None:
    made, _ = await steps(tmp_path, SERVING, external=True)
    made.engine.replaced = "the engine was replaced: version 2, was 1"  # type: ignore[union-attr]
    said: list[lw.Event] = []
    await made.watch_health(said.append)
    (lost,) = said
    assert isinstance(lost, lw.HealthLost)
    assert lost.error.message == "the engine was replaced: version 2, was 1"
    assert module.IDENTITY_S <= trio.current_time() < module.IDENTITY_S + 3 * module.HEALTH_S


@define
class Told:
    """Devices that say what a test wants."""

    gpus: tuple[Gpu, ...]
    simulated: bool = False

    async def read(self) -> tuple[Gpu, ...]:
        await trio.lowlevel.checkpoint()
        return self.gpus


@pytest.mark.req("OC-CTRL-2003", "OC-POOL-3002")
@pytest.mark.parametrize(
    ("total_mb", "other_mb", "held_mb", "said"),
    [
        (8192, 0, 1500, lw.Roomy()),  # 1024 of weights, and 476 more as the old one has
        (3000, 0, 1500, lw.Roomy()),
        (2900, 0, 1500, lw.Cramped()),
        (8192, 0, None, lw.Cramped()),  # NVML does not tell what the old one holds
        (8192, 7500, 500, Kind.VRAM_SHORT),  # and would not fit without it: nothing stops
    ],
)
async def test_a_new_model_fits_beside_or_in_place_or_not_at_all(
    tmp_path: Path,
    total_mb: int,
    other_mb: int,
    held_mb: int | None,
    said: lw.Event | Kind,
) -> None:
    old, board = await steps(tmp_path)
    pid = 4_194_305  # above any that there can be
    old.process.pids = lambda: frozenset({pid})  # type: ignore[method-assign]
    process = GpuProcess(pid, "engine", None if held_mb is None else held_mb << 20)
    one = Gpu(
        index=0, uuid="U", name="S", total_bytes=total_mb << 20,
        used_bytes=(other_mb + (held_mb or 1500)) << 20, processes=(process,),
    )  # fmt: skip
    mask, name = DeviceMask((0,)), ReplicaId("p:0")
    old.devices = Told((one,))
    settings = Settings(state_dir=tmp_path, run_dir=tmp_path)
    engine = adapter(old.pool)
    new = Preload(settings, old.pool, name, mask, engine, board, reports(tmp_path), beside=old)
    heard: list[lw.Event] = []
    if isinstance(said, Kind):
        with pytest.raises(OrchError) as caught:
            await new.make_room(heard.append)
        assert caught.value.kind is said
        assert heard == []
    else:
        await new.make_room(heard.append)
        assert heard == [said]
