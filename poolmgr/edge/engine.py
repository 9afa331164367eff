"""Talking to the engine beside its jobs: health, what it says of itself, a small job as a test."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from hashlib import sha256
from types import MappingProxyType
from typing import Final

import orjson
import trio
from attrs import frozen

from orchd.kit import retry
from orchd.kit.client import Answer, Client, Gate, PeerError, Target
from orchd.kit.grpc import GrpcClient
from orchd.kit.incoming import Opener
from orchd.wire.errors import Kind, OrchError
from orchd.wire.ids import TaskId
from orchd.wire.shapes import Workload
from poolmgr.core import canary
from poolmgr.engines.base import (
    Adapter,
    Broken,
    Call,
    Finished,
    Job,
    Load,
    Props,
    Reply,
    Service,
    Usage,
)

PROBE_S: Final = 3.0
"""For one health probe. llama-server answers in milliseconds; with few HTTP threads and many open
streams it can take longer, and that is no reason to call it dead."""
CONNECT_S: Final = 5.0
"""For a connection, TLS and a proxy included; one of this machine takes a millisecond."""
SELF_TEST_S: Final = 120.0
"""For one token after loading: the first CUDA kernels may have to be compiled for the GPU."""
TOKENIZE_S: Final = 5.0
"""For the tokens of a text: a megabyte takes llama-server 0.35 s on one core."""
TOKENIZERS: Final = 2
"""Texts that the engine reads at a time, so that its HTTP threads stay free for streams and health
(engines/llamacpp.py: SPARE_HTTP_THREADS)."""
NO_SERVICES: Final[Mapping[Service, Target]] = MappingProxyType({})
TEST_PROMPT: Final = "Hello"
_SPARED: Final = {"x-self-test": "1"}
"""llama-server ignores it; the mock engine injects no fault by tokens there."""
DOUBT_S: Final = 1.0
"""How long an engine that broke a job off, or listens no more, may take to be seen ended."""
FREE_S: Final = 5.0
"""For a cancelled job to free its slot: llama-server does so before its next token."""
FREE_LOOK_S: Final = 0.01


class Engine:
    """The engine that answers at `target`. `client` is for its jobs."""

    def __init__(
        self,
        target: Target,
        adapter: Adapter,
        slots: int,
        *,
        key: str | None = None,
        services: Mapping[Service, Target] = NO_SERVICES,
        gate: Gate | None = None,
    ) -> None:
        """`key` is what an engine of others wants as its bearer token; `services` where else it
        answers, which is on this machine; `gate` what requests to `target` pass."""
        self.target = target
        grpc, metrics = services.get("grpc"), services.get("metrics")
        self.client: Opener = (
            Client(target, token=key, max_idle=slots, connect_s=CONNECT_S, gate=gate)
            if grpc is None
            else GrpcClient(grpc, connect_s=CONNECT_S)
        )
        self._probes = Client(target, token=key, max_idle=1, connect_s=CONNECT_S, gate=gate)
        self._metrics = None if metrics is None else Client(metrics, max_idle=1)
        self._adapter = adapter
        self._tokenizers = trio.CapacityLimiter(TOKENIZERS)

    async def probe(self) -> tuple[Load, str]:
        """Return where the engine is, in words too. Raises PeerError when it does not answer."""
        answer = await self._ask(self._adapter.health())
        return self._adapter.load_state(answer.status, answer.body)

    async def props(self) -> Props:
        """Return what it says of itself. Raises OrchError: ENGINE_UNHEALTHY without an answer,
        what `read_props` raises."""
        replies: list[Reply] = []
        try:
            for call in self._adapter.props():
                answer = await self._ask(call, attempts=retry.ATTEMPTS)
                replies.append(Reply(answer.status, answer.body))
        except PeerError as exc:
            raise OrchError(Kind.ENGINE_UNHEALTHY, f"the engine does not answer: {exc}") from exc
        return self._adapter.read_props(replies)

    async def changed(self, known: Props | None) -> str | None:
        """Return, in words, that it is another engine than the one that said `known`; else None,
        also when it does not answer, which its health tells better."""
        try:
            props = await self.props()
        except OrchError:
            return None
        if known is None or props == known:
            return None
        was, now = known.engine_version, props.engine_version
        what = f"version {now}, was {was}" if was != now else "another model or another context"
        return f"the engine was replaced: {what}"

    async def kv_ratio(self) -> float | None:
        """Return how full its KV cache is, 0..1; None where it does not say."""
        usage = await self._usage()
        return None if usage is None else usage.kv_cache_usage_ratio

    async def _usage(self) -> Usage | None:
        """Return how full it is; None where it does not say: the health probe judges."""
        call = self._adapter.usage()
        if call is None or (call.service == "metrics" and self._metrics is None):
            return None
        try:
            answer = await self._ask(call)
            return self._adapter.read_usage(answer.body) if answer.status == 200 else None
        except (PeerError, OrchError):
            return None

    async def tokenize(self, text: str) -> tuple[int, ...]:
        """Return the tokens of a prompt; takes no slot.

        Raises OrchError: ENGINE_UNHEALTHY without an answer in time, INVALID_PARAMS where the
        engine does not tell tokens, what `read_tokenize` raises.
        """
        call = self._adapter.tokenize(text)
        if call is None:
            engine = self._adapter.engine_id
            raise OrchError(Kind.INVALID_PARAMS, f"{engine} does not tell tokens", engine=engine)
        try:
            with trio.fail_after(TOKENIZE_S):
                async with self._tokenizers:
                    answer = await self._ask(call, attempts=retry.ATTEMPTS)
        except (PeerError, trio.TooSlowError) as exc:
            why = str(exc) or f"no answer within {TOKENIZE_S:.0f} s"
            raise OrchError(
                Kind.ENGINE_UNHEALTHY, f"the engine does not tell the tokens of a text: {why}"
            ) from exc
        return self._adapter.read_tokenize(answer.status, answer.body)

    async def try_out(self, workload: Workload) -> int | None:
        """Run the smallest job of a workload: one token, one vector, one score.

        Returns the dimension of its vectors; None beside embeddings. Raises
        OrchError(SELF_TEST_FAILED).
        """
        ask = _Asked(Kind.SELF_TEST_FAILED, "the self-test", _SPARED)
        finished = await self._run(_job(workload), ask, _nothing)
        if workload is Workload.COMPLETION and finished.tokens_out < 1:
            raise OrchError(Kind.SELF_TEST_FAILED, "the engine answered without any token")
        if workload is not Workload.EMBEDDING:
            return None
        assert finished.result is not None, "the reader gives vectors or an error"
        return int(orjson.loads(finished.result)["dimension"])

    async def try_cancel(self, max_tokens: int, *, alone: bool) -> float | None:
        """Leave a completion of many tokens after its first one; return the seconds until its slot
        was free, as the engine tells it. None: it does not, or others keep its slots busy.

        `alone`: nobody else uses it, so a slot that stays busy raises OrchError(SELF_TEST_FAILED).
        """
        ask = _Asked(Kind.SELF_TEST_FAILED, "the self-test's cancel", _SPARED)
        others = await self._slots_active()
        try:
            await self._run(_job(Workload.COMPLETION, max_tokens=max_tokens), ask, _leave)
        except _LeftError:
            pass  # else it was over before it could be left: its slot has to be free all the same
        if others is None:
            return None
        left_at = trio.current_time()
        while trio.current_time() - left_at <= FREE_S:
            active = await self._slots_active()
            if active is not None and active <= others:
                return trio.current_time() - left_at
            await trio.sleep(FREE_LOOK_S)
        if alone:
            words = f"a cancelled completion still has its slot after {FREE_S:.0f} s"
            raise OrchError(Kind.SELF_TEST_FAILED, words)
        return None

    async def _slots_active(self) -> int | None:
        usage = await self._usage()
        return None if usage is None else usage.slots_active

    async def sing(self, prompt: str | None, max_tokens: int) -> canary.Answer:
        """Generate from the golden prompt, with seed 0. Raises OrchError(CANARY_FAILED)."""
        texts: list[str] = []
        times: list[float] = []

        def hear(pieces: tuple[str, ...]) -> None:
            texts.extend(pieces)
            times.append(trio.current_time())

        job = _job(Workload.COMPLETION, prompt=prompt or TEST_PROMPT, max_tokens=max_tokens)
        ask = _Asked(Kind.CANARY_FAILED, "the canary", {})
        finished = await self._run(job, ask, hear)
        tokens = finished.tokens_out
        rate = canary.rate(tokens, times[-1] - times[0]) if times else None
        text = "".join(texts)
        return canary.Answer(
            text=text,
            sha256=f"sha256:{sha256(text.encode()).hexdigest()}",
            tokens=tokens,
            tokens_per_s=rate,
        )

    async def _run(
        self, job: Job, ask: _Asked, hear: Callable[[tuple[str, ...]], None]
    ) -> Finished:
        """Run a job to its end. Raises OrchError of the kind that is asked for.

        An engine that breaks off has most likely ended: its watch says why, and has the time.
        """
        try:
            with trio.fail_after(SELF_TEST_S):
                return await self._relay(job, ask, hear)
        except trio.TooSlowError:
            words = f"{ask.what} did not end within {SELF_TEST_S:.0f} s"
            raise OrchError(ask.kind, words) from None
        except PeerError as exc:
            broke = exc  # waited for outside, where a cancellation discards nothing
        await trio.sleep(DOUBT_S)
        raise OrchError(ask.kind, f"{ask.what} broke off: {broke}") from broke

    async def _relay(
        self, job: Job, ask: _Asked, hear: Callable[[tuple[str, ...]], None]
    ) -> Finished:
        call = self._adapter.submit(job)
        async with self.client.open(
            call.method,
            call.path,
            call.body,
            headers={**dict(call.headers), **ask.headers},
            first_byte_s=SELF_TEST_S,
        ) as incoming:
            reader = self._adapter.reader(job, incoming.status)
            while True:
                data = await incoming.read_some()
                for event in reader.feed(data) if data else reader.eof():
                    if isinstance(event, Finished):
                        return event
                    if isinstance(event, Broken):
                        raise OrchError(ask.kind, f"{ask.what}: {event.error.message}")
                    hear(event.texts)
                if not data:
                    raise OrchError(ask.kind, f"{ask.what}: the engine's answer has no end")

    async def _ask(self, call: Call, attempts: int = 1) -> Answer:
        client = self._metrics if call.service == "metrics" else self._probes
        assert client is not None, "who has no metrics address is not asked there"
        return await client.request(
            call.method,
            call.path,
            call.body or None,
            headers=dict(call.headers),
            deadline_s=PROBE_S,
            attempts=attempts,
            repeatable=call.repeatable,
        )

    def close(self) -> None:
        """Close every connection to it that is not in use."""
        self.client.close()
        self._probes.close()
        if self._metrics is not None:
            self._metrics.close()


@frozen
class _Asked:
    """On whose behalf a job runs."""

    kind: Kind
    """Of what goes wrong in it."""
    what: str
    headers: Mapping[str, str]


class _LeftError(Exception):
    """A job was left on purpose."""


def _nothing(_texts: tuple[str, ...]) -> None:
    """The text does not matter."""


def _leave(_texts: tuple[str, ...]) -> None:
    raise _LeftError


def _job(workload: Workload, prompt: str = TEST_PROMPT, max_tokens: int = 1) -> Job:
    return Job(
        task_id=TaskId("00000000-0000-0000-0000-000000000000"),
        workload=workload,
        prompt=prompt,
        inputs=(TEST_PROMPT,) if workload is Workload.EMBEDDING else (TEST_PROMPT,) * 2,
        max_tokens=max_tokens,
        seed=0,
    )
