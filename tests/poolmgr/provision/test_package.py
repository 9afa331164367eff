"""Packages, by a real pacman in a root of its own, with a repository of its own."""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from orchd.wire.errors import TABLE, Kind
from tests.lab.fake_llama import MAIN
from tests.lab.needs import GCC, PACMAN, ROOT, SUDO, require
from tests.poolmgr.provision.bringing import Done, Place, finished

pytestmark = pytest.mark.slow
CONF = """
[options]
RootDir = {0}/root
DBPath = {0}/root/var/lib/pacman
CacheDir = {0}/cache
LogFile = {0}/log
GPGDir = {0}/gpg
HookDir = {0}/hooks
Architecture = auto
SigLevel = Never
[lab]
Server = file://{0}/repository
"""
AUR = "llama.cpp-git"
"""In no repository: of the AUR, which cannot be reached here."""
HELPER = """#!/bin/sh
# stands for paru: refuses root, builds (here it is built already), has pacman install it by sudo
[ "$(id -u)" = 0 ] && {{ echo "error: can't install AUR package as root"; exit 1; }}
echo "$(id -un) $HOME $*" >"{record}"
exec sudo "{pacman}" -U --noconfirm "{file}"
"""
SUDOERS = """
Defaults !requiretty
root ALL=(ALL:ALL) ALL
nobody ALL=(ALL:ALL) {tag}ALL
"""
INFO = """pkgname = llama.cpp-cuda
pkgver = b1234-1
pkgdesc = stands for it
url = https://example.invalid
builddate = 1700000000
packager = Tests <tests@invalid>
size = 1000
arch = any
"""
WRAPPER = '#!/bin/sh\nexec {pacman} --config {folder}/pacman.conf "$@"\n'


@pytest.fixture
def arch(place: Place) -> Place:
    """A place whose pacman knows one repository with one package, and has its own root."""
    require((ROOT, PACMAN, GCC))
    folder = place.folder / "arch"
    for name in ("root/var/lib/pacman", "cache", "repository", "package/usr/bin", "bin"):
        (folder / name).mkdir(parents=True)
    (folder / "pacman.conf").write_text(CONF.format(folder))
    (folder / "main.c").write_text(MAIN)
    program = str(folder / "package/usr/bin/llama-server")
    subprocess.run(["gcc", "-DGGML_CUDA", "-o", program, str(folder / "main.c")], check=True)
    (folder / "package/.PKGINFO").write_text(INFO)
    file = folder / "repository/llama.cpp-cuda-b1234-1-any.pkg.tar.gz"
    tar = ["bsdtar", "-czf", str(file), ".PKGINFO", "usr"]
    subprocess.run(tar, cwd=folder / "package", check=True)
    database = folder / "repository/lab.db.tar.gz"
    subprocess.run(["repo-add", "-q", str(database), str(file)], check=True, capture_output=True)
    real = subprocess.run(["which", "pacman"], capture_output=True, text=True, check=True)
    wrapper = folder / "bin/pacman"
    wrapper.write_text(WRAPPER.format(pacman=real.stdout.strip(), folder=folder))
    wrapper.chmod(0o755)
    path = f"{folder}/bin:{folder}/root/usr/bin:{os.environ['PATH']}"
    place.env["PATH"] = path
    subprocess.run([str(wrapper), "-Sy"], check=True, capture_output=True)
    return place


def installed(place: Place) -> bool:
    return (place.folder / "arch/root/usr/bin/llama-server").exists()


@pytest.mark.req("ORCH-3434", "ORCH-3092", "ORCH-3204", "ORCH-3202")
def test_what_is_not_installed_is_told_with_its_command(arch: Place) -> None:
    arch.write('mode = "package"')
    said = arch.run("plan").out
    assert "1. install      pacman -S --needed --noconfirm llama.cpp-cuda" in said
    assert "In the way: package llama.cpp-cuda is not installed" in said
    assert "    pacman -S --needed llama.cpp-cuda" in said
    done = arch.run("provision")
    assert done.code == TABLE[Kind.PROVISION_FAILED].exit_code
    assert "Run: pacman -S --needed llama.cpp-cuda" in done.last()
    assert not installed(arch)


@pytest.mark.req("ORCH-3434", "ORCH-3201", "ORCH-3440")
def test_where_it_is_allowed_pacman_installs_it(arch: Place) -> None:
    arch.write('mode = "package"\nallow_package_installs = true')
    done = arch.run("provision")
    assert done.code == 0, done.events
    assert installed(arch)
    (entry,) = arch.entries().values()
    assert (entry.version, entry.build_ref) == ("b1234-1", "llama.cpp-cuda b1234-1")
    assert Path(entry.artifacts[0]) == arch.folder / "arch/root/usr/bin/llama-server"
    assert "engine_here" in arch.run("provision").names()
    plan = arch.run("plan").out
    assert "install" not in plan.partition("find_program")[0]


@pytest.mark.req("ORCH-3434", "ORCH-3205")
def test_root_writes_nothing_into_the_cache_of_another(arch: Place) -> None:
    """pacman alone is root's: what the owner of the cache puts there leads root nowhere."""
    arch.write('mode = "package"\nallow_package_installs = true')
    nobody = pwd.getpwnam("nobody")
    with TemporaryDirectory(prefix="lab-cache-") as name, TemporaryDirectory() as roots:
        Path(name).chmod(0o755)
        cache = Path(name, "cache")
        cache.mkdir()
        logs = cache / "engines/logs"
        logs.parent.mkdir()
        logs.symlink_to(roots)
        for path in (cache, logs.parent):
            os.chown(path, nobody.pw_uid, nobody.pw_gid)
        arch.env["CACHE_DIRECTORY"] = str(cache)
        # what is installed, where everybody may see it: the test's root is closed to others
        shutil.copy(arch.folder / "arch/package/usr/bin/llama-server", name)
        arch.env["PATH"] = f"{name}:{arch.env['PATH']}"
        assert arch.run("provision").code != 0
        assert not installed(arch)
        assert list(Path(roots).iterdir()) == []
        logs.unlink()
        done = arch.run("provision")
        assert done.code == 0, done.events
        assert installed(arch)
        assert {path.stat().st_uid for path in cache.rglob("*")} == {nobody.pw_uid}


@pytest.fixture
def helped(arch: Place) -> Iterator[Path]:
    """A machine with an AUR helper; where it writes who ran it and how."""
    require((SUDO,))
    with TemporaryDirectory(prefix="lab-aur-") as name:
        folder, made = Path(name), arch.folder / "arch"
        folder.chmod(0o777)
        package = made / "package"
        (package / ".PKGINFO").write_text(INFO.replace("llama.cpp-cuda", AUR))
        file = made / f"{AUR}-b1234-1-any.pkg.tar.gz"
        tar = ["bsdtar", "-czf", str(file), ".PKGINFO", "usr"]
        subprocess.run(tar, cwd=package, check=True)
        helper, record = folder / "paru", folder / "record"
        helper.write_text(HELPER.format(record=record, pacman=made / "bin/pacman", file=file))
        helper.chmod(0o755)
        arch.env["PATH"] = f"{folder}:{arch.env['PATH']}"
        arch.write(f'mode = "package"\npackage.name = "{AUR}"\nallow_package_installs = true')
        yield record


def by_sudo(place: Place, verb: str, tag: str = "NOPASSWD:") -> Done:
    """Run it as root whom `nobody` has called by sudo, under sudoers of the test's own."""
    sudoers = place.folder / "sudoers"
    sudoers.write_text(SUDOERS.format(tag=tag))
    inside = f'mount --bind "{sudoers}" /etc/sudoers && exec "$@"'
    alone = ["unshare", "--mount", "--propagation", "private", "sh", "-c", inside, "sh"]
    sudoers.chmod(0o440)
    return finished(
        subprocess.Popen(
            [*alone, *place.argv(verb)],
            env=place.environment() | {"ORCHD_LOG": "json", "SUDO_USER": "nobody"},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
    )


@pytest.mark.req("ORCH-3434", "ORCH-3204")
def test_an_aur_helper_is_run_by_whoever_called_sudo(arch: Place, helped: Path) -> None:
    done = by_sudo(arch, "provision")
    assert done.code == 0, done.events
    assert installed(arch)
    home = pwd.getpwnam("nobody").pw_dir
    options = "-S --needed --noconfirm --skipreview"
    assert helped.read_text() == f"nobody {home} {options} {AUR}\n"
    (entry,) = arch.entries().values()
    assert (entry.version, entry.build_ref) == ("b1234-1", f"{AUR} b1234-1")


@pytest.mark.req("ORCH-3434", "ORCH-3202")
def test_a_sudo_that_would_ask_for_a_password_is_told_before(arch: Place, helped: Path) -> None:
    done = by_sudo(arch, "provision", tag="")
    assert done.code == TABLE[Kind.PROVISION_FAILED].exit_code
    assert "sudo asks nobody for a password, and there is no terminal to give it" in done.last()
    assert f"paru -S --needed {AUR}  # then orchctl provision again" in done.last()
    assert not helped.exists()
    # root itself, whom nobody called, builds nothing
    done = arch.run("provision")
    assert done.code == TABLE[Kind.PROVISION_FAILED].exit_code
    assert f"Run: paru -S --needed {AUR}  # as an ordinary user" in done.last()
    assert not installed(arch)


def test_a_package_of_the_aur_is_for_a_helper_and_not_for_root(arch: Place) -> None:
    arch.write('mode = "package"\npackage.name = "llama.cpp-git"\nallow_package_installs = true')
    done = arch.run("provision")
    assert done.code == TABLE[Kind.PROVISION_FAILED].exit_code
    assert "there is no AUR helper" in done.last()
    assert "paru -S --needed llama.cpp-git" in done.last()
