"""Ctrl-C before orchctl has loaded itself."""

from __future__ import annotations

import signal
import subprocess
import sys

import pytest

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
