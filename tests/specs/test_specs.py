"""The extractor on a small repository of its own, and on this one."""

from pathlib import Path

import pytest
import yaml

from tools import specs

PAGE = """# 03 Streams

Words without an ID are no requirement.

## Cancel

1. A cancel is one mark
   [ORCH-3026] [SSE-1003].
2. Nothing follows [OC-CTRL-2012]; see [the index](00-index.md#how-to-read).

| a | [AUTH-1001] in a table |

```
[ORCH-9999] in code
```
"""
TESTS = """
import pytest
pytestmark = [pytest.mark.slow, pytest.mark.req("AUTH-1001")]

@pytest.mark.req("ORCH-3026", "SSE-1003")
async def test_mark(): ...

class TestIt:
    @pytest.mark.parametrize("x", [pytest.param(1, marks=pytest.mark.req("SSE-1003"))])
    def test_param(self, x): ...
"""


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    (tmp_path / "specs").mkdir()
    (tmp_path / "tests").mkdir()
    (tmp_path / "specs/00-index.md").write_text("# Index\n\n## How to read\n")
    (tmp_path / "specs/03-streams.md").write_text(PAGE)
    (tmp_path / "tests/test_a.py").write_text(TESTS)
    return tmp_path


@pytest.mark.req("SPEC-EXTRACT")
def test_statements_and_proofs_are_found(repository, capsys):
    assert specs.main(repository, []) == 0
    entries = yaml.safe_load((repository / "requirements/03-streams.yaml").read_text())
    assert [entry["id"] for entry in entries] == [
        *("ORCH-3026", "SSE-1003", "OC-CTRL-2012", "AUTH-1001"),
    ]
    assert entries[0] == {
        "id": "ORCH-3026",
        "text": "A cancel is one mark.",
        "where": "specs/03-streams.md, Cancel",
    }
    told = (repository / "COMPLIANCE.md").read_text()
    assert "3 of 4 IDs are done" in told
    assert "| OC-CTRL-2012 | not done | [03](specs/03-streams.md) |  |" in told
    assert "`tests/test_a.py::TestIt::test_param`<br>`tests/test_a.py::test_mark`" in told
    assert "| AUTH-1001 | done | [03](specs/03-streams.md) | `tests/test_a.py` |" in told
    assert not (repository / "requirements/00-index.yaml").exists()


@pytest.mark.req("SPEC-EXTRACT")
def test_a_second_run_changes_nothing_and_check_sees_every_change(repository, capsys):
    assert specs.main(repository, ["--check"]) == 1
    specs.main(repository, [])
    before = {path: path.read_bytes() for path in repository.rglob("*.*") if path.is_file()}
    assert specs.main(repository, []) == 0
    assert specs.main(repository, ["--check"]) == 0
    assert {path: path.read_bytes() for path in before} == before
    (repository / "specs/03-streams.md").write_text(PAGE.replace("one mark", "two marks"))
    (repository / "requirements/09-gone.yaml").write_text("[]")
    assert specs.main(repository, ["--check"]) == 1
    out = capsys.readouterr().out
    assert "requirements/03-streams.yaml: is out of date" in out
    assert "requirements/09-gone.yaml: has no page any more" in out
    specs.main(repository, [])
    assert not (repository / "requirements/09-gone.yaml").exists()


@pytest.mark.req("SPEC-EXTRACT")
@pytest.mark.parametrize(
    ("file", "text", "fault"),
    [
        ("tests/test_b.py", "@pytest.mark.req('ORCH-1')\ndef test_x(): ...",
         "tests/test_b.py::test_x: names ORCH-1, which no page of specs/ does"),
        ("tests/test_b.py", "@pytest.mark.req(NAME)\ndef test_x(): ...",
         "tests/test_b.py:1: an ID is a string in the mark itself"),
        ("README.md", "[x](specs/07-no.md)", "README.md: the link specs/07-no.md leads nowhere"),
        ("README.md", "[x](specs/03-streams.md#no)",
         "README.md: specs/03-streams.md#no: there is no such heading"),
    ],
)  # fmt: skip
def test_faults_are_told(repository, capsys, file, text, fault):
    (repository / file).write_text(text)
    assert specs.main(repository, ["--check"]) == 1
    assert fault in capsys.readouterr().out


@pytest.mark.req("SPEC-EXTRACT")
def test_this_repository_is_in_step(capsys):
    assert specs.main(specs.REPOSITORY, ["--check"]) == 0, capsys.readouterr().out


def test_no_two_pages_have_one_number_and_the_index_has_them_all() -> None:
    names = [page.name for page in specs.pages(specs.REPOSITORY)]
    assert len({name[:2] for name in names}) == len(names)
    index = (specs.REPOSITORY / "specs/00-index.md").read_text()
    assert all(f"[{name[:2]}]({name}.md)" in index for name in names if name[:2] != "00")
