"""What is counted of replicas, from one snapshot to the next."""

from __future__ import annotations

import pytest

from orchd.wire.errors import Kind
from orchd.wire.ids import Count, Positive
from orchd.wire.snapshot import Cause, DeviceEvents, Outcome, Phase, Reload
from tests.core.making import House, snapshot, unready


@pytest.mark.req("OC-POOL-3030")
def test_preloads_drains_and_restarts_are_counted() -> None:
    house = House.of()
    where = ("mock", "1.0", "demo", "demo:0")
    draining = snapshot(seq=3, draining=True, phase=Phase.DRAINING)
    house.see(unready(seq=1), snapshot(seq=2), draining, snapshot(seq=4))
    house.lose()
    why = Cause(kind=Kind.VRAM_SHORT, message="short", advice="Free VRAM.")
    house.see(unready(seq=1), unready(seq=2, phase=Phase.FAILED, last_error=why))
    counts = house.front.counters()
    assert counts["restarts_total"] == {(*where, "lost"): 1}
    assert counts["drain_events_total"] == {where: 1}
    assert counts["preload_outcomes_total"] == {
        (*where, "ready", ""): 1,
        (*where, "failed", "vram_short"): 1,
    }


@pytest.mark.req("OC-POOL-3030")
def test_a_new_life_is_a_restart_whatever_its_first_snapshot_is() -> None:
    house = House.of()
    where = ("mock", "1.0", "demo", "demo:0")
    house.see(snapshot(seq=2, instance="one"))
    house.lose()
    house.see(snapshot(seq=3, instance="one"))  # the link broke, the poolmgr lived
    assert "restarts_total" not in house.front.counters()
    house.see(snapshot(seq=9, instance="two"))
    assert house.front.counters()["restarts_total"] == {(*where, "lost"): 1}
    why = Cause(kind=Kind.GPU_XID, message="GPU 0: Xid 74", advice="See the journal.")
    house.see(unready(seq=10, instance="two", phase=Phase.FAILED, last_error=why))
    house.see(snapshot(seq=1, instance="three"))
    assert house.front.counters()["restarts_total"][*where, "gpu_xid"] == 1


@pytest.mark.req("OC-POOL-3030", "ORCH-3053")
def test_what_the_driver_tells_is_counted_once_and_over_lives() -> None:
    house = House.of()
    where = ("mock", "1.0", "demo", "demo:0")

    def told(*counts: tuple[str, int]) -> tuple[DeviceEvents, ...]:
        return tuple(
            DeviceEvents(index=Count(0), reason=reason, count=Positive(count))
            for reason, count in counts
        )

    house.see(snapshot(seq=2, device_events=told(("application_xid", 2))))
    house.see(snapshot(seq=3, device_events=told(("application_xid", 2))))
    both = told(("application_xid", 3), ("gpu_ecc", 1))
    house.see(snapshot(seq=4, device_events=both))
    house.see(snapshot(seq=1, device_events=told(("gpu_ecc", 1))))
    assert house.front.counters()["driver_reset_events_total"] == {
        (*where, "0", "application_xid"): 3,
        (*where, "0", "gpu_ecc"): 2,
    }


@pytest.mark.req("OC-POOL-3030")
def test_reloads_are_preloads_and_drains_on_request_are_drains() -> None:
    house = House.of()
    where = ("mock", "1.0", "demo", "demo:0")
    why = Cause(kind=Kind.VRAM_SHORT, message="short", advice="Free VRAM.")

    def reload(number: int, outcome: Outcome) -> Reload:
        return Reload(number=Positive(number), model_ref="mock:lorem", outcome=outcome)

    one, two = reload(1, Outcome.RUNNING), reload(2, Outcome.RUNNING)
    failed = reload(2, Outcome.FAILED)
    house.see(
        snapshot(seq=1),
        snapshot(seq=2, phase=Phase.RELOADING, reload=one),
        snapshot(seq=3, reload=reload(1, Outcome.READY)),
        snapshot(seq=4, reload=reload(1, Outcome.READY)),
        snapshot(seq=5, phase=Phase.REPLACING, ready=False, reload=two),
        snapshot(seq=6, phase=Phase.RESTORING, ready=False, reload=two, last_error=why),
        snapshot(seq=7, reload=failed, last_error=why),
        snapshot(seq=8, phase=Phase.EMPTYING, ready=False, draining=True, reload=failed),
        snapshot(seq=9, phase=Phase.DRAINED, ready=False, draining=True, reload=failed),
    )
    counts = house.front.counters()
    assert counts["preload_outcomes_total"] == {
        (*where, "ready", ""): 3,  # the start, the first reload, and the old one after the second
        (*where, "failed", "vram_short"): 1,
    }
    assert counts["drain_events_total"] == {where: 1}
