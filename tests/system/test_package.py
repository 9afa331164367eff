"""The Arch package: it builds from the tree, holds what it should, and what it installs runs.

Here: makepkg, pacman, one boot of the packaged suite. Not here: what the units do in detail.
"""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

import orchd
from tests.lab.cache import Cache
from tests.lab.machine import Machine
from tests.lab.needs import MACHINE, PACKAGING, require
from tests.lab.rootfs import Suite
from tests.lab.venv import REPOSITORY, base_layers, read_project
from tests.system import archpkg
from tests.system.house import SIMULATED, House, mock_pool, names_of, task

pytest_plugins = ("tests.lab.fixtures",)

# Where Arch calls a distribution otherwise than `python-` and its name.
ARCH_NAMES = {"prometheus-client": "prometheus_client", "systemd-python": "systemd"}


def listed(name: str) -> set[str]:
    """Items of an array of the PKGBUILD, as bash reads them, less any version."""
    script = f'source ./PKGBUILD; printf "%s\\n" "${{{name}[@]}}"'
    done = subprocess.run(
        ["bash", "-c", script], cwd=REPOSITORY, capture_output=True, text=True, check=True
    )
    return {re.split("[<>=]", line)[0] for line in done.stdout.split("\n") if line}


@pytest.mark.req("SYSD-14")
def test_version_and_dependencies_are_the_project_s() -> None:
    assert listed("pkgver") == {orchd.__version__}
    requirements = {*read_project().requirements, "systemd-python"}
    names = {re.split(r"[<>=~\[]", requirement)[0] for requirement in requirements}
    wanted = {f"python-{ARCH_NAMES.get(name, name)}" for name in names}
    # setpriv, which ties an engine to its poolmgr
    assert listed("depends") == wanted | {"python", "systemd", "util-linux"}


@pytest.fixture(scope="module")
def package() -> Iterator[Path]:
    """The package, built once."""
    require(PACKAGING)
    # pytest's own folders are closed to the user that builds
    with TemporaryDirectory(prefix="makepkg-") as scratch:
        Path(scratch).chmod(0o755)
        yield archpkg.build(Path(scratch, "build"))


@pytest.mark.req("SYSD-14")
@pytest.mark.system
@pytest.mark.slow
def test_the_package_holds_what_belongs_into_it(package: Path) -> None:
    argv = ["bsdtar", "-tf", str(package)]
    names = set(subprocess.run(argv, capture_output=True, text=True, check=True).stdout.split())
    units = {f"usr/lib/systemd/system/{path.name}" for path in (REPOSITORY / "units").glob("*.*")}
    users = {path.name for path in (REPOSITORY / "units/user").iterdir()}
    units |= {f"usr/lib/systemd/user/{name}" for name in users}
    programs = {f"usr/bin/{name}" for name in read_project().scripts}
    others = {
        "etc/orchd/orchd.toml",
        "usr/lib/sysusers.d/orchd.conf",
        "usr/lib/systemd/system-generators/orchd-generator",
        "usr/lib/systemd/user-generators/orchd-generator",
        "usr/lib/tmpfiles.d/orchd.conf",
        "usr/share/orchd/config.schema.json",
        "usr/share/orchd/openapi/control.yaml",
        "usr/share/orchd/openapi/data.yaml",
        "usr/share/doc/orchd/README.md",
        "usr/share/licenses/orchd/LICENSE",
    }
    assert names >= units | programs | others
    top = {name.split("/")[0] for name in names}
    assert top == {".BUILDINFO", ".INSTALL", ".MTREE", ".PKGINFO", "etc", "usr"}
    strangers = [name for name in names if "/tests/" in name or "dist-packages" in name]
    assert strangers == []
    info = subprocess.run(
        ["bsdtar", "-xOf", str(package), ".PKGINFO"], capture_output=True, text=True, check=True
    ).stdout.splitlines()
    assert {"pkgname = orchd", "arch = any", "backup = etc/orchd/orchd.toml"} <= set(info)


@pytest.fixture(scope="module")
def packaged(
    package: Path, suite: Suite, lab_cache: Cache, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[House]:
    """A machine on which the package was installed by pacman, and nothing else of ours."""
    require(MACHINE)
    scratch = tmp_path_factory.mktemp(f"packaged-{suite}")
    scratch.chmod(0o755)
    layers = archpkg.install(package, base_layers(suite, lab_cache), scratch / "layer")
    archpkg.pass_for_arch(layers, scratch / "check")
    with Machine(layers, cache=lab_cache) as machine:
        yield House(machine)


@pytest.mark.req("SYSD-14")
@pytest.mark.system
@pytest.mark.slow
def test_the_packaged_suite_serves_as_the_readme_says(packaged: House) -> None:
    machine = packaged.machine
    assert machine.systemctl("is-system-running").stdout == "running\n"
    # as installed: no pools, and it starts
    machine.systemctl("enable", "--now", "orchd.target")
    assert packaged.ask("GET", "/health", tcp=True).json["version"] == orchd.__version__
    packaged.configure(SIMULATED, mock_pool())
    machine.run("HOME=/nonexistent orchctl config check", user="nobody")
    machine.systemctl("daemon-reload")
    machine.systemctl("restart", "orchd.service")
    machine.systemctl("start", "orchd.target")
    packaged.wait_ready()
    assert names_of(packaged.complete(task())) == ["started", "token", "end"]
