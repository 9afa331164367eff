"""The man pages: they set without a warning, and miss nothing of the code they are written from."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

from orchd.config import jsonschema
from orchd.wire.errors import TABLE
from tests.lab.needs import GROFF, require
from tests.lab.venv import REPOSITORY
from tools.manual import words
from tools.manual.verbs import orchctl

PAGES = sorted((REPOSITORY / "packaging/man").iterdir())
VARIABLE = re.compile(r'"(ORCHD_[A-Z_]+)"')


def shown(page: Path) -> str:
    """The page as a terminal shows it, on lines that never end."""
    argv = ["groff", "-man", "-Tutf8", "-P-c", "-rLL=9999n", "-ww", str(page)]
    done = subprocess.run(argv, capture_output=True, text=True, check=True)
    assert done.stderr == ""
    return re.sub(r".\x08", "", done.stdout)  # struck twice: bold


@pytest.mark.req("SYSD-25")
@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_a_page_sets_without_a_warning_and_holds_what_a_page_needs(page: Path) -> None:
    require([GROFF])
    text = shown(page)
    for section in ("NAME", "DESCRIPTION", "FILES", "SEE ALSO"):
        assert f"\n{section}\n" in text
    name = page.name.rpartition(".")[0]
    assert re.search(rf"\nNAME\n +{re.escape(name)} \S \w", text)


@pytest.mark.req("SYSD-25")
def test_orchctl_1_has_every_verb_option_and_exit_code() -> None:
    require([GROFF])
    text = shown(REPOSITORY / "packaging/man/orchctl.1")
    for verb in orchctl().every():
        if verb.path and not verb.verbs:
            assert f" orchctl {verb.name}" in text
        for option in verb.options:
            assert " ".join([", ".join(option.flags), option.takes]).strip() in text
    for row in TABLE.values():
        assert re.search(rf"^ +{row.exit_code} ", text, re.MULTILINE)


@pytest.mark.req("SYSD-25")
def test_orchd_toml_5_has_every_key() -> None:
    require([GROFF])
    text = shown(REPOSITORY / "packaging/man/orchd.toml.5")
    whole = jsonschema.generate()
    leaves = [
        key
        for table in (whole, *whole["$defs"].values())
        for key, entry in table["properties"].items()
        if "$ref" not in str(entry)  # a table: it has a subsection
    ]
    assert len(leaves) > 40
    lines = {line.split()[0] for line in text.splitlines() if line.strip()}
    assert [key for key in leaves if key not in lines] == []


@pytest.mark.req("SYSD-25")
def test_every_variable_that_the_code_reads_is_told() -> None:
    sources = [*REPOSITORY.glob("orchd/**/*.py"), *REPOSITORY.glob("poolmgr/**/*.py")]
    read = {name for path in sources for name in VARIABLE.findall(path.read_text())}
    told = {name for name, _, _ in words.ENVIRONMENT if name.startswith("ORCHD_")}
    assert read - {"ORCHD_ENGINE"} == told  # poolmgr's own mark on its engines
