"""What a self-test found: its steps with their times, as it is kept and sent [ORCH-3049]. Pure.

Who does the steps is poolmgr/edge/trial.py, who sends the report poolmgr/edge/reports.py.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping, Sequence

from attrs import frozen

from orchd.wire.errors import Kind, OrchError
from orchd.wire.ids import Count
from orchd.wire.snapshot import Cause

FAMILIES = (
    *("pool_ready", "active_leases", "drain_events_total", "preload_outcomes_total"),
    "vram_used_bytes",
)
"""What the pool's scrape page must have before Ready."""


class Result(enum.StrEnum):
    """How a step ended."""

    PASSED = "passed"
    FAILED = "failed"
    SKIPPED = "skipped"
    """There was nothing to test; `said` says why."""


@frozen(kw_only=True)
class Step:
    """One step."""

    name: str
    result: Result
    ms: Count
    """How long it took."""
    said: str | None = None


@frozen(kw_only=True)
class Report:
    """One self-test. Never a prompt, never an answer."""

    at: str
    """When it ended: ISO 8601, UTC."""
    pool_id: str
    replica_id: str
    device_mask: str
    engine: str
    engine_version: str
    model_ref: str
    model_digest: str | None = None
    gpu_proof: str
    passed: bool
    steps: tuple[Step, ...]
    cause: Cause | None = None


def leases(page: bytes) -> int | None:
    """Return `active_leases` of a scrape page. Raises OrchError(SELF_TEST_FAILED) for a page that
    lacks a family."""
    lines = page.decode().splitlines()
    types = {line.split()[2] for line in lines if line.startswith("# TYPE ")}
    missing = [name for name in FAMILIES if name not in types]
    if missing:
        words = f"the scrape page of the pool lacks {', '.join(missing)}"
        raise OrchError(Kind.SELF_TEST_FAILED, words)
    counts = [line.rpartition(" ")[2] for line in lines if line.startswith("active_leases{")]
    return int(counts[0]) if counts else None


def check_moved(before: int | None, during: int | None, after: int | None) -> str:
    """Return what the page showed while a slot was leased; raises OrchError if it did not."""
    said = f"active_leases went {before}, {during}, {after}"
    if before is None or (during, after) != (before + 1, before):
        raise OrchError(Kind.SELF_TEST_FAILED, f"the scrape page stands still: {said}")
    return said


def tags(report: Report) -> tuple[str, ...]:
    """Return the tags of the report as an artifact."""
    said: Mapping[str, str] = {
        "pool": report.pool_id,
        "replica": report.replica_id,
        "engine_version": report.engine_version,
    }
    outcome = "passed" if report.passed else "failed"
    return ("self-test", outcome, *(f"{name}:{_word(value)}" for name, value in said.items()))


def _word(text: str) -> str:
    """Return a text as a tag takes it (wire/ids.py, TAG)."""
    plain = "".join(char if char.isascii() and char.isalnum() else _other(char) for char in text)
    return plain[:100]


def _other(char: str) -> str:
    return char if char in "._:/@=+-" else "_"


def sentence(steps: Sequence[Step]) -> str:
    """Return the steps in words, for the log."""
    return ", ".join(
        f"{step.name} " + (f"{step.ms} ms" if step.result is Result.PASSED else step.result)
        for step in steps
    )
