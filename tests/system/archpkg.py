"""The Arch package of the working tree, built and installed on any host that has pacman's tools.

Here: makepkg as an unprivileged user, pacman into a layer over a machine's root file system. Not
here: what the package must hold and do (test_package.py).
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
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


def build(scratch: Path, repository: Path = REPOSITORY) -> Path:
    """Run makepkg on a copy of the tree, as nobody; returns the package (about 5 s)."""
    tree, tools, out = scratch / "tree", scratch / "tools", scratch / "out"
    for folder in (tree, tools, out):
        folder.mkdir(parents=True)
    ignore = shutil.ignore_patterns("__pycache__", "*.pyc")
    for name in (*PARTS, "LICENSE"):
        source = repository / name
        if source.is_dir():
            shutil.copytree(source, tree / name, ignore=ignore)
        else:
            shutil.copy2(source, tree / name)
    (scratch / "makepkg.conf").write_text(CONF)
    program(tools / "python", PYTHON.format(python=sys.executable))
    program(tools / "pacman", PACMAN_OF_BUILD)
    for path in (scratch, *scratch.rglob("*")):
        os.chown(path, NOBODY, NOBODY)
    # makepkg refuses to run as root; the capability stands for a checkout that nobody can read.
    ids = [f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups"]
    read = ["--inh-caps=+dac_read_search", "--ambient-caps=+dac_read_search"]
    env = {
        "HOME": str(scratch),
        "PATH": f"{tools}:/usr/local/bin:/usr/bin:/bin",
        "LANG": "C.UTF-8",
        "PKGDEST": str(out),
        "BUILDDIR": str(scratch / "build"),
        "PACMAN": str(tools / "pacman"),
        "PACKAGER": "Tests <tests@invalid>",
        "SOURCE_DATE_EPOCH": "1700000000",
    }
    config = ["--config", str(scratch / "makepkg.conf")]
    make = ["makepkg", *config, "--nodeps", "--noconfirm", "--force"]
    done = subprocess.run(
        ["setpriv", *ids, *read, *make],
        cwd=tree,
        env=env,
        capture_output=True,
        text=True,
        check=False,
    )
    packages = list(out.glob("*.pkg.tar.zst"))
    if done.returncode != 0 or len(packages) != 1:
        raise RuntimeError(f"makepkg failed:\n{done.stdout}{done.stderr}")
    return packages[0]


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
