"""Talking to the engine beside its jobs: health, what it says of itself, a small job as a test."""

from __future__ import annotations

from typing import Final

import orjson
import trio

from orchd.config.pool import Pool
from orchd.kit import retry
from orchd.kit.client import Answer, Client, PeerError, Target
from orchd.wire.errors import Kind, OrchError
from orchd.wire.ids import TaskId
from orchd.wire.shapes import Workload
from poolmgr.edge import outbound
from poolmgr.engines.base import Adapter, Broken, Call, Finished, Job, Load, Props, Reply

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
_TEST_PROMPT: Final = "Hello"


class Engine:
    """The engine that answers at `target`. `client` is for its jobs."""

    def __init__(
        self, target: Target, adapter: Adapter, slots: int, *, key: str | None = None
    ) -> None:
        """`key` is what an engine of others wants as its bearer token."""
        self.target = target
        gate = outbound.gate_of(target)
        self.client = Client(target, token=key, max_idle=slots, connect_s=CONNECT_S, gate=gate)
        self._probes = Client(target, token=key, max_idle=1, connect_s=CONNECT_S, gate=gate)
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
        call = self._adapter.usage()
        if call is None:
            return None
        try:
            answer = await self._ask(call)
            if answer.status != 200:
                return None
            return self._adapter.read_usage(answer.body).kv_cache_usage_ratio
        except (PeerError, OrchError):
            return None  # a figure for people; the health probe judges

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
        job = Job(
            task_id=TaskId("00000000-0000-0000-0000-000000000000"),
            workload=workload,
            prompt=_TEST_PROMPT,
            inputs=(_TEST_PROMPT,) if workload is Workload.EMBEDDING else (_TEST_PROMPT,) * 2,
            max_tokens=1,
            seed=0,
        )
        try:
            with trio.fail_after(SELF_TEST_S):
                finished = await self._run(job)
        except trio.TooSlowError:
            raise OrchError(
                Kind.SELF_TEST_FAILED, f"no token came within {SELF_TEST_S:.0f} s"
            ) from None
        except PeerError as exc:
            raise OrchError(Kind.SELF_TEST_FAILED, f"the self-test broke off: {exc}") from exc
        if workload is Workload.COMPLETION and finished.tokens_out < 1:
            raise OrchError(Kind.SELF_TEST_FAILED, "the engine answered without any token")
        if workload is not Workload.EMBEDDING:
            return None
        assert finished.result is not None, "the reader gives vectors or an error"
        return int(orjson.loads(finished.result)["dimension"])

    async def _run(self, job: Job) -> Finished:
        call = self._adapter.submit(job)
        async with self.client.open(
            call.method,
            call.path,
            call.body,
            headers=dict(call.headers),
            first_byte_s=SELF_TEST_S,
        ) as incoming:
            reader = self._adapter.reader(job, incoming.status)
            while True:
                data = await incoming.read_some()
                for event in reader.feed(data) if data else reader.eof():
                    if isinstance(event, Finished):
                        return event
                    if isinstance(event, Broken):
                        raise OrchError(Kind.SELF_TEST_FAILED, event.error.message)
                if not data:
                    raise OrchError(Kind.SELF_TEST_FAILED, "the engine's answer has no end")

    async def _ask(self, call: Call, attempts: int = 1) -> Answer:
        return await self._probes.request(
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


def check_identity(pool: Pool, props: Props) -> None:
    """Compare what the engine says with the configuration. Raises OrchError.

    CONFIG_INVALID for slots and ctx that the engine does not have, ENGINE_PROTOCOL for another
    version or model than was pinned.
    """
    if props.slots is not None and props.slots < pool.slots:
        raise OrchError(
            Kind.CONFIG_INVALID,
            f"the engine has {props.slots} slots, and pools[].slots is {pool.slots}",
        )
    if props.ctx_max is not None and props.ctx_max < pool.ctx:
        raise OrchError(
            Kind.CONFIG_INVALID,
            f"the engine's slots hold {props.ctx_max} tokens, and pools[].ctx is {pool.ctx}",
        )
    pin = pool.engine.version
    if pin is not None and props.engine_version != pin:
        raise OrchError(
            Kind.ENGINE_PROTOCOL,
            f"the engine is version {props.engine_version}, and engine.version pins {pin}",
        )
    wanted = pool.model.digest
    if wanted is not None and props.model_digest is not None and props.model_digest != wanted:
        raise OrchError(
            Kind.ENGINE_PROTOCOL,
            f"the engine serves model {props.model_digest}, and model.digest is {wanted}",
        )
