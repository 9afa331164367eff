"""A git repository with a CMake project that stands for llama.cpp: what a build of it looks like.

Here: a program that says what the real one says to --version and --list-devices, built as the flags
say. Tags: `b1` builds with CUDA, after a download if ASK names one, `cpu` ignores the flag,
`broken` finds no CUDA compiler, `slow` compiles for a minute. Not here: inference, or CUDA itself.
"""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

MAIN = r"""
#include <stdio.h>
#include <string.h>
#ifdef GGML_CUDA
const char linked[] = "libcudart.so.13";
#else
const char linked[] = "";
#endif
int main(int argc, char **argv) {
    if (argc > 1 && !strcmp(argv[1], "--version")) {
        fprintf(stderr, "version: 0.7.0 (build 1234, commit abcdef0)\nbuilt with a compiler\n");
        return 0;
    }
    if (argc > 1 && !strcmp(argv[1], "--list-devices")) {
        puts("Available devices:");
        if (linked[0]) puts("  CUDA0: NVIDIA Fake (24576 MiB, 24000 MiB free)");
        return 0;
    }
    return 1;
}
"""
LISTS = """
cmake_minimum_required(VERSION 3.18)
project(llama C)
add_executable(llama-server main.c)
set_target_properties(llama-server PROPERTIES RUNTIME_OUTPUT_DIRECTORY ${CMAKE_BINARY_DIR}/bin)
"""
CUDA = """
if(GGML_CUDA)
  target_compile_definitions(llama-server PRIVATE GGML_CUDA)
endif()
"""
ASKS = """
if(ASK)
  file(DOWNLOAD ${ASK} ${CMAKE_BINARY_DIR}/page STATUS said TIMEOUT 20)
  message(FATAL_ERROR "the download said ${said}")
endif()
"""
BROKEN = 'message(FATAL_ERROR "Could not find nvcc, please set CUDAToolkit_ROOT.")\n'
SLOW = """
add_custom_target(wait COMMAND sleep 60)
add_dependencies(llama-server wait)
"""
TAGS = {
    "b1": LISTS + CUDA + ASKS,
    "cpu": LISTS,
    "broken": LISTS + BROKEN,
    "slow": LISTS + CUDA + SLOW,
}
NVCC = "#!/bin/sh\necho 'Cuda compilation tools, release 13.0, V13.0.88'\n"


def repository(folder: Path) -> Path:
    """Make the repository, with a tag for each way a build can go."""
    folder.mkdir(parents=True)
    env = {**os.environ, "GIT_CONFIG_GLOBAL": "/dev/null", "GIT_CONFIG_NOSYSTEM": "1"}

    def git(*argv: str) -> None:
        who = ["-c", "user.name=T", "-c", "user.email=t@invalid"]
        subprocess.run(["git", *who, *argv], cwd=folder, env=env, check=True, capture_output=True)

    git("init", "--quiet", "--initial-branch=main")
    (folder / "main.c").write_text(MAIN)
    for tag, lists in TAGS.items():
        (folder / "CMakeLists.txt").write_text(lists)
        git("add", ".")
        git("commit", "--quiet", "-m", tag)
        git("tag", tag)
    return folder


def stub_nvcc(folder: Path) -> Path:
    """Make a CUDA compiler that says its version and nothing more; returns its folder."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "nvcc").write_text(NVCC)
    (folder / "nvcc").chmod(0o755)
    return folder


def commit_of(folder: Path, tag: str) -> str:
    """The commit of a tag."""
    argv = ["git", "-C", str(folder), "rev-list", "-n", "1", tag]
    return subprocess.run(argv, capture_output=True, text=True, check=True).stdout.strip()
