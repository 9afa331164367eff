"""Writes contracts/pact/orchctl-orchd.json: the real orchctl against pact's mock server [CDC-PACT].

A request that differs from what runs.py says fails, and so does an answer that orchctl cannot use.
The file is what pact then writes. tests/contracts/test_pact.py does it again and holds the live
daemon against the file.

    python -m tools.pactfile.record     write the file
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Final

from pact import Pact, match

from tools.pactfile.asks import Ask, Run
from tools.pactfile.runs import RUNS

FILE: Final = Path(__file__).resolve().parents[2] / "contracts" / "pact" / "orchctl-orchd.json"
ORCHCTL_S: Final = 20.0


def record(folder: Path) -> str:
    """Run orchctl for each of RUNS; return the text of the file. Raises AssertionError."""
    os.environ["PACT_DO_NOT_TRACK"] = "true"  # else the library reports its use to its makers
    for run in RUNS:
        pact = Pact("orchctl", "orchd").with_specification("V4")
        for ask in run.asks:
            _expect(pact, ask)
        with pact.serve("127.0.0.1") as server:
            _orchctl(run, str(server.url))
        pact.write_file(folder)
    whole = json.loads((folder / FILE.name).read_text())
    del whole["metadata"]["pactRust"]  # versions of the library that wrote it
    whole["interactions"].sort(key=lambda one: one["description"])
    return json.dumps(whole, indent=1) + "\n"


def _expect(pact: Pact, ask: Ask) -> None:
    interaction = pact.upon_receiving(f"orchctl asks for {ask.words}")
    about = ask.about if ask.task is None else {**ask.about, "task_id": ask.task}
    interaction = interaction.given(ask.state, about)
    interaction = interaction.with_request(ask.method, ask.path)
    interaction.with_header("Authorization", f"Bearer {ask.token}")
    for name, value in ask.query.items():
        interaction.with_query_parameter(name, value)
    if ask.body is not None:
        interaction.with_body(ask.body, "application/json")
    interaction.will_respond_with(ask.status)
    correlation = match.regex("c0ffee00-1234-4abc-9def-001122334455", regex="^.+$")
    for name, value in (("X-Correlation-Id", correlation), *ask.headers):
        interaction.with_header(name, value)
    if isinstance(ask.answer, str):
        rule = {"matchers": [{"match": "regex", "regex": ask.rule}]}
        interaction.with_body(ask.answer, "text/event-stream")
        interaction.with_matching_rules({"body": {"$": rule}}, part="Response")
    elif ask.answer is not None:
        interaction.with_body(ask.answer, "application/json")


def _orchctl(run: Run, url: str) -> None:
    environ = {key: value for key, value in os.environ.items() if not key.startswith("ORCHD_")}
    done = subprocess.run(
        [sys.executable, "-m", "orchd.cli.main", *run.arguments, "--url", url.rstrip("/")],
        env=environ | {"ORCHD_AUTH_TOKEN": run.token},
        input=run.stdin,
        capture_output=True,
        text=True,
        timeout=ORCHCTL_S,
        check=False,
    )
    told = f"orchctl {' '.join(run.arguments)}: {done.returncode}\n{done.stdout}{done.stderr}"
    assert done.returncode == run.exit_code, told
    assert run.out in done.stdout, told


def main() -> int:
    """Write the file."""
    with tempfile.TemporaryDirectory() as folder:
        FILE.write_text(record(Path(folder)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
