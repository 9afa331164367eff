"""Writes .SRCINFO from the PKGBUILD, as `makepkg --printsrcinfo` does, where there is no makepkg.

Part of `make specs`. A test compares it with makepkg's own, pacman 6's and 7's [SYSD-24].
"""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Final

REPOSITORY: Final = Path(__file__).resolve().parents[1]
FILE: Final = REPOSITORY / ".SRCINFO"
# makepkg's order (scripts/libmakepkg/srcinfo.sh); those that no line here has are left out.
FIELDS: Final = (
    "pkgdesc", "pkgver", "pkgrel", "epoch", "url", "install", "changelog", "arch", "groups",
    "license", "checkdepends", "makedepends", "depends", "optdepends", "provides", "conflicts",
    "replaces", "noextract", "options", "backup", "source", "validpgpkeys",
)  # fmt: skip
_PRINT: Final = 'source ./PKGBUILD; for field; do declare -n all=$field; printf "%s\\0" "$field" \
"${#all[@]}" "${all[@]}"; done'


def text(folder: Path = REPOSITORY) -> str:
    """Return what the file should hold."""
    lines = [f"\t{name} = {value}" for name, values in _read(folder) for value in values]
    (name,) = next(values for field, values in _read(folder, ("pkgname",)) if field == "pkgname")
    return "\n".join([f"pkgbase = {name}", *lines, "", f"pkgname = {name}", ""])


def _read(folder: Path, fields: tuple[str, ...] = FIELDS) -> Iterator[tuple[str, list[str]]]:
    """Yield each field with its values, as bash reads them."""
    done = subprocess.run(
        ["bash", "-ec", _PRINT, "bash", *fields],
        cwd=folder,
        capture_output=True,
        text=True,
        check=True,
    )
    words = iter(done.stdout.split("\0"))
    for field in words:
        if field:
            yield field, [next(words) for _ in range(int(next(words)))]
