"""orchctl pools, status, cancel, config: what people and programs read."""

from __future__ import annotations

from pathlib import Path

import orjson
import pytest
from attrs import evolve

from orchd.config import jsonschema
from orchd.kit.http import Response, json_response
from orchd.wire import codec
from orchd.wire.control import Health, PoolHealth, Pools
from orchd.wire.errors import Kind, OrchError
from orchd.wire.shapes import SessionStatus, TaskStatus, TaskStatuses

ROOT = Path(__file__).parents[2]
TASK = "0e6b8c8e-9d6e-4a52-8e6c-1fb3a3f0c001"
SNAPSHOT = {
    "seq": 1, "pool_id": "demo", "replica_id": "demo:0", "device_mask": [0], "phase": "ready",
    "ready": True, "draining": False, "status": "Ready: 1 of 2 slots busy", "engine": "mock",
    "engine_version": "1", "sampler_profile_version": "v1", "model_ref": "m", "ctx_max": 10,
    "gpu_proof": "attested, not verified", "slots_total": 2, "slots_active": 1,
    "devices": [{"index": 0, "uuid": "GPU-0", "name": "RTX 3090", "vram_total_bytes": 24 << 30,
                 "vram_used_bytes": 4 << 30}],
    "vram_total_bytes": 24 << 30, "vram_free_bytes": 20 << 30,
}  # fmt: skip
CAUSE = {"kind": "vram_short", "message": "needs 30 GiB", "advice": "Choose a smaller model."}
DEMO = codec.structure(
    PoolHealth,
    {
        "pool_id": "demo", "engine": "mock", "model_ref": "m", "live": True, "ready": True,
        "draining": False,
        "metrics": {
            "queue_depth": {"interactive": 3, "batch": 5},
            "queue_capacity": {"interactive": 64, "batch": 256},
            "slots_total": 2, "slots_active": 1, "vram_total_bytes": 0, "vram_free_bytes": 0,
            "predicted_start_ms": {"interactive": 1200, "batch": 9000},
        },
        "replicas": [
            {"replica_id": "demo:0", "live": True, "snapshot": SNAPSHOT},
            {"replica_id": "demo:1", "live": True,
             "snapshot": {**SNAPSHOT, "replica_id": "demo:1", "ready": False, "phase": "failed",
                          "status": "Failed: VRAM", "last_error": CAUSE}},
            {"replica_id": "demo:2", "live": False},
        ],
    },
)  # fmt: skip
STATUS = codec.structure(
    TaskStatus,
    {
        "task_id": TASK, "session_id": TASK, "state": "queued", "pool_id": "demo",
        "priority": "batch", "engine": "mock", "model_ref": "m", "queue_position": 4,
        "predicted_start_ms": 2500, "correlation_id": "c-1",
        "decision": {"considered": [{"replica_id": "demo:0", "excluded": "no free slot"}],
                     "filters_applied": [], "tie_breakers_applied": []},
    },
)  # fmt: skip


def test_pools_shows_state_proof_vram_queue_and_the_last_error_with_advice(peer, orchctl):
    peer.say("GET", "/v1/pools", json_response(Pools(pools=(DEMO,))))
    ran = orchctl("pools", "--url", peer.url)
    assert ran.code == 0
    pool, first, second, third = (
        line for line in ran.out.splitlines() if line.startswith(("demo ", "demo:"))
    )
    assert pool.split() == ["demo", "ready", "mock", "m", "1/2", "3+5", "1.2", "s"]
    assert "0 RTX 3090" in first
    assert "20.0/24.0" in first
    assert "attested, not verified" in first
    assert "Ready: 1 of 2 slots busy" in first
    assert second.split()[:2] == ["demo:1", "failed"]
    assert third.split()[:2] == ["demo:2", "down"]
    assert "demo:1: vram_short: needs 30 GiB\n  Next: Choose a smaller model." in ran.out
    assert "Next: systemctl status 'poolmgr@demo:2', or the terminal of orchctl up" in ran.out


def test_pools_of_one_pool_and_as_json(peer, orchctl):
    peer.say("GET", "/v1/pools/demo/health", json_response(DEMO))
    ran = orchctl("pools", "--json", "--url", peer.url, "demo")
    assert codec.loads(PoolHealth, ran.out.encode()) == DEMO
    peer.say("GET", "/v1/pools", json_response(Pools(pools=(DEMO,))))
    ran = orchctl("pools", "--json", "--url", peer.url)
    assert codec.loads(Pools, ran.out.encode()).pools == (DEMO,)
    peer.say("GET", "/v1/pools/none/health", OrchError(Kind.UNKNOWN_ID, "no pool none"))
    assert orchctl("pools", "--url", peer.url, "none").code == 65


@pytest.mark.parametrize(
    ("change", "shown"),
    [({"ready": False}, "not ready"), ({"ready": False, "live": False}, "down"),
     ({"draining": True}, "draining")],
)  # fmt: skip
def test_the_states_of_a_pool(peer, orchctl, change, shown):
    peer.say("GET", "/v1/pools", json_response(Pools(pools=(evolve(DEMO, **change),))))
    assert f"demo  {shown} " in orchctl("pools", "--url", peer.url).out


def test_what_a_peer_sends_cannot_be_markup_or_move_the_cursor(peer, orchctl):
    odd = evolve(DEMO, model_ref="[red]x[/]\x1b[2J")
    peer.say("GET", "/v1/pools", json_response(Pools(pools=(odd,))))
    assert "[red]x[/] [2J" in orchctl("pools", "--url", peer.url).out


def test_no_pools(peer, orchctl):
    peer.say("GET", "/v1/pools", json_response(Pools(pools=())))
    ran = orchctl("pools", "--url", peer.url)
    assert (ran.code, ran.out) == (0, "")
    assert "No pools are configured" in ran.err


def test_status_of_the_daemon(peer, orchctl):
    health = Health(status="unready", reasons=("pool demo is not ready",), version="1.2.3")
    peer.say("GET", "/readyz", json_response(health, 503))
    peer.say("GET", "/v1/pools", json_response(Pools(pools=(DEMO,))))
    peer.say("GET", "/v1/tasks", json_response(TaskStatuses(tasks=(STATUS,), next_cursor="x")))
    ran = orchctl("status", "--url", peer.url)
    assert ran.code == 0
    assert ran.out.startswith(f"orchd 1.2.3 at {peer.url}: unready\n  pool demo is not ready\n")
    task = next(line for line in ran.out.splitlines() if line.startswith(TASK))
    assert task.split() == [TASK, "queued", "demo", "batch", "4", "2.5", "s", "0"]
    assert "... and more" in ran.out
    whole = orjson.loads(orchctl("status", "--json", "--url", peer.url).out)
    assert whole["health"]["version"] == "1.2.3"
    assert whole["tasks"]["tasks"][0]["task_id"] == TASK


def test_status_of_a_task(peer, orchctl):
    peer.say("GET", f"/v1/tasks/{TASK}", json_response(STATUS))
    ran = orchctl("status", "--url", peer.url, TASK)
    assert "position     4\n  starts in    2.5 s\n" in ran.out
    assert "considered   demo:0: no free slot" in ran.out
    ran = orchctl("status", "--json", "--url", peer.url, TASK)
    assert codec.loads(TaskStatus, ran.out.encode()) == STATUS


def test_cancel(peer, orchctl):
    ran = orchctl("cancel", "--url", peer.url, TASK)
    assert ran.code == 0
    assert ran.err == f"{TASK} is canceled; no token follows.\n"
    ran = orchctl("cancel", "--json", "--url", peer.url, TASK)
    assert orjson.loads(ran.out) == {"task_id": TASK, "canceled": True}
    peer.say("POST", "cancel", OrchError(Kind.UNKNOWN_ID, "no such task"))
    assert orchctl("cancel", "--url", peer.url, TASK).code == 65


def test_sessions_shows_what_is_left_and_ends(peer, orchctl):
    said = codec.structure(
        SessionStatus,
        {"ttl_ms_remaining": 598_000, "turns": 3, "kv_bytes": 0, "kv_warmth": True,
         "tokens_budget_remaining": 120, "time_budget_remaining_ms": 90_000,
         "cost_budget_remaining": 0.25},
    )  # fmt: skip
    peer.say("GET", f"/v1/sessions/{TASK}", json_response(said))
    ran = orchctl("sessions", "--url", peer.url, TASK)
    assert ran.code == 0
    assert ran.out.split("\n", 1)[0] == f"session {TASK}"
    for line in (
        *("turns          3", "over in        9 min 58 s without a task", "KV cache       warm"),
        *("tokens left    120", "GPU time left  1 min 30 s", "cost left      0.25"),
    ):
        assert f"\n  {line}\n" in ran.out
    assert "KV bytes" not in ran.out
    ran = orchctl("sessions", "--json", "--url", peer.url, TASK)
    assert codec.loads(SessionStatus, ran.out.encode()) == said
    peer.say("DELETE", f"/v1/sessions/{TASK}", Response(204))
    ran = orchctl("sessions", "--end", "--url", peer.url, TASK)
    assert (ran.code, ran.out) == (0, "")
    assert "is over" in ran.err
    ran = orchctl("sessions", "--end", "--json", "--url", peer.url, TASK)
    assert orjson.loads(ran.out) == {"session_id": TASK, "ended": True}
    peer.say("GET", f"/v1/sessions/{TASK}", OrchError(Kind.UNKNOWN_ID, "no session"))
    assert orchctl("sessions", "--url", peer.url, TASK).code == 65
    assert orchctl("sessions", "--url", peer.url, "mine").code == 2


def test_config_check_says_what_is_in_force(orchctl):
    file = str(ROOT / "packaging" / "examples" / "two-pools.toml")
    ran = orchctl("config", "check", file)
    assert ran.code == 0
    assert ran.out.startswith(f"Valid: {file}\n")
    assert "small:0 small:1" in ran.out
    assert "large:0_1" in ran.out
    checked = orjson.loads(orchctl("config", "check", "--json", file).out)
    assert (checked["valid"], checked["auth_token"], len(checked["pools"])) == (True, False, 2)


@pytest.mark.req("OC-CONFIG-6001", "CONF-PRECEDENCE")
def test_config_check_says_every_error_and_never_the_token(orchctl, folder):
    file = folder / "c.toml"
    file.write_text('auth_token = "hunter2"\nx = 1\n[sse]\ny = 2\n')
    ran = orchctl("config", "check", str(file))
    assert ran.code == 78
    assert f"{file}:2: $.x: is not a known key" in ran.err
    assert f"{file}:4: $.sse.y: is not a known key" in ran.err
    ran = orchctl("config", "check", "--json", str(file))
    assert ran.code == 78
    assert [each["path"] for each in orjson.loads(ran.out)["errors"]] == ["$.x", "$.sse.y"]
    file.write_text('auth_token = "hunter2"\n')
    for options in (["--json"], []):
        ran = orchctl("config", "check", *options, str(file))
        assert ran.code == 0
        assert "hunter2" not in ran.out + ran.err


def test_config_schema(orchctl):
    assert orchctl("config", "schema").out == jsonschema.text()
