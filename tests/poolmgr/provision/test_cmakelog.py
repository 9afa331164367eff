"""What cmake says of CUDA: recorded from cmake 3.25, llama.cpp b11434 and the nvcc of CUDA 13."""

from __future__ import annotations

import pytest

from poolmgr.provision.bringing.cmakelog import TOOLKIT, about_cuda, advice
from poolmgr.provision.bringing.cuda import unloaded, why_none

NO_CUBLAS = """\
-- Found CUDAToolkit: /opt/cuda/include (found version "13.0.88")
-- Configuring done
CMake Error at ggml/src/ggml-cuda/CMakeLists.txt:175 (target_link_libraries):
  Target "ggml-cuda" links to:

    CUDA::cublas

  but the target was not found.  Possible reasons include:

    * There is a typo in the target name.


-- Generating done
CMake Generate step failed.  Build files cannot be regenerated correctly.
"""
NO_COMPILER = """\
-- The CUDA compiler identification is unknown
-- Detecting CUDA compiler ABI info
CMake Error: Error required internal CMake variable not set, cmake may not be built correctly.
Missing variable is:
_CMAKE_CUDA_WHOLE_FLAG
CMake Error at /usr/share/cmake-3.25/Modules/CMakeDetermineCompilerABI.cmake:57 (try_compile):
  Failed to generate test project build system.
Call Stack (most recent call first):
  /usr/share/cmake-3.25/Modules/CMakeTestCUDACompiler.cmake:19 (CMAKE_DETERMINE_COMPILER_ABI)


-- Configuring incomplete, errors occurred!
"""
OLD_GPU = """\
CMake Error at /usr/share/cmake-3.25/Modules/CMakeTestCUDACompiler.cmake:103 (message):
  The CUDA compiler

    "/opt/cuda/bin/nvcc"

  is not able to compile a simple test program.

  It fails with the following output:

    FAILED: CMakeFiles/cmTC_d745b.dir/main.cu.o\x20
    nvcc fatal   : Unsupported gpu architecture 'compute_61'
    ninja: build stopped: subcommand failed.

  CMake will not be able to correctly generate this project.
Call Stack (most recent call first):
  ggml/src/ggml-cuda/CMakeLists.txt:72 (enable_language)
"""
NEW_GCC = OLD_GPU.replace(
    "nvcc fatal   : Unsupported gpu architecture 'compute_61'",
    "/opt/cuda/include/crt/host_config.h:143:2: error: #error -- unsupported GNU version! gcc "
    "versions later than 15 are not supported!",
)
NO_TOOLKIT = """\
-- Could NOT find CUDAToolkit (missing: CUDAToolkit_INCLUDE_DIRS CUDAToolkit_NVCC_EXECUTABLE)
CMake Error at ggml/src/ggml-cuda/CMakeLists.txt:298 (message):
  CUDA Toolkit not found


-- Configuring incomplete, errors occurred!
"""
NO_GPU = """\
CMake Error in ggml/src/ggml-cuda/CMakeLists.txt:
  CUDA_ARCHITECTURES is set to "native", but no GPU was detected.


"""
SOMETHING_ELSE = """\
CMake Error at CMakeLists.txt:3 (find_package):
  Could not find a package configuration file provided by "Threads"


-- Found CUDAToolkit: /opt/cuda/include (found version "13.0.88")
"""


RECORDED = {
    "NO_CUBLAS": NO_CUBLAS,
    "NO_COMPILER": NO_COMPILER,
    "OLD_GPU": OLD_GPU,
    "NEW_GCC": NEW_GCC,
}


@pytest.mark.req("ORCH-3431", "ORCH-3433")
@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        (NO_CUBLAS, 'Target "ggml-cuda" links to: CUDA::cublas but the target was not found'),
        (NO_COMPILER, "nvcc does not answer as a CUDA compiler does"),
        (OLD_GPU, "nvcc fatal : Unsupported gpu architecture 'compute_61'"),
        (NO_TOOLKIT, "CUDA Toolkit not found"),
        (NO_GPU, 'CUDA_ARCHITECTURES is set to "native", but no GPU was detected.'),
        ("CMake Error: nvcc is gone\n", "CMake Error: nvcc is gone"),
        (SOMETHING_ELSE, None),
        ("-- The CUDA compiler identification is unknown\n", None),
        ("", None),
    ],
)
def test_one_sentence_says_what_is_wrong_with_cuda(text: str, sentence: str | None) -> None:
    assert about_cuda(text.splitlines()) == sentence


def test_what_helps_depends_on_what_is_wrong() -> None:
    said = {name: about_cuda(text.splitlines()) or "" for name, text in RECORDED.items()}
    assert advice(said["NO_CUBLAS"]) == TOOLKIT == advice(said["NO_COMPILER"])
    assert "-DCMAKE_CUDA_ARCHITECTURES" in advice(said["OLD_GPU"])
    assert "later than 15" in said["NEW_GCC"]
    assert "-DCMAKE_CUDA_HOST_COMPILER=/usr/bin/g++-14" in advice(said["NEW_GCC"])


@pytest.mark.parametrize(
    ("library", "helps"),
    [
        ("libcuda.so.1", "the NVIDIA driver: sudo pacman -S --needed nvidia-open nvidia-utils"),
        ("libcublas.so.13", TOOLKIT),
    ],
)
def test_a_program_that_lacks_a_library_of_cuda_says_which_package_has_it(
    library: str, helps: str
) -> None:
    said = f"/e/llama-server: error while loading shared libraries: {library}: cannot open shared"
    assert unloaded(f"{said}\n") == f"{said} ({helps})"
    assert unloaded("a\nit is broken\n") == "it is broken"
    assert unloaded("") == "nothing"


def test_why_there_is_no_device_is_told_where_llama_cpp_says_it() -> None:
    """Recorded from b11434 with CUDA 13 over a driver that is none."""
    why = "CUDA driver version is insufficient for CUDA runtime version"
    said = f"0.00.013.546 E ggml_cuda_init: failed to initialize CUDA: {why}\n"
    assert why_none(f"{said}Available devices:\n  (none)\n") == f" ({why})"
    assert why_none("Available devices:\n  (none)\n") == ""
