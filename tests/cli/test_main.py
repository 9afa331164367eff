"""Ctrl-C before orchctl has loaded itself."""

from __future__ import annotations

import signal
import subprocess
import sys

import click
import pytest
from click.shell_completion import ShellComplete

from orchd.cli.program import VERBS, program

EARLY = """
import os, signal, sys
class Finder:
    def find_spec(name, path=None, target=None):
        if name == "orchd.cli.program":
            os.kill(os.getpid(), signal.SIGINT)
sys.meta_path.insert(0, Finder)
{before}
from orchd.cli.main import main
sys.exit(main(["--version"]))
"""


@pytest.mark.parametrize(
    ("before", "code", "said"),
    [
        # said outright: a test in the background of a shell begins with SIGINT ignored
        ("signal.signal(signal.SIGINT, signal.default_int_handler)", -signal.SIGINT, ""),
        ("signal.signal(signal.SIGINT, signal.SIG_IGN)", 0, "orchctl"),
    ],
)
def test_an_early_ctrl_c_just_ends_it_unless_it_is_ignored(before, code, said):
    argv = [sys.executable, "-c", EARLY.format(before=before)]
    ran = subprocess.run(argv, check=False, capture_output=True, text=True, timeout=30)
    assert (ran.returncode, ran.stderr) == (code, "")
    assert ran.stdout.startswith(said)


def completed(arguments: list[str], word: str) -> list[str]:
    shell = ShellComplete(program, {}, "orchctl", "_ORCHCTL_COMPLETE")
    return [item.value for item in shell.get_completions(arguments, word)]


def test_a_shell_completes_verbs_and_options() -> None:
    assert completed([], "re") == ["rerank", "reload"]
    assert completed(["models"], "re") == ["remove", "retire"]
    assert completed(["drain"], "--d") == ["--deadline"]


@pytest.mark.parametrize("verb", VERBS)
def test_the_help_of_a_verb_says_what_each_option_is_for(verb: str) -> None:
    command = program.get_command(click.Context(program), verb)
    assert command is not None
    commands = list(command.commands.values()) if isinstance(command, click.Group) else [command]
    for each in commands:
        assert each.help, each.name
        for parameter in each.params:
            if isinstance(parameter, click.Option):
                said = parameter.help or isinstance(parameter.type, click.Choice)
                assert said, (each.name, parameter.name)
