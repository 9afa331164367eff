"""How an engine that uses TCP is started: behind poolmgr/bridge.py.

The command alone; what the bridge does is its own. Such an engine has the same port in every pool:
each has a network to itself.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Final

from poolmgr.engines.base import Bridge

PROGRAM: Final = Path(__file__).resolve().parents[2] / "bridge.py"
_PYTHONS: Final = (
    "python3", "/usr/src/.venv/bin/python3", "/usr/src/server/.venv/bin/python3",
    "/opt/conda/bin/python3",
)  # fmt: skip
"""Where images have theirs: it is an entry point that sets their PATH, and comes later."""
_IN_IMAGE: Final = f"""\
for python in {" ".join(_PYTHONS)}; do
    command -v "$python" >/dev/null && exec "$python" -I -S "$@"
done
echo "this image has no python3, which the bridge to the engine's TCP port needs" >&2
exit 78"""


def here(
    bridge: Bridge, command: tuple[str, ...], argv: tuple[str, ...], socket: Path, slots: int
) -> tuple[str, ...]:
    """Return the command for a program of this machine, in a network that the bridge makes."""
    python = (sys.executable, "-I", "-S", str(PROGRAM))
    if bridge.port is None:
        options: tuple[str, ...] = ("--own-network", "may")
    else:
        options = (*_options(bridge, socket, slots), "--own-network", "must")
    return (*python, *options, "--", *command, *argv)


def in_image(
    bridge: Bridge, command: tuple[str, ...], own: tuple[str, ...] | None, socket: Path, slots: int
) -> tuple[str, ...]:
    """Return what is run in an image, whose container has a network of its own.

    `own` is what the operator wants in the place of what the image would run by itself. The image
    needs a shell and a Python of 3.9 or newer, and has to be shown `PROGRAM`.
    """
    entry = ("--entry", bridge.image_entry) if own is None else ()
    options = (*_options(bridge, socket, slots), *entry)
    return ("/bin/sh", "-c", _IN_IMAGE, "sh", str(PROGRAM), *options, "--", *(own or command))


def _options(bridge: Bridge, socket: Path, slots: int) -> tuple[str, ...]:
    return ("--socket", str(socket), "--port", str(bridge.port), "--slots", str(slots))
