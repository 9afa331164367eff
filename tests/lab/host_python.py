"""A venv of ours, with this Python, inside a Machine whose own Python is another.

Here: what to bind, for engines that are built for ours. A venv names paths of the host, so inside
it is put together anew; the base is at /opt/python.
"""

from __future__ import annotations

import sys
import sysconfig
from pathlib import Path

from tests.lab.cache import Cache

BASE = Path("/opt/python")
CONFIG = f"home = {BASE}/bin\ninclude-system-site-packages = false\n"


def venv_in_machine(venv: Path, inside: Path, cache: Cache) -> tuple[dict[Path, Path], Path]:
    """Binds that make `venv` a venv at `inside`, and the folder of the base's shared library."""
    settings = sysconfig.get_config_vars()
    program = Path(sys.executable).resolve()
    stdlib = Path(sysconfig.get_paths()["stdlib"])
    made = cache.build(
        "machine-venv", {"config": CONFIG}, lambda it: write(it / "pyvenv.cfg", CONFIG)
    )
    # one file cannot be bound to two places of one name, so each is a bind of its own kind
    binds = {
        program.parent: BASE / "bin",
        program: inside / "bin/python3",
        stdlib: BASE / "lib" / stdlib.name,
        made / "pyvenv.cfg": inside / "pyvenv.cfg",
        venv / "lib": inside / "lib",
    }
    name = settings.get("INSTSONAME") or ""
    for folder in (settings["LIBDIR"], f"{settings['LIBDIR']}/{settings.get('MULTIARCH')}"):
        library = Path(folder, name)
        if ".so" in name and library.is_file():
            binds[library] = BASE / "lib" / name
            break
    return binds, BASE / "lib"


def write(path: Path, text: str) -> None:
    """Write a file that every user may read."""
    path.write_text(text)
    path.chmod(0o644)
