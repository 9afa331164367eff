"""Man pages and shell completions, written from the same tables as the help and the schema.

Part of `make specs` (tools/contracts.py); a test holds what is in packaging/ in step [SYSD-25].
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

from tools.manual import bash, fish, pages, zsh
from tools.manual.verbs import orchctl

PACKAGING: Final = Path(__file__).resolve().parents[2] / "packaging"


def files() -> dict[Path, str]:
    """Return what the files should hold."""
    root = orchctl()
    made = {
        "completions/orchctl.bash": bash.script(root),
        "completions/_orchctl": zsh.script(root),
        "completions/orchctl.fish": fish.script(root),
        **{f"man/{name}": text for name, text in pages.pages(root).items()},
    }
    return {PACKAGING / name: text for name, text in made.items()}
