"""The table of rooms in specs/01-architecture.md: who may import whom, and what from outside.

The rooms among each other are import-linter's (pyproject.toml); what a pure room may take from
outside is held here, by reading the imports.
"""

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from importlinter.cli import EXIT_STATUS_SUCCESS, lint_imports

REPOSITORY = Path(__file__).resolve().parents[1]

# Third parties of a room; a room that is not named may use every dependency.
THIRD_PARTIES = {
    "orchd/wire": {"attrs", "cattrs", "orjson"},
    "orchd/core": {"attrs"},
    "orchd/catalog": {"attrs"},
    "orchd/config": {"attrs", "cattrs", "orjson", "xdg"},
    "orchd/kit": {"attrs", "trio", "h11", "h2", "hpack", "orjson", "sdnotify", "systemd"},
    "orchd/generator": set(),
    "orchd/policy": {"attrs", "trio", "wasmtime"},
    "orchd/fetch": {"attrs", "trio", "orjson", "botocore"},
    "orchd/edge": {"attrs", "trio", "h11", "jeepney", "prometheus_client"},
    "poolmgr/core": {"attrs"},
    "poolmgr/dialects": {"attrs", "orjson"},
    "poolmgr/engines": {"attrs", "orjson"},
    "poolmgr/mockengine": {"attrs", "orjson"},
    # In a container the Python of the image runs it.
    "poolmgr/bridge.py": set(),
}
# The standard library of pure rooms: no clock, no chance, no IO, no logging.
PURE = {
    *("__future__", "abc", "array", "binascii", "bisect", "collections", "contextlib"),
    *(
        "dataclasses",
        "decimal",
        "enum",
        "fractions",
        "functools",
        "heapq",
        "itertools",
        "json",
        "math",
    ),
    *("operator", "re", "statistics", "string", "struct", "types", "typing"),
}
PURE_ROOMS = {
    "orchd/wire": PURE,
    "orchd/core": PURE,
    "poolmgr/core": PURE,
    # One hashes an id, so that it is none any more.
    "poolmgr/dialects": PURE | {"hashlib"},
    # It hashes what it stores; the disk is files.py's alone (below).
    "orchd/catalog": PURE | {"hashlib"},
    # Adapters name files and make launch arguments; they open nothing.
    "poolmgr/engines": PURE | {"pathlib", "shlex"},
    # Pure modules of rooms that are not.
    "orchd/policy/abi.py": PURE,
    "orchd/policy/places.py": PURE | {"ipaddress"},
    "orchd/policy/question.py": PURE,
    "orchd/policy/rates.py": PURE,
    "orchd/policy/rules.py": PURE,
    "orchd/fetch/choose.py": PURE | {"pathlib"},
    "orchd/fetch/parts.py": PURE,
    "orchd/fetch/progress.py": PURE,
}


# Modules of a pure room that may take more: what touches the disk, what takes URLs apart.
HANDS = {
    "orchd/catalog/files.py": {"fcntl", "os", "stat"},
    "orchd/wire/address.py": {"ipaddress", "urllib"},
    "orchd/wire/modelref.py": {"hashlib", "urllib"},
}


def sources(room: str) -> list[Path]:
    """The files of a room, or the one file."""
    path = REPOSITORY / room
    return [path] if path.is_file() else sorted(path.rglob("*.py"))


def imports(room: str) -> Iterator[tuple[str, str]]:
    """(file:line, top-level name) of every import from outside the project."""
    files = sources(room)
    assert files, f"{room} is empty"
    for path in files:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                found = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                assert node.level == 0, f"{path}:{node.lineno} is a relative import"
                found = [node.module or ""]
            else:
                continue
            where = f"{path.relative_to(REPOSITORY)}:{node.lineno}"
            yield from ((where, name.partition(".")[0]) for name in found)


def test_import_linter_keeps_every_contract(monkeypatch, capsys):
    monkeypatch.chdir(REPOSITORY)
    status = lint_imports(config_filename="pyproject.toml", cache_dir=None)
    assert status == EXIT_STATUS_SUCCESS, capsys.readouterr().out


def test_every_adapter_is_held_apart_from_the_others():
    text = (REPOSITORY / "pyproject.toml").read_text()
    for path in (REPOSITORY / "poolmgr/engines").glob("*.py"):
        if path.stem not in ("__init__", "base", "registry"):
            assert f'"poolmgr.engines.{path.stem}"' in text, f"name {path.stem} in `adapters`"


@pytest.mark.parametrize("room", THIRD_PARTIES)
def test_a_room_takes_only_its_own_third_parties(room):
    ours = sys.stdlib_module_names | {"orchd", "poolmgr"}
    wrong = [
        f"{where} imports {name}"
        for where, name in imports(room)
        if name not in ours | THIRD_PARTIES[room]
    ]
    assert wrong == []


@pytest.mark.parametrize("room", PURE_ROOMS)
def test_a_pure_room_has_no_clock_no_chance_no_io_and_no_log(room):
    wrong = [
        f"{where} imports {name}"
        for where, name in imports(room)
        if name in sys.stdlib_module_names - PURE_ROOMS[room]
        and name not in HANDS.get(where.partition(":")[0], ())
    ]
    assert wrong == []


def test_the_catalog_opens_files_in_one_module_only():
    opened = {
        path.name
        for path in (REPOSITORY / "orchd/catalog").glob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Name) and node.id in ("open", "os", "io")
    }
    assert opened == {"files.py"}


@pytest.mark.parametrize("room", PURE_ROOMS)
def test_a_pure_room_does_not_wait(room):
    waits = (ast.AsyncFunctionDef, ast.Await, ast.AsyncFor, ast.AsyncWith)
    found = [
        f"{path.relative_to(REPOSITORY)}:{node.lineno}"
        for path in sources(room)
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, waits)
    ]
    assert found == []
