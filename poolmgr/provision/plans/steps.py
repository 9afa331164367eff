"""What bringing an engine consists of: frozen steps in order. Data; nothing here does anything.

Which steps a pool needs is planning.py's, doing them bring.py's.
"""

from __future__ import annotations

from typing import ClassVar

from attrs import frozen

from orchd.wire.ids import EngineId


@frozen(kw_only=True)
class Attach:
    """Use the engine that answers at `url`."""

    name: ClassVar = "attach"
    url: str


@frozen(kw_only=True)
class FindProgram:
    """See that a program is here, in PATH or at its path."""

    name: ClassVar = "find_program"
    program: str


@frozen(kw_only=True)
class Clone:
    """Get the source at one tag or commit, without its history."""

    name: ClassVar = "clone"
    repo: str
    ref: str
    submodules: bool
    into: str


@frozen(kw_only=True)
class Configure:
    """Have cmake write the build."""

    name: ClassVar = "configure"
    source: str
    build: str
    argv: tuple[str, ...]


@frozen(kw_only=True)
class Build:
    """Compile."""

    name: ClassVar = "build"
    argv: tuple[str, ...]


@frozen(kw_only=True)
class CheckCuda:
    """Refuse a program that was built without CUDA [ORCH-3437]."""

    name: ClassVar = "check_cuda"
    program: str
    """Absolute, or a name to be found in PATH or below `folder`."""
    folder: str | None = None


@frozen(kw_only=True)
class Download:
    """Fetch one file, which has this digest or is thrown away."""

    name: ClassVar = "download"
    url: str
    checksum: str


@frozen(kw_only=True)
class Extract:
    """Unpack an archive, nothing of it beyond the folder; a bare program is put there."""

    name: ClassVar = "extract"
    into: str


@frozen(kw_only=True)
class Install:
    """Install a package, by a command that the operator has allowed."""

    name: ClassVar = "install"
    package: str
    argv: tuple[str, ...]


@frozen(kw_only=True)
class Pull:
    """Have an image here."""

    name: ClassVar = "pull"
    runtime: str
    reference: str
    digest: str | None


@frozen(kw_only=True)
class Register:
    """Write the engine into the catalog of engines."""

    name: ClassVar = "register"
    entry_id: str
    engine: EngineId


Step = (
    Attach
    | FindProgram
    | Clone
    | Configure
    | Build
    | CheckCuda
    | Download
    | Extract
    | Install
    | Pull
    | Register
)


@frozen(kw_only=True)
class Plan:
    """All of it, in order."""

    pool: str
    mode: str
    entry_id: str | None
    """None: nothing is brought, so nothing is in the catalog."""
    folder: str
    """Where what is brought ends up, by one rename."""
    steps: tuple[Step, ...]
    flags: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
