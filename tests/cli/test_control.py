"""orchctl drain and reload: what is sent, when they return, and with what."""

from __future__ import annotations

from typing import Any

import orjson
import pytest
from attrs import evolve

from orchd.kit.http import json_response
from orchd.wire import codec
from orchd.wire.catalog import CatalogModel, ModelState
from orchd.wire.control import PoolControl, PoolHealth
from orchd.wire.errors import Kind, OrchError
from orchd.wire.ids import Count, Digest, ModelId, PoolId, Positive, Text
from orchd.wire.snapshot import Cause, Outcome, Phase, Reload
from tests.cli.test_tables import DEMO

ONE = evolve(DEMO, replicas=DEMO.replicas[:1])
BEGUN = {
    name: json_response(PoolControl(pool_id=PoolId("demo"), status=f"{name}ing"), 202)
    for name in ("drain", "reload")
}
FULL = Cause(kind=Kind.VRAM_SHORT, message="needs 30 GiB", advice="Choose a smaller model.")


def with_snapshot(health: PoolHealth, **more: Any) -> PoolHealth:
    (replica,) = health.replicas
    assert replica.snapshot is not None
    snapshot = evolve(replica.snapshot, **more)
    return evolve(health, replicas=(evolve(replica, snapshot=snapshot),))


def in_turn(peer: Any, *healths: PoolHealth) -> None:
    peer.say("GET", "/v1/pools/demo/health", *map(json_response, healths))


def body_of(peer: Any, path: str) -> Any:
    (asked,) = [each for each in peer.requests if each.path == path]
    assert asked.method == "POST"
    return orjson.loads(asked.body)


@pytest.mark.req("OC-CTRL-2002")
def test_drain_waits_until_every_replica_that_answers_is_drained(peer, orchctl):
    peer.say("POST", "/v1/pools/demo/drain", BEGUN["drain"])
    emptying = with_snapshot(ONE, phase=Phase.EMPTYING, ready=False, draining=True)
    drained = with_snapshot(ONE, phase=Phase.DRAINED, ready=False, draining=True)
    in_turn(peer, ONE, emptying, drained)
    ran = orchctl("drain", "demo", "--deadline", "1.5", "--url", peer.url)
    assert body_of(peer, "/v1/pools/demo/drain") == {"deadline_ms": 1500}
    assert (ran.code, ran.out) == (0, "")
    assert ran.err == "Pool demo is drained. orchctl reload demo brings it back.\n"
    assert len([each for each in peer.requests if each.method == "GET"]) == 3


def test_neither_waits_when_told_not_to(peer, orchctl):
    for name in ("drain", "reload"):
        peer.say("POST", f"/v1/pools/demo/{name}", BEGUN[name])
    ran = orchctl("drain", "demo", "--no-wait", "--json", "--url", peer.url)
    assert orjson.loads(ran.out) == {"pool_id": "demo", "status": "draining"}
    assert body_of(peer, "/v1/pools/demo/drain") == {"deadline_ms": 60_000}
    ran = orchctl("reload", "demo", "new", "--no-wait", "--json", "--url", peer.url)
    assert orjson.loads(ran.out) == {"pool_id": "demo", "status": "reloading"}
    assert (
        "is being reloaded with new"
        in orchctl("reload", "demo", "new", "--no-wait", "--url", peer.url).err
    )


@pytest.mark.req("OC-CTRL-2003")
def test_reload_waits_until_the_pool_serves_the_model(peer, orchctl):
    peer.say("POST", "/v1/pools/demo/reload", BEGUN["reload"])
    in_turn(peer, evolve(ONE, reloading="new"), evolve(ONE, model_ref="new"))
    ran = orchctl("reload", "demo", "new", "--url", peer.url)
    assert body_of(peer, "/v1/pools/demo/reload") == {"new_model_ref": "new"}
    assert (ran.code, ran.err) == (0, "Pool demo serves new.\n")


@pytest.mark.req("OC-CTRL-2003", "ORCH-3436")
def test_reload_sends_the_digest_that_the_model_must_have(peer, orchctl):
    peer.say("POST", "/v1/pools/demo/reload", BEGUN["reload"])
    digest = "sha256:" + "ab" * 32
    ran = orchctl("reload", "demo", "new", "--digest", digest, "--no-wait", "--url", peer.url)
    assert ran.code == 0
    assert body_of(peer, "/v1/pools/demo/reload") == {"new_model_ref": "new", "digest": digest}
    before = len(peer.requests)
    ran = orchctl("reload", "demo", "new", "--digest", "sha256:x", "--url", peer.url)
    assert (ran.code, len(peer.requests)) == (2, before)


@pytest.mark.req("OC-CTRL-2003", "ORCH-3090")
def test_reload_takes_a_model_of_the_catalog_by_its_id(peer, orchctl):
    peer.say("POST", "/v1/pools/demo/reload", BEGUN["reload"])
    digest, path = f"sha256:{'a' * 64}", "/v1/catalog/models/tiny"
    model = CatalogModel(
        id=ModelId("tiny"),
        digest=Digest(digest),
        source_url=Text("https://host.example/tiny.gguf"),
        tags=(),
        manifests=(),
        signatures=(),
        state=ModelState.ACTIVE,
        created_ms=Count(1),
        verifying=False,
        warnings=(),
    )
    peer.say("GET", path, json_response(model))
    ran = orchctl("reload", "demo", "tiny", "--no-wait", "--url", peer.url)
    assert ran.code == 0, ran.err
    assert body_of(peer, "/v1/pools/demo/reload") == {
        "new_model_ref": "https://host.example/tiny.gguf",
        "digest": digest,
    }
    other = f"sha256:{'b' * 64}"
    ran = orchctl("reload", "demo", "tiny", "--digest", other, "--url", peer.url)
    assert f"the catalog says that tiny has {digest}" in ran.err
    peer.say("GET", path, json_response(evolve(model, state=ModelState.RETIRED)))
    ran = orchctl("reload", "demo", "tiny", "--url", peer.url)
    assert "orchctl models activate tiny takes that back" in ran.err
    peer.say("GET", path, json_response(evolve(model, source_url=None)))
    ran = orchctl("reload", "demo", "tiny", "--url", peer.url)
    assert "the catalog does not say where model tiny is" in ran.err


@pytest.mark.req("OC-CTRL-2003")
def test_a_reload_that_failed_says_why_and_exits_with_its_row(peer, orchctl):
    peer.say("POST", "/v1/pools/demo/reload", BEGUN["reload"])
    in_turn(peer, evolve(ONE, last_error=FULL))
    ran = orchctl("reload", "demo", "new", "--url", peer.url)
    assert ran.code == 69
    assert "pool demo keeps m; new failed: needs 30 GiB" in ran.err
    assert FULL.advice in ran.err


@pytest.mark.parametrize(("outcome", "code"), [(Outcome.READY, 0), (Outcome.FAILED, 69)])
def test_without_a_model_its_own_is_loaded_anew(peer, orchctl, outcome, code):
    peer.say("POST", "/v1/pools/demo/reload", BEGUN["reload"])
    reload = Reload(number=Positive(1), model_ref="m", outcome=outcome)
    error = FULL if outcome is Outcome.FAILED else None
    in_turn(peer, evolve(with_snapshot(ONE, reload=reload), last_error=error))
    assert orchctl("reload", "demo", "--url", peer.url).code == code
    assert body_of(peer, "/v1/pools/demo/reload") == {"new_model_ref": "m"}


def test_what_orchd_refuses_is_said_and_a_wrong_name_is_not_sent(peer, orchctl):
    busy = OrchError(Kind.RELOAD_UNDER_WAY, "pool demo is being reloaded with x")
    peer.say("POST", "/v1/pools/demo/reload", busy)
    ran = orchctl("reload", "demo", "new", "--url", peer.url)
    assert ran.code == 75
    assert "orchctl pools shows it" in ran.err
    sent = len(peer.requests)
    assert orchctl("reload", "No/Pool", "new", "--url", peer.url).code == 2
    assert orchctl("drain", "demo", "--deadline", "0", "--url", peer.url).code == 2
    assert orchctl("drain", "demo", "--deadline", "1e9", "--url", peer.url).code == 2
    assert len(peer.requests) == sent


@pytest.mark.parametrize(
    ("change", "shown"),
    [({"reloading": "x"}, "ready, reloading"), ({"reloading": "x", "ready": False}, "reloading")],
)
def test_pools_shows_a_reload(peer, orchctl, change, shown):
    peer.say("GET", "/v1/pools/demo/health", json_response(evolve(DEMO, **change)))
    assert f"demo  {shown} " in orchctl("pools", "demo", "--url", peer.url).out


def test_the_json_of_a_reload_is_the_health_that_came_of_it(peer, orchctl):
    peer.say("POST", "/v1/pools/demo/reload", BEGUN["reload"])
    in_turn(peer, ONE)
    ran = orchctl("reload", "demo", "m", "--json", "--url", peer.url)
    assert codec.loads(PoolHealth, ran.out.encode()) == ONE
