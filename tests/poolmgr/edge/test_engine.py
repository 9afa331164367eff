"""What the engine says of itself against the configuration, and the one-token test."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trio
from attrs import evolve

from orchd.config.pool import Engine as EngineConfig
from orchd.kit import http
from orchd.kit.client import Target
from orchd.kit.fds import bind_unix
from orchd.kit.http import Request, Response, Sink
from orchd.wire.errors import Kind, OrchError
from orchd.wire.ids import EngineId, Positive, Text
from orchd.wire.shapes import Workload
from poolmgr.edge.engine import FREE_S, TOKENIZERS, Engine
from poolmgr.engines.base import Props
from poolmgr.provision.starting.identity import check_identity
from tests.poolmgr.edge.lines import Lines, Script, bench
from tests.poolmgr.edge.test_link import put, silent
from tests.poolmgr.provision.test_models import pool

SAYS = Props(engine_version="b1", slots=2, ctx_max=1024, model_digest="sha256:aa")


@pytest.mark.req("ORCH-3421")
@pytest.mark.parametrize(
    ("changes", "kind", "words"),
    [
        ({"slots": 1}, Kind.CONFIG_INVALID, "the engine has 1 slots, and pools[].slots is 2"),
        ({"ctx_max": 1023}, Kind.CONFIG_INVALID, "hold 1023 tokens, and pools[].ctx is 1024"),
        ({"engine_version": "b2"}, Kind.ENGINE_PROTOCOL, "version b2, and engine.version pins b1"),
        ({"model_digest": "sha256:bb"}, Kind.ENGINE_PROTOCOL, "serves model sha256:bb"),
        ({}, None, ""),
        ({"slots": None, "ctx_max": None, "model_digest": None}, None, ""),
    ],
)
def test_an_engine_must_be_what_was_configured(
    changes: dict[str, Any], kind: Kind | None, words: str
) -> None:
    mine = evolve(
        pool("mock:x", "mock", digest="sha256:aa"),
        slots=Positive(2),
        engine=EngineConfig(id=EngineId("mock"), version=Text("b1")),
    )
    if kind is None:
        check_identity(mine, evolve(SAYS, **changes))
        return
    with pytest.raises(OrchError) as caught:
        check_identity(mine, evolve(SAYS, **changes))
    assert caught.value.kind is kind
    assert words in caught.value.message


async def one(sink: Sink, _prompt: str) -> None:
    await put(sink, b"Hi\n.\n")


async def none(sink: Sink, _prompt: str) -> None:
    await put(sink, b".\n")


async def breaks(sink: Sink, _prompt: str) -> None:
    await put(sink, b"H")
    sink.abort()


async def ends(sink: Sink, _prompt: str) -> None:
    await put(sink, b"H\n")


@pytest.mark.req("ORCH-3421", "OC-POOL-3001")
@pytest.mark.parametrize(
    ("script", "words"),
    [
        (one, None),
        (none, "without any token"),
        (breaks, "broke off"),
        (ends, "the engine broke off"),
        (silent, "the self-test did not end within 120 s"),
    ],
)
async def test_one_token_is_generated_or_the_reason_is_told(
    tmp_path: Path,
    autojump_clock: trio.testing.MockClock,
    script: Script,
    words: str | None,
) -> None:
    async with bench(tmp_path, script):
        engine = Engine(Target.unix(tmp_path / "e.sock"), Lines(), 1)
        try:
            if words is None:
                await engine.try_out(Workload.COMPLETION)
            else:
                with pytest.raises(OrchError) as caught:
                    await engine.try_out(Workload.COMPLETION)
                assert caught.value.kind is Kind.SELF_TEST_FAILED
                assert words in caught.value.message
        finally:
            engine.close()


async def many(sink: Sink, _prompt: str) -> None:
    for _ in range(4000):
        await put(sink, b"la\n")
        await trio.sleep(0.001)
    await put(sink, b".\n")


@pytest.mark.req("ORCH-3049")
@pytest.mark.parametrize(
    ("active", "words"), [((0, 1, 1, 0), None), ((1, 2, 1), None), ((0, 1), "still has its slot")]
)
async def test_a_cancelled_job_frees_its_slot_or_that_is_told(
    tmp_path: Path,
    autojump_clock: trio.testing.MockClock,
    monkeypatch: pytest.MonkeyPatch,
    active: tuple[int, ...],
    words: str | None,
) -> None:
    async with bench(tmp_path, many):
        engine = Engine(Target.unix(tmp_path / "e.sock"), Lines(), 1)
        said = list(active)

        async def slots_active() -> int:
            await trio.lowlevel.checkpoint()
            return said.pop(0) if len(said) > 1 else said[0]

        monkeypatch.setattr(engine, "_slots_active", slots_active)
        try:
            if words is None:
                free_s = await engine.try_cancel(4000, alone=True)
                assert free_s is not None
                assert free_s < FREE_S
            else:
                with pytest.raises(OrchError, match=words):
                    await engine.try_cancel(4000, alone=True)
                assert await engine.try_cancel(4000, alone=False) is not None
                said[0] = 0
                said.append(1)
                assert await engine.try_cancel(4000, alone=False) is None
        finally:
            engine.close()


@pytest.mark.req("OC-CTRL-2003")
async def test_the_golden_prompt_is_generated_from_and_measured(
    tmp_path: Path, autojump_clock: trio.testing.MockClock
) -> None:
    async def pace(sink: Sink, prompt: str) -> None:
        assert prompt == "golden"
        for word in (b"It\n", b"is\n", b"me\n"):
            await put(sink, word)
            await trio.sleep(0.5)
        await put(sink, b".\n")

    async with bench(tmp_path, pace):
        engine = Engine(Target.unix(tmp_path / "e.sock"), Lines(), 1)
        try:
            answer = await engine.sing("golden", 16)
        finally:
            engine.close()
    assert (answer.text, answer.tokens) == ("Itisme", 3)
    assert answer.tokens_per_s == pytest.approx(2.0, rel=0.05)


def told(tokens_s: float, at_once: list[int]) -> http.Handler:
    """An engine whose tokens are the bytes of the text, told after a while."""

    async def handle(request: Request) -> Response:
        at_once.append(at_once[-1] + 1)
        await trio.sleep(tokens_s)
        at_once.append(at_once[-1] - 1)
        return Response(body=request.body)

    return handle


@asynccontextmanager
async def telling(folder: Path, handler: http.Handler) -> AsyncIterator[Engine]:
    listener = bind_unix(folder / "e.sock")
    engine = Engine(Target.unix(folder / "e.sock"), Lines(), 1)
    try:
        async with trio.open_nursery() as nursery:
            await nursery.start(http.serve, [listener], handler)
            yield engine
            nursery.cancel_scope.cancel()
    finally:
        engine.close()
        listener.close()


@pytest.mark.req("ORCH-3602", "ORCH-3604")
async def test_an_engine_that_says_something_else_is_another_one(tmp_path: Path) -> None:
    says = [b"1", b"2", b"2"]

    async def handle(_request: Request) -> Response:
        return Response(body=says.pop(0)) if says else Response(status=500)

    async with telling(tmp_path, handle) as engine:
        known = await engine.props()
        changed = await engine.changed(known)
        assert changed == "the engine was replaced: version 2, was 1"
        assert await engine.changed(evolve(known, engine_version="2")) is None
        engine.close()
    assert await engine.changed(known) is None, "whether it answers is its health's to say"


@pytest.mark.req("ORCH-3390")
async def test_few_texts_are_read_at_a_time(
    tmp_path: Path, autojump_clock: trio.testing.MockClock
) -> None:
    at_once, got = [0], []
    async with telling(tmp_path, told(0.5, at_once)) as engine, trio.open_nursery() as nursery:

        async def ask() -> None:
            got.append(await engine.tokenize("abc"))

        for _ in range(6):
            nursery.start_soon(ask)
    assert got == [(97, 98, 99)] * 6
    assert max(at_once) == TOKENIZERS


@pytest.mark.parametrize(
    ("text", "kind", "words"),
    [
        ("abc", Kind.ENGINE_UNHEALTHY, "no answer within 3 s"),
        ("untold", Kind.INVALID_PARAMS, "lines does not tell tokens"),
    ],
)
async def test_tokens_that_are_not_told_are_an_error(
    tmp_path: Path, autojump_clock: trio.testing.MockClock, text: str, kind: Kind, words: str
) -> None:
    async with telling(tmp_path, told(60, [0])) as engine:
        with pytest.raises(OrchError) as caught:
            await engine.tokenize(text)
    assert caught.value.kind is kind
    assert words in caught.value.message
