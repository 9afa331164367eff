"""The report of a self-test, and what it reads of a scrape page."""

from __future__ import annotations

import pytest

from orchd.wire import codec
from orchd.wire.artifacts import ArtifactKind, ArtifactUpload
from orchd.wire.errors import OrchError
from orchd.wire.ids import Count
from poolmgr.core.selftest import FAMILIES, Report, Result, Step, check_moved, leases, tags

REPORT = Report(
    at="2026-11-20T19:00:00.000+00:00", pool_id="demo", replica_id="demo:0_1", device_mask="0_1",
    engine="llamacpp", engine_version="b11669 (ünknown)", model_ref="file:m.gguf",
    gpu_proof="verified", passed=False,
    steps=(Step(name="identity", result=Result.FAILED, ms=Count(3), said="no"),),
)  # fmt: skip


def page(active: int, *families: str) -> bytes:
    lines = [f"# TYPE {name} gauge" for name in families]
    return "\n".join([*lines, f'active_leases{{pool_id="p"}} {active}']).encode()


@pytest.mark.req("ORCH-3049")
def test_a_page_without_a_family_is_no_page() -> None:
    assert leases(page(3, *FAMILIES)) == 3
    with pytest.raises(OrchError, match="lacks vram_used_bytes"):
        leases(page(3, *FAMILIES[:-1]))


@pytest.mark.req("ORCH-3049")
@pytest.mark.parametrize("counts", [(0, 0, 0), (0, 1, 1), (1, 0, 1), (None, 1, 0)])
def test_a_page_that_stands_still_fails(counts: tuple[int | None, int, int]) -> None:
    assert check_moved(0, 1, 0) == "active_leases went 0, 1, 0"
    with pytest.raises(OrchError, match="stands still"):
        check_moved(*counts)


@pytest.mark.req("ORCH-3049")
def test_its_tags_are_words_that_an_artifact_may_have() -> None:
    said = tags(REPORT)
    assert said == (
        *("self-test", "failed", "pool:demo", "replica:demo:0_1"),
        "engine_version:b11669___nknown_",
    )
    upload = {"kind": "trace", "content": codec.dumps(REPORT).decode(), "tags": list(said)}
    taken = codec.loads(ArtifactUpload, codec.dumps(upload))
    assert taken.kind is ArtifactKind.TRACE
    assert codec.loads(Report, taken.content.encode()) == REPORT
