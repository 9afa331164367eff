"""What can happen to a replica (Event), and what it wants done about it (Effect): closed unions.

Which event leads where is the table of life.py; who does the effects is poolmgr/edge/replica.py.
"""

from __future__ import annotations

from attrs import frozen

from orchd.wire.errors import OrchError
from orchd.wire.snapshot import Canary

# events: what happened


@frozen
class Begun:
    """The program runs and its socket answers."""


@frozen
class DevicesFound:
    """Every GPU of the mask answers. `where`: `GPU 0 (NVIDIA RTX 4090)`."""

    where: str


@frozen
class Fetching:
    """The model comes from elsewhere; `words` say how far it is."""

    words: str


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


@frozen
class DrainAsked:
    """Somebody wants the replica to take no more jobs; those that run get `deadline_s`."""

    deadline_s: float


@frozen
class Emptied:
    """No job runs any more after DrainAsked or Cramped, or their time is over."""


@frozen
class ReloadAsked:
    """Somebody wants another model, or the same one anew."""

    model_ref: str
    digest: str | None = None
    """That it must have; None: what the configuration says of it, or whatever it has."""


@frozen
class Roomy:
    """The new model is staged, and its engine fits beside the one that runs."""


@frozen
class Cramped:
    """The new model is staged, and its engine fits once the one that runs has gone."""


@frozen
class OldStopped:
    """The engine that served has made room."""


@frozen
class NewServing:
    """The new engine's health says that it serves."""


@frozen
class Compared:
    """The new engine has answered the canary; whether that will do is said by the next event."""

    canary: Canary


@frozen
class NewPassed:
    """The new engine passed its self-test and the canary with the model `what`."""

    what: str
    proof: str


@frozen
class NewBroke:
    """The new model or its engine is no good."""

    error: OrchError


@frozen
class Sickened:
    """A GPU of the mask is not to be relied on much longer; what runs is not in doubt."""

    error: OrchError


@frozen
class SleepComes:
    """The machine is about to sleep."""


@frozen
class Woke:
    """The machine is awake again."""


@frozen
class Awake:
    """Driver, GPUs and engine are as they were before the sleep."""


Machines = Sickened | SleepComes | Woke | Awake
"""What happens to the machine around it."""
Reloading = Roomy | Cramped | OldStopped | NewServing | Compared | NewPassed | NewBroke
"""What comes of a reload."""
Control = DrainAsked | Emptied | ReloadAsked | Reloading
"""What comes of drains and reloads."""

Event = (
    Begun
    | DevicesFound
    | Fetching
    | Provisioned
    | StillLoading
    | Serving
    | SelfTestPassed
    | HealthLost
    | Broke
    | StopAsked
    | Drained
    | EngineStopped
    | Control
    | Machines
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


@frozen
class Empty:
    """Take no new job; say Emptied when none runs or after `deadline_s`. A later one
    replaces it."""

    deadline_s: float


@frozen
class PrepareNew:
    """Stage the model and see whether its engine fits beside the one that runs."""

    model_ref: str
    digest: str | None = None


@frozen
class StopOld:
    """End the engine that served, then say OldStopped."""


@frozen
class StartNew:
    """Start the engine of the new model and probe its health until it serves."""


@frozen
class SelfTestNew:
    """Put the new engine through the self-test, and let it answer the canary."""


@frozen
class Switch:
    """Send jobs to the new engine from now on; the old one ends when its jobs have."""


@frozen
class DropNew:
    """End the new engine."""


@frozen
class Restore:
    """End the new engine, then start the old one again and probe its health."""


@frozen
class LetSleep:
    """The machine may sleep now."""


@frozen
class Probe:
    """See whether driver, GPUs and engine are as before the sleep, then say Awake."""


@frozen
class Resume:
    """Jobs are taken again after a sleep."""


SleepEffect = LetSleep | Probe | Resume
ControlEffect = Empty | PrepareNew | StopOld | StartNew | SelfTestNew | Switch | DropNew | Restore
StepEffect = FindDevices | Provision | StartEngine | WaitForHealth | SelfTest | BecomeReady
"""The steps to Ready."""
Effect = StepEffect | FailJobs | Drain | StopEngine | Announce | Exit | SleepEffect | ControlEffect
