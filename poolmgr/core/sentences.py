"""What a replica says of itself in each phase: STATUS= for systemd, and `status` of its snapshot.

The figures that go in are core/life.py's.
"""

from __future__ import annotations

from typing import Final

from orchd.wire.snapshot import Phase

SENTENCES: Final[dict[Phase, str]] = {
    Phase.DEVICES: "Looking for the GPUs of the mask",
    Phase.PROVISIONING: "Preparing the model and the engine for {where}: {waited}{words}",
    Phase.LOADING: "Loading {what} into {where}: {waited}{words}",
    Phase.SELF_TEST: "Testing {what} on {where}: {waited}",
    Phase.READY: "Ready: {busy}; {what} on {where}, {proof}",
    Phase.EMPTYING: "Draining on request: {busy}, at most {empty_s:.0f} s",
    Phase.DRAINED: "Drained on request: {what} stays loaded and takes no jobs",
    Phase.RELOADING: "Preparing {new} beside {what}: {waited}{words}; {busy}",
    Phase.REPLACING: (
        "Replacing {what} by {new} on {where}: {waited}; no room for both, nothing is served"
    ),
    Phase.RESTORING: (
        "Loading {what} again, because {new} failed: {waited}; nothing is served meanwhile"
    ),
    Phase.SLEEPING: "The machine goes to sleep: {busy}; {what} stays loaded",
    Phase.WAKING: "The machine woke, probing driver, GPUs and {what}: {waited}",
    Phase.DRAINING: "{draining}: {busy}, at most {drain_s:.0f} s",
    Phase.STOPPING: "Stopping the engine",
    # as orchd/kit/run.py says it at the end, so that the line does not change again
    Phase.FAILED: "Failed: {cause}. {advice}",
}
