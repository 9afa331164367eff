"""The page of errors has every error, and says for each what a client or an operator does."""

from __future__ import annotations

import re

import pytest

from orchd.config.pool import Faults
from orchd.wire.errors import TABLE, Kind
from tools import errors_page
from tools.openapi.document import OPERATIONS, kinds_of
from tools.openapi.table import IN_FRAMES

pytestmark = pytest.mark.req("DOCS-4x")
PAGE = errors_page.FILE.read_text()


@pytest.mark.req("ORCH-3330", "HME-032")
@pytest.mark.parametrize("kind", Kind)
def test_every_error_is_on_the_page_with_what_to_do(kind: Kind) -> None:
    rows = re.findall(rf"^\| (?:.*\()?{kind.value}\)? \|.*$", PAGE, re.MULTILINE)
    assert rows
    for row in rows:
        assert TABLE[kind].advice in row
        assert row.endswith(f"| {TABLE[kind].exit_code} |")


@pytest.mark.req("ORCH-3330", "ORCH-3331")
def test_what_a_client_meets_has_a_class_and_an_example() -> None:
    met = {kind for row in OPERATIONS for kind in kinds_of(row)} | set(IN_FRAMES)
    for kind in met:
        (*_, row) = re.findall(rf"^\| .*\({kind.value}\) \|.*$", PAGE, re.MULTILINE)
        code, status, class_, _, example, _ = [cell.strip() for cell in row.split(" | ")]
        assert (TABLE[kind].code in code, status) == (True, str(TABLE[kind].status))
        assert (class_ == "retry later") == TABLE[kind].retriable
        assert class_ in {"retry later", "reject now", "permanent"}
        assert example
    # neither is empty, and a 5xx is never blamed on the request
    classes = {errors_page.class_of(kind) for kind in met}
    assert classes == {"retry later", "reject now", "permanent"}
    assert all(
        TABLE[kind].status < 500 for kind in met if errors_page.class_of(kind) == "reject now"
    )


def test_the_faults_that_it_names_are_those_of_the_mock_engine() -> None:
    (listed,) = re.findall(r"engine\.faults.*?## ", PAGE, re.DOTALL)
    names = set(re.findall(r"`(\w+_\w+)`", listed)) - {
        "idle_ms",
        "keep_slot",
        "min_rate_ratio",
        "vram_margin_mb",
    }
    assert names | {"split_utf8", "die_after_load_ms", "slower"} == set(Faults.__annotations__)
