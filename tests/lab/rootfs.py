"""Minimal bootable Debian systems: the systemd that is our floor, and the newest there is.

Here: making and caching the root file systems, mounting overlay layers to change one, and running
a program inside without booting. Not here: booting (machine.py), our dependencies (venv.py).
"""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path

from tests.lab import apt
from tests.lab.cache import Cache

PACKAGES = (
    "systemd",
    "systemd-sysv",
    "dbus",
    "libnss-systemd",  # DynamicUser= names
    "libbpf1",  # DeviceAllow=, IPAddressDeny=: systemd loads it when it is there
    "libseccomp2",  # SystemCallFilter=
    "python3",
    "python3-venv",
    "python3-systemd",  # systemd-python as Debian compiles it: no compiler inside
    "ca-certificates",
)
LEFT_OUT = ("/usr/share/man/*", "/usr/share/locale/*", "/usr/share/doc/*")
# A clone gets its own name and machine id; timers would wake during a test.
REMOVED = (
    "etc/hostname",
    "etc/resolv.conf",
    "etc/apt/sources.list",
    "etc/systemd/system/timers.target.wants",
)
PATH_INSIDE = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
ENV_INSIDE = (f"PATH={PATH_INSIDE}", "HOME=/root", "LANG=C.UTF-8")


class Suite(StrEnum):
    """The Debian suites whose systemd we test with."""

    TRIXIE = "trixie"  # systemd 257: the floor
    SID = "sid"  # the ceiling; stands in for Arch


# Lowest systemd that each suite is there to provide.
SYSTEMD_AT_LEAST = {Suite.TRIXIE: 257, Suite.SID: 258}


def make_rootfs(suite: Suite, folder: Path, more: Sequence[str] = ()) -> None:
    """Unpack a suite, with `more` packages, into `folder` (20 s; needs root and the mirror)."""
    folder.chmod(0o755)
    line = apt.source_line(suite)
    argv = [
        "mmdebstrap",
        "--quiet",
        "--mode=root",
        "--format=directory",
        "--variant=minbase",
        '--aptopt=Acquire::Check-Valid-Until "false"',  # a mirror may be a snapshot
        '--aptopt=APT::Sandbox::User "root"',  # _apt cannot enter a cache under root's home
        f"--include={','.join((*PACKAGES, *more))}",
        *(f"--dpkgopt=path-exclude={pattern}" for pattern in LEFT_OUT),
        suite,
        str(folder),
        *([line] if line else []),
    ]
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise RuntimeError(f"mmdebstrap {suite} failed:\n{done.stderr}")
    for name in REMOVED:
        target = folder / name
        if target.is_dir() and not target.is_symlink():
            shutil.rmtree(target)
        else:
            target.unlink(missing_ok=True)
    # Empty, a new id at each boot; "uninitialized" would make it a first boot, whose presets enable
    # every unit they find (timers again, and ours before a test does), and cost 0.7 s on sid.
    (folder / "etc/machine-id").write_text("")


def rootfs(
    suite: Suite | str, cache: Cache | None = None, more: tuple[str, ...] = (), name: str = "rootfs"
) -> Path:
    """The cached root file system of a suite. Never write to it: put an overlay on it.

    With `more` packages it is another entry, which has another `name`.
    """
    chosen = Suite(suite)
    packages = (*PACKAGES, *more)
    inputs = {"packages": packages, "left_out": LEFT_OUT, "removed": REMOVED, "recipe": 2}

    def recipe(folder: Path) -> None:
        make_rootfs(chosen, folder, more)

    return (cache or Cache.default()).build(f"{name}-{chosen}", inputs, recipe)


def overlay_options(layers: Sequence[Path], upper: Path, work: Path) -> str:
    """Mount options for `layers`, top first, under the writable `upper`."""
    lower = ":".join(str(layer) for layer in layers)
    return f"lowerdir={lower},upperdir={upper},workdir={work}"


IN_LAYER = """
set -e
mount -t overlay overlay -o "$1" "$2"
mount -t proc proc "$2/proc"
mount --rbind /dev "$2/dev"
root=$2; shift 2
exec chroot "$root" /usr/bin/env -i "$@"
"""


def run_in_layer(layers: Sequence[Path], upper: Path, argv: Sequence[str]) -> str:
    """Run a program on top of `layers` without booting; what it writes lands in `upper`.

    Returns what it printed. The mounts live in a namespace that goes away with the program.
    """
    scratch = upper.with_name(upper.name + ".scratch")
    shutil.rmtree(scratch, ignore_errors=True)
    work, root = scratch / "work", scratch / "root"
    for folder in (upper, work, root):
        folder.mkdir(parents=True, exist_ok=True)
    options = overlay_options(layers, upper, work)
    alone = ["unshare", "--mount", "--propagation", "private", "--pid", "--fork", "--kill-child"]
    inside = ["sh", "-c", IN_LAYER, "sh", options, str(root), *ENV_INSIDE, *argv]
    try:
        done = subprocess.run([*alone, *inside], capture_output=True, text=True, check=False)
    finally:
        shutil.rmtree(scratch)
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(argv)} failed inside:\n{done.stdout}{done.stderr}")
    return done.stdout
