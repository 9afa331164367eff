"""A CUDA toolkit with the real nvcc, from NVIDIA's wheels, laid out as an installed one is.

Here: the compiler with its headers and runtime (3 s, 270 MB), with cuBLAS too for the opt-in run
`make test-cuda` (another 600 MB), and a driver library without a GPU to link. Not here: a GPU, and
what is compiled.
"""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

from tests.lab.cache import Cache, file_digest
from tests.lab.cc import shared_library
from tests.lab.llama import run_quietly
from tests.lab.needs import GCC, X86_64, Need

COMPILER = (
    "nvidia-cuda-nvcc==13.0.88",
    "nvidia-cuda-crt==13.0.88",
    "nvidia-nvvm==13.0.88",
    "nvidia-cuda-runtime==13.0.96",
    "nvidia-cuda-cccl==13.0.85",
)
CUBLAS = "nvidia-cublas==13.1.2.11"
DRIVER = "libcuda.so.1"
ASKED = "ORCHD_TEST_CUDA_BUILD"
"""In the environment: compile the whole of llama.cpp with CUDA too."""
NVCC = (X86_64, GCC)
CUDA_BUILD = (
    *NVCC,
    Need(
        f"{ASKED}=1 (compiles llama.cpp's kernels: an hour or two, kept by ccache)",
        lambda: bool(os.environ.get(ASKED)),
        advice="make test-cuda",
    ),
)


def driver(cache: Cache) -> Path:
    """The driver's library, of a machine without a GPU; its folder is for LD_LIBRARY_PATH."""
    return shared_library(cache, Path(__file__).with_name("fakecuda.c"), DRIVER)


def toolkit(cache: Cache, *, cublas: bool = False) -> Path:
    """The cached folder of the toolkit, with bin/nvcc (needs the network when missing)."""
    wheels = (*COMPILER, CUBLAS) if cublas else COMPILER
    stub = driver(cache)

    def recipe(folder: Path) -> None:
        pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-compile"]
        run_quietly([*pip, "--only-binary=:all:", "--target", str(folder), *wheels])
        root = folder / "nvidia/cu13"
        # wheels have no links: `-lcudart` and cmake look for libcudart.so
        for library in (root / "lib").glob("lib*.so.*"):
            link = library.with_name(library.name.partition(".so.")[0] + ".so")
            link.symlink_to(library.name)
        (root / "lib64").symlink_to("lib")
        (root / "lib/stubs").mkdir()
        shutil.copy2(stub, root / "lib/stubs/libcuda.so")

    inputs = {"wheels": wheels, "driver": file_digest(stub), "recipe": 1}
    return cache.build("cuda", inputs, recipe) / "nvidia/cu13"


def placeholders(cache: Cache) -> Path:
    """A folder with a libcublas.so that has nothing in it: cmake looks whether it is there."""
    source = Path(__file__).with_name("fakecuda.c")

    def recipe(folder: Path) -> None:
        run_quietly(["gcc", "-shared", "-fPIC", "-o", str(folder / "libcublas.so"), str(source)])

    return cache.build("cublas-placeholder", {"source": file_digest(source)}, recipe)
