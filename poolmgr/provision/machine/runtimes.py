"""What containers need of this machine: podman or docker, CDI, namespaces, ids. Changes nothing.

What is done with it is images.py's; which of the two is taken planning.py's.
"""

from __future__ import annotations

import contextlib
import json
import pwd
import re
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from poolmgr.provision.machine import store, tool
from poolmgr.provision.plans.facts import Runtime

CDI_PLACES: Final = ("/etc/cdi", "/var/run/cdi")
CDI_MAX: Final = 4 << 20
_CDI_NAME: Final = re.compile(r"""["']?name["']?\s*:\s*["']?([A-Za-z0-9][\w.:-]{0,99})""")
_CDI_KIND: Final = re.compile(r"""["']?kind["']?\s*:\s*["']?nvidia\.com/gpu\b""")
_NAMESPACES: Final = (("kernel.unprivileged_userns_clone", "0"), ("user.max_user_namespaces", "0"))
"""Settings that keep users from namespaces: linux-hardened's own, and the kernel's."""


async def podman_of_units(cache: Path) -> Runtime | None:
    """Return podman as the units call it. `podman info` would make a storage, also for a plan."""
    path = shutil.which("podman")
    if path is None:
        return None
    said = await tool.ask([path, "--version"])
    return Runtime(
        path=path,
        name="podman",
        version="" if said is None else said.text.strip().rpartition(" ")[2],
        oci="" if shutil.which("crun") is None else "crun",
        options=store.bringing(store.images_of(cache)),
        why_not=None if said is not None and said.code == 0 else _last(said),
    )


async def podman() -> Runtime | None:
    """Return podman as its user calls it; None: it is not here."""
    path = shutil.which("podman")
    if path is None:
        return None
    form = '{"version":"{{.Version.Version}}","oci":"{{.Host.OCIRuntime.Name}}"}'
    said = await tool.ask([path, "info", "--format", form])
    if said is None or said.code:
        return Runtime(path=path, name="podman", version="", why_not=_last(said))
    lines = [line for line in said.text.splitlines() if line.startswith("{")]
    told = json.loads(lines[-1]) if lines else {}
    return Runtime(
        path=path, name="podman", version=told.get("version", ""), oci=told.get("oci", "")
    )


async def docker() -> Runtime | None:
    """Return docker, whose daemon has to answer; None: it is not here."""
    path = shutil.which("docker")
    if path is None:
        return None
    said = await tool.ask([path, "version", "--format", "{{.Server.Version}}"])
    if said is None or said.code:
        return Runtime(path=path, name="docker", version="", why_not=_last(said))
    info = await tool.ask([path, "info", "--format", "{{json .CDISpecDirs}}"])
    return Runtime(
        path=path,
        name="docker",
        version=said.text.strip()[:100],
        cdi=info is not None and info.code == 0 and '["' in info.text,
    )


def cdi(places: Sequence[str] = CDI_PLACES) -> frozenset[str]:
    """Return the names of NVIDIA's GPUs in CDI specifications, JSON or YAML.

    Their lines are looked at, not parsed: a name that stands there is enough to go on, and the
    runtime has the last word.
    """
    names: set[str] = set()
    for place in places:
        for path in sorted(Path(place).glob("*.[jy]*")):
            try:
                with path.open("rb") as file:
                    text = file.read(CDI_MAX).decode("utf-8", "replace")
            except OSError:
                continue
            if _CDI_KIND.search(text):
                names |= set(_CDI_NAME.findall(text))
    return frozenset(names)


def subordinate(user: str) -> bool:
    """Whether a user has subordinate ids, by name or by number."""
    ids = {user}
    with contextlib.suppress(KeyError):
        ids.add(str(pwd.getpwnam(user).pw_uid))
    try:
        lines = Path("/etc/subuid").read_text("utf-8", "replace").splitlines()
    except OSError:
        return False
    return any(line.partition(":")[0] in ids for line in lines)


def no_namespaces() -> str | None:
    """Return the kernel's setting that keeps users from namespaces; None: there is none."""
    for name, closed in _NAMESPACES:
        try:
            said = (Path("/proc/sys") / name.replace(".", "/")).read_text().strip()
        except OSError:
            continue  # this kernel has no such setting
        if said == closed:
            return name
    return None


def _last(said: tool.Answer | None) -> str:
    if said is None:
        return "it does not answer"
    lines = [line.strip() for line in said.text.splitlines() if line.strip()]
    # podman warns after it has said what fails
    lines = [line for line in lines if line.startswith("Error")] or lines
    return lines[-1][:200] if lines else f"it ends with {said.code}"
