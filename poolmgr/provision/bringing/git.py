"""Getting a source by git: one tag or commit of one repository, and nobody's configuration.

What is built of it is source.py's, what may leave this machine orchd/policy's.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import trio

from orchd.catalog.files import is_file, make_folder
from poolmgr.provision.bringing.work import Work
from poolmgr.provision.machine.proxies import through
from poolmgr.provision.plans import steps as s

CLONE_S: Final = 1800.0
_COMMIT: Final = re.compile(r"[0-9a-f]{40}")
_OURS: Final = """\
[core]
\thooksPath = /dev/null
[http]
\tfollowRedirects = false
[advice]
\tdetachedHead = false
"""
_SAFE: Final = """\
# git refuses folders of other users, whose configuration could have it run something. Here it reads
# one that the operator has named, to fetch from it, which runs nothing of it.
[safe]
\tdirectory = "{0}"
\tdirectory = "{0}/.git"
"""
_ENV: Final = {
    "GIT_CONFIG_NOSYSTEM": "1",
    "GIT_ALLOW_PROTOCOL": "https:file",
    "GIT_LFS_SKIP_SMUDGE": "1",
}


async def clone(work: Work, step: s.Clone) -> str:
    """Return the commit that was checked out. Raises OrchError: PROVISION_FAILED,
    OUTBOUND_DENIED."""
    work.tell("engine_source", f"Fetching {step.repo} at {step.ref}.")
    await _permit(work, step.repo)
    into = Path(step.into)
    make_folder(str(into))
    # a tag by its own name: a branch of that name, which moves, is not taken for it
    want = step.ref if _COMMIT.fullmatch(step.ref) else f"refs/tags/{step.ref}"
    fetch = ("fetch", "--quiet", "--depth", "1", "--no-tags", step.repo, want)
    env = await trio.to_thread.run_sync(_environment, work, step.repo)
    for argv in (("init", "--quiet"), fetch, ("checkout", "--quiet", "FETCH_HEAD")):
        await work.run(["git", *argv], CLONE_S, cwd=into, env=env)
    if step.submodules and is_file(f"{into}/.gitmodules"):
        await _submodules(work, into, env)
    return await work.asked(["git", "-C", str(into), "rev-parse", "HEAD"])


def forget(part: Path) -> None:
    """Remove what `clone` wrote beside the source. Blocks."""
    _config(part).unlink()


async def _submodules(work: Work, into: Path, env: Mapping[str, str]) -> None:
    listing = ["git", "config", "-f", str(into / ".gitmodules"), "--get-regexp", r"\.url$"]
    for line in (await work.asked(listing)).splitlines():
        await _permit(work, line.partition(" ")[2])
    update = ("submodule", "update", "--init", "--depth", "1")
    await work.run(["git", *update], CLONE_S, cwd=into, env=env)


async def _permit(work: Work, repo: str) -> None:
    """Ask before git asks another machine; a relative URL is the same host's."""
    if "://" in repo:
        await work.door.permit(repo, "git")


def _config(part: Path) -> Path:
    return part / "gitconfig"


def _environment(work: Work, repo: str) -> dict[str, str]:
    """Give git a configuration of our own. Blocks.

    Nobody else's leads it elsewhere, or gives it a password; what git itself starts, for a
    submodule or a folder of this machine, reads it too, which it does not with `git -c`.
    """
    text = _OURS
    if "://" not in repo:
        text += _SAFE.format(repo.replace("\\", "\\\\").replace('"', '\\"'))
    path = _config(work.part)
    path.write_text(text)
    env = {**_ENV, **through(work.door.proxy), "GIT_CONFIG_GLOBAL": str(path)}
    # the certificates that all of orchctl believes; git has another word for them
    for theirs, ours in (("GIT_SSL_CAINFO", "SSL_CERT_FILE"), ("GIT_SSL_CAPATH", "SSL_CERT_DIR")):
        if ours in os.environ:
            env[theirs] = os.environ[ours]
    return env
