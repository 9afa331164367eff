"""Pytest fixtures that hand out the real parts: `pytest_plugins = ("tests.lab.fixtures",)`.

Here: scopes, skips with their reasons, and clean-up. Not here: how anything is made; the modules
beside this one can be used without pytest's help.
"""

from __future__ import annotations

import subprocess
from collections.abc import Generator, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Protocol

import pytest

from tests.lab.cache import Cache
from tests.lab.llama import Command, LlamaBuild, llama_server_command, needs_of, tiny_model
from tests.lab.machine import Machine
from tests.lab.needs import FAKE_NVML, MACHINE, require
from tests.lab.nvml import FakeNvml, Gpu
from tests.lab.rootfs import Suite
from tests.lab.tiny_gguf import SLOW
from tests.lab.venv import project_layer


class Boot(Protocol):
    """What the fixture `boot` is: starts a machine that ends with the test."""

    def __call__(self, **options: Any) -> Machine:
        """`options` are those of Machine; without `layers` the suite is installed inside."""
        ...


class MakeNvml(Protocol):
    """What the fixture `make_nvml` is: a fake of the caller's own GPUs."""

    def __call__(self, gpus: list[Gpu] | None = None) -> FakeNvml:
        """Two unequal GPUs when none are given."""
        ...


@pytest.fixture(scope="session")
def lab_cache() -> Cache:
    """Where everything expensive is kept."""
    return Cache.default()


@pytest.fixture(scope="session", params=list(Suite), ids=str)
def suite(request: pytest.FixtureRequest) -> Suite:
    """Each systemd we test with: whoever asks for this runs once per suite."""
    require(MACHINE)
    return Suite(request.param)


@pytest.fixture(scope="session")
def layers(suite: Suite, lab_cache: Cache, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """The layers of a machine with the working tree installed, as it is at the session's start."""
    layer = tmp_path_factory.mktemp(f"project-{suite}")
    return project_layer(suite, layer, lab_cache)


FAILED = pytest.StashKey[bool]()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item,
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Remember that a test failed, so that `boot` shows what its machines had to say."""
    report = yield
    if report.failed:
        item.stash[FAILED] = True
    return report


@pytest.fixture
def boot(layers: list[Path], lab_cache: Cache, request: pytest.FixtureRequest) -> Iterator[Boot]:
    """Boot machines that are gone after the test; a failed test shows the end of their journals."""
    started: list[Machine] = []
    with ExitStack() as machines:

        def start(**options: Any) -> Machine:
            chosen: dict[str, Any] = {"layers": layers, "cache": lab_cache} | options
            started.append(machines.enter_context(Machine(**chosen)))
            return started[-1]

        yield start
        if request.node.stash.get(FAILED, False):
            for machine in started:
                show_journal(machine)


def show_journal(machine: Machine) -> None:
    """Print the end of a machine's journal, which pytest puts under the failed test."""
    tail = ["journalctl", "--no-pager", "--lines=100", "--output=short-precise"]
    try:
        print(machine.run(tail).stdout)
    except (OSError, RuntimeError, subprocess.SubprocessError) as error:
        print(f"no journal: {error}")


@pytest.fixture(scope="session")
def tiny_gguf(lab_cache: Cache) -> Path:
    """A model that loads in 20 ms and answers ten thousand tokens a second."""
    return tiny_model(cache=lab_cache)


@pytest.fixture(scope="session")
def slow_gguf(lab_cache: Cache) -> Path:
    """A slower one that never ends by itself, with 32k of context."""
    return tiny_model(SLOW, lab_cache)


@pytest.fixture(scope="session", params=list(LlamaBuild), ids=str)
def llama_command(request: pytest.FixtureRequest, lab_cache: Cache) -> Command:
    """argv prefix and environment of the real server: whoever asks runs once per build."""
    build = LlamaBuild(request.param)
    require(needs_of(build))
    return llama_server_command(build, lab_cache)


@pytest.fixture
def make_nvml(lab_cache: Cache, tmp_path: Path) -> MakeNvml:
    """Make a fake NVML with GPUs of one's choice."""
    require(FAKE_NVML)

    def make(gpus: list[Gpu] | None = None) -> FakeNvml:
        return FakeNvml.create(lab_cache, tmp_path / "nvml", gpus)

    return make


@pytest.fixture
def fake_nvml(make_nvml: MakeNvml) -> FakeNvml:
    """A fake NVML with two unequal GPUs."""
    return make_nvml()
