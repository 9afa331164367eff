"""Where a model is on this machine: questions that write nothing, asked before anything is staged.

The schemes are those of model references; only files are local.
"""

from __future__ import annotations

import re
from typing import Final

from orchd.catalog import files
from orchd.catalog.models import Models

_SCHEME: Final = re.compile(r"[a-z][a-z0-9+.-]*:")


def path_of(ref: str, base: str) -> str | None:
    """Return the path that a reference names, relative ones from the folder `base`; None: it names
    no file here."""
    path = ref.removeprefix("file:")
    if path == ref and _SCHEME.match(ref):
        return None
    if path.startswith("//"):  # file:///abs, as browsers write it
        path = "/" + path.lstrip("/")
    if not path or "\0" in path:
        return None
    return path if path.startswith("/") else f"{base}/{path}"


def locate(ref: str, base: str) -> str | None:
    """Return the path of the file that a reference names; None: it is not there [CAT-LOCATE]."""
    path = path_of(ref, base)
    return path if path is not None and files.is_file(path) else None


def exists(name: str, models: Models, base: str) -> bool:
    """Whether `name` is a model of the catalog (id or digest) or a file here [CAT-EXISTS]."""
    return models.exists(name) or locate(name, base) is not None
