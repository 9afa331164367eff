"""The pool's own small scrape page: one snapshot as Prometheus text.

orchd's page has everything; this one answers `curl` when orchd is not there. Names and labels are
those of wire/metrics.py. restarts_total is not here: systemd counts those (NRestarts).
"""

from __future__ import annotations

from collections.abc import Mapping

from orchd.wire.metrics import BY_NAME
from orchd.wire.snapshot import Snapshot


def exposition(snapshot: Snapshot, preloads: Mapping[tuple[str, str], int], drains: int) -> bytes:
    """Return the page; `preloads` are counted by result and reason."""
    pool = {
        "engine": str(snapshot.engine),
        "engine_version": snapshot.engine_version,
        "pool_id": str(snapshot.pool_id),
    }
    replica = {**pool, "replica_id": str(snapshot.replica_id)}
    lines = _family("pool_ready", [(pool, int(snapshot.ready))])
    lines += _family("active_leases", [(replica, snapshot.slots_active)])
    lines += _family("drain_events_total", [(replica, drains)])
    lines += _family(
        "preload_outcomes_total",
        [
            ({**replica, "result": result, "reason": reason}, count)
            for (result, reason), count in preloads.items()
        ],
    )
    lines += _family(
        "vram_used_bytes",
        [
            ({**replica, "device": str(device.index)}, device.vram_used_bytes)
            for device in snapshot.devices
        ],
    )
    lines += _family(
        "driver_reset_events_total",
        [
            ({**replica, "device": str(each.index), "reason": each.reason}, each.count)
            for each in snapshot.device_events or ()
        ],
    )
    return ("\n".join(lines) + "\n").encode()


def _family(name: str, samples: list[tuple[dict[str, str], int]]) -> list[str]:
    metric = BY_NAME[name]
    lines = [f"# HELP {name} {metric.help}", f"# TYPE {name} {metric.type}"]
    for labels, value in samples:
        assert set(labels) == set(metric.labels), name
        said = ",".join(f'{label}="{_escaped(labels[label])}"' for label in metric.labels)
        lines.append(f"{name}{{{said}}} {value}")
    return lines


def _escaped(value: str) -> str:
    return value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
