"""What the driver's events mean for a pool, and what is counted of them."""

from __future__ import annotations

import pytest

from orchd.wire.errors import Kind, OrchError
from orchd.wire.ids import Count, Positive
from orchd.wire.snapshot import DeviceEvents
from poolmgr.core.xid import APPLICATION, BLAME_S, GpuEvent, Ledger, trouble


@pytest.mark.req("ORCH-3053", "OC-POOL-3010")
@pytest.mark.parametrize(
    ("xid", "kind", "drains"),
    [
        (48, Kind.GPU_ECC, False),
        (63, Kind.GPU_ECC, True),
        (64, Kind.GPU_ECC, False),
        (92, Kind.GPU_ECC, True),
        (94, Kind.GPU_ECC, False),
        (95, Kind.GPU_ECC, False),
        (None, Kind.GPU_ECC, False),
        (62, Kind.DRIVER_RESET, False),
        (79, Kind.DRIVER_RESET, False),
        (119, Kind.DRIVER_RESET, False),
        (154, Kind.DRIVER_RESET, True),
        (74, Kind.GPU_XID, False),
        (99999, Kind.GPU_XID, False),
    ],
)
def test_an_event_has_a_kind_of_its_own(xid: int | None, kind: Kind, drains: bool) -> None:
    found = trouble(GpuEvent(1, xid))
    assert found is not None
    assert (found.error.kind, found.drains) == (kind, drains)
    assert found.error.message.startswith("GPU 1")
    assert xid is None or f"Xid {xid}" in found.error.message


@pytest.mark.req("ORCH-3053")
@pytest.mark.parametrize("xid", [13, 31, 43, 45, 68, 69, 109])
def test_a_programs_fault_is_no_trouble_of_the_pool(xid: int) -> None:
    assert trouble(GpuEvent(0, xid)) is None


@pytest.mark.req("OC-POOL-3030", "ORCH-3053")
def test_events_are_counted_by_gpu_and_reason_and_a_lost_gpu_once() -> None:
    ledger = Ledger()
    for event in (GpuEvent(0, 13), GpuEvent(0, 31), GpuEvent(1, 48), GpuEvent(1, None)):
        ledger.take(event, 1.0)
    ledger.lost(1)
    ledger.lost(1)
    ledger.take(GpuEvent(0, 79), 1.0)
    ledger.lost(0)
    assert ledger.told() == tuple(
        DeviceEvents(index=Count(index), reason=reason, count=Positive(count))
        for index, reason, count in (
            (0, APPLICATION, 2), (0, "driver_reset", 1), (1, "driver_reset", 1), (1, "gpu_ecc", 2),
        )
    )  # fmt: skip


@pytest.mark.req("ORCH-3053", "OC-POOL-3010")
def test_an_engine_that_ends_with_an_xid_is_the_xids() -> None:
    died = OrchError(Kind.ENGINE_DIED, "the engine was killed by SIGABRT")
    ledger = Ledger()
    assert ledger.blamed(died, 5.0) is died
    ledger.take(GpuEvent(2, 31), 10.0)
    blamed = ledger.blamed(died, 10.0 + BLAME_S)
    assert blamed.kind is Kind.GPU_XID
    assert blamed.message == (
        "the engine was killed by SIGABRT; the driver told Xid 31 (GPU memory page fault) of GPU 2 "
        "then"
    )
    assert ledger.blamed(died, 10.1 + BLAME_S) is died
    wrong = OrchError(Kind.CONFIG_INVALID, "the engine has 1 slot")
    assert ledger.blamed(wrong, 11.0) is wrong
