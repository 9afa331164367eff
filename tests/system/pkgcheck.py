"""What namcap would say of a built package: one sentence for each fault.

Here: looking into the package file. Not here: what this package must hold (test_package.py).
"""

from __future__ import annotations

import re
import tarfile
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path

from attrs import frozen

from tests.system.unpack import members

ROOTS = ("etc", "usr", "opt", "srv", "var")
FORBIDDEN = ("usr/local/", "usr/lib64/", "usr/sbin/", "var/run/", "var/lib/", "var/cache/")
FOR_THE_ADMINISTRATOR = ("etc/systemd/system/", "etc/tmpfiles.d/", "etc/sysusers.d/")
INTERPRETERS = ("/usr/bin/python", "/usr/bin/bash", "/bin/sh", "/usr/bin/sh")
OF_THE_BUILD = (b"/src/tree/", b"/makepkg", b".pyenv", b"/opt/orchd")
EXEC = re.compile(r"^Exec\w+=[-+!@:|]*(/usr/bin/\S+)", re.MULTILINE)
# Programs of packages that a dependency brings, as Arch has them.
BROUGHT = {"/usr/bin/systemctl": "systemd", "/usr/bin/setpriv": "util-linux"}


@frozen
class Package:
    """The package, read."""

    entries: dict[str, tarfile.TarInfo]
    contents: dict[str, bytes]
    """Of regular files."""
    info: dict[str, list[str]]

    @property
    def depends(self) -> set[str]:
        """Names of what it depends on."""
        return {re.split("[<>=]", item)[0] for item in self.info.get("depend", [])}


def read(path: Path) -> Package:
    """Read a package whole; it is small."""
    entries, contents = members(path)
    info: dict[str, list[str]] = defaultdict(list)
    for line in contents[".PKGINFO"].decode().splitlines():
        key, equals, value = line.partition(" = ")
        if equals:
            info[key].append(value)
    return Package(entries, contents, dict(info))


def faults(package: Package) -> list[str]:
    """Everything that is wrong."""
    checks: list[Callable[[Package, str], Iterator[str]]] = [_place, _owner, _kind, _text, _unit]
    found = [
        f"{name}: {fault}"
        for name in package.entries
        if not name.startswith(".")
        for check in checks
        for fault in check(package, name)
    ]
    return [*found, *_whole(package)]


def _place(package: Package, name: str) -> Iterator[str]:
    if name.split("/", maxsplit=1)[0] not in ROOTS or name.startswith(FORBIDDEN):
        yield "no place for a package"
    if name.startswith(FOR_THE_ADMINISTRATOR):
        yield "belongs under usr/lib"
    if "/dist-packages/" in name or "/tests/" in name:
        yield "does not belong into the package"
    inside = any(other.startswith(f"{name}/") for other in package.entries)
    if package.entries[name].isdir() and not inside:
        yield "an empty folder"


def _owner(package: Package, name: str) -> Iterator[str]:
    entry = package.entries[name]
    if (entry.uid, entry.gid) != (0, 0):
        yield f"owned by {entry.uid}:{entry.gid}, not by root"
    wanted = 0o755 if entry.isdir() or _is_program(package, name) else 0o644
    if not entry.issym() and entry.mode != wanted:
        yield f"mode {entry.mode:o}, not {wanted:o}"


def _is_program(package: Package, name: str) -> bool:
    return package.contents.get(name, b"")[:2] == b"#!"


def _kind(package: Package, name: str) -> Iterator[str]:
    entry = package.entries[name]
    target = entry.linkname
    if entry.issym():
        place = Path("/", name).parent / target
        if str(place.resolve().relative_to("/")) not in package.entries:
            yield f"leads to {target}, which is not in the package"
    if package.contents.get(name, b"")[:4] == b"\x7fELF":
        yield "machine code in a package for any architecture"
    if name.startswith("usr/bin/") and not _is_program(package, name):
        yield "no program"
    if name.startswith("usr/share/man/man") and entry.isfile() and not name.endswith(".gz"):
        yield "not compressed"
    if name.endswith(".py") and "/site-packages/" in name:
        folder, _, file = name.rpartition("/")
        code = f"{folder}/__pycache__/{file[:-3]}.cpython-"
        if not any(other.startswith(code) for other in package.entries):
            yield "no bytecode: each start of a service would compile it"


def _text(package: Package, name: str) -> Iterator[str]:
    content = package.contents.get(name, b"")
    for mark in OF_THE_BUILD:
        if mark in content:
            yield f"speaks of the place where it was built ({mark.decode()})"
    if _is_program(package, name):
        interpreter = content[2:].split(b"\n")[0].split()[0].decode()
        if interpreter not in INTERPRETERS:
            yield f"interpreter {interpreter}"


def _unit(package: Package, name: str) -> Iterator[str]:
    if not re.search(r"systemd/(system|user)/.*\.service$", name):
        return
    for program in EXEC.findall(package.contents[name].decode()):
        here = program[1:] in package.entries
        if not here and BROUGHT.get(program) not in package.depends:
            yield f"{program} is neither in the package nor in a dependency"


def _whole(package: Package) -> Iterator[str]:
    (name,) = package.info["pkgname"]
    backup = package.info.get("backup", [])
    for path in backup:
        if path not in package.entries:
            yield f"backup {path}: not in the package"
    for path in package.contents:
        if path.startswith("etc/") and path not in backup:
            yield f"{path}: configuration that is not in backup"
    if not any(path.startswith(f"usr/share/licenses/{name}/") for path in package.contents):
        yield "no licence"
    versions = {match[1] for path in package.entries if (match := re.match(PYTHON, path))}
    if len(versions) > 1:
        yield f"for several versions of Python: {versions}"


PYTHON = r"usr/lib/python(\d\.\d+)/"
