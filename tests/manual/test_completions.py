"""Completions in real shells: they offer what click itself would offer, and they are quick."""

from __future__ import annotations

import re
import shlex
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from click.shell_completion import ShellComplete

from orchd.cli.program import program
from tests.lab.needs import FISH, ZSH, require
from tests.lab.venv import REPOSITORY

SCRIPTS = REPOSITORY / "packaging/completions"
CAPTURE = Path(__file__).with_name("zsh_capture.zsh")
POINTS = [
    "",
    "re",
    "models ",
    "models re",
    "artifacts add --t",
    "drain --d",
    "drain demo --",
    "--",
    "run --priority ",
    "run --priority b",
    "run --model m --p",
    "config check --",
]
BASH = """
source "$1"; shift
COMP_WORDS=("$@") COMP_CWORD=$(($# - 1))
_orchctl
printf '%s\\n' "${COMPREPLY[@]}"
"""


def run(argv: list[str], folder: Path | None = None) -> str:
    done = subprocess.run(argv, capture_output=True, text=True, check=True, timeout=60, cwd=folder)
    assert done.stderr == ""
    return done.stdout


def bash(line: str, folder: Path | None = None) -> set[str]:
    words = ["orchctl", *line.split(" ")]
    script = ["bash", "--norc", "-c", BASH, "bash", str(SCRIPTS / "orchctl.bash")]
    return set(run([*script, *words], folder).split())


def zsh(line: str, folder: Path | None = None) -> set[str]:
    require([ZSH])
    script = ["zsh", "-f", str(CAPTURE), str(SCRIPTS / "_orchctl"), f"orchctl {line}"]
    return set(re.findall(r"<hit>(\S+)", run(script, folder)))


def fish(line: str, folder: Path | None = None) -> set[str]:
    require([FISH])
    source = shlex.quote(str(SCRIPTS / "orchctl.fish"))
    script = f"source {source}; complete -C {shlex.quote(f'orchctl {line}')}"
    lines = run(["fish", "--no-config", "-c", script], folder).splitlines()
    return {line.partition("\t")[0] for line in lines}


def click(line: str) -> set[str]:
    *before, word = line.split(" ")
    shell = ShellComplete(program, {}, "orchctl", "_ORCHCTL_COMPLETE")
    return {item.value for item in shell.get_completions(before, word)}


SHELLS = pytest.mark.parametrize("shell", [bash, zsh, fish], ids=lambda shell: shell.__name__)
Shell = Callable[..., set[str]]


@SHELLS
@pytest.mark.slow
@pytest.mark.req("SYSD-25")
def test_a_shell_offers_what_click_would(shell: Shell) -> None:
    for line in POINTS:
        offered = {word for word in shell(line) if word != "-h"}
        # zsh and fish do not offer options before a dash is typed; click neither
        assert offered == click(line) - {"-h"}, line


@SHELLS
@pytest.mark.slow
@pytest.mark.req("SYSD-25")
def test_files_are_offered_where_a_file_is_wanted(shell: Shell, tmp_path: Path) -> None:
    (tmp_path / "token.txt").touch()
    assert "token.txt" in shell("status --token-file to", tmp_path)
    assert "token.txt" in shell("config check to", tmp_path)
    assert "token.txt" not in shell("cancel to", tmp_path)


@pytest.mark.req("SYSD-25")
def test_a_value_after_an_equals_sign() -> None:
    script = ["bash", "--norc", "-c", BASH, "bash", str(SCRIPTS / "orchctl.bash")]
    said = run([*script, "orchctl", "run", "--priority", "=", "b"])
    assert said.split() == ["batch"]


@pytest.mark.req("SYSD-25")
def test_a_tab_costs_no_start_of_python() -> None:
    """Five Tabs in less than orchctl alone needs to import itself, on any machine."""
    began = time.monotonic()
    run([str(REPOSITORY / ".venv/bin/orchctl"), "--help"])
    once = time.monotonic() - began
    loop = BASH.replace("_orchctl\n", "for i in 1 2 3 4 5; do _orchctl; done\n")
    began = time.monotonic()
    run(["bash", "--norc", "-c", loop, "bash", str(SCRIPTS / "orchctl.bash"), "orchctl", "re"])
    assert time.monotonic() - began < once
