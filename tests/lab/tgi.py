"""The stand-in for Text Generation Inference, installed as its three programs are.

Here: putting it into a folder. Not here: what it does (fake_tgi.py).
"""

from __future__ import annotations

import sys
from pathlib import Path

SOURCE = Path(__file__).with_name("fake_tgi.py")
NAMES = ("text-generation-launcher", "text-generation-router", "text-generation-server")


def install_tgi(folder: Path, python: str = sys.executable) -> Path:
    """Write the programs, run by `python`, into `folder`; return the launcher's path."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in NAMES:
        program = folder / name
        program.write_text(f"#!{python} -IS\n{SOURCE.read_text()}")
        program.chmod(0o755)
    return folder / NAMES[0]
