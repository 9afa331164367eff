"""A replica's life: one table (phase x event -> phase) behind one door, `Life.handle`.

The table says what may happen when; the effects say what is to be done about it. Nothing here
waits, logs or reads a clock: poolmgr/edge/replica.py does the effects and answers with events.
What events and effects mean is in lifewords.py. Readiness is `Life.ready` and nothing else
[OC-POOL-3001].
"""

from __future__ import annotations

from collections import Counter
from typing import Final, assert_never

from attrs import evolve

from orchd.wire.errors import Kind, OrchError
from orchd.wire.ids import Positive
from orchd.wire.snapshot import Cause, Gates, Outcome, Phase, Reload
from poolmgr.core import gates
from poolmgr.core import lifewords as w
from poolmgr.core.sentences import SENTENCES

DRAIN_S: Final = 20.0
"""Seconds that running jobs get after SIGTERM, and on an engine that a reload has replaced. Below
systemd's default TimeoutStopSec of 90 s with room for the engine's own stop; most answers of a few
hundred tokens end within it."""
EMPTY_S: Final = 5.0
"""Seconds that running jobs get when their engine has to make room for a new model: a reload takes
less than 10 s beside the load itself [HME-031], and the engine's stop is in them too."""

SLEEP_S: Final = 3.5
"""Seconds that running jobs get before the machine sleeps: logind waits for nobody longer than
InhibitDelayMaxSec=, 5 s by default."""

P = Phase
_PRELOADING: Final = (P.DEVICES, P.PROVISIONING, P.LOADING, P.SELF_TEST)

TABLE: Final[dict[tuple[Phase, type[w.Event]], Phase]] = {
    (P.DEVICES, w.Begun): P.DEVICES,
    (P.DEVICES, w.DevicesFound): P.PROVISIONING,
    (P.PROVISIONING, w.Fetching): P.PROVISIONING,
    (P.PROVISIONING, w.Provisioned): P.LOADING,
    (P.LOADING, w.StillLoading): P.LOADING,
    (P.LOADING, w.Serving): P.SELF_TEST,
    (P.SELF_TEST, w.SelfTestPassed): P.READY,
    # only an external engine comes back without a new start of this program
    (P.SELF_TEST, w.HealthLost): P.LOADING,
    **{(phase, w.HealthLost): P.LOADING for phase in (P.READY, P.EMPTYING, P.DRAINED)},
    (P.DRAINING, w.HealthLost): P.STOPPING,
    (P.STOPPING, w.HealthLost): P.STOPPING,
    (P.FAILED, w.HealthLost): P.FAILED,
    **{(phase, w.Broke): P.FAILED for phase in _PRELOADING},
    (P.READY, w.Broke): P.FAILED,
    (P.DRAINING, w.Broke): P.STOPPING,
    (P.STOPPING, w.Broke): P.STOPPING,
    (P.FAILED, w.Broke): P.FAILED,
    **{(phase, w.StopAsked): P.STOPPING for phase in _PRELOADING},
    (P.READY, w.StopAsked): P.DRAINING,
    (P.DRAINING, w.StopAsked): P.DRAINING,
    (P.STOPPING, w.StopAsked): P.STOPPING,
    (P.FAILED, w.StopAsked): P.FAILED,
    (P.DRAINING, w.Drained): P.STOPPING,
    (P.STOPPING, w.Drained): P.STOPPING,
    (P.STOPPING, w.EngineStopped): P.STOPPING,
    (P.FAILED, w.EngineStopped): P.FAILED,
    # a drain on request: the model stays loaded
    **{(phase, w.DrainAsked): phase for phase in _PRELOADING},
    (P.READY, w.DrainAsked): P.EMPTYING,
    (P.EMPTYING, w.DrainAsked): P.EMPTYING,
    (P.DRAINED, w.DrainAsked): P.DRAINED,
    (P.EMPTYING, w.Emptied): P.DRAINED,
    # the drain goes on under a reload, and under an external engine that was lost meanwhile
    **{
        (phase, w.Emptied): phase
        for phase in (P.DRAINED, P.RELOADING, P.RESTORING, P.LOADING, P.SELF_TEST, P.READY)
    },
    **{(phase, w.StopAsked): P.DRAINING for phase in (P.EMPTYING, P.DRAINED, P.RELOADING)},
    **{(phase, w.Broke): P.FAILED for phase in (P.EMPTYING, P.DRAINED)},
    # a reload: beside the engine that serves, else in its place
    **{(phase, w.ReloadAsked): P.RELOADING for phase in (P.READY, P.EMPTYING, P.DRAINED)},
    (P.RELOADING, w.Fetching): P.RELOADING,
    (P.RELOADING, w.Roomy): P.RELOADING,
    (P.RELOADING, w.Cramped): P.REPLACING,
    (P.REPLACING, w.Emptied): P.REPLACING,
    (P.REPLACING, w.OldStopped): P.REPLACING,
    **{(phase, w.NewServing): phase for phase in (P.RELOADING, P.REPLACING)},
    **{(phase, w.Compared): phase for phase in (P.RELOADING, P.REPLACING)},
    **{(phase, w.NewPassed): P.READY for phase in (P.RELOADING, P.REPLACING)},
    (P.RELOADING, w.NewBroke): P.READY,
    (P.REPLACING, w.NewBroke): P.RESTORING,
    (P.RESTORING, w.StillLoading): P.RESTORING,
    (P.RESTORING, w.Serving): P.RESTORING,
    (P.RESTORING, w.SelfTestPassed): P.READY,
    **{(phase, w.Broke): P.FAILED for phase in (P.RELOADING, P.REPLACING, P.RESTORING)},
    **{(phase, w.StopAsked): P.STOPPING for phase in (P.REPLACING, P.RESTORING)},
    # a GPU that is sick but computes on: jobs end, then it is a failure
    **{
        (phase, w.Sickened): P.DRAINING
        for phase in (P.READY, P.EMPTYING, P.DRAINED, P.RELOADING, P.SLEEPING, P.WAKING)
    },
    **{(phase, w.Sickened): P.FAILED for phase in (*_PRELOADING, P.REPLACING, P.RESTORING)},
    **{(phase, w.Sickened): phase for phase in (P.DRAINING, P.STOPPING, P.FAILED)},
    # the machine sleeps: only a replica that takes jobs has to do something first
    **{(phase, w.SleepComes): phase for phase in P},
    **{(phase, w.Woke): phase for phase in P},
    **{(phase, w.SleepComes): P.SLEEPING for phase in (P.READY, P.SLEEPING, P.WAKING)},
    **{(phase, w.Woke): P.WAKING for phase in (P.READY, P.SLEEPING, P.WAKING)},
    (P.SLEEPING, w.Emptied): P.SLEEPING,
    (P.WAKING, w.Emptied): P.WAKING,
    (P.WAKING, w.Awake): P.READY,
    **{(phase, w.Awake): phase for phase in (P.EMPTYING, P.DRAINED)},
    **{
        (phase, event): to
        for phase in (P.SLEEPING, P.WAKING)
        for event, to in (
            (w.StopAsked, P.DRAINING),
            (w.Broke, P.FAILED),
            (w.HealthLost, P.LOADING),
            (w.DrainAsked, phase),
        )
    },
}
"""Where a row leads to READY and a drain was asked for, it leads to DRAINED."""


class IllegalEventError(Exception):
    """An event that the table does not know in this phase. Nothing was changed."""


class Life:
    """Where a replica is. `now` is in seconds of one monotonic clock."""

    def __init__(self, now: float) -> None:
        self.phase = Phase.DEVICES
        self.last_error: Cause | None = None
        self.preloads: Counter[tuple[str, str]] = Counter()
        """Preloads that ended, by result (ready, failed) and reason."""
        self.drains = 0
        """Drains that were begun: on request, and by a stop."""
        self.reload: Reload | None = None
        self.gates = Gates()
        self._held = False
        """A drain was asked for, and no reload has ended it."""
        self._empty_s = 0.0
        self._error: OrchError | None = None
        self._sick: OrchError | None = None
        """Why it drains, where that is no stop that somebody asked for."""
        self._since = now
        self._where = ""
        self._what = ""
        self._words = ""
        self._proof = ""

    @property
    def ready(self) -> bool:
        """Whether jobs may be sent."""
        return self.phase in (Phase.READY, Phase.RELOADING) and not self._held

    @property
    def draining(self) -> bool:
        """Whether it was drained on request, or is on its way out in good order."""
        return self._held or self.phase in (P.DRAINING, P.STOPPING, P.SLEEPING, P.WAKING)

    @property
    def reloading(self) -> bool:
        """Whether a reload is under way."""
        return self.reload is not None and self.reload.outcome is Outcome.RUNNING

    def handle(self, event: w.Event, now: float) -> list[w.Effect]:
        """Take an event; return what is to be done, in order. Raises IllegalEventError."""
        before = self.phase
        after = TABLE.get((before, type(event)))
        if after is None:
            raise IllegalEventError(f"{type(event).__name__} in phase {before}")
        drained_before = self.draining
        if isinstance(event, w.DrainAsked):
            self._held, self._empty_s = True, event.deadline_s
        elif isinstance(event, w.NewPassed):
            self._held = False
        if after is P.READY and self._held:
            after = P.DRAINED
        self.phase = after
        self.gates = gates.after(self.gates, event, before, after)
        self.drains += self.draining and not drained_before
        if after is not before:
            self._since = now
        effects = self._effects(event, before, after)
        if before is P.SLEEPING is not after:
            effects.append(w.LetSleep())  # whatever came between: nobody waits for us in vain
        return effects

    def _effects(self, event: w.Event, before: Phase, after: Phase) -> list[w.Effect]:
        match event:
            case w.Begun():
                return [w.Announce(), w.FindDevices()]
            case w.DevicesFound(where):
                self._where = where
                return [w.Announce(), w.Provision()]
            case w.Provisioned(what):
                self._what, self._words = what, ""
                return [w.Announce(), w.StartEngine()]
            case w.Fetching() | w.StillLoading():
                return self._goes_on(event)
            case w.Serving():
                return [w.Announce(), w.SelfTest()]
            case w.SelfTestPassed(proof):
                self._proof = proof
                if before is not P.RESTORING:  # else it still says why the reload failed
                    self.last_error = None
                self.preloads["ready", ""] += 1
                self._ended(Outcome.FAILED)
                return [w.Announce(), w.BecomeReady()]
            case w.HealthLost(error) | w.Broke(error):
                return self._broke(error, before, after)
            case w.StopAsked() | w.Drained():
                return self._leave(before, after)
            case w.EngineStopped():
                return [w.Exit(self._error if after is P.FAILED else self._sick)]
            case w.Sickened() | w.SleepComes() | w.Woke() | w.Awake():
                return self._around(event, before, after)
            case _:
                return self._controlled(event, before, after)

    def _goes_on(self, event: w.Fetching | w.StillLoading) -> list[w.Effect]:
        self._words = event.words
        if isinstance(event, w.StillLoading):
            self._blame(event.error)
        return [w.Announce()]

    def _around(self, event: w.Machines, before: Phase, after: Phase) -> list[w.Effect]:
        """What happens to the machine."""
        match event:
            case w.Sickened(error):
                if after is not P.DRAINING or before is after:
                    return self._broke(error, before, after)
                self._blame(error)
                self._sick = error
                return self._leave(before, after)
            case w.SleepComes():
                if after is P.SLEEPING is not before:
                    return [w.Announce(), w.Empty(SLEEP_S)]
                return [] if after is P.SLEEPING else [w.LetSleep()]
            case w.Woke():
                probed = after in (P.WAKING, P.EMPTYING, P.DRAINED)
                return [w.Announce(), w.Probe()] if probed else []
            case w.Awake():
                return [w.Announce(), w.Resume()] if before is P.WAKING else []
            case _:
                assert_never(event)

    def _controlled(self, event: w.Control, before: Phase, after: Phase) -> list[w.Effect]:
        """Drain and reload."""
        match event:
            case w.DrainAsked(deadline_s):
                return [w.Announce(), w.Empty(deadline_s)] if after is P.EMPTYING else []
            case w.Emptied():
                return self._emptied(before)
            case w.ReloadAsked(model_ref, digest):
                self._words = ""
                number = self.reload.number + 1 if self.reload else 1
                self.reload = Reload(
                    number=Positive(number), model_ref=model_ref, outcome=Outcome.RUNNING
                )
                return [w.Announce(), w.PrepareNew(model_ref, digest)]
            case _:
                return self._reloaded(event, after)

    def _reloaded(self, event: w.Reloading, after: Phase) -> list[w.Effect]:
        """What becomes of a reload."""
        assert self.reload is not None, "the table has ReloadAsked before"
        match event:
            case w.Roomy():
                self._words = ""
                return [w.StartNew()]
            case w.Cramped():
                self._empty_s = EMPTY_S
                self.reload = evolve(self.reload, gap=True)
                return [w.Announce(), w.Empty(EMPTY_S)]
            case w.OldStopped():
                return [w.Announce(), w.StartNew()]
            case w.NewServing():
                return [w.SelfTestNew()]
            case w.Compared(canary):
                self.reload = evolve(self.reload, canary=canary)
                return [w.Announce()]
            case w.NewPassed(what, proof):
                self._what, self._proof, self.last_error = what, proof, None
                self.preloads["ready", ""] += 1
                self._ended(Outcome.READY)
                return [w.Switch(), w.Announce()]
            case w.NewBroke(error):
                self._blame(error)
                self.preloads["failed", error.kind] += 1
                if after is P.RESTORING:
                    return [w.Announce(), w.Restore()]
                self._ended(Outcome.FAILED)
                return [w.DropNew(), w.Announce()]
            case _:
                assert_never(event)

    def _emptied(self, before: Phase) -> list[w.Effect]:
        why = "the pool was drained"
        if before is P.REPLACING:
            why = "its model was replaced"
        elif before in (P.SLEEPING, P.WAKING):
            why = "the machine sleeps"
        late = OrchError(Kind.DRAINING, f"{why}, and the job took too long")
        if before is P.REPLACING:
            return [w.FailJobs(late), w.StopOld()]
        if before is P.SLEEPING:
            return [w.FailJobs(late), w.LetSleep()]
        # after the sleep what runs goes on: logind did not wait, and the machine has woken
        said = self._held and before is not P.WAKING
        return [w.FailJobs(late), w.Announce()] if said else []

    def _ended(self, outcome: Outcome) -> None:
        if self.reload is not None and self.reloading:
            self.reload = evolve(self.reload, outcome=outcome)

    def _broke(self, error: OrchError, before: Phase, after: Phase) -> list[w.Effect]:
        if before is after:
            return []  # the first cause stands; what breaks on the way out is its consequence
        self._blame(error)
        self._ended(Outcome.FAILED)
        if after is P.LOADING:
            self._words = error.message
            return [w.FailJobs(error), w.Announce(), w.WaitForHealth()]
        self._error = error
        if after is P.FAILED and before in (*_PRELOADING, P.RESTORING):
            self.preloads["failed", error.kind] += 1
        return [w.FailJobs(error), w.Announce(), w.StopEngine()]

    def _leave(self, before: Phase, after: Phase) -> list[w.Effect]:
        if before is after:
            return []
        self._ended(Outcome.FAILED)
        if after is P.DRAINING:
            dropped: list[w.Effect] = [w.DropNew()] if before is P.RELOADING else []
            return [*dropped, w.Announce(), w.Drain(DRAIN_S)]
        late = OrchError(Kind.DRAINING, "the pool stops, and the job took too long")
        return [w.FailJobs(late), w.Announce(), w.StopEngine()]

    def _blame(self, error: OrchError | None) -> None:
        if error is not None:
            self.last_error = Cause(kind=error.kind, message=error.message, advice=error.row.advice)

    def status(self, now: float, active: int, total: int) -> str:
        """Return the sentence for `systemctl status`; `active` of `total` slots are busy."""
        cause = self.last_error
        return SENTENCES[self.phase].format(
            where=self._where,
            what=self._what,
            new=self.reload.model_ref if self.reload else "",
            words=f" ({self._words})" if self._words else "",
            proof=self._proof,
            waited=f"{now - self._since:.0f} s",
            busy=f"{active} of {total} slots busy",
            draining=f"Failing, {self._sick.message}" if self._sick else "Draining",
            drain_s=DRAIN_S,
            empty_s=self._empty_s,
            cause=cause.message.rstrip(".") if cause else "",
            advice=cause.advice if cause else "",
        )
