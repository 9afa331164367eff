"""The pool's own page."""

from __future__ import annotations

import pytest

from orchd.kit.notify import Notifier
from orchd.wire.errors import Kind, OrchError
from poolmgr.core import lifewords as lw
from poolmgr.core.slots import Slots
from tests.poolmgr.core.test_life import BROKEN, GONE, TO_READY, brought_to
from tests.poolmgr.edge.test_board import board

LOST = OrchError(Kind.DRIVER_UNAVAILABLE, "GPU 0 does not answer")
RELOADING = [*TO_READY, lw.ReloadAsked("new")]
IN_PLACE = [*RELOADING, lw.Cramped(), lw.Emptied(), lw.OldStopped()]
AGAIN = [lw.Serving(), lw.SelfTestPassed("attested")]


@pytest.mark.req("OC-POOL-3030")
@pytest.mark.parametrize(
    ("events", "outcomes"),
    [
        (TO_READY[:3], {}),
        (TO_READY, {"ready": 1}),
        ([*TO_READY[:3], lw.Broke(BROKEN)], {"failed": 1}),
        ([*TO_READY, lw.Broke(LOST)], {"ready": 1}),  # what breaks later was no preload
        ([*TO_READY, lw.StopAsked(), lw.Drained()], {"ready": 1}),
        ([*TO_READY, lw.DrainAsked(1.0), lw.Emptied()], {"ready": 1}),
        ([*RELOADING, lw.Roomy(), lw.NewPassed("new", "verified")], {"ready": 2}),
        ([*RELOADING, lw.Roomy(), lw.NewBroke(BROKEN)], {"ready": 1, "failed": 1}),
        ([*IN_PLACE, lw.NewBroke(BROKEN), *AGAIN], {"ready": 2, "failed": 1}),
        ([*TO_READY, lw.HealthLost(GONE)], {"ready": 1}),
        ([*TO_READY, lw.HealthLost(GONE), *AGAIN], {"ready": 2}),
        ([*TO_READY, lw.HealthLost(GONE), lw.Broke(BROKEN)], {"ready": 1, "failed": 1}),
    ],
)
async def test_each_preload_is_counted_by_its_own_end(
    events: list[lw.Event], outcomes: dict[str, int]
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


@pytest.mark.req("OC-POOL-3030")
async def test_each_drain_is_counted_when_it_begins() -> None:
    life = brought_to(*TO_READY, lw.DrainAsked(1.0), lw.DrainAsked(2.0), lw.Emptied())
    page = board(Notifier(), life, Slots(2)).page().decode()
    (line,) = [each for each in page.splitlines() if each.startswith("drain_events_total{")]
    assert line.endswith(" 1")
