"""SIGHUP to a running orchd: it reads its file again, and one that is refused changes nothing."""

from __future__ import annotations

import os
import signal

import pytest

from tests.sockets.suite import SIMULATED, mock_pool


@pytest.mark.req("SYSD-23")
@pytest.mark.slow
def test_a_file_that_is_refused_changes_nothing(suite_of) -> None:
    suite = suite_of(SIMULATED + mock_pool())
    good, orchd = suite.config.read_text(), suite.orchd_pid
    suite.config.write_text("bad = 1\n" + good)
    os.kill(orchd, signal.SIGHUP)
    refused = suite.wait_event("reload_refused")
    assert "$.bad: is not a known key" in refused["human"]
    suite.config.write_text("cancel_on_disconnect = false\n" + good)
    os.kill(orchd, signal.SIGHUP)
    reloaded = suite.wait_event("reloaded")
    assert (reloaded["changed"], reloaded.get("later")) == ("cancel_on_disconnect", None)
    assert suite.orchd_pid == orchd
    assert suite.orchctl("run", "Hello").returncode == 0
