"""The figure of narration coverage."""

from __future__ import annotations

import pytest

from tests.bdd.heard import figure, tellable, told_in

SOURCE = """
log.event("engine_started", f"Started {pid}.", pid=pid)
log.event("http", level="debug")
Note("draining", human, "info", {})
_of_task(task, "task_ended", human, more)
report("stream_failed", human, exc, peer)
say("nothing", "at all")
"""


@pytest.mark.req("ORCH-3307")
def test_the_figure_is_of_what_the_daemons_can_tell() -> None:
    assert set(told_in(SOURCE)) == {"engine_started", "draining", "task_ended", "stream_failed"}
    assert figure({"draining", "text"}, {"draining", "ready"}) == [
        "narration: the scenarios heard 1 of 2 kinds of event (50 %)",
        "  not heard: ready",
    ]


@pytest.mark.req("ORCH-3307", "ORCH-3300")
def test_what_has_to_be_told_can_be_told() -> None:
    """Admission, placement, start and end of a stream, cancel, preflight, spawn, readiness."""
    assert tellable() >= {
        *("task_admitted", "task_placed", "task_started", "task_ended", "task_canceled"),
        *("model_fits", "engine_started", "pool_ready", "replica_ready"),
    }
