"""The generated contract files are in step with the tables of orchd.wire."""

import pytest

from tools import contracts


@pytest.mark.req("METRICS-LINT", "OC-CTRL-2030")
@pytest.mark.parametrize("path", contracts.files(), ids=lambda path: path.name)
def test_a_generated_file_is_in_step(path):
    assert path.read_text() == contracts.files()[path], "run: make specs"
