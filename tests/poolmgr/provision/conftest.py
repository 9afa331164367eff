"""A machine with two GPUs that are a file, and with what a build needs."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.lab.fake_llama import repository, stub_nvcc
from tests.lab.needs import BUILDING, FAKE_NVML, GIT, require
from tests.lab.nvml import FakeNvml
from tests.poolmgr.provision.bringing import Place


@pytest.fixture
def place(tmp_path: Path, fake_nvml: FakeNvml) -> Place:
    """A place with GPUs, and a CUDA compiler that only says that it is there."""
    require((*BUILDING, *FAKE_NVML))
    tools = stub_nvcc(tmp_path / "tools")
    return Place(tmp_path, {**fake_nvml.env, "PATH": f"{tools}:{os.environ['PATH']}"})


@pytest.fixture(scope="session")
def llama_repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The repository that stands for llama.cpp's."""
    require((GIT,))
    return repository(tmp_path_factory.mktemp("git") / "llama")
