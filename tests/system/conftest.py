"""Machines for these tests: one boot per module and systemd, and a clean house for each test."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from tests.lab.cache import Cache
from tests.lab.machine import Machine
from tests.lab.needs import FAKE_NVML, PACKAGING, require
from tests.lab.nvml import FakeNvml, two_gpus
from tests.lab.rootfs import Suite
from tests.system import archpkg
from tests.system.house import House, installed


@pytest.fixture(scope="session")
def house_layers(suite: Suite, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """The suite installed from the working tree, with its units and users."""
    layer = tmp_path_factory.mktemp(f"house-{suite}") / "layer"
    layer.mkdir()
    layer.parent.chmod(0o755)
    return installed(suite, layer)


@pytest.fixture(scope="session")
def package() -> Iterator[Path]:
    """The Arch package of the working tree, built once."""
    require(PACKAGING)
    # pytest's own folders are closed to the user that builds
    with TemporaryDirectory(prefix="makepkg-") as scratch:
        Path(scratch).chmod(0o755)
        yield archpkg.build(Path(scratch, "build"))


@pytest.fixture(scope="module")
def gpus(lab_cache: Cache, tmp_path_factory: pytest.TempPathFactory) -> FakeNvml:
    """The driver of the module's machine: two GPUs of 24 and 12 GB that are a file."""
    require(FAKE_NVML)
    return FakeNvml.create(lab_cache, tmp_path_factory.mktemp("nvml"), two_gpus())


@pytest.fixture(scope="module")
def booted(house_layers: list[Path], lab_cache: Cache, gpus: FakeNvml) -> Iterator[House]:
    """One machine for all tests of a module."""
    with Machine(house_layers, binds=gpus.binds, cache=lab_cache) as machine:
        yield House(machine)


@pytest.fixture
def house(booted: House) -> House:
    """The machine as it was after its boot, whatever the test before has done to it."""
    booted.clear()
    return booted
