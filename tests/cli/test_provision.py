"""`orchctl plan` and `provision`: what they say before the program of poolmgr takes over."""

from __future__ import annotations

from pathlib import Path

import pytest

POOL = """
[[pools]]
id = "demo"
engine = { id = "mock" }
model = { ref = "mock:lorem" }
replicas = [[0]]
ctx = 8192
"""


@pytest.mark.req("ORCH-3330")
@pytest.mark.parametrize("verb", ["plan", "provision"])
def test_what_cannot_be_used_is_told_as_every_verb_tells_it(verb: str, orchctl, folder: Path):
    file = folder / "orchd.toml"
    file.write_text(POOL)
    ran = orchctl(verb, "nope", "--config", str(file))
    assert (ran.code, ran.out) == (65, "")
    assert ran.err.startswith("orchctl: no pool 'nope' is configured (known: demo)\n")
    assert "Next: Check the name; orchctl pools" in ran.err
    file.write_text(POOL.replace("ctx", "ctxx"))
    ran = orchctl(verb, "demo", "--config", str(file))
    assert (ran.code, ran.out) == (78, "")
    assert ran.err.startswith("orchctl: ")
    assert "$.pools[0].ctxx" in ran.err
    assert "Next: Correct the named keys" in ran.err
