"""The pool's own page."""

from __future__ import annotations

import pytest

from orchd.kit.notify import Notifier
from orchd.wire.errors import Kind, OrchError
from poolmgr.core import life as lf
from poolmgr.core.slots import Slots
from tests.poolmgr.core.test_life import BROKEN, GONE, TO_READY, brought_to
from tests.poolmgr.edge.test_board import board

LOST = OrchError(Kind.DRIVER_UNAVAILABLE, "GPU 0 does not answer")
AGAIN = [lf.Serving(), lf.SelfTestPassed("attested")]


@pytest.mark.req("OC-POOL-3030")
@pytest.mark.parametrize(
    ("events", "outcomes"),
    [
        (TO_READY[:3], {}),
        (TO_READY, {"ready": 1}),
        ([*TO_READY[:3], lf.Broke(BROKEN)], {"failed": 1}),
        ([*TO_READY, lf.Broke(LOST)], {"ready": 1}),  # what breaks later was no preload
        ([*TO_READY, lf.StopAsked(), lf.Drained()], {"ready": 1}),
        ([*TO_READY, lf.HealthLost(GONE)], {"ready": 1}),
        ([*TO_READY, lf.HealthLost(GONE), *AGAIN], {"ready": 2}),
        ([*TO_READY, lf.HealthLost(GONE), lf.Broke(BROKEN)], {"ready": 1, "failed": 1}),
    ],
)
async def test_each_preload_is_counted_by_its_own_end(
    events: list[lf.Event], outcomes: dict[str, int]
) -> None:
    page = board(Notifier(), brought_to(*events), Slots(2)).page().decode()
    told = {}
    for line in page.splitlines():
        if line.startswith("preload_outcomes_total{"):
            result, reason = (
                line.partition('result="')[2].split('"')[0],
                line.partition('reason="')[2],
            )
            told[result] = int(line.rpartition(" ")[2])
            assert reason.split('"')[0] == ("vram_short" if result == "failed" else "")
    assert told == outcomes
