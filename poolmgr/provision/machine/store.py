"""Podman for the pools of the system's units: where its images are, and how it is called there.

In those units no process gains privileges, so no setuid program maps a user's subordinate ids.
podman then maps the one user that it is run by, and needs nothing else
(specs/adr/0008-containers-in-units.md). An image has files of several owners: all of them become
that user's. What a container sees, and what it is called, is container.py's.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

OWN: Final = Path("/var/tmp/orchd-podman")  # noqa: S108
"""Of one unit: its /var/tmp is private, and systemd empties it when the unit ends, however it ends.
So no container outlives its pool, and no pool's podman meets another's. Not /run: what a container
writes is on a disk there."""
RUN: Final = OWN / "run"
"""Its XDG_RUNTIME_DIR, where podman's idea of what runs is."""
_QUIET: Final = (
    # of the OCI runtimes the one that leaves a container in the cgroup of its pool
    "--runtime=crun",
    # at each start it calls missing subordinate ids an error; what fails it says without its log
    "--log-level=fatal",
    # there is no user's systemd to ask for a cgroup, and no journal of that user
    "--cgroup-manager=cgroupfs",
    "--events-backend=none",
)


def images_of(cache: Path) -> Path:
    """Return the folder of the images, in a cache of engines."""
    return cache / "images"


def bringing(images: Path) -> tuple[str, ...]:
    """Return podman's options for having images there."""
    return (*_QUIET, "--root", str(images), *_driver())


def running(images: Path) -> tuple[str, ...]:
    """Return podman's options for a container of such an image: nothing is written beside it."""
    return (
        *_QUIET, "--root", str(OWN / "storage"), *_driver(),
        "--storage-opt", f"overlay.imagestore={images}",
    )  # fmt: skip


def _driver() -> tuple[str, ...]:
    return ("--storage-driver", "overlay", "--storage-opt", "overlay.ignore_chown_errors=true")
