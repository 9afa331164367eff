"""The pact of orchctl: recorded from what it really sends, kept by the live daemon.

pact-python does both sides; the real orchctl talks to its mock server, its verifier to a real orchd
with a real poolmgr and the mock engine.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click
import jsonschema
import pytest

from orchd.cli.program import VERBS, program
from tests.sockets.suite import SIMULATED, Suite, mock_pool
from tools.openapi.document import OPERATIONS, document
from tools.openapi.table import EVENTS, JSON
from tools.pactfile import asks
from tools.pactfile.record import FILE, record
from tools.pactfile.runs import RUNS

ROOT = Path(__file__).parents[2]
VERIFY_S = 60.0
KEYS = """queue = { interactive = 1, batch = 1 }
workloads = ["completion", "embedding", "rerank"]"""
INTERACTIONS = json.loads(FILE.read_text())["interactions"]


@pytest.mark.req("CDC-PACT")
@pytest.mark.parametrize("one", INTERACTIONS, ids=lambda one: one["description"])
def test_an_interaction_is_one_of_the_documents(one: dict[str, Any]) -> None:
    asked, told = one["request"], one["response"]
    (row,) = [
        row
        for row in OPERATIONS
        if row.method == asked["method"]
        and re.fullmatch(re.sub(r"{\w+}", "[^/]+", row.path), asked["path"])
    ]
    whole = document(row.plane)
    operation = whole["paths"][row.path][row.method.lower()]
    answer = operation["responses"][str(told["status"])]
    if "$ref" in answer:
        answer = whole["components"]["responses"][answer["$ref"].rpartition("/")[2]]
    pairs = []
    if "body" in asked:
        pairs.append((operation["requestBody"]["content"][JSON]["schema"], asked["body"]))
    if "body" in told and told["body"]["contentType"] != EVENTS:
        pairs.append((answer["content"][JSON]["schema"], told["body"]))
    for schema, body in pairs:
        fitting = {**schema, "components": whole["components"]}
        validator = jsonschema.Draft202012Validator(fitting)
        assert [str(fault) for fault in validator.iter_errors(body["content"])] == []


@pytest.mark.req("CDC-PACT")
def test_every_verb_that_asks_orchd_is_in_the_pact() -> None:
    asking = set(VERBS) - {"up", "config", "plan", "provision", "policy"}  # these talk to no daemon
    assert {run.arguments[0] for run in RUNS} == asking
    for name in ("models", "artifacts"):
        group = program.get_command(click.Context(program), name)
        assert isinstance(group, click.Group)
        asking = set(group.commands) - {"fetch"}  # it asks other machines; orchd may be absent
        assert {run.arguments[1] for run in RUNS if run.arguments[0] == name} == asking


@pytest.mark.slow
@pytest.mark.req("CDC-PACT")
def test_orchctl_asks_what_the_pact_says_and_can_use_the_answers(tmp_path: Path) -> None:
    assert record(tmp_path) == FILE.read_text(), "run: .venv/bin/python -m tools.pactfile.record"


@contextmanager
def daemon(folder: Path, pool: str) -> Iterator[Suite]:
    with Suite(folder, f'auth_token = "{asks.TOKEN}"\n{SIMULATED}{pool}') as suite:
        yield suite


def verified(suite: Suite, states: str, file: Path = FILE) -> tuple[bool, str]:
    """Whether the daemon keeps the pact in these states, and what the verifier said."""
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "tests.contracts.provider",
            str(suite.port),
            f"^({states})$",
            str(file),
        ],
        cwd=ROOT,
        env=os.environ | {"PACT_DO_NOT_TRACK": "true"},
        capture_output=True,
        text=True,
        timeout=VERIFY_S,
        check=False,
    )
    wanted = [
        one["description"]
        for one in INTERACTIONS
        if re.fullmatch(states, one["providerStates"][0]["name"])
    ]
    said = done.stdout + done.stderr
    assert wanted
    assert all(words in done.stdout for words in wanted), said
    return done.returncode == 0, said


@pytest.mark.slow
@pytest.mark.req("CDC-PACT")
def test_a_ready_daemon_keeps_the_pact(tmp_path: Path) -> None:
    pool = mock_pool(engine="tokens_per_s = 50", queue=KEYS)
    # one that drains and reloads may have
    pool += mock_pool().replace('"demo"', '"spare"').replace("mock:lorem", "mock:spare")
    states = [
        *(asks.READY, asks.QUEUED, asks.ENDED, asks.FULL, asks.SESSION),
        *(asks.EMBEDDED, asks.RERANKED),
        *(asks.MODEL, asks.NO_MODEL, asks.ARTIFACT, asks.NO_ARTIFACT),
    ]
    with daemon(tmp_path, pool) as suite:
        suite.wait_ready()
        kept, said = verified(suite, "|".join(states))
        assert kept, said
        broken = tmp_path / FILE.name
        broken.write_text(
            FILE.read_text().replace('"policy_label": "reject"', '"policy_label": "-"')
        )
        kept, said = verified(suite, asks.FULL, broken)
        assert not kept
        assert "policy_label" in said


@pytest.mark.slow
@pytest.mark.req("CDC-PACT")
def test_an_unready_daemon_keeps_the_pact(tmp_path: Path) -> None:
    pool = mock_pool(engine="faults = { load_ms = 600000 }")
    with daemon(tmp_path, pool) as suite:
        suite.wait_event("ready")
        kept, said = verified(suite, asks.UNREADY)
        assert kept, said
