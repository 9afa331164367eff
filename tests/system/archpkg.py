"""The Arch package of the working tree: built by makepkg 6 or 7, and installed by pacman.

Here: makepkg as an unprivileged user, on the host or in a machine's layers; pacman into a layer
over a machine's root file system. Not here: what the package must hold and do (test_package.py).
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from tests.lab.rootfs import overlay_options, run_in_layer
from tests.lab.venv import PREFIX, REPOSITORY, python_version

PARTS = (
    "orchd",
    "poolmgr",
    "units",
    "packaging",
    "contracts",
    "pyproject.toml",
    "PKGBUILD",
    "README.md",
    "CHANGELOG.md",
    "LICENSE",
)
NOBODY = 65534

# Arch's settings where Debian's makepkg.conf differs from them.
CONF = """
source /etc/makepkg.conf
PKGEXT=.pkg.tar.zst
INTEGRITY_CHECK=(sha256)
"""
# Stands in for Arch's /usr/bin/python: our tools, but scripts and paths as Arch's python sets them.
PYTHON = """#!/bin/sh
if [ "$1 $2" = "-m installer" ]; then
    shift 2
    exec {python} -c 'import runpy, sys
sys.executable = "/usr/bin/python"
runpy.run_module("installer", run_name="__main__")' --prefix=/usr "$@"
fi
exec {python} "$@"
"""
# makepkg asks pacman which packages are installed: none, in a database of its own.
PACMAN_OF_BUILD = """#!/bin/sh
mkdir -p "$HOME/db/local" "$HOME/db/sync"
exec /usr/bin/pacman --dbpath "$HOME/db" "$@"
"""
# Added to every module of a later version: code that a running daemon of the version before loads
# after the upgrade fails, and does not merely happen to fit.
GUARD = """
import orchd as _orchd
assert _orchd.__version__ == "{version}", "the code of two versions is mixed in one process"
"""


def lay_out(scratch: Path, python: str, version: str = "") -> None:
    """Fill `scratch` with what a build needs: the tree, the tools, nobody's. With `version`, the
    tree is that later version's."""
    tree, tools, out = scratch / "tree", scratch / "tools", scratch / "out"
    for folder in (tree, tools, out):
        folder.mkdir(parents=True)
    ignore = shutil.ignore_patterns("__pycache__", "*.pyc")
    for name in PARTS:
        source = REPOSITORY / name
        if source.is_dir():
            shutil.copytree(source, tree / name, ignore=ignore)
        else:
            shutil.copy2(source, tree / name)
    if version:
        make_later(tree, version)
    (scratch / "makepkg.conf").write_text(CONF)
    program(tools / "python", PYTHON.format(python=python))
    program(tools / "pacman", PACMAN_OF_BUILD)
    for path in (scratch, *scratch.rglob("*")):
        os.chown(path, NOBODY, NOBODY, follow_symlinks=False)


def make_later(tree: Path, version: str) -> None:
    """Make a tree that of a later version: its number, a changed default configuration, GUARD."""
    replace(tree / "PKGBUILD", r"(?m)^pkgver=\S+", f"pkgver={version}")
    replace(tree / "orchd/__init__.py", r'__version__ = ".+"', f'__version__ = "{version}"')
    replace(tree / "packaging/orchd.toml", r"\Z", f"# New in {version}.\n")
    for path in [*tree.glob("orchd/**/*.py"), *tree.glob("poolmgr/**/*.py")]:
        replace(path, r"\Z", GUARD.format(version=version))


def replace(path: Path, pattern: str, text: str) -> None:
    """Replace what must be there once."""
    changed, count = re.subn(pattern, text, path.read_text(), count=1)
    assert count == 1, (path, pattern)
    path.write_text(changed)


def makepkg(scratch: str, *arguments: str) -> tuple[list[str], Mapping[str, str]]:
    """The command in the tree under `scratch`, as that user sees it, and its environment."""
    # makepkg refuses to run as root; the capability stands for a checkout that nobody can read.
    ids = [f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups"]
    read = ["--inh-caps=+dac_read_search", "--ambient-caps=+dac_read_search"]
    env = {
        "HOME": scratch,
        "PATH": f"{scratch}/tools:/usr/local/bin:/usr/bin:/bin",
        "LANG": "C.UTF-8",
        "PKGDEST": f"{scratch}/out",
        "BUILDDIR": f"{scratch}/build",
        "PACMAN": f"{scratch}/tools/pacman",
        "PACKAGER": "Tests <tests@invalid>",
        "SOURCE_DATE_EPOCH": "1700000000",
    }
    make = ["makepkg", "--config", f"{scratch}/makepkg.conf", *arguments]
    return ["setpriv", *ids, *read, *make], env


BUILD = ("--nodeps", "--noconfirm", "--force")


def build(scratch: Path, version: str = "") -> Path:
    """Run the host's makepkg on a copy of the tree, as nobody; returns the package (about 5 s)."""
    lay_out(scratch, sys.executable, version)
    run_makepkg(scratch, *BUILD)
    return package_of(scratch / "out")


def run_makepkg(scratch: Path, *arguments: str) -> str:
    """Run the host's makepkg in what lay_out() made; returns what it printed."""
    argv, env = makepkg(str(scratch), *arguments)
    tree = scratch / "tree"
    done = subprocess.run(argv, cwd=tree, env=env, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise RuntimeError(f"makepkg failed:\n{done.stdout}{done.stderr}")
    return done.stdout


def build_inside(layers: Sequence[Path], scratch: Path, version: str = "") -> Path:
    """The same with the makepkg of a machine's layers, where the folder is always /work."""
    work = scratch / "upper/work"
    scratch.mkdir(parents=True)
    lay_out(work, f"{PREFIX}/bin/python", version)
    run_makepkg_inside(layers, scratch, *BUILD)
    return package_of(work / "out")


def run_makepkg_inside(layers: Sequence[Path], scratch: Path, *arguments: str) -> str:
    """Run the layers' makepkg in what build_inside() laid out; returns what it printed."""
    argv, env = makepkg("/work", *arguments)
    settings = [f"{name}={value}" for name, value in env.items()]
    inside = ["env", "--chdir=/work/tree", *settings, *argv]
    (scratch / "upper").chmod(0o755)
    return run_in_layer(layers, scratch / "upper", inside)


def package_of(folder: Path) -> Path:
    """The one package of a folder."""
    (package,) = folder.glob("*.pkg.tar.zst")
    return package


def program(path: Path, text: str) -> None:
    """Write a script that can be run."""
    path.write_text(text)
    path.chmod(0o755)


# In a mount namespace of its own: the layers as /, the layer on top takes what pacman writes.
INSTALL = """
set -e
mount -t overlay overlay -o "$1" "$2"
mount -t proc proc "$2/proc"
root=$2 package=$3
mkdir -p "$root/var/lib/pacman"
exec pacman --root "$root" --dbpath "$root/var/lib/pacman" --cachedir "$root/var/cache/pacman" \
    --hookdir "$root/etc/pacman.d/hooks" --logfile "$root/var/log/pacman.log" \
    --gpgdir "$root/etc/pacman.d/gnupg" --config /etc/pacman.conf --noconfirm -U -dd "$package"
"""


def install(package: Path, below: Sequence[Path], layer: Path) -> list[Path]:
    """Install the package on the layers `below` with pacman; returns all layers, top first."""
    scratch = layer.with_name(layer.name + ".mount")
    for folder in (layer, scratch / "work", scratch / "root"):
        folder.mkdir(parents=True)
    layer.chmod(0o755)
    options = overlay_options(below, layer, scratch / "work")
    alone = ["unshare", "--mount", "--propagation", "private"]
    inside = ["sh", "-c", INSTALL, "sh", options, str(scratch / "root"), str(package)]
    done = subprocess.run([*alone, *inside], capture_output=True, text=True, check=False)
    shutil.rmtree(scratch)
    if done.returncode != 0:
        raise RuntimeError(f"pacman failed:\n{done.stdout}{done.stderr}")
    return [layer, *below]


def pass_for_arch(layers: Sequence[Path], scratch: Path) -> None:
    """Give a Debian machine what the package finds on Arch: /usr/bin/python that sees its modules.

    The dependencies are those of the lab's venv, the package's own folder carries the version of
    the Python that built it.
    """
    top, root = layers[0], layers[-1]
    version = python_version(root)
    built = next((top / "usr/lib").glob("python3.*/site-packages"))
    places = [PREFIX / f"lib/python{version}/site-packages", Path("/") / built.relative_to(top)]
    path = top / "usr/lib/python3/dist-packages/arch.pth"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{place}\n" for place in places))
    (top / "usr/bin/python").symlink_to("python3")
    # proves the above, rather than a unit that fails at boot
    run_in_layer(layers, scratch, ["/usr/bin/python", "-c", "import orchd, poolmgr, trio"])
