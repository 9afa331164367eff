"""Reading a package file (tar, compressed by zstd) without unpacking it to the disk."""

from __future__ import annotations

import io
import subprocess
import tarfile
from pathlib import Path


def members(path: Path) -> tuple[dict[str, tarfile.TarInfo], dict[str, bytes]]:
    """Every entry by its name, and the bytes of those that are regular files."""
    argv = ["zstd", "-dcq", str(path)]
    plain = subprocess.run(argv, capture_output=True, check=True).stdout
    with tarfile.open(fileobj=io.BytesIO(plain)) as archive:
        entries = {entry.name: entry for entry in archive.getmembers()}
        contents = {}
        for name, entry in entries.items():
            file = archive.extractfile(entry) if entry.isfile() else None
            if file is not None:
                contents[name] = file.read()
    return entries, contents
