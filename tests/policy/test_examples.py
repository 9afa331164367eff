"""The two example plugins: what they decide, and that source and module are in step."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from orchd.policy.question import Decision
from orchd.wire.policy import What
from tests.lab.needs import CLANG, CLANGS, require
from tests.policy.modules import plugin, question

FOLDER = Path(__file__).resolve().parents[2] / "packaging" / "examples" / "plugins"
HF = ("suffix=.hf.co", "suffix=huggingface.co", "max_mb=10")
HOSTS: list[tuple[tuple[str, ...], dict[str, Any], bool, str]] = [
    (HF, {"host": "cdn.hf.co"}, True, "a host that is known"),
    (HF, {"host": "huggingface.co", "size_bytes": 10 << 20}, True, ""),
    (HF, {"host": "huggingface.co", "size_bytes": (10 << 20) + 1}, False, "larger than max_mb"),
    (HF, {"host": "hf.co"}, False, "below none"),
    (HF, {"host": "evil-hf.co"}, False, "below none"),
    (HF, {"host": "a.huggingface.co"}, False, "below none"),
    (HF, {"host": "hf.co.evil.example"}, False, "below none"),
    (HF, {"host": ""}, False, "below none"),
    ((), {"host": "hf.co"}, False, "below none"),
    (("sufix=.hf.co",), {"host": "cdn.hf.co"}, False, "neither suffix"),
    (("suffix=",), {"host": "cdn.hf.co"}, False, "neither suffix"),
    ((*HF, "max_mb=1x"), {"host": "cdn.hf.co"}, False, "neither suffix"),
    ((*HF, "max_mb=9999999999999999999"), {"host": "cdn.hf.co"}, False, "neither suffix"),
    (("suffix=.x",), {"what": What.ADMISSION}, True, ""),
]
MODELS_ARGS = (
    "uid:1000=*",
    "proxy:ada=hf:acme/@08:00-18:30",
    "uid:7=m@22:00-06:00",
    "*=mock:lorem",
)
MODELS: list[tuple[tuple[str, ...], dict[str, Any], bool, str]] = [
    (MODELS_ARGS, {"identity": "uid:1000", "model_ref": "anything"}, True, "this identity's"),
    (MODELS_ARGS, {"identity": "uid:10001", "model_ref": "x"}, False, "not this identity's"),
    (MODELS_ARGS, {"identity": "localhost", "model_ref": "mock:lorem"}, True, ""),
    (MODELS_ARGS, {"identity": "localhost", "model_ref": "hf:acme/x"}, False, "not this"),
    (MODELS_ARGS, {"identity": "proxy:ada", "model_ref": "hf:acme/x"}, True, ""),
    *(
        (MODELS_ARGS, {"identity": who, "model_ref": model, "minute_of_day": minute}, opens, words)
        for who, model, minute, opens, words in (
            ("proxy:ada", "hf:acme/x", 479, False, "at other hours"),
            ("proxy:ada", "hf:acme/x", 480, True, ""),
            ("proxy:ada", "hf:acme/x", 1109, True, ""),
            ("proxy:ada", "hf:acme/x", 1110, False, "at other hours"),
            ("uid:7", "m", 1320, True, ""),
            ("uid:7", "m", 359, True, ""),
            ("uid:7", "m", 360, False, "at other hours"),
            ("uid:7", "m", 1319, False, "at other hours"),
        )
    ),
    (("uid:1",), {"identity": "uid:1", "model_ref": "m"}, False, "not IDENTITY=MODEL"),
    (("uid:1=m@8-9",), {"identity": "uid:1", "model_ref": "m"}, False, "not HH:MM-HH:MM"),
    (("uid:1=m@08:00-25:00",), {"identity": "uid:1", "model_ref": "m"}, False, "not HH:MM-HH:MM"),
    ((), {"identity": "uid:1", "model_ref": "m"}, False, "not this identity's"),
    ((), {"what": What.OUTBOUND, "host": "x"}, True, ""),
]


def asked(folder: Path) -> list[tuple[str, tuple[str, ...], Decision, bool, str]]:
    """Ask the modules of a folder all of it."""
    found = []
    for name, table, what in (("hosts", HOSTS, What.OUTBOUND), ("models", MODELS, What.ADMISSION)):
        code = (folder / f"{name}.wasm").read_bytes()
        for args, changes, allowed, words in table:
            decision = plugin(code, *args).decide(question(**{"what": what} | changes))
            found.append((f"{name}: {changes}", args, decision, allowed, words))
    return found


@pytest.mark.req("POLICY-SDK-4111", "POLICY-SDK-4112")
def test_they_decide_as_they_say() -> None:
    for told, args, decision, allowed, words in asked(FOLDER):
        assert decision.allowed is allowed, (told, args, decision)
        assert words in decision.reason, (told, args, decision)
        assert decision.fuel < 100_000


@pytest.mark.req("POLICY-SDK-4101", "POLICY-SDK-4111", "POLICY-SDK-4112")
def test_source_and_module_are_in_step(tmp_path: Path) -> None:
    """The same compiler makes the same bytes; another one makes what decides the same."""
    require([CLANG])
    compiler = next(filter(None, (shutil.which(f"clang{end}") for end in CLANGS)))
    built = subprocess.run(
        [FOLDER / "build.sh", tmp_path],
        check=False,
        env=os.environ | {"CLANG": compiler},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert built.returncode == 0, built.stderr
    for name in ("hosts.wasm", "models.wasm"):
        ours, made = ((folder / name).read_bytes() for folder in (FOLDER, tmp_path))
        if producer(ours) == producer(made):
            assert ours == made, f"{name} is not of its source: packaging/examples/plugins/build.sh"
    for told, args, decision, allowed, _ in asked(tmp_path):
        assert decision.allowed is allowed, (told, args)


@pytest.mark.req("POLICY-4021", "POLICY-SDK-4112")
def test_the_packaged_configuration_names_the_module_that_the_package_has() -> None:
    text = (FOLDER.parents[1] / "orchd.toml").read_text()
    digest = hashlib.sha256((FOLDER / "models.wasm").read_bytes()).hexdigest()
    assert f'#path = "/usr/share/orchd/sdk/examples/models.wasm"\n#sha256 = "{digest}"\n' in text


def producer(code: bytes) -> bytes:
    """The compiler that a module names."""
    found = re.search(rb"processed-by.*", code, re.DOTALL)
    assert found is not None
    return found[0].partition(b"target_features")[0][:80]
