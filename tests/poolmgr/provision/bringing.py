"""A place to bring engines to, and the program that does it, run as an operator runs it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from attrs import field, frozen

from orchd.catalog import engines
from orchd.wire.engines import EngineEntry

WAIT_S = 120.0


@frozen
class Done:
    """How one run ended."""

    code: int
    out: str
    events: tuple[dict[str, Any], ...]

    def names(self) -> list[str]:
        return [event["event"] for event in self.events]

    def last(self) -> str:
        """The sentence it ends with."""
        return str(self.events[-1]["human"])


@frozen
class Place:
    """A folder with a configuration, a cache and the environment of a machine."""

    folder: Path
    env: dict[str, str] = field(factory=dict)

    @property
    def cache(self) -> Path:
        return self.folder / "cache" / "engines"

    def write(self, how: str, engine: str = "llamacpp", more: str = "") -> Path:
        path = self.folder / "orchd.toml"
        path.write_text(
            f'{more}\n[[pools]]\nid = "llama"\nengine = {{ id = "{engine}" }}\n'
            f'model = {{ ref = "/models/m.gguf" }}\nreplicas = [[0]]\nctx = 4096\n'
            f"[pools.provisioning]\n{how}\n"
        )
        return path

    def environment(self) -> dict[str, str]:
        others = ("XDG_", "ORCHD_", "SUDO_")
        kept = {k: v for k, v in os.environ.items() if not k.startswith(others)}
        own = {
            "CACHE_DIRECTORY": str(self.folder / "cache"),
            "ORCHD_RUN_DIR": str(self.folder / "run"),
            "ORCHD_STATE_DIR": str(self.folder / "state"),
            "HOME": str(self.folder),
        }
        return {**kept, **own, **self.env}

    def argv(self, verb: str, *more: str) -> list[str]:
        config = str(self.folder / "orchd.toml")
        return [sys.executable, "-m", "orchd.cli.main", verb, "llama", "--config", config, *more]

    def start(self, verb: str, *more: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            self.argv(verb, *more),
            env=self.environment() | {"ORCHD_LOG": "json"},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def run(self, verb: str, *more: str) -> Done:
        return finished(self.start(verb, *more))

    def entries(self) -> dict[str, EngineEntry]:
        found, spoiled = engines.shelf(str(self.cache)).load()
        assert spoiled == []
        return found


def finished(process: subprocess.Popen[str], wait_s: float = WAIT_S) -> Done:
    out, err = process.communicate(timeout=wait_s)
    lines = [json.loads(line) for line in err.splitlines() if line.startswith("{")]
    assert lines or not err, err
    return Done(process.returncode, out, tuple(lines))
