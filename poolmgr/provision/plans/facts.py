"""What is known of this machine before an engine is brought: frozen, read at the edge (look.py)."""

from __future__ import annotations

from collections.abc import Mapping

from attrs import field, frozen


@frozen(kw_only=True)
class GpuFact:
    """One GPU."""

    index: int
    uuid: str
    name: str
    compute_capability: str | None
    """`8.9`; None: the driver does not say."""


@frozen(kw_only=True)
class Runtime:
    """What can run images."""

    path: str
    name: str
    """podman or docker."""
    version: str
    oci: str = ""
    """podman: what it has containers made by: crun, runc."""
    options: tuple[str, ...] = ()
    """podman: what it is told at each call, before the verb."""
    cdi: bool = True
    """Whether it takes devices from CDI specifications: docker before 28.3 does when told to."""
    why_not: str | None = None
    """None: it answers; else what it said."""

    @property
    def argv(self) -> tuple[str, ...]:
        """What a call begins with."""
        return (self.path, *self.options)


@frozen(kw_only=True)
class PackageFact:
    """What pacman knows of one package."""

    installed: str | None = None
    """Its version."""
    in_repositories: bool = False
    """Else it is for an AUR helper."""


@frozen(kw_only=True)
class Facts:
    """This machine, as one user sees it."""

    programs: Mapping[str, str] = field(factory=dict)
    """Name -> absolute path, of those that are here."""
    versions: Mapping[str, str] = field(factory=dict)
    """Name -> what `--version` says, where it is asked for."""
    gpus: tuple[GpuFact, ...] = ()
    no_driver: str | None = None
    """Why there are no facts about GPUs."""
    simulated: bool = False
    podman: Runtime | None = None
    docker: Runtime | None = None
    cdi: frozenset[str] = frozenset()
    """Names of the devices that CDI specifications have for nvidia.com/gpu."""
    subordinate_ids: bool = True
    """Whether the user may map other users' ids: what rootless podman needs outside of a unit."""
    no_namespaces: str | None = None
    """The setting of the kernel that keeps users from making a user namespace; None: they may."""
    units: bool = False
    """Whether the engine is for the system's units, where nobody gains privileges."""
    root: bool = False
    user: str = ""
    """Who brings the engine; for the units whom the cache belongs to, who will be that."""
    sudo_user: str | None = None
    """root by sudo: who called it, and runs what refuses to run as root."""
    sudo_asks: bool = False
    """That user, or this one, gets nothing done by sudo without a password."""
    package: PackageFact = PackageFact()
    cache: str = ""
    """The folder of engines: absolute."""
    cache_problem: str | None = None
    """Why it cannot be written."""
    free_bytes: int | None = None
    """Of the disk that it is on."""
    jobs: int = 1
    """Compilers that run at the same time: what cores and memory allow."""

    def has(self, name: str) -> bool:
        """Whether a program is here."""
        return name in self.programs
