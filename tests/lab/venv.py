"""Our dependencies and our own programs, as overlay layers over a root file system.

Here: a venv at /opt/orchd for the machine's own Python, filled by the host's pip (its index
settings apply, and nothing inside needs a network), cached; and a fresh layer with the working
tree's packages and scripts. Not here: units and configuration, which the tests lay on top.
"""

from __future__ import annotations

import platform
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path

from attrs import frozen

from tests.lab.cache import Cache
from tests.lab.rootfs import Suite, rootfs, run_in_layer

REPOSITORY = Path(__file__).resolve().parents[2]
PREFIX = Path("/opt/orchd")
PACKAGES = ("orchd", "poolmgr")
# What the root file system brings itself: compiled against libsystemd by Debian.
FROM_DISTRIBUTION = ("systemd-python",)
# Newest first: pip takes the best tag that a wheel offers; both root file systems have glibc 2.41+.
GLIBC_TAGS = ("manylinux_2_39", "manylinux_2_34", "manylinux_2_28", "manylinux_2_17")
SCRIPT = """#!{python}
import sys
from {module} import {function}
if __name__ == "__main__":
    sys.exit({function}())
"""


@frozen
class Project:
    """What pyproject.toml says that a layer needs to know."""

    requirements: tuple[str, ...]
    scripts: Mapping[str, str]


def read_project(repository: Path = REPOSITORY) -> Project:
    """Dependencies (without those that the distribution brings) and console scripts."""
    table = tomllib.loads((repository / "pyproject.toml").read_text())["project"]
    wanted = [r for r in table["dependencies"] if name_of(r) not in FROM_DISTRIBUTION]
    return Project(tuple(sorted(wanted)), table.get("scripts", {}))


def name_of(requirement: str) -> str:
    """The normalised distribution name at the head of a requirement."""
    match = re.match(r"[A-Za-z0-9._-]+", requirement)
    assert match, requirement
    return re.sub(r"[-_.]+", "-", match[0]).lower()


def pip(*arguments: str) -> subprocess.CompletedProcess[str]:
    """The host's pip with the host's settings."""
    argv = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check", *arguments]
    return subprocess.run(argv, capture_output=True, text=True, check=False)


def python_version(root: Path) -> str:
    """`3.13`: the version of the root file system's own Python."""
    return (root / "usr/bin/python3").readlink().name.removeprefix("python")


def install(requirements: Sequence[str], version: str, target: Path, scratch: Path) -> None:
    """Put `requirements` for another Python `version` into `target`, from wheels.

    Two of our dependencies may have no wheel; those that are pure Python become one here.
    """
    bare = version.replace(".", "")
    platforms = [f"--platform={tag}_{platform.machine()}" for tag in GLIBC_TAGS]
    foreign = [
        f"--python-version={version}",
        "--implementation=cp",
        f"--abi=cp{bare}",
        "--abi=abi3",
        "--abi=none",
        *platforms,
        "--platform=any",
        "--only-binary=:all:",
        f"--find-links={scratch}",
    ]
    pure = [r for r in requirements if name_of(r) == "sdnotify"]
    if pure:
        made = pip("wheel", "--no-deps", f"--wheel-dir={scratch}", *pure)
        if made.returncode != 0:
            raise RuntimeError(f"pip wheel failed:\n{made.stderr}")
    done = pip("install", "--no-compile", f"--target={target}", *foreign, *requirements)
    if done.returncode != 0:
        raise RuntimeError(f"pip install for Python {version} failed:\n{done.stderr}")


def site_packages(root: Path, layer: Path) -> Path:
    """Where the venv's packages are, in a layer over `root`."""
    inside = PREFIX / "lib" / f"python{python_version(root)}" / "site-packages"
    return layer / inside.relative_to("/")


def compile_in(layers: Sequence[Path], layer: Path, folder: Path) -> None:
    """Write the bytecode: services cannot (ProtectSystem=), and each start would parse anew."""
    inside = "/" + str(folder.relative_to(layer))
    run_in_layer(layers, layer, [f"{PREFIX}/bin/python", "-m", "compileall", "-q", inside])


def dependency_layer(
    suite: Suite | str, cache: Cache | None = None, root: Path | None = None
) -> Path:
    """The cached layer with /opt/orchd: a venv that sees the distribution's packages too.

    `root` is another root file system of the suite than the plain one.
    """
    chosen, store = Suite(suite), cache or Cache.default()
    root = root or rootfs(chosen, store)
    requirements = read_project().requirements
    inputs = {"rootfs": root.name, "requirements": requirements, "recipe": 1}

    def recipe(folder: Path) -> None:
        make = ["python3", "-m", "venv", "--system-site-packages", "--without-pip", str(PREFIX)]
        run_in_layer([root], folder, make)
        packages = site_packages(root, folder)
        scratch = folder.with_name(folder.name + ".wheels")
        try:
            install(requirements, python_version(root), packages, scratch)
        finally:
            shutil.rmtree(scratch, ignore_errors=True)
        compile_in([root], folder, packages)
        folder.chmod(0o755)

    return store.build(f"venv-{chosen}", inputs, recipe)


def base_layers(suite: Suite | str, cache: Cache | None = None) -> list[Path]:
    """The cached layers, top first: dependencies, root file system."""
    return [dependency_layer(suite, cache), rootfs(suite, cache)]


def project_layer(suite: Suite | str, layer: Path, cache: Cache | None = None) -> list[Path]:
    """Fill the empty folder `layer` with the working tree's code as it is now (about 1 s).

    Packages go into the venv, the programs to /usr/bin with the venv's interpreter, readable for
    every service user. Returns all layers, top first, ready for a Machine.
    """
    below = base_layers(suite, cache)
    packages = site_packages(below[-1], layer)
    packages.mkdir(parents=True)
    ignore = shutil.ignore_patterns("__pycache__", "*.pyc")
    for name in PACKAGES:
        shutil.copytree(REPOSITORY / name, packages / name, ignore=ignore)
    project = read_project()
    write_metadata(packages, project)
    programs = layer / "usr/bin"
    programs.mkdir(parents=True)
    for name, target in project.scripts.items():
        module, function = target.split(":")
        text = SCRIPT.format(python=PREFIX / "bin/python", module=module, function=function)
        (programs / name).write_text(text)
        (programs / name).chmod(0o755)
    make_readable(layer)
    compile_in(below, layer, packages)
    return [layer, *below]


def write_metadata(packages: Path, project: Project) -> None:
    """What importlib.metadata needs to know our distribution by its name."""
    # Where hatch reads it too ([tool.hatch.version] in pyproject.toml).
    source = (packages / "orchd/__init__.py").read_text()
    found = re.search(r'^__version__ = "(.+)"', source, re.MULTILINE)
    version = found[1] if found else "0"
    folder = packages / f"orchd-{version}.dist-info"
    folder.mkdir()
    metadata = f"Metadata-Version: 2.1\nName: orchd\nVersion: {version}\n"
    (folder / "METADATA").write_text(metadata)
    lines = [f"{name} = {target}" for name, target in project.scripts.items()]
    (folder / "entry_points.txt").write_text("\n".join(["[console_scripts]", *lines]) + "\n")


def make_readable(layer: Path) -> None:
    """Whatever umask the checkout was made under, service users read what is in the layer."""
    for path in [layer, *layer.rglob("*")]:
        if not path.is_symlink():
            path.chmod(path.stat().st_mode | (0o755 if path.is_dir() else 0o444))
