"""Unpacking an archive that somebody else made: nothing of it lands beyond its folder. Blocks.

tar (gz, bz2, xz) and zip; a bare program is copied. Refused as a whole: absolute names and `..`,
links that lead out or stand in the way of other members, devices, hard links, and too much.
"""

from __future__ import annotations

import os
import posixpath
import shutil
import stat
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Final

from attrs import field, frozen

from orchd.wire.errors import Kind, OrchError

MAX_BYTES: Final = 8 << 30
"""Unpacked. llama.cpp's CUDA releases have below 1 GB."""
MAX_MEMBERS: Final = 20_000
_CHUNK: Final = 1 << 20
_ELF: Final = b"\x7fELF"


@frozen
class Member:
    """One thing in an archive."""

    name: str
    size: int = 0
    folder: bool = False
    executable: bool = False
    link: str | None = None
    """Where a symbolic link leads."""
    open: Callable[[], IO[bytes]] | None = field(default=None, repr=False)


def unpack(archive: Path, into: Path, tick: Callable[[], object]) -> None:
    """Unpack into the folder `into`, which is made; `tick` is called for each MiB and may raise.

    Raises OrchError(PROVISION_FAILED) for an archive that is refused or broken; OSError.
    """
    into.mkdir(parents=True)
    with archive.open("rb") as file:
        head = file.read(len(_ELF) + 2)
    try:
        if head.startswith((_ELF, b"#!")):
            shutil.copyfile(archive, into / archive.name)
            (into / archive.name).chmod(0o755)
        elif zipfile.is_zipfile(archive):
            with zipfile.ZipFile(archive) as zipped:
                _write(list(_of_zip(zipped)), into, tick)
        elif tarfile.is_tarfile(archive):
            with tarfile.open(archive, "r:*") as tar:
                _write(list(_of_tar(tar)), into, tick)
        else:
            raise _refused(archive.name, "is neither an archive that is known nor a program")
    except (tarfile.TarError, zipfile.BadZipFile, EOFError, RuntimeError, ValueError) as exc:
        # RuntimeError: a zip with a password; zlib's and lzma's errors are wrapped by TarError
        raise _refused(archive.name, f"cannot be unpacked: {exc}") from exc


def _of_tar(tar: tarfile.TarFile) -> Iterator[Member]:
    for count, one in enumerate(tar):
        _bound(count)
        if one.isdir():
            yield Member(one.name, folder=True)
        elif one.issym():
            yield Member(one.name, link=one.linkname)
        elif one.isreg():
            reader = _tar_reader(tar, one)
            yield Member(one.name, one.size, executable=bool(one.mode & 0o111), open=reader)
        else:
            raise _refused(one.name, "is neither a file, a folder nor a symbolic link")


def _tar_reader(tar: tarfile.TarFile, one: tarfile.TarInfo) -> Callable[[], IO[bytes]]:
    def reader() -> IO[bytes]:
        found = tar.extractfile(one)
        assert found is not None, "it is a plain file"
        return found

    return reader


def _of_zip(zipped: zipfile.ZipFile) -> Iterator[Member]:
    for count, one in enumerate(zipped.infolist()):
        _bound(count)
        mode = one.external_attr >> 16
        if one.is_dir():
            yield Member(one.filename, folder=True)
        elif stat.S_ISLNK(mode):
            with zipped.open(one) as target:
                yield Member(one.filename, link=target.read(4096).decode("utf-8", "replace"))
        elif mode and not stat.S_ISREG(mode) and stat.S_IFMT(mode):
            raise _refused(one.filename, "is neither a file, a folder nor a symbolic link")
        else:
            reader = _zip_reader(zipped, one)
            yield Member(one.filename, one.file_size, executable=bool(mode & 0o111), open=reader)


def _zip_reader(zipped: zipfile.ZipFile, one: zipfile.ZipInfo) -> Callable[[], IO[bytes]]:
    return lambda: zipped.open(one)


def _bound(count: int) -> None:
    if count >= MAX_MEMBERS:
        raise _refused("the archive", f"has more than {MAX_MEMBERS} members")


def _write(members: list[Member], into: Path, tick: Callable[[], object]) -> None:
    """Look at all of them first; then files, and the links last: no file is written through one."""
    total = sum(one.size for one in members)
    if total > MAX_BYTES:
        raise _refused("the archive", f"unpacks to more than {MAX_BYTES >> 30} GiB")
    names = {one.name: _inside(one.name) for one in members}
    links = {names[one.name] for one in members if one.link is not None}
    for one in members:
        name = names[one.name]
        if any(str(parent) in links for parent in Path(name).parents):
            raise _refused(one.name, "lies behind a link of the same archive")
        if one.link is not None:
            _inside_from(name, one.link)
    left = MAX_BYTES
    for one in members:
        path = into / names[one.name]
        if one.folder:
            path.mkdir(parents=True, exist_ok=True)
        elif one.open is not None:
            path.parent.mkdir(parents=True, exist_ok=True)
            with one.open() as source:
                left -= _copy(source, path, min(one.size, left), tick)
            path.chmod(0o755 if one.executable else 0o644)
    for one in members:
        if one.link is not None:
            path = into / names[one.name]
            path.parent.mkdir(parents=True, exist_ok=True)
            path.symlink_to(one.link)


def _copy(source: IO[bytes], path: Path, most: int, tick: Callable[[], object]) -> int:
    """Copy at most what the archive's head has said: a lie there does not fill the disk."""
    size = 0
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW
    with os.fdopen(os.open(path, flags, 0o600), "wb") as file:
        while data := source.read(_CHUNK):
            size += len(data)
            if size > most:
                raise _refused(path.name, "is longer than the archive says")
            file.write(data)
            tick()
    return size


def _inside(name: str) -> str:
    plain = posixpath.normpath(name)
    if not name or "\0" in name or "\\" in name or plain.startswith("/"):
        raise _refused(name, "is no name below the archive's own folder")
    if plain == ".." or plain.startswith("../") or ".." in name.split("/"):
        raise _refused(name, "leads out of the archive's own folder")
    return plain


def _inside_from(name: str, link: str) -> None:
    if not link or link.startswith("/") or "\0" in link:
        raise _refused(name, "is a link to an absolute path")
    plain = posixpath.normpath(posixpath.join(posixpath.dirname(name), link))
    if plain == ".." or plain.startswith("../"):
        raise _refused(name, "is a link that leads out of the archive's own folder")


def _refused(name: str, why: str) -> OrchError:
    return OrchError(Kind.PROVISION_FAILED, f"{name[:200]!r} {why}")
