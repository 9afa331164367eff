"""Links and jobs, driven as orchd drives them: real sockets, an engine in this process."""

from __future__ import annotations

import random
import struct
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
import trio
import trio.lowlevel

from orchd.config.pool import Watchdog
from orchd.kit.http import Sink
from orchd.wire import link
from orchd.wire.errors import Kind, OrchError
from orchd.wire.ids import Positive
from orchd.wire.link import Type
from poolmgr.edge import jobs as jobs_module
from poolmgr.edge import running
from tests.poolmgr.edge.lines import bench
from tests.poolmgr.peer import Peer, last_of, on_pipe


async def put(sink: Sink, data: bytes) -> None:
    if not sink.send_nowait(data):
        await sink.flush()


async def count_up(sink: Sink, prompt: str) -> None:
    """As many tokens as the prompt says, one at a time."""
    for number in range(int(prompt)):
        await put(sink, b"t%d\n" % number)
        await trio.lowlevel.checkpoint()
    await put(sink, b".\n")


async def for_ever(sink: Sink, _prompt: str) -> None:
    await put(sink, b"first\n")
    while True:
        await trio.sleep(0.001)
        await put(sink, b"more\n")


async def silent(sink: Sink, _prompt: str) -> None:
    await put(sink, b"first\n")
    await trio.sleep_forever()


async def never(_sink: Sink, _prompt: str) -> None:
    await trio.sleep_forever()


async def flood(sink: Sink, _prompt: str) -> None:
    while True:
        await put(sink, b"xy\n" * 5000)


def all_at_once(count: int, size: int = 4) -> Callable[[Sink, str], object]:
    async def script(sink: Sink, _prompt: str) -> None:
        await put(sink, (b"x" * size + b"\n") * count + b".\n")

    return script


@pytest.mark.req("ORCH-3613", "ORCH-3277")
async def test_a_key_that_an_engine_repeats_goes_no_further(tmp_path: Path) -> None:
    async with bench(tmp_path, count_up) as here, on_pipe(await here.link()) as peer:
        got = await peer.finished(peer.open(prompt="impossible: Bearer sk-0123456789abcdefgh"))
        fail = last_of(got, link.Fail)
        assert "cannot do that" in fail.message
        assert "0123456789" not in fail.message


async def test_tokens_come_ready_made_and_in_order(tmp_path: Path) -> None:
    async with bench(tmp_path, count_up) as here, on_pipe(await here.link()) as peer:
        assert peer.welcome is not None
        assert peer.welcome.replica_id == "p:0"
        got = await peer.finished(peer.open(prompt="5", first_id=3))
        assert got.tokens == ["t0", "t1", "t2", "t3", "t4"]
        assert got.indices == [0, 1, 2, 3, 4]
        assert got.ids == ["3", "4", "5", "6", "7"]
        end = last_of(got, link.End)
        assert (end.tokens_in, end.tokens_out) == (1, 5)
        assert end.first_token_ms is not None
        assert end.first_token_ms <= end.decode_ms
        assert here.jobs.slots.active == 0


@pytest.mark.req("ORCH-3972")
async def test_a_job_leaves_its_speed_behind(tmp_path: Path) -> None:
    async with bench(tmp_path, count_up) as here, on_pipe(await here.link()) as peer:
        await peer.finished(peer.open(prompt="50"))
        assert here.jobs.slots.tokens_per_s is not None
        assert here.jobs.slots.first_token_ms is not None


async def test_what_one_read_holds_is_one_message(tmp_path: Path) -> None:
    async with bench(tmp_path, all_at_once(500)) as here, on_pipe(await here.link()) as peer:  # type: ignore[arg-type]
        got = await peer.finished(peer.open())
        assert len(got.tokens) == 500
        assert got.messages <= 2


async def test_messages_stay_within_their_size(tmp_path: Path) -> None:
    async with bench(tmp_path, all_at_once(20_000, 2)) as here, on_pipe(await here.link()) as peer:  # type: ignore[arg-type]
        got = await peer.finished(peer.open(credit=64 << 20))
        assert len(got.tokens) == 20_000
        assert got.frames_bytes / got.messages <= link.MAX_FRAMES_BODY
        assert got.messages >= got.frames_bytes // link.MAX_FRAMES_BODY


async def test_credit_is_never_overdrawn(tmp_path: Path) -> None:
    window = 3000
    async with bench(tmp_path, flood) as here, on_pipe(await here.link()) as peer:
        number = peer.open(credit=window)
        other = peer.open(credit=200)
        got = peer.jobs[number]
        allowed = window
        for grant in (0, 1, 500, 10_000):
            if grant:
                peer.send(Type.CREDIT, number, link.Credit(bytes=grant))  # type: ignore[arg-type]
            allowed += grant
            await peer.until(lambda: got.frames_bytes > allowed - 100)  # noqa: B023
            await trio.testing.wait_all_tasks_blocked(0.005)
            assert allowed - 100 < got.frames_bytes <= allowed
        assert 100 < peer.jobs[other].frames_bytes <= 200


async def test_a_frame_larger_than_the_window_still_comes(tmp_path: Path) -> None:
    async with bench(tmp_path, all_at_once(3, 400)) as here, on_pipe(await here.link()) as peer:  # type: ignore[arg-type]
        number = peer.open(credit=100)
        got = peer.jobs[number]
        for count in (1, 2):
            await peer.until(lambda: len(got.tokens) == count)  # noqa: B023
            peer.send(Type.CREDIT, number, link.Credit(bytes=got.frames_bytes))  # type: ignore[arg-type]
        await peer.until(lambda: len(got.tokens) == 3)


async def test_a_link_that_nobody_reads_holds_the_engine_and_bounds_memory(tmp_path: Path) -> None:
    async with bench(tmp_path, flood) as here:
        async with on_pipe(await here.link()) as peer, trio.open_nursery() as nursery:
            deaf = Peer(await here.link())
            deaf.hello()
            for _ in range(2):
                deaf.open(credit=64 << 20)
            await trio.testing.wait_all_tasks_blocked(0.02)
            bound = running.HIGH_BYTES + 2 * link.MAX_FRAMES_BODY + 1000
            assert running.HIGH_BYTES < here.pipes[-1].pending <= bound
            assert peer.states  # the other link is served
            nursery.start_soon(deaf.receive)
            await deaf.until(lambda: deaf.jobs[1].frames_bytes > 2 * bound)
            nursery.cancel_scope.cancel()
        deaf.pipe.close()


@pytest.mark.req("ORCH-3971")
async def test_more_jobs_than_slots_are_refused(tmp_path: Path) -> None:
    async with bench(tmp_path, for_ever) as here, on_pipe(await here.link()) as peer:
        running = [peer.open(), peer.open()]
        fail = last_of(await peer.finished(peer.open()), link.Fail)
        assert fail.kind is Kind.REPLICA_EXHAUSTED
        assert here.jobs.slots.active == 2
        for number in running:
            peer.send(Type.CANCEL, number)
            await peer.finished(number)
        assert here.jobs.slots.active == 0


@pytest.mark.parametrize(
    ("refusal", "prompt", "kind"),
    [
        (OrchError(Kind.POOL_UNREADY, "Loading"), "1", Kind.POOL_UNREADY),
        (OrchError(Kind.DRAINING, "stopping"), "1", Kind.DRAINING),
        (None, "impossible", Kind.INVALID_PARAMS),
        (None, "bug", Kind.INTERNAL),
    ],
)
async def test_refusals_are_told_and_leave_the_slot_free(
    tmp_path: Path, refusal: OrchError | None, prompt: str, kind: Kind
) -> None:
    async with bench(tmp_path, silent) as here, on_pipe(await here.link()) as peer:
        here.jobs.refusal = refusal
        fail = last_of(await peer.finished(peer.open(prompt=prompt)), link.Fail)
        assert fail.kind is kind
        assert "RuntimeError" not in fail.message
        assert here.jobs.slots.active == 0


@pytest.mark.req("ORCH-3026")
async def test_a_cancel_closes_the_engine_and_frees_the_slot(tmp_path: Path) -> None:
    async with bench(tmp_path, for_ever, slots=1) as here, on_pipe(await here.link()) as peer:
        for _ in range(3):
            number = peer.open()  # at once after FREED: the slot is there
            await peer.until(lambda: peer.jobs[number].tokens)  # noqa: B023
            peer.send(Type.CANCEL, number)
            got = await peer.finished(number)
            assert last_of(got, link.Freed).tokens_out == len(got.tokens)
        await trio.testing.wait_all_tasks_blocked(0.01)
        assert here.open_answers == 0


@pytest.mark.req("ORCH-3026")
async def test_cancel_at_any_moment_ends_with_one_last_message(tmp_path: Path) -> None:
    dice = random.Random(7)
    freed = 0
    async with bench(tmp_path, count_up, slots=4) as here, on_pipe(await here.link()) as peer:
        for _ in range(50):
            batch = [peer.open(prompt=str(dice.choice([1, 5, 200]))) for _ in range(4)]
            for number in batch:
                for _ in range(dice.randrange(20)):
                    await trio.lowlevel.checkpoint()
                peer.send(Type.CANCEL, number)
            for number in batch:
                got = await peer.finished(number)
                assert got.last is not None
                freed += got.last[0] == Type.FREED
            assert here.jobs.slots.active == 0
        await trio.testing.wait_all_tasks_blocked(0.01)
        assert all(got.after_last == 0 for got in peer.jobs.values())
        assert len(peer.jobs) == 200
        assert 0 < freed < 200


async def test_a_cancel_that_crosses_the_end_has_no_answer(tmp_path: Path) -> None:
    async with bench(tmp_path, count_up) as here, on_pipe(await here.link()) as peer:
        number = peer.open(prompt="1")
        got = await peer.finished(number)
        peer.send(Type.CANCEL, number)
        peer.send(Type.CANCEL, 77)
        peer.send(Type.CREDIT, number, link.Credit(bytes=1))  # type: ignore[arg-type]
        await peer.finished(peer.open(prompt="1"))
        assert got.after_last == 0


async def test_a_lost_link_stops_its_jobs_and_no_other(tmp_path: Path) -> None:
    async with bench(tmp_path, for_ever) as here, on_pipe(await here.link()) as stays:
        kept = stays.open()
        async with on_pipe(await here.link()) as leaves:
            number = leaves.open()
            await leaves.until(lambda: leaves.jobs[number].tokens)
            assert here.jobs.slots.active == 2
        with trio.fail_after(1):
            while here.jobs.slots.active != 1 or here.open_answers != 1:
                await trio.sleep(0.001)
        seen = len(stays.jobs[kept].tokens)
        await stays.until(lambda: len(stays.jobs[kept].tokens) > seen)
        assert len(here.side.links) == 1


@pytest.mark.parametrize("script", [silent, never])
async def test_a_lost_link_frees_the_slot_of_an_engine_that_says_nothing(
    tmp_path: Path, script: Callable[[Sink, str], Awaitable[None]]
) -> None:
    async with bench(tmp_path, script) as here:
        async with on_pipe(await here.link()) as leaves:
            leaves.open()
            with trio.fail_after(1):
                while here.open_answers != 1:
                    await trio.sleep(0.001)
        with trio.fail_after(1):
            while here.jobs.slots.active or here.open_answers:
                await trio.sleep(0.001)


@pytest.mark.parametrize(
    "garbage",
    [
        b"\xff" * 9,
        link.encode(Type.WELCOME, 0, b"{}"),
        link.encode(Type.OPEN, 1, b'{"no":1}'),
        link.encode(Type.HELLO, 0, b"{}"),
        link.HEAD.pack(link.MAX_BODY + 1, Type.OPEN, 1),
    ],
)
async def test_a_malformed_message_closes_that_link_only(tmp_path: Path, garbage: bytes) -> None:
    async with bench(tmp_path, count_up) as here, on_pipe(await here.link()) as good:
        async with on_pipe(await here.link()) as bad:
            bad.pipe.send_nowait(garbage)
            with trio.fail_after(1):
                while not bad.closed:
                    await trio.sleep(0.001)
        assert len((await good.finished(good.open(prompt="2"))).tokens) == 2


async def test_a_job_number_is_used_once(tmp_path: Path) -> None:
    async with bench(tmp_path, count_up) as here, on_pipe(await here.link()) as peer:
        await peer.finished(peer.open(prompt="1"))
        peer._number = 0
        peer.open(prompt="1")
        with trio.fail_after(1):
            while not peer.closed:
                await trio.sleep(0.001)


async def test_something_else_than_hello_first_is_refused(tmp_path: Path) -> None:
    async with bench(tmp_path, count_up) as here:
        pipe = await here.link()
        pipe.send_nowait(link.encode(Type.ACK, 1))
        with trio.fail_after(1):
            assert await pipe.recv() == b""
        pipe.close()


async def test_a_peer_that_says_nothing_is_closed(
    tmp_path: Path, autojump_clock: trio.testing.MockClock
) -> None:
    async with bench(tmp_path, count_up) as here:
        pipe = await here.link()
        began = autojump_clock.current_time()
        pipe.send_nowait(struct.pack(">I", 5))
        assert await pipe.recv() == b""
        assert autojump_clock.current_time() - began == pytest.approx(10.0, abs=0.1)
        pipe.close()


async def test_an_engine_that_falls_silent_is_given_up(
    tmp_path: Path, autojump_clock: trio.testing.MockClock
) -> None:
    async with bench(tmp_path, silent) as here, on_pipe(await here.link()) as peer:
        began = autojump_clock.current_time()
        got = await peer.finished(peer.open(), deadline_s=900)
        fail = last_of(got, link.Fail)
        assert fail.kind is Kind.DECODE_TIMEOUT
        assert fail.tokens_out == 1
        assert 59 < autojump_clock.current_time() - began < 63
        assert here.jobs.slots.active == 0


async def test_an_engine_may_read_a_long_prompt_but_not_for_ever(
    tmp_path: Path, autojump_clock: trio.testing.MockClock
) -> None:
    async with bench(tmp_path, never) as here, on_pipe(await here.link()) as peer:
        began = autojump_clock.current_time()
        fail = last_of(await peer.finished(peer.open(), deadline_s=900), link.Fail)
        assert fail.kind is Kind.DECODE_TIMEOUT
        assert fail.tokens_out == 0
        assert 590 < autojump_clock.current_time() - began < 610


@pytest.mark.req("OC-CORE-1022")
async def test_the_limits_of_silence_are_the_pools(
    tmp_path: Path, autojump_clock: trio.testing.MockClock
) -> None:
    limits = Watchdog(first_token_ms=Positive(5_000), idle_ms=Positive(3_000))
    for script, limit in ((never, 5.0), (silent, 3.0)):
        async with (
            bench(tmp_path, script, watchdog=limits) as here,
            on_pipe(await here.link()) as peer,
        ):
            began = autojump_clock.current_time()
            fail = last_of(await peer.finished(peer.open(), deadline_s=900), link.Fail)
            assert fail.kind is Kind.DECODE_TIMEOUT
            assert limit - 1 < autojump_clock.current_time() - began < limit + 3


async def test_waiting_for_credit_is_not_the_engines_silence(
    tmp_path: Path, autojump_clock: trio.testing.MockClock
) -> None:
    async with bench(tmp_path, flood) as here, on_pipe(await here.link()) as peer:
        number = peer.open(credit=1000)
        await trio.sleep(300)
        assert peer.jobs[number].last is None
        assert here.jobs.slots.active == 1


async def test_an_engine_that_breaks_off_resets_the_job(tmp_path: Path) -> None:
    async def breaks(sink: Sink, _prompt: str) -> None:
        await put(sink, b"one\ntwo\n")
        sink.abort()

    async with bench(tmp_path, breaks) as here, on_pipe(await here.link()) as peer:
        fail = last_of(await peer.finished(peer.open()), link.Fail)
        assert fail.kind is Kind.WORKER_RESET
        assert fail.tokens_out == 2


async def cut(sink: Sink, _prompt: str) -> None:
    sink.abort()


async def test_a_job_without_a_token_waits_for_the_cause_and_keeps_its_slot(tmp_path: Path) -> None:
    async with bench(tmp_path, cut) as here, on_pipe(await here.link()) as peer:
        number = peer.open()
        await trio.sleep(0.1)
        assert here.jobs.slots.active == 1
        here.jobs.stop_all(OrchError(Kind.ENGINE_DIED, "the engine was killed by SIGKILL"))
        fail = last_of(await peer.finished(number), link.Fail)
        assert (fail.kind, fail.tokens_out) == (Kind.ENGINE_DIED, 0)
        assert "SIGKILL" in fail.message


async def test_a_job_without_a_token_may_run_again_elsewhere(
    tmp_path: Path, autojump_clock: trio.testing.MockClock
) -> None:
    async with bench(tmp_path, cut) as here, on_pipe(await here.link()) as peer:
        fail = last_of(await peer.finished(peer.open()), link.Fail)
        assert (fail.kind, fail.tokens_out) == (Kind.ENGINE_DIED, 0)
        assert jobs_module.DOUBT_S <= autojump_clock.current_time() < 2 * jobs_module.DOUBT_S


async def test_all_jobs_can_be_stopped_with_a_cause(tmp_path: Path) -> None:
    async with bench(tmp_path, for_ever) as here, on_pipe(await here.link()) as peer:
        numbers = [peer.open(), peer.open()]
        for number in numbers:
            await peer.until(lambda: peer.jobs[number].tokens)  # noqa: B023
        here.jobs.stop_all(OrchError(Kind.WORKER_RESET, "the engine was killed by SIGKILL"))
        with trio.fail_after(1):
            await here.jobs.wait_none()
        for number in numbers:
            fail = last_of(await peer.finished(number), link.Fail)
            assert fail.kind is Kind.WORKER_RESET
            assert "SIGKILL" in fail.message
