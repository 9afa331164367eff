"""llama.cpp's own source, NVIDIA's own nvcc: as far as a machine without a GPU goes.

Every run: what cmake says where something of CUDA is missing, and a configuration that is whole,
until the compiler is at work. On demand (`make test-cuda`): all of it, up to the look for a device.
"""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from orchd.wire.errors import TABLE, Kind
from tests.lab.cache import Cache
from tests.lab.cuda import CUDA_BUILD, NVCC, driver, placeholders, toolkit
from tests.lab.llama_source import LLAMA_SOURCE, TAG, build_source
from tests.lab.needs import require
from tests.poolmgr.provision.bringing import Done, Place, finished

pytestmark = pytest.mark.slow
FAILED = TABLE[Kind.PROVISION_FAILED].exit_code
REFUSED = "cmake cannot build with CUDA, and nothing is built for the CPU: "
WHOLE_S = 3 * 3600.0


@pytest.fixture(scope="session")
def llama(lab_cache: Cache) -> Path:
    """llama.cpp's source as a repository."""
    require(LLAMA_SOURCE)
    return build_source(lab_cache)


def with_nvcc(place: Place, root: Path) -> None:
    """Put a toolkit before whatever the machine has."""
    place.env["PATH"] = f"{root}/bin:{os.environ['PATH']}"


def write(place: Place, repository: Path, *flags: str) -> None:
    more = ", ".join(f'"{flag}"' for flag in flags)
    place.write(
        f'mode = "source"\nsource.git = {{ repo = "{repository}", ref = "{TAG}" }}\n'
        f"source.build.cmake_flags = [{more}]"
    )


def log_of(place: Place) -> str:
    (log,) = (place.cache / "logs").iterdir()
    return log.read_text()


def nothing_left(place: Place) -> bool:
    return place.entries() == {} and list(place.cache.glob("*.part")) == []


@pytest.mark.req("ORCH-3431", "ORCH-3433")
def test_an_nvcc_that_is_no_compiler_stops_it(place: Place, llama: Path) -> None:
    write(place, llama)  # the nvcc of `place` says its version, and nothing more
    done = place.run("provision")
    assert done.code == FAILED
    # where the machine has no toolkit at all, cmake does not come as far as the compiler
    said = ("nvcc does not answer as a CUDA compiler does", "CUDA Toolkit not found")
    assert any(REFUSED + words in done.last() for words in said), done.last()
    assert "sudo pacman -S --needed cuda" in done.last()
    assert "engine_build" not in done.names()
    assert nothing_left(place)


@pytest.mark.req("ORCH-3431", "ORCH-3433")
def test_a_toolkit_without_cublas_stops_it(place: Place, llama: Path, lab_cache: Cache) -> None:
    require(NVCC)
    with_nvcc(place, toolkit(lab_cache))
    write(place, llama)
    done = place.run("provision")
    assert done.code == FAILED
    missing = 'Target "ggml-cuda" links to: CUDA::cublas but the target was not found'
    assert f"{REFUSED}{missing} (install the CUDA toolkit" in done.last()
    assert nothing_left(place)


@pytest.mark.req("ORCH-3431")
def test_a_gpu_that_the_toolkit_has_no_code_for_is_told(
    place: Place, llama: Path, lab_cache: Cache
) -> None:
    require(NVCC)
    with_nvcc(place, toolkit(lab_cache))
    write(place, llama, "-DCMAKE_CUDA_ARCHITECTURES=61")  # Pascal: CUDA 12 was its last
    done = place.run("provision")
    assert done.code == FAILED
    assert f"{REFUSED}nvcc fatal : Unsupported gpu architecture 'compute_61'" in done.last()
    assert "this CUDA toolkit has no code for that GPU" in done.last()
    assert nothing_left(place)


@pytest.mark.req("ORCH-3201", "ORCH-3431")
def test_the_real_configuration_finds_cuda_and_the_compiler_begins(
    place: Place, llama: Path, lab_cache: Cache
) -> None:
    require(NVCC)
    with_nvcc(place, toolkit(lab_cache))
    write(place, llama, f"-DCMAKE_LIBRARY_PATH={placeholders(lab_cache)}")
    process = place.start("provision")
    assert process.stderr is not None
    for line in process.stderr:
        if '"engine_build"' in line or '"failed"' in line:
            break
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=60)
    text = log_of(place)
    assert process.returncode == TABLE[Kind.CANCELED].exit_code, text
    assert "The CUDA compiler identification is NVIDIA 13.0.88" in text
    # that of the GPU that is here, and of nothing else
    assert "Using CMAKE_CUDA_ARCHITECTURES=90 " in text
    assert "Including CUDA backend" in text
    assert "Build files have been written" in text
    # llama.cpp knows every flag that we give
    assert "not used by the project" not in text
    assert nothing_left(place)


@pytest.mark.timeout(0)
@pytest.mark.req("ORCH-3437", "ORCH-3431", "ORCH-3201")
def test_the_whole_build_is_refused_where_it_lists_no_device(
    place: Place, llama: Path, lab_cache: Cache
) -> None:
    require(CUDA_BUILD)
    with_nvcc(place, toolkit(lab_cache, cublas=True))
    place.env["CCACHE_DIR"] = str(compiled(lab_cache))
    write(place, llama, "-DCMAKE_CUDA_ARCHITECTURES=86")
    # no driver: the program cannot be loaded
    done = whole(place)
    assert done.code == TABLE[Kind.ENGINE_MISSING].exit_code, done.last()
    assert "loading shared libraries: libcuda.so.1" in done.last()
    assert "the NVIDIA driver: sudo pacman -S --needed nvidia-open nvidia-utils" in done.last()
    assert nothing_left(place)
    # a driver without a GPU: it can, and lists none. What was compiled is in ccache
    libraries = place.env["LD_LIBRARY_PATH"]
    place.env["LD_LIBRARY_PATH"] = f"{libraries}:{driver(lab_cache).parent}"
    done = whole(place)
    assert done.code == TABLE[Kind.CPU_FALLBACK].exit_code, done.last()
    assert "lists no CUDA device (CUDA driver version is insufficient" in done.last()
    assert nothing_left(place)


def compiled(cache: Cache) -> Path:
    """ccache's folder: what a run has compiled is there for the next one, whatever its folder."""
    folder = cache.root / "ccache-cuda"
    folder.mkdir(exist_ok=True)
    (folder / "ccache.conf").write_text("base_dir = /\nhash_dir = false\nmax_size = 5G\n")
    return folder


def whole(place: Place) -> Done:
    return finished(place.start("provision"), WHOLE_S)
