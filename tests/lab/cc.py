"""A small shared library from one C file beside this module, compiled once and kept.

Here: the compiler's flags and the recipe. Not here: what the libraries do (the .c files say it).
"""

from __future__ import annotations

import subprocess
from pathlib import Path

from tests.lab.cache import Cache, file_digest

FLAGS = ("-std=gnu11", "-O1", "-Wall", "-Wextra", "-Werror", "-fPIC", "-shared")


def shared_library(cache: Cache, source: Path, soname: str) -> Path:
    """The compiled library, under the name that programs load it by. Raises RuntimeError."""
    flags = [*FLAGS, "-fvisibility=hidden", f"-Wl,-soname,{soname}"]

    def recipe(folder: Path) -> None:
        argv = ["gcc", *flags, "-o", str(folder / soname), str(source)]
        done = subprocess.run(argv, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise RuntimeError(f"{source.name} does not compile:\n{done.stderr}")

    inputs = {"source": file_digest(source), "flags": flags}
    return cache.build(source.stem, inputs, recipe) / soname
