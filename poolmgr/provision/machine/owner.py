"""Root brings engines as the user who will run them: the owner of the cache, and nobody more.

What root would write in the folder of another user, that user could have lead elsewhere.
"""

from __future__ import annotations

import os
import pwd
from pathlib import Path

from orchd.wire.errors import Kind, OrchError

PODMAN_RUN = Path("/run/poolmgr/podman")
"""XDG_RUNTIME_DIR of podman that brings an image for the system's pools
(packaging/orchd.tmpfiles.conf)."""


def become_owner(cache: Path, *, for_good: bool = True) -> None:
    """Become the owner of the cache, where we are root and it is another's.

    There is no way back `for_good`; else tool.py still can run one program as root. Raises
    OrchError(PROVISION_FAILED) for an owner that the system does not know.
    """
    if os.geteuid() != 0:
        return
    there = next(folder for folder in (cache, *cache.parents) if folder.exists())
    uid = there.stat().st_uid
    if uid == 0:
        return
    try:
        user = pwd.getpwuid(uid)
    except KeyError:
        why = f"{there} belongs to uid {uid}, whom the system does not know"
        raise OrchError(Kind.PROVISION_FAILED, why) from None
    os.initgroups(user.pw_name, user.pw_gid)
    if for_good:
        os.setresgid(user.pw_gid, user.pw_gid, user.pw_gid)
        os.setresuid(uid, uid, uid)
    else:
        os.setegid(user.pw_gid)
        os.seteuid(uid)
    os.umask(0o027)
    for name in [name for name in os.environ if name.startswith(("SUDO_", "XDG_"))]:
        del os.environ[name]
    os.environ |= {"HOME": user.pw_dir, "USER": user.pw_name, "LOGNAME": user.pw_name}
    if for_good and PODMAN_RUN.is_dir():
        os.environ["XDG_RUNTIME_DIR"] = str(PODMAN_RUN)
    os.chdir("/")  # where we were may be closed to that user
