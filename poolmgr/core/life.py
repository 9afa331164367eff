"""A replica's life: one table (phase x event -> phase) behind one door, `Life.handle`.

The table says what may happen when; the effects say what is to be done about it. Nothing here
waits, logs or reads a clock: poolmgr/edge/replica.py does the effects and answers with events.
Readiness is the phase READY and nothing else [OC-POOL-3001].
"""

from __future__ import annotations

from collections import Counter
from typing import Final, assert_never

from attrs import frozen

from orchd.wire.errors import Kind, OrchError
from orchd.wire.snapshot import Cause, Phase

DRAIN_S: Final = 20.0
"""Seconds that running jobs get after SIGTERM. Below systemd's default TimeoutStopSec of 90 s with
room for the engine's own stop; most answers of a few hundred tokens end within it."""

# events: what happened


@frozen
class Begun:
    """The program runs and its socket answers."""


@frozen
class DevicesFound:
    """Every GPU of the mask answers. `where`: `GPU 0 (NVIDIA RTX 4090)`."""

    where: str


@frozen
class Provisioned:
    """The model is staged and verified, it fits, and the engine's program is there. Gate 1 and 2
    of ORCH-3421."""

    what: str
    """The model's short name for status lines."""


@frozen
class StillLoading:
    """The engine answers that it loads, or does not answer yet."""

    words: str
    error: OrchError | None = None
    """Why it does not answer, when that is worth showing as the last error."""


@frozen
class Serving:
    """The engine's health says that it serves."""


@frozen
class SelfTestPassed:
    """It is what was configured, it runs where it must, and it made a token. Gate 3."""

    proof: str


@frozen
class HealthLost:
    """An engine that we did not start stopped answering; it may come back."""

    error: OrchError


@frozen
class Broke:
    """Something broke that a new start of this program may mend."""

    error: OrchError


@frozen
class StopAsked:
    """SIGTERM, or Ctrl-C."""


@frozen
class Drained:
    """No job runs any more, or their time is over."""


@frozen
class EngineStopped:
    """The engine's processes are gone."""


Event = (
    Begun
    | DevicesFound
    | Provisioned
    | StillLoading
    | Serving
    | SelfTestPassed
    | HealthLost
    | Broke
    | StopAsked
    | Drained
    | EngineStopped
)

# effects: what is to be done


@frozen
class FindDevices:
    """Read the GPUs of the mask."""


@frozen
class Provision:
    """Stage the model, check that it fits, find the engine's program."""


@frozen
class StartEngine:
    """Start the engine (or attach to it) and probe its health until it serves."""


@frozen
class SelfTest:
    """Compare what the engine says of itself, prove its GPUs, generate one token."""


@frozen
class BecomeReady:
    """READY=1, registration with orchd, and a watch on the engine's health."""


@frozen
class WaitForHealth:
    """Probe the external engine until it serves again."""


@frozen
class FailJobs:
    """End every running job with this error."""

    error: OrchError


@frozen
class Drain:
    """Take no new job; say Drained when none runs or after `deadline_s`."""

    deadline_s: float


@frozen
class StopEngine:
    """Cancel preload work, end the engine's processes, then say EngineStopped."""


@frozen
class Announce:
    """Tell systemd and every link where the replica is, at once."""


@frozen
class Exit:
    """Leave: in good order, or with this error and the exit code of its row."""

    error: OrchError | None


Effect = (
    FindDevices
    | Provision
    | StartEngine
    | SelfTest
    | BecomeReady
    | WaitForHealth
    | FailJobs
    | Drain
    | StopEngine
    | Announce
    | Exit
)

P = Phase

TABLE: Final[dict[tuple[Phase, type[Event]], Phase]] = {
    (P.DEVICES, Begun): P.DEVICES,
    (P.DEVICES, DevicesFound): P.PROVISIONING,
    (P.PROVISIONING, Provisioned): P.LOADING,
    (P.LOADING, StillLoading): P.LOADING,
    (P.LOADING, Serving): P.SELF_TEST,
    (P.SELF_TEST, SelfTestPassed): P.READY,
    # only an external engine comes back without a new start of this program
    (P.SELF_TEST, HealthLost): P.LOADING,
    (P.READY, HealthLost): P.LOADING,
    (P.DRAINING, HealthLost): P.STOPPING,
    (P.STOPPING, HealthLost): P.STOPPING,
    (P.FAILED, HealthLost): P.FAILED,
    **{(phase, Broke): P.FAILED for phase in (P.DEVICES, P.PROVISIONING, P.LOADING, P.SELF_TEST)},
    (P.READY, Broke): P.FAILED,
    (P.DRAINING, Broke): P.STOPPING,
    (P.STOPPING, Broke): P.STOPPING,
    (P.FAILED, Broke): P.FAILED,
    **{
        (phase, StopAsked): P.STOPPING
        for phase in (P.DEVICES, P.PROVISIONING, P.LOADING, P.SELF_TEST)
    },
    (P.READY, StopAsked): P.DRAINING,
    (P.DRAINING, StopAsked): P.DRAINING,
    (P.STOPPING, StopAsked): P.STOPPING,
    (P.FAILED, StopAsked): P.FAILED,
    (P.DRAINING, Drained): P.STOPPING,
    (P.STOPPING, Drained): P.STOPPING,
    (P.STOPPING, EngineStopped): P.STOPPING,
    (P.FAILED, EngineStopped): P.FAILED,
}


class IllegalEventError(Exception):
    """An event that the table does not know in this phase. Nothing was changed."""


class Life:
    """Where a replica is. `now` is in seconds of one monotonic clock."""

    def __init__(self, now: float) -> None:
        self.phase = Phase.DEVICES
        self.last_error: Cause | None = None
        self.preloads: Counter[tuple[str, str]] = Counter()
        """Preloads that ended, by result (ready, failed) and reason."""
        self._error: OrchError | None = None
        self._since = now
        self._where = ""
        self._what = ""
        self._words = ""
        self._proof = ""

    @property
    def ready(self) -> bool:
        """Whether jobs may be sent."""
        return self.phase is Phase.READY

    @property
    def draining(self) -> bool:
        """Whether it is on its way out in good order."""
        return self.phase in (Phase.DRAINING, Phase.STOPPING)

    def handle(self, event: Event, now: float) -> list[Effect]:
        """Take an event; return what is to be done, in order. Raises IllegalEventError."""
        before = self.phase
        after = TABLE.get((before, type(event)))
        if after is None:
            raise IllegalEventError(f"{type(event).__name__} in phase {before}")
        self.phase = after
        if after is not before:
            self._since = now
        return self._effects(event, before, after)

    def _effects(self, event: Event, before: Phase, after: Phase) -> list[Effect]:
        match event:
            case Begun():
                return [Announce(), FindDevices()]
            case DevicesFound(where):
                self._where = where
                return [Announce(), Provision()]
            case Provisioned(what):
                self._what = what
                return [Announce(), StartEngine()]
            case StillLoading(words, error):
                self._words = words
                self._blame(error)
                return [Announce()]
            case Serving():
                return [Announce(), SelfTest()]
            case SelfTestPassed(proof):
                self._proof, self.last_error = proof, None
                self.preloads["ready", ""] += 1
                return [Announce(), BecomeReady()]
            case HealthLost(error) | Broke(error):
                return self._broke(error, before, after)
            case StopAsked() | Drained():
                return self._leave(before, after)
            case EngineStopped():
                return [Exit(self._error if after is Phase.FAILED else None)]
            case _:
                assert_never(event)

    def _broke(self, error: OrchError, before: Phase, after: Phase) -> list[Effect]:
        if before is after:
            return []  # the first cause stands; what breaks on the way out is its consequence
        self._blame(error)
        if after is Phase.LOADING:
            self._words = error.message
            return [FailJobs(error), Announce(), WaitForHealth()]
        self._error = error
        if after is Phase.FAILED and before is not Phase.READY:
            self.preloads["failed", error.kind] += 1
        return [FailJobs(error), Announce(), StopEngine()]

    def _leave(self, before: Phase, after: Phase) -> list[Effect]:
        if before is after:
            return []
        if after is Phase.DRAINING:
            return [Announce(), Drain(DRAIN_S)]
        late = OrchError(Kind.DRAINING, "the pool stops, and the job took too long")
        return [FailJobs(late), Announce(), StopEngine()]

    def _blame(self, error: OrchError | None) -> None:
        if error is not None:
            self.last_error = Cause(kind=error.kind, message=error.message, advice=error.row.advice)

    def status(self, now: float, active: int, total: int) -> str:
        """Return the sentence for `systemctl status`; `active` of `total` slots are busy."""
        waited = f"{now - self._since:.0f} s"
        match self.phase:
            case Phase.DEVICES:
                return "Looking for the GPUs of the mask"
            case Phase.PROVISIONING:
                return f"Preparing the model and the engine for {self._where}: {waited}"
            case Phase.LOADING:
                words = f" ({self._words})" if self._words else ""
                return f"Loading {self._what} into {self._where}: {waited}{words}"
            case Phase.SELF_TEST:
                return f"Testing {self._what} on {self._where}: {waited}"
            case Phase.READY:
                return (
                    f"Ready: {active} of {total} slots busy; {self._what} on {self._where}, "
                    f"{self._proof}"
                )
            case Phase.DRAINING:
                return f"Draining: {active} of {total} slots busy, at most {DRAIN_S:.0f} s"
            case Phase.STOPPING:
                return "Stopping the engine"
            case Phase.FAILED:
                cause = self.last_error
                assert cause is not None, "every way to FAILED has its cause"
                # as orchd/kit/run.py says it at the end, so that the line does not change again
                return f"Failed: {cause.message.rstrip('.')}. {cause.advice}"
            case _:
                assert_never(self.phase)
