"""Any order of any events: the invariants hold, and every stream ends exactly once."""

from __future__ import annotations

from collections import defaultdict
from operator import itemgetter

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from orchd.core import invariants
from orchd.core.effects import (
    Accepted,
    Break,
    CancelJob,
    Dispatch,
    Effect,
    Finish,
    Forget,
    Moved,
    Refused,
    Seal,
    WakeAt,
)
from orchd.core.events import DrainAll, EndSession, Submit
from orchd.core.given.spec import Watchdog
from orchd.core.limits.budgets import Budget
from orchd.core.limits.throttle import Rates
from orchd.core.state.task import FINAL, LEASED, LEAVING
from orchd.wire.errors import Kind
from orchd.wire.ids import ReplicaId, TaskId
from orchd.wire.policy import FullPolicy
from orchd.wire.shapes import Priority
from tests.core.making import House, of, pool, request, session_id, snapshot, unready

pytestmark = [pytest.mark.req("ORCH-3250", "ORCH-3971", "OC-CORE-1005", "ORCH-3010", "ORCH-3004")]

REPLICAS = st.sampled_from(["demo:0", "demo:1", "big:0", "plain:0"])
MODELS = {"plain:0": "mock:plain"}
SESSIONS = st.integers(0, 3)
TASKS = st.integers(0, 15)  # few, so that most events meet a task
MEMORY = 2000
DROPS = (Kind.DROPPED, Kind.SHED)
KINDS = st.sampled_from([Kind.ENGINE_DIED, Kind.REPLICA_EXHAUSTED, Kind.DECODE_TIMEOUT])


OF_A_STREAM = (Accepted, Dispatch, CancelJob, Seal, Finish, Break, Moved)


class AnyOrder(RuleBasedStateMachine):
    """Events as a hostile edge would send them, and what their effects said so far."""

    def __init__(self) -> None:
        super().__init__()
        self.house = House.of(
            pool(
                "demo", 2, queue_interactive=2, queue_batch=3, ctx=4096, batch_after=2,
                full_policy=FullPolicy.DROP_LRU,
                watchdog=Watchdog(first_token_s=4.0, idle_s=3.0, wall_s=30.0),
            ),
            pool(
                "big", 1, queue_interactive=2, queue_batch=2, batch_after=1,
                full_policy=FullPolicy.SHED_LOW_PRIORITY,
                watchdog=Watchdog(enforce_deadline=False),
            ),
            pool("plain", 1, queue_interactive=2, queue_batch=2, model_ref="mock:plain"),
            retain_s=20,
            retain_max=5,
            queued_bytes=MEMORY,
            rates=Rates(requests_per_s=4.0, burst=12),
            session_ttl_s=3,
            session_turns=4,
            sessions_idle_max=2,
            budget=Budget(tokens=2500, time_ms=30_000),
        )  # fmt: skip
        self.said: dict[TaskId, list[type]] = defaultdict(list)
        self.alarm: float | None = None
        self.crowded = 0
        self.told(self.house.see(snapshot("demo:0"), snapshot("demo:1")))
        self.told(self.house.see(snapshot("plain:0", model_ref="mock:plain")))

    def told(self, effects: list[Effect]) -> None:
        for effect in effects:
            if isinstance(effect, WakeAt):
                self.alarm = effect.when
            if isinstance(effect, Forget):
                del self.said[effect.task_id]
            elif isinstance(effect, OF_A_STREAM) and getattr(effect, "fresh", True):
                self.said[effect.task_id].append(type(effect))

    @rule(
        number=TASKS,
        priority=st.sampled_from(Priority),
        tokens=st.sampled_from([1, 100, 900]),
        deadline_ms=st.sampled_from([500, 5_000, 600_000]),
        ctx=st.sampled_from([1000, 8192]),
        model=st.sampled_from(["mock:lorem", "mock:lorem", "mock:plain"]),
        text=st.sampled_from([1, 900]),
        who=st.sampled_from(["me", "you"]),
        session=SESSIONS,
    )
    def submit(
        self,
        number: int,
        priority: Priority,
        tokens: int,
        deadline_ms: int,
        ctx: int,
        model: str,
        text: int,
        who: str,
        session: int,
    ) -> None:
        pools = self.house.front.world.pools.values()
        batch = {pool.spec.pool_id: list(pool.queue.classes[Priority.BATCH]) for pool in pools}
        asked = request(
            number, priority=priority, max_tokens=tokens, deadline_ms=deadline_ms, ctx=ctx,
            model_ref=model, prompt="x" * text, session_id=session_id(session),
        )  # fmt: skip
        effects = self.house.send(Submit(asked, repr(asked).encode(), "c", who))
        self.told(effects)
        accepted, refused = of(effects, Accepted), of(effects, Refused)
        assert len(accepted) + len(refused) == 1
        dropped = [e.task_id for e in of(effects, Break) if e.error.kind in DROPS]
        if refused:
            assert not dropped, "nobody is dropped for a task that is refused"
            error = refused[0].error
            if error.row.status == 429:
                assert error.fields.policy_label
                assert error.fields.retry_after_ms
        if dropped:  # the oldest or the newest batch task of the pool, and only one
            oldest, newest = itemgetter(0, -1)(batch[accepted[0].accepted.pool_id])
            victim = {"demo": oldest, "big": newest}[accepted[0].accepted.pool_id]
            assert dropped == [victim]

    @rule(
        priorities=st.lists(st.sampled_from(Priority), min_size=3, max_size=8),
        model=st.sampled_from(["mock:lorem", "mock:lorem", "mock:plain"]),
        ctx=st.sampled_from([1000, 8192]),  # the larger fits into pool big only
        who=st.sampled_from(["me", "you"]),
    )
    def crowd(self, priorities: list[Priority], model: str, ctx: int, who: str) -> None:
        """Tasks until the places are taken."""
        for priority in priorities:
            self.crowded += 1
            number = 100 + self.crowded
            self.submit(number, priority, 100, 60_000, ctx, model, 300, who, number)

    @rule(seconds=st.sampled_from([1, 3, 5]), tokens=st.sampled_from([0, 0, 7]))
    def live_on(self, seconds: int, tokens: int) -> None:
        """Time in which pools are heard of; jobs end, one for each pool, or put out tokens."""
        for _ in range(seconds):
            self.house.now += 1.0
            for replica in ("demo:0", "big:0", "plain:0"):
                self.see_ready(replica, 1, 0, None)
                leases = self.house.front.world.replica(ReplicaId(replica)).leases
                for task_id in list(leases)[:1]:
                    if tokens:
                        self.told(self.house.progress(int(task_id[-12:]), tokens))

    @rule(replica=REPLICAS)
    def finish_first(self, replica: str) -> None:
        for task_id in list(self.house.front.world.replica(ReplicaId(replica)).leases)[:1]:
            self.finish(int(task_id[-12:]), 9)

    @rule(session=SESSIONS)
    def end_session(self, session: int) -> None:
        self.told(self.house.send(EndSession(session_id(session))))

    @rule(number=TASKS, tokens=st.integers(0, 50))
    def cancel(self, number: int, tokens: int) -> None:
        self.told(self.house.cancel(number, "client", tokens))
        again = self.house.cancel(number, "client", tokens)
        assert not any(isinstance(e, Seal | Finish | CancelJob) for e in again)

    @rule(replica=REPLICAS, slots=st.integers(1, 3), active=st.integers(0, 3),
          rate=st.sampled_from([None, 10.0, 200.0]))  # fmt: skip
    def see_ready(self, replica: str, slots: int, active: int, rate: float | None) -> None:
        self.told(self.house.see(
            snapshot(replica, slots_total=slots, slots_active=active, tokens_per_s=rate,
                     model_ref=MODELS.get(replica, "mock:lorem"))
        ))  # fmt: skip

    @rule(replica=REPLICAS, draining=st.booleans(), version=st.sampled_from(["1.0", "2.0"]))
    def see_other(self, replica: str, draining: bool, version: str) -> None:
        seen = snapshot(replica, draining=True, engine_version=version)
        self.told(self.house.see(seen if draining else unready(replica)))

    @rule(replica=REPLICAS)
    def lose(self, replica: str) -> None:
        self.told(self.house.lose(replica))
        assert not self.house.front.world.replica(ReplicaId(replica)).leases

    @rule(number=TASKS, tokens=st.integers(0, 50))
    def progress(self, number: int, tokens: int) -> None:
        self.told(self.house.progress(number, tokens))

    @rule(number=TASKS, tokens=st.integers(0, 50))
    def finish(self, number: int, tokens: int) -> None:
        self.told(self.house.finish(number, tokens))

    @rule(number=TASKS, kind=KINDS, tokens=st.sampled_from([0, 3]))
    def fail(self, number: int, kind: Kind, tokens: int) -> None:
        self.told(self.house.fail(number, kind, tokens))

    @rule(number=TASKS)
    def free(self, number: int) -> None:
        self.told(self.house.free(number))

    @rule(seconds=st.sampled_from([0.0, 0.1, 1.0, 6.0]))
    def wait(self, seconds: float) -> None:
        self.told(self.house.wait(seconds))

    @precondition(lambda self: self.house.steps > 150)
    @rule()
    def drain(self) -> None:
        self.told(self.house.send(DrainAll()))

    @invariant()
    def the_house_stands(self) -> None:
        invariants.check(self.house.front, self.house.now)

    @invariant()
    def streams_begin_once_and_end_once(self) -> None:
        tasks = self.house.front.world.tasks
        assert self.said.keys() == tasks.keys()
        for task_id, said in self.said.items():
            assert said[0] is Accepted
            assert said.count(Accepted) == 1
            over = tasks[task_id].life in FINAL | LEAVING
            assert said.count(Finish) + said.count(Break) == over
            if over:  # nothing of a stream follows its end; a watchdog's CANCEL goes to the pool
                assert [what for what in said if what is not CancelJob][-1] in (Finish, Break)
            assert said.count(Seal) == (Seal in said) == bool(tasks[task_id].cancel_reason)

    @invariant()
    def nothing_runs_past_its_limits(self) -> None:
        world, now = self.house.front.world, self.house.now
        for task in world.tasks.values():
            dog = world.pools[task.pool_id].spec.watchdog
            if task.life in LEASED - LEAVING:
                assert task.dispatched_at is not None
                assert now < task.dispatched_at + dog.wall_s
                assert now < task.deadline_at or not dog.enforce_deadline
                assert now < task.progress_at + max(dog.idle_s, dog.first_token_s)

    @invariant()
    def the_table_of_identities_is_bounded(self) -> None:
        assert len(self.house.front.world.throttle) <= 2

    @invariant()
    def something_due_has_an_alarm(self) -> None:
        due = self.house.front.world.timers.next()
        if due is not None:
            assert self.alarm is not None
            assert self.alarm <= due

    def teardown(self) -> None:
        """Whatever happened: lose all, and every stream comes to its end."""
        for replica in ("demo:0", "demo:1", "big:0", "plain:0"):
            self.told(self.house.lose(replica))
        for task_id in list(self.house.front.world.tasks):
            self.told(self.house.cancel(int(task_id[-12:])))
        assert all(t.life in FINAL for t in self.house.front.world.tasks.values())
        self.streams_begin_once_and_end_once()


TestAnyOrder = AnyOrder.TestCase
TestAnyOrder.settings = settings(max_examples=50, stateful_step_count=50)
