"""orchctl explain, and the wishes that it shares with run."""

from __future__ import annotations

import orjson
import pytest
from attrs import evolve

from orchd.kit.http import json_response
from orchd.wire import codec
from orchd.wire.errors import Kind, OrchError
from orchd.wire.ids import Count
from orchd.wire.shapes import PlacementExplained, PlacementOutcome, TaskRequest
from tests.cli.peer import STARTED, end, stream
from tests.wire import golden

PATH = "/v1/placement/explain"
EXPLAINED = codec.structure(PlacementExplained, golden.load("shapes/PlacementExplained.json"))
UNREADY = OrchError(Kind.POOL_UNREADY, "pool demo is not ready: loading").envelope()


def asked(peer, path=PATH):
    return codec.loads(TaskRequest, peer.asked(path)[-1].body)


@pytest.mark.req("ORCH-3906")
def test_it_says_where_and_why_not_elsewhere(peer, orchctl):
    peer.say("POST", PATH, json_response(EXPLAINED))
    ran = orchctl("explain", "--url", peer.url)
    assert ran.code == 0
    assert ran.out.startswith(
        "assigned: it would run at once on demo:0, and would be over in about 180 ms\n"
    )
    cells = [line.split() for line in ran.out.splitlines() if line.startswith("demo:")]
    rows = {cell[0]: cell[2] for cell in cells}
    assert rows == {"demo:0": "chosen", "demo:1": "not_ready"}
    assert (asked(peer).engine, asked(peer).model_ref, asked(peer).placement) == (
        "mock", "mock:lorem", None,
    )  # fmt: skip


def test_a_task_that_would_wait_and_one_that_would_be_refused(peer, orchctl):
    log = evolve(EXPLAINED.decision, selected=None, tie_breakers_applied=("load_asc",))
    waits = evolve(
        EXPLAINED, outcome=PlacementOutcome.QUEUED, replica_id=None, queue_position=Count(3),
        predicted_start_ms=Count(4000), predicted_end_ms=None, decision=log,
    )  # fmt: skip
    refused = PlacementExplained(outcome=PlacementOutcome.REFUSED, refusal=UNREADY, decision=log)
    peer.say("POST", PATH, json_response(waits), json_response(refused))
    ran = orchctl("explain", "--url", peer.url)
    assert ran.out.startswith(
        "queued: it would wait in pool demo, 3 before it, start in about 4.0 s\n"
    )
    assert "Decided by load_asc." in ran.out
    ran = orchctl("explain", "--url", peer.url)
    assert ran.code == 0
    assert ran.out.startswith("refused: POOL_UNREADY: pool demo is not ready: loading\n")
    assert "Next: See orchctl pools" in ran.out


def test_as_json(peer, orchctl):
    peer.say("POST", PATH, json_response(EXPLAINED))
    ran = orchctl("explain", "--json", "--url", peer.url)
    assert orjson.loads(ran.out) == golden.load("shapes/PlacementExplained.json")


@pytest.mark.req("ORCH-3903")
@pytest.mark.parametrize(
    ("options", "wish"),
    [
        ("--pin big", {"mode": "pin", "pin_pool_id": "big"}),
        (
            "--prefer big --prefer demo --no-fallback",
            {"mode": "prefer", "prefer_pools": ["big", "demo"], "allow_fallback": False},
        ),
        ("--avoid big --mask 0,1", {"avoid_pools": ["big"], "require_device_mask": [0, 1]}),
        ("--mask 1", {"require_device_mask": [1]}),
    ],
)
def test_wishes_of_explain_and_run(peer, orchctl, options, wish):
    peer.say("POST", PATH, json_response(EXPLAINED))
    peer.say("GET", "stream", stream(STARTED, end(2)))
    assert orchctl("explain", *options.split(), "--url", peer.url).code == 0
    assert orchctl("run", *options.split(), "--url", peer.url, "Say it").code == 0
    plain = {"mode": "auto", "prefer_pools": [], "avoid_pools": [], "allow_fallback": True}
    for path in (PATH, "/v1/tasks"):
        said = orjson.loads(peer.asked(path)[-1].body)["placement"]
        assert said == {**plain, **wish}


@pytest.mark.parametrize("options", ["--pin a --prefer b", "--mask x", "--mask 1,0"])
def test_wishes_that_make_no_sense_are_wrong_usage(orchctl, options):
    assert orchctl("explain", *options.split()).code == 2
