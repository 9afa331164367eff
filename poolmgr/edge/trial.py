"""The self-test of one engine, step by step: what it is, where it runs, that it works and lets go.

Each step raises OrchError or says what it found; poolmgr/core/selftest.py has the report. Identity
and GPUs come first: an engine that is not the right one is asked for nothing.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Awaitable, Callable

import trio

from orchd.config.pool import Mode, Pool
from orchd.kit import log
from orchd.kit.redact import redact_short
from orchd.wire.errors import Kind, OrchError
from orchd.wire.ids import Count, DeviceMask, ReplicaId
from orchd.wire.shapes import Workload
from orchd.wire.snapshot import Cause, GpuProof
from poolmgr.core import selftest
from poolmgr.core.selftest import Report, Result, Step
from poolmgr.core.slots import Slots
from poolmgr.edge.board import Facts
from poolmgr.edge.engine import Engine
from poolmgr.provision.starting.identity import check_identity


class Trial:
    """One self-test of one engine."""

    def __init__(
        self,
        replica_id: ReplicaId,
        pool: Pool,
        facts: Facts,
        engine: Engine,
        digest: Callable[[], Awaitable[str | None]],
        prove: Callable[[Engine], Awaitable[GpuProof]],
        page: Callable[[], bytes],
        slots: Slots | None,
    ) -> None:
        """`slots`: None while jobs may run in them, which the test must not disturb."""
        self._replica_id = replica_id
        self._pool = pool
        self._facts = facts
        self._engine = engine
        self._digest = digest
        self._prove = prove
        self._page = page
        self._slots = slots
        self._steps: list[Step] = []

    async def run(self) -> None:
        """Do every step. Raises OrchError with the first that fails: CONFIG_INVALID,
        ENGINE_PROTOCOL, CPU_FALLBACK, GPU_MISMATCH, NOT_ATTESTED, SELF_TEST_FAILED, ..."""
        await self._step("identity", self._identity)
        await self._step("gpu", self._gpu)
        await self._step("decode", self._decode)
        if Workload.COMPLETION in self._pool.workloads:
            await self._step("cancel", self._cancel)
        else:
            self._skip("cancel", "vectors and scores come at once")
        await self._step("metrics", self._metrics)
        await self._step("log", self._log)

    def report(self, mask: DeviceMask, engine_version: str, error: OrchError | None) -> Report:
        """Return what it found; `error` is why it failed."""
        pool, cause = self._pool, None
        if error is not None:
            said = redact_short(error.message)
            cause = Cause(kind=error.kind, message=said, advice=error.row.advice)
        return Report(
            at=dt.datetime.now(dt.UTC).isoformat(timespec="milliseconds"),
            pool_id=pool.id,
            replica_id=self._replica_id,
            device_mask=str(mask),
            engine=pool.engine.id,
            engine_version=engine_version,
            model_ref=pool.model.ref,
            model_digest=self._facts.model_digest or pool.model.digest,
            gpu_proof=self._facts.proof,
            passed=error is None,
            steps=tuple(self._steps),
            cause=cause,
        )

    async def _step(self, name: str, do: Callable[[], Awaitable[str | None]]) -> None:
        began = trio.current_time()
        result, said = Result.FAILED, None
        try:
            said = await do()
            result = Result.PASSED
        except OrchError as exc:
            said = redact_short(exc.message)
            raise
        finally:
            took_ms = Count(round((trio.current_time() - began) * 1000))
            self._steps.append(Step(name=name, result=result, ms=took_ms, said=said))

    def _skip(self, name: str, why: str) -> None:
        self._steps.append(Step(name=name, result=Result.SKIPPED, ms=Count(0), said=why))

    async def _identity(self) -> str:
        props = await self._engine.props()
        check_identity(self._pool, props)
        self._facts.props = props
        self._facts.model_digest = props.model_digest or await self._digest()
        return props.engine_version

    async def _gpu(self) -> str:
        self._facts.proof = await self._prove(self._engine)
        return self._facts.proof

    async def _decode(self) -> str:
        for workload in self._pool.workloads:
            dimension = await self._engine.try_out(workload)
            self._facts.embedding_dim = dimension or self._facts.embedding_dim
        return ", ".join(self._pool.workloads)

    async def _cancel(self) -> str:
        alone = self._pool.mode is not Mode.EXTERNAL
        free_s = await self._engine.try_cancel(max(2, self._pool.ctx // 2), alone=alone)
        if free_s is None:
            return "left; the engine does not tell when its slot was free"
        return f"the slot was free after {free_s * 1000:.0f} ms"

    async def _metrics(self) -> str:
        before = selftest.leases(self._page())
        if self._slots is None or not self._slots.take():
            return "every family is there; no slot was leased for it, jobs have them"
        try:
            during = selftest.leases(self._page())
        finally:
            self._slots.free()
        return selftest.check_moved(before, during, selftest.leases(self._page()))

    async def _log(self) -> str:
        """The line of the test itself is what has to come out."""
        before = log.written()
        log.event(
            "self_test",
            f"Self-test of {self._replica_id}: {selftest.sentence(self._steps)}.",
            replica_id=self._replica_id,
            pool_id=self._pool.id,
            model_id=self._pool.model.ref,
        )
        log.flush()
        lines = log.written() - before
        if lines < 1:
            raise OrchError(Kind.SELF_TEST_FAILED, "the log takes no lines: see where it goes")
        return f"{lines} lines were written"
