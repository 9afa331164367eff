"""The Arch package: it builds from the tree, holds what it should, and what it installs runs.

Here: makepkg, pacman, one boot of the packaged suite. Not here: what the units do in detail.
"""

from __future__ import annotations

import sys
import tarfile
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
from tests.system import archpkg, pkgcheck, unpack
from tests.system.house import SIMULATED, House, mock_pool, names_of, task

pytest_plugins = ("tests.lab.fixtures",)


@pytest.mark.req("SYSD-14")
@pytest.mark.system
@pytest.mark.slow
def test_the_package_holds_what_belongs_into_it(package: Path) -> None:
    whole = pkgcheck.read(package)
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
        "usr/share/bash-completion/completions/orchctl",
        "usr/share/doc/orchd/README.md",
        "usr/share/fish/vendor_completions.d/orchctl.fish",
        "usr/share/licenses/orchd/LICENSE",
        "usr/share/man/man1/orchctl.1.gz",
        "usr/share/man/man5/orchd.toml.5.gz",
        "usr/share/man/man8/orchd.8.gz",
        "usr/share/man/man8/poolmgr.8.gz",
        "usr/share/orchd/config.schema.json",
        "usr/share/orchd/openapi/control.yaml",
        "usr/share/orchd/openapi/data.yaml",
        "usr/share/orchd/sdk/examples/build.sh",
        "usr/share/orchd/sdk/examples/hosts.c",
        "usr/share/orchd/sdk/examples/hosts.wasm",
        "usr/share/orchd/sdk/examples/models.c",
        "usr/share/orchd/sdk/examples/models.wasm",
        "usr/share/orchd/sdk/orchd_policy.h",
        "usr/share/zsh/site-functions/_orchctl",
    }
    assert set(whole.entries) >= units | programs | others
    top = {name.split("/")[0] for name in whole.entries}
    assert top == {".BUILDINFO", ".CHANGELOG", ".INSTALL", ".MTREE", ".PKGINFO", "etc", "usr"}
    assert whole.info["arch"] == ["any"]
    assert whole.info["backup"] == ["etc/orchd/orchd.toml"]


@pytest.mark.req("SYSD-24")
def test_the_checker_sees_faults() -> None:
    contents = {
        "etc/orchd/more.toml": b"",
        "usr/bin/tool": b"#!/opt/orchd/bin/python\n",
        "usr/lib/python3.14/site-packages/orchd/a.py": b"",
        "usr/lib/systemd/system/a.service": b"ExecStart=-/usr/bin/none %i\n",
        "usr/share/man/man1/tool.1": b"",
    }
    entries = {name: tarfile.TarInfo(name) for name in (*contents, "usr/share/empty", "home")}
    entries["usr/share/empty"].type = tarfile.DIRTYPE
    entries["usr/share/empty"].mode = 0o777
    entries["usr/bin/tool"].uid = 1000
    info = {"pkgname": ["orchd"], "backup": ["etc/orchd/orchd.toml"]}
    assert sorted(pkgcheck.faults(pkgcheck.Package(entries, contents, info))) == [
        "backup etc/orchd/orchd.toml: not in the package",
        "etc/orchd/more.toml: configuration that is not in backup",
        "home: no place for a package",
        "no licence",
        "usr/bin/tool: interpreter /opt/orchd/bin/python",
        "usr/bin/tool: mode 644, not 755",
        "usr/bin/tool: owned by 1000:0, not by root",
        "usr/bin/tool: speaks of the place where it was built (/opt/orchd)",
        "usr/lib/python3.14/site-packages/orchd/a.py: no bytecode: each start of a service would "
        "compile it",
        "usr/lib/systemd/system/a.service: /usr/bin/none is neither in the package nor in a "
        "dependency",
        "usr/share/empty: an empty folder",
        "usr/share/empty: mode 777, not 755",
        "usr/share/man/man1/tool.1: not compressed",
    ]


@pytest.mark.req("SYSD-24")
@pytest.mark.system
@pytest.mark.slow
def test_a_checker_like_namcap_finds_no_fault(package: Path) -> None:
    assert pkgcheck.faults(pkgcheck.read(package)) == []


@pytest.mark.req("SYSD-24")
@pytest.mark.system
@pytest.mark.slow
def test_another_folder_and_another_time_change_no_file(package: Path) -> None:
    """Only what tells of the build itself differs: .BUILDINFO, and its hash in .MTREE."""
    with TemporaryDirectory(prefix="elsewhere-") as name:
        Path(name).chmod(0o755)
        (_, first), (_, second) = (
            unpack.members(path) for path in (package, archpkg.build(Path(name, "other/place")))
        )
    differ = {name for name in first | second if first.get(name) != second.get(name)}
    assert differ == {".BUILDINFO", ".MTREE"}


@pytest.mark.req("SYSD-24")
@pytest.mark.system
def test_srcinfo_is_what_makepkg_6_prints() -> None:
    require(PACKAGING)
    with TemporaryDirectory(prefix="srcinfo-") as name:
        Path(name).chmod(0o755)
        archpkg.lay_out(Path(name, "build"), sys.executable)
        printed = archpkg.run_makepkg(Path(name, "build"), "--printsrcinfo")
    assert printed == (REPOSITORY / ".SRCINFO").read_text()


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
