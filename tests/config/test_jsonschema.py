"""The stored JSON Schema is what the classes say; the examples use only what it names."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest

from orchd.config import jsonschema
from orchd.config.load import load

ROOT = Path(__file__).parents[2]
EXAMPLES = sorted((ROOT / "packaging" / "examples").glob("*.toml"))


@pytest.mark.req("OC-CONFIG-6010")
def test_it_regenerates_without_a_difference():
    stored = (ROOT / "contracts" / "config.schema.json").read_text()
    assert jsonschema.text() == jsonschema.text() == stored


def test_every_key_is_described_and_every_reference_leads_somewhere():
    schema = jsonschema.generate()
    for name, table in {"File": schema, **schema["$defs"]}.items():
        assert table["additionalProperties"] is False
        assert table["description"]
        for key, entry in table["properties"].items():
            if "$ref" in entry:
                assert entry["$ref"].removeprefix("#/$defs/") in schema["$defs"]
            elif entry["type"] != "array":
                assert entry.get("description"), f"{name}.{key} has no words"


def fits(value: Any, entry: dict[str, Any], schema: dict[str, Any]) -> None:
    """Assert what matters of JSON Schema here: keys, kinds, enums, required."""
    if "$ref" in entry:
        entry = schema["$defs"][entry["$ref"].removeprefix("#/$defs/")]
    kind = entry["type"]
    if kind == "object":
        assert set(value) <= set(entry["properties"])
        assert set(value) >= set(entry.get("required", ()))
        for key, item in value.items():
            fits(item, entry["properties"][key], schema)
    elif kind == "array":
        assert len(value) >= entry.get("minItems", 0)
        for item in value:
            fits(item, entry["items"], schema)
    else:
        kinds: dict[str, Any] = {
            "string": str,
            "integer": int,
            "number": (int, float),
            "boolean": bool,
        }
        assert isinstance(value, kinds[kind])
        assert value in entry.get("enum", [value])


@pytest.mark.req("OC-CONFIG-6002", "OC-CONFIG-6031", "HME-003")
@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_examples_are_valid(path):
    fits(tomllib.loads(path.read_text()), jsonschema.generate(), jsonschema.generate())
    environ = {"ORCHD_RUN_DIR": "/run"}
    if path.stem == "lan-token":
        environ["ORCHD_AUTH_TOKEN"] = "the-token"
    assert load(path, environ=environ).pools


def test_there_is_an_example_for_each_case():
    assert {path.stem for path in EXAMPLES} == {
        "loopback-mock", "lan-token", "reverse-proxy", "two-pools",
        "mode-binary", "mode-package", "mode-external", "mode-source", "mode-container",
        "fetched-model", "engines",
    }  # fmt: skip


def test_the_packaged_configuration_is_the_defaults_and_its_comments_are_valid(tmp_path):
    packaged = ROOT / "packaging" / "orchd.toml"
    assert tomllib.loads(packaged.read_text()) == {}
    alternatives = ("#provisioning = { mode = ", "#auth_token")
    lines = [
        line.removeprefix("#")
        for line in packaged.read_text().partition("# No GPU at hand?")[0].splitlines()
        if line.startswith("#") and not line.startswith(("# ", "#:schema ", *alternatives))
    ]
    opened = tmp_path / "orchd.toml"
    opened.write_text("\n".join(lines))
    settings = load(opened, environ={"ORCHD_RUN_DIR": "/run"})
    assert settings.pools[0].replica_ids == ("llama:0", "llama:1")


MODELINE = re.compile(r"#:schema (\S+)\n")
SCHEMA = ROOT / "contracts" / "config.schema.json"


def taplo(path: Path) -> subprocess.CompletedProcess[str]:
    """What the editors' language server says of a file, by the schema that the file names."""
    return subprocess.run(
        [Path(sys.executable).with_name("taplo"), "lint", path.name],
        cwd=path.parent, capture_output=True, text=True, timeout=20, check=False,
    )  # fmt: skip


@pytest.mark.req("OC-CONFIG-6010")
@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_an_editor_finds_the_schema_of_an_example(path):
    named = MODELINE.match(path.read_text())
    assert named is not None
    assert (path.parent / named[1]).resolve() == SCHEMA
    done = taplo(path)
    assert done.returncode == 0, done.stderr


@pytest.mark.req("OC-CONFIG-6010")
def test_an_editor_finds_the_schema_of_the_packaged_configuration(tmp_path):
    packaged = (ROOT / "packaging" / "orchd.toml").read_text()
    named = MODELINE.match(packaged)
    assert named is not None
    installed = Path(named[1])
    assert (
        f'-t "$pkgdir{installed.parent}" contracts/{installed.name}\n'
        in (ROOT / "PKGBUILD").read_text()
    )
    there = tmp_path / installed.name
    there.write_bytes(SCHEMA.read_bytes())
    edited = tmp_path / "orchd.toml"
    edited.write_text(packaged.replace(str(installed), str(there)))
    assert taplo(edited).returncode == 0
    edited.write_text(edited.read_text().replace('#bind_addr = "', 'bind_adr = "'))
    assert "'bind_adr' was unexpected" in taplo(edited).stderr
