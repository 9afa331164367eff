"""What a unit has to leave open, and to clean up, where its engine is a container.

The reasons in full, and what was tried: specs/adr/0008-containers-in-units.md. What the sandbox is
otherwise stands in units/poolmgr@.service.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

_SYSTEM: Final = """\
# podman makes a container in namespaces of its own, as the user of the pool and nobody more.
RestrictNamespaces=cgroup ipc mnt net pid user uts
SystemCallFilter=@mount @chown setresuid setresgid sethostname
# The container has a /proc of its own, which the kernel refuses where any part of ours is covered.
ProtectKernelTunables=no
ProtectKernelLogs=no
ProtectHostname=no
# podman keeps its locks there by its user: those of two pools must not meet.
TemporaryFileSystem=/dev/shm:mode=1777"""
_USER: Final = """\
# podman maps the user's subordinate ids by newuidmap, a setuid program. A user's manager can filter
# nothing without forbidding those, so none of its filters stays; the container has podman's.
NoNewPrivileges=no
RestrictAddressFamilies=
LockPersonality=no
RestrictRealtime=no
RestrictSUIDSGID=no
RestrictNamespaces=no
SystemCallArchitectures=
SystemCallFilter="""
_BOTH: Final = """\
# docker's daemon has its containers elsewhere, where no end of this unit reaches them.
ExecStopPost=-/bin/sh -c 'command -v docker >/dev/null || exit 0; \
    ids=$$(docker ps --all --quiet --filter label=orchd.replica=%t/poolmgr/%i 2>/dev/null); \
    [ -z "$$ids" ] || exec docker rm --force $$ids'"""


def settings(*, user: bool) -> Iterator[str]:
    """Yield the lines for a pool of mode container, of the system's instance or of a `user`'s."""
    yield _USER if user else _SYSTEM
    yield _BOTH
