"""What the code imports is what pyproject.toml wants, and that is what the Arch package depends on.

A dependency that somebody adds to one of the three fails here until the others have it.
"""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import tomllib
from importlib.metadata import packages_distributions
from pathlib import Path
from typing import Any

import pytest

import orchd
from tests.lab.venv import REPOSITORY, name_of
from tools.srcinfo import text

# Distribution -> package of Arch. Look a new one up (archlinux.org/packages, or the AUR); there is
# no rule that always holds.
ARCH = {
    "attrs": "python-attrs",
    "cattrs": "python-cattrs",
    "click": "python-click",
    "h11": "python-h11",
    "h2": "python-h2",
    "hpack": "python-hpack",
    "jeepney": "python-jeepney",
    "nvidia-ml-py": "python-nvidia-ml-py",
    "orjson": "python-orjson",
    "prometheus-client": "python-prometheus_client",
    "pyxdg": "python-pyxdg",
    "rich": "python-rich",
    "sdnotify": "python-sdnotify",
    "systemd-python": "python-systemd",
    "trio": "python-trio",
}
# The same for extras, which the package has among its optional dependencies.
ARCH_EXTRAS = {"botocore": "python-botocore", "wasmtime": "python-wasmtime"}
# Late on purpose: it needs an extra and takes 0.3 s. A pool that is given its first model from S3
# between an upgrade and its restart may fail, and keeps the model that it has. Where policy plugins
# are configured orchd loads their sandbox at its start, a pool when it first asks one.
LATER_STILL = {"orchd.fetch.s3", "orchd.policy.sandbox"}
# Programs that the code or a unit starts -> package of Arch; "" is one of `base`.
PROGRAMS = {
    "python": "python",
    "setpriv": "util-linux",
    "systemctl": "systemd",
    "nvidia-modprobe": "nvidia-utils",
    "llama-server": "llama.cpp-cuda",
    "podman": "podman",
    "nvidia-ctk": "nvidia-container-toolkit",
}
OURS = ("orchd", "poolmgr")


def imported() -> set[str]:
    """Top-level modules that our packages import and that neither we nor Python bring."""
    found: set[str] = set()
    for path in (p for package in OURS for p in (REPOSITORY / package).rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                found |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                found.add(node.module.partition(".")[0])
    return found - set(OURS) - sys.stdlib_module_names


def wanted() -> set[str]:
    """Distributions that pyproject.toml wants at run time."""
    return {name_of(requirement) for requirement in project()["dependencies"]}


def extras() -> set[str]:
    """Those that it wants for extras, the developers' own left out."""
    groups = project()["optional-dependencies"]
    return {name_of(each) for name, group in groups.items() if name != "dev" for each in group}


def project() -> dict[str, Any]:
    """What pyproject.toml says of the distribution."""
    table: dict[str, Any] = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    return table


def srcinfo(field: str) -> set[str]:
    """Values of a field of the PKGBUILD, less versions and what an optional one is for."""
    values = re.findall(rf"^\t{field} = (.+)$", text(), re.MULTILINE)
    return {re.split("[<>=:]", value)[0] for value in values}


@pytest.mark.req("SYSD-24")
def test_what_is_imported_is_wanted_and_nothing_else() -> None:
    brought = packages_distributions()
    unknown = [module for module in imported() if module not in brought]
    assert unknown == []
    names = {re.sub(r"[-_.]+", "-", brought[module][0]).lower() for module in imported()}
    assert names == wanted() | extras()


@pytest.mark.req("SYSD-24")
def test_what_is_wanted_is_what_the_package_depends_on() -> None:
    assert set(ARCH) == wanted()
    assert {name for name in srcinfo("depends") if name.startswith("python-")} == set(ARCH.values())
    assert "python" in srcinfo("depends")
    assert set(ARCH_EXTRAS) == extras()
    assert set(ARCH_EXTRAS.values()) <= srcinfo("optdepends")


@pytest.mark.req("SYSD-24")
def test_programs_that_are_started_come_with_a_package() -> None:
    sources = [
        *(p for package in (*OURS, "units", "packaging") for p in (REPOSITORY / package).rglob("*"))
    ]
    texts = (p for p in sources if p.is_file() and p.suffix not in (".pyc", ".wasm"))
    code = "\n".join(p.read_text() for p in texts)
    assert [program for program in PROGRAMS if program not in code] == []
    there = srcinfo("depends") | srcinfo("optdepends")
    assert set(PROGRAMS.values()) <= there
    # and nothing is listed that nothing uses
    used = {*ARCH.values(), *ARCH_EXTRAS.values(), *PROGRAMS.values()}
    assert there - used == {"bash-completion", "polkit"}


@pytest.mark.req("SYSD-14")
def test_the_package_has_the_version_of_the_code() -> None:
    assert srcinfo("pkgver") == {orchd.__version__}


@pytest.mark.req("SYSD-26")
def test_a_daemon_loads_nothing_of_ours_after_its_start() -> None:
    """An upgrade replaces the files under it: code loaded later would be another version's."""
    from orchd.daemon import LATE

    late: set[str] = set()
    rooms = [p for package in OURS for p in (REPOSITORY / package).rglob("*.py")]
    for path in rooms:
        if path.parent.name not in ("cli", "generator"):
            late |= late_imports(path)
    program = "import orchd.daemon, poolmgr.daemon, sys; print(*sys.modules)"
    argv = [sys.executable, "-c", program]
    loaded = subprocess.run(argv, capture_output=True, text=True, check=True).stdout.split()
    assert late, "the check sees late imports"
    assert late - set(loaded) - LATER_STILL == set(LATE)


def late_imports(path: Path) -> set[str]:
    """Our modules that functions of this file import."""
    found: set[str] = set()
    for function in ast.walk(ast.parse(path.read_text())):
        if not isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        for node in ast.walk(function):
            if isinstance(node, ast.ImportFrom) and str(node.module).startswith(OURS):
                names = {f"{node.module}.{alias.name}" for alias in node.names}
                files = {n for n in names if (REPOSITORY / f"{n.replace('.', '/')}.py").exists()}
                found |= files or {str(node.module)}
            elif isinstance(node, ast.Import):
                found |= {a.name for a in node.names if a.name.startswith(OURS)}
    return found
