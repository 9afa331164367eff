"""Where sockets, state and models are when nobody says: by systemd's variables, XDG's, or the user.

Reading and merging what somebody does say is load.py's.
"""

from __future__ import annotations

import contextlib
import os
import stat
import tempfile
from collections.abc import Mapping
from pathlib import Path

from xdg import BaseDirectory


def run_dir(environ: Mapping[str, str]) -> tuple[Path, str | None]:
    """Return the folder of sockets, and what is wrong with it: None but for a shared one."""
    if os.geteuid() == 0:
        return Path("/run"), None
    if own := environ.get("XDG_RUNTIME_DIR"):
        return Path(own), None
    if "INVOCATION_ID" in environ:  # a system service with a user of its own
        return Path("/run"), None
    path = Path(tempfile.gettempdir()) / f"orchd-{os.geteuid()}"
    return path, make_private(path, os.geteuid())


def make_private(path: Path, uid: int) -> str | None:
    """Make the folder `path` if it is not there; return why it is not `uid`'s alone, if so.

    Its parent is everybody's: whoever came first could serve sockets there that our prompts and
    token would be sent to. Made here at once with its mode, so nobody comes between.
    """
    try:
        with contextlib.suppress(FileExistsError):
            path.mkdir(mode=0o700)
        found = path.lstat()
    except OSError as exc:
        return f"{path} cannot be made: {exc.strerror}; set XDG_RUNTIME_DIR or run_dir"
    if stat.S_ISDIR(found.st_mode) and found.st_uid == uid and not found.st_mode & 0o077:
        return None
    return (
        f"{path} is not a folder of yours alone (mode 0700): remove it, or set XDG_RUNTIME_DIR or "
        "run_dir"
    )


def models_dir(environ: Mapping[str, str]) -> Path:
    """Return the folder of fetched models: the unit's cache, the system's, or the user's."""
    if given := environ.get("CACHE_DIRECTORY"):  # systemd: a list with colons
        return Path(given.partition(":")[0], "models")
    if os.geteuid() == 0:
        return Path("/var/cache/orchd/models")
    home = environ.get("XDG_CACHE_HOME") or BaseDirectory.xdg_cache_home
    return Path(home, "orchd", "models")


def state_dir(environ: Mapping[str, str]) -> Path:
    """Return the folder of state."""
    if given := environ.get("STATE_DIRECTORY"):  # systemd: a list with colons
        return Path(given.partition(":")[0])
    if os.geteuid() == 0:
        return Path("/var/lib/orchd")
    return Path(environ.get("XDG_STATE_HOME") or BaseDirectory.xdg_state_home) / "orchd"
