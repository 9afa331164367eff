"""What core tests are made of: pools, snapshots, requests, and a house that checks every step."""

from __future__ import annotations

from typing import Any, TypeVar

from attrs import define, evolve, field

from orchd.core import invariants
from orchd.core.effects import Accepted, Dispatch, Effect, Note, Observe, Refused, WakeAt
from orchd.core.events import (
    Cancel,
    CancelReason,
    Event,
    JobEnded,
    JobFailed,
    JobFreed,
    Progress,
    ReplicaLost,
    ReplicaSeen,
    Submit,
    Tick,
)
from orchd.core.front import Front, Limits, PoolSpec
from orchd.wire import link
from orchd.wire.errors import Kind, OrchError
from orchd.wire.ids import (
    Count,
    EngineId,
    PoolId,
    ReplicaId,
    SessionId,
    TaskId,
    parse_replica_id,
)
from orchd.wire.results import Ready
from orchd.wire.shapes import Ended, FinishReason, Priority, TaskRequest, Workload
from orchd.wire.snapshot import Cause, Phase, Snapshot

E = TypeVar("E")

GONE = Cause(kind=Kind.POOL_UNREADY, message="nobody listens on its socket", advice="Start it.")


def uid(number: int) -> TaskId:
    return TaskId(f"00000000-0000-4000-8000-{number:012d}")


def session_id(number: int) -> SessionId:
    return SessionId(uid(9_000 + number))


def pool(pool_id: str = "demo", replicas: int = 1, **more: Any) -> PoolSpec:
    spec = PoolSpec(
        pool_id=PoolId(pool_id),
        engine=EngineId("mock"),
        model_ref="mock:lorem",
        ctx=8192,
        max_tokens=4096,
        slots=1,
        replica_ids=tuple(ReplicaId(f"{pool_id}:{i}") for i in range(replicas)),
        queue_interactive=8,
        queue_batch=8,
        sampler_profile_version="v1",
    )
    return evolve(spec, **more)


def snapshot(replica: str = "demo:0", **more: Any) -> Snapshot:
    pool_id, mask = parse_replica_id(replica)
    said: dict[str, Any] = {
        "seq": 1,
        "pool_id": pool_id,
        "replica_id": replica,
        "device_mask": mask,
        "phase": Phase.READY,
        "ready": True,
        "draining": False,
        "status": "ready",
        "engine": "mock",
        "engine_version": "1.0",
        "sampler_profile_version": "v1",
        "model_ref": "mock:lorem",
        "ctx_max": 8192,
        "slots_total": 1,
        "slots_active": 0,
        "vram_free_bytes": 1000,
        "tokens_per_s": 100.0,
        "first_token_ms": 0.0,
    }
    return Snapshot(**{**said, **more})


def unready(replica: str = "demo:0", phase: Phase = Phase.LOADING, **more: Any) -> Snapshot:
    return snapshot(replica, phase=phase, ready=False, status="loading the model", **more)


def request(number: int = 1, **more: Any) -> TaskRequest:
    said: dict[str, Any] = {
        "task_id": uid(number),
        "session_id": session_id(number),
        "workload": Workload.COMPLETION,
        "model_ref": "mock:lorem",
        "engine": "mock",
        "ctx": 1000,
        "priority": Priority.INTERACTIVE,
        "max_tokens": 100,
        "deadline_ms": 60_000,
        "prompt": "Say it.",
    }
    return TaskRequest(**{**said, **more})


def end(tokens: int = 10, **more: Any) -> link.End:
    said: dict[str, Any] = {
        "tokens_in": 3,
        "tokens_out": tokens,
        "first_token_ms": 50,
        "decode_ms": 1000,
        "finish_reason": FinishReason.STOP,
    }
    return link.End(**{**said, **more})


def failure(kind: Kind = Kind.ENGINE_DIED, tokens: int = 0) -> link.Fail:
    return link.Fail(kind=kind, message="it broke", tokens_out=Count(tokens))


def only(effects: list[Effect], kind: type[E]) -> E:
    """Return the one effect of this kind."""
    found = [effect for effect in effects if isinstance(effect, kind)]
    assert len(found) == 1, effects
    return found[0]


def of(effects: list[Effect], kind: type[E]) -> list[E]:
    return [effect for effect in effects if isinstance(effect, kind)]


def acts(effects: list[Effect]) -> list[Effect]:
    """Return the effects that do something: no words, no figures, no alarm clock."""
    return [e for e in effects if not isinstance(e, Note | Observe | WakeAt)]


@define
class House:
    """A Front, its clock, and its invariants after every event."""

    front: Front
    now: float = 100.0
    steps: int = field(default=0)

    @classmethod
    def of(cls, *specs: PoolSpec, **limits: Any) -> House:
        return cls(Front(specs or (pool(),), Limits(**limits)))

    def send(self, event: Event) -> list[Effect]:
        effects = self.front.handle(event, self.now)
        self.steps += 1
        invariants.check_effects(self.front, effects, self.now)
        invariants.check(self.front, self.now)
        return effects

    def wait(self, seconds: float) -> list[Effect]:
        self.now += seconds
        return self.send(Tick())

    def see(self, *snapshots: Snapshot) -> list[Effect]:
        return [effect for s in snapshots or (snapshot(),) for effect in self.send(ReplicaSeen(s))]

    def lose(self, replica: str = "demo:0", cause: Cause = GONE) -> list[Effect]:
        return self.send(ReplicaLost(ReplicaId(replica), cause))

    def submit(
        self, number: int = 1, *, digest: bytes = b"", prompt_tokens: int | None = None, **more: Any
    ) -> list[Effect]:
        asked = request(number, **more)
        return self.send(
            Submit(
                asked,
                digest or repr((asked, asked.prompt, asked.inputs)).encode(),
                f"c-{number}",
                "me",
                prompt_tokens,
            )
        )

    def admit(self, number: int = 1, **more: Any) -> Accepted:
        return only(self.submit(number, **more), Accepted)

    def refuse(self, number: int = 1, **more: Any) -> OrchError:
        return only(self.submit(number, **more), Refused).error

    def cancel(
        self, number: int = 1, reason: CancelReason = "client", tokens: int = 0
    ) -> list[Effect]:
        return self.send(Cancel(uid(number), reason, tokens))

    def progress(self, number: int = 1, tokens: int = 1) -> list[Effect]:
        return self.send(Progress(uid(number), tokens))

    def finish(
        self, number: int = 1, tokens: int = 10, *, result: Ready | None = None, **more: Any
    ) -> list[Effect]:
        return self.send(JobEnded(uid(number), end(tokens, **more), result))

    def fail(self, number: int = 1, kind: Kind = Kind.ENGINE_DIED, tokens: int = 0) -> list[Effect]:
        return self.send(JobFailed(uid(number), failure(kind, tokens)))

    def free(self, number: int = 1, tokens: int = 0) -> list[Effect]:
        return self.send(JobFreed(uid(number), tokens))


def dispatched(effects: list[Effect]) -> list[tuple[TaskId, ReplicaId]]:
    return [(e.task_id, e.replica_id) for e in of(effects, Dispatch)]


def ended(tokens: int = 10, ms: int = 1000, **more: Any) -> Ended:
    said: dict[str, Any] = {"tokens_in": 3, "finish_reason": FinishReason.STOP, **more}
    return Ended(**said, tokens_out=Count(tokens), decode_time_ms=Count(ms), decode_ms=Count(ms))


def canceled(tokens: int = 0, ms: int = 0) -> Ended:
    return ended(tokens, ms, tokens_in=None, finish_reason=FinishReason.CANCELED)


def notes(effects: list[Effect]) -> list[str]:
    return [note.name for note in of(effects, Note)]
