"""Pools as the configuration gives them, and machines as facts, for the tests of provisioning."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from attrs import evolve

from orchd.config.load import load
from orchd.config.pool import Pool
from orchd.config.schema import Settings
from poolmgr.provision.plans.facts import Facts, GpuFact, PackageFact, Runtime

GPUS = (
    GpuFact(index=0, uuid="GPU-aa", name="RTX 4090", compute_capability="8.9"),
    GpuFact(index=1, uuid="GPU-bb", name="RTX 3060", compute_capability="8.6"),
)
TOOLS = ("git", "cmake", "ninja", "make", "c++", "nvcc", "nvidia-ctk", "llama-server")
PODMAN = Runtime(path="/usr/bin/podman", name="podman", version="5.2", oci="crun")
DOCKER = Runtime(path="/usr/bin/docker", name="docker", version="28.1")
WHOLE = Facts(
    programs={name: f"/usr/bin/{name}" for name in TOOLS},
    versions={"cmake": "cmake version 3.31.2"},
    gpus=GPUS,
    podman=PODMAN,
    docker=DOCKER,
    cdi=frozenset({"GPU-aa", "GPU-bb", "0", "all"}),
    user="op",
    cache="/var/cache/orchd/engines",
    free_bytes=1 << 40,
    jobs=8,
    package=PackageFact(in_repositories=True),
)
"""A machine where nothing is in the way."""
DIGEST = "sha256:" + "ab" * 32
MODES = {
    "source": 'mode = "source"',
    "container": f'mode = "container"\ncontainer = {{ tag = "server-cuda", digest = "{DIGEST}" }}',
    "package": 'mode = "package"',
    "binary": (
        f'mode = "binary"\nbinary = {{ url = "https://dl.example.org/b1/llama.tar.gz", '
        f'checksum = "{DIGEST}" }}\nallow_binary_downloads = true'
    ),
    "external": 'mode = "external"\nurl = "unix:/run/llama/server.sock"',
}


def facts(**changes: Any) -> Facts:
    """A whole machine, but for these."""
    return evolve(WHOLE, **changes)


def without(*names: str, **changes: Any) -> Facts:
    """A machine that lacks these programs."""
    programs = {name: path for name, path in WHOLE.programs.items() if name not in names}
    return facts(programs=programs, **changes)


def settings(folder: Path, how: str, engine: str = "llamacpp", more: str = "") -> Settings:
    """The settings of a file with one pool, provisioned so."""
    path = folder / "orchd.toml"
    path.write_text(
        f'[[pools]]\nid = "llama"\nengine = {{ id = "{engine}" }}\n'
        f'model = {{ ref = "/models/m.gguf" }}\nreplicas = [[0]]\nctx = 4096\n{more}\n'
        f"[pools.provisioning]\n{how}\n"
    )
    return load(path, environ={"ORCHD_RUN_DIR": "/run", "ORCHD_STATE_DIR": str(folder)})


def pool(folder: Path, how: str, engine: str = "llamacpp", more: str = "") -> Pool:
    """The pool of such a file."""
    return settings(folder, how, engine, more).pools[0]
