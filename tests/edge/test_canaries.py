"""A secret that an engine or a pool says, and where it must not come out again."""

from __future__ import annotations

from collections.abc import Iterator

import orjson
import pytest

from orchd.kit import log, redact
from orchd.wire import sse
from orchd.wire.errors import Kind
from orchd.wire.snapshot import Cause, Phase
from tests.edge.conftest import Opener
from tests.edge.test_tasks import stream
from tests.fakes.tasks import task_body

pytestmark = pytest.mark.req("OC-CTRL-2041", "ORCH-3302", "ORCH-3613")
CANARY = "canary-7f3a91"
LEAK = f"cannot fetch https://me:hunter22@host/ with {CANARY}"


@pytest.fixture(autouse=True)
def known(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(redact, "_secrets", [])
    redact.add_secret(CANARY)
    yield
    redact.redact_short.cache_clear()


def clean(said: object) -> str:
    text = said.decode() if isinstance(said, bytes) else str(said)
    assert CANARY not in text
    assert "hunter22" not in text
    return text


async def test_no_canary_in_logs_frames_answers_and_metrics(front: Opener) -> None:
    with log.capture() as events:
        async with front() as it:
            task = await it.submit()
            job = await it.peer.next_job()
            job.tokens("a")
            job.fail(Kind.WORKER_RESET, LEAK)
            frames = await stream(it, task)
            assert frames[-1].name == "error"
            assert "[redacted]" in clean(orjson.loads(frames[-1].data)["message"])
            cause = Cause(kind=Kind.ENGINE_UNHEALTHY, message=LEAK, advice="See the log.")
            it.peer.state(ready=False, phase=Phase.FAILED, status=LEAK, last_error=cause)
            while not it.app.unready_reasons():
                await it.get("/health")
            assert "[redacted]" in clean((await it.get("/v1/pools/demo/health")).body)
            clean((await it.get("/v1/pools")).body)
            refused = await it.post("/v1/tasks", task_body())
            assert refused.status == 503
            assert "[redacted]" in clean(refused.body)
            clean((await it.get("/readyz")).body)
            clean((await it.get(f"/v1/tasks/{task}")).body)
            clean((await it.get("/metrics")).body)
            clean(sse.Decoder().feed((await it.get(f"/v1/tasks/{task}/stream")).body))
    assert any(event["event"] == "task_failed" for event in events)
    clean(events)


SIGNED = f"https://bucket.host/m-Q4_K_M.gguf?X-Amz-Signature={CANARY}99"
INSIDE = f"https://me:hunter22@host/{CANARY}.gguf"


async def test_no_canary_of_the_control_plane_in_logs_errors_and_metrics(front: Opener) -> None:
    """What the catalog and artifacts hold is given back to who may ask, and told to nobody else."""
    digest = f"sha256:{'5a' * 32}"
    asked: list[tuple[str, object]] = [
        ("/v1/catalog/models", {"id": "signed", "digest": digest, "source_url": SIGNED}),
        ("/v1/catalog/models", {"id": "inside", "digest": digest, "source_url": INSIDE}),
        ("/v1/catalog/models", {"id": "wrong", "digest": CANARY, "source_url": SIGNED}),
        ("/v1/catalog/models/signed/verify", None),
        ("/v1/catalog/models/signed/state", {"state": "Retired"}),
        ("/v1/catalog/models/signed/state", {"state": CANARY}),
        (f"/v1/catalog/models/{CANARY}/verify", None),
        ("/v1/artifacts", {"kind": "plan", "content": CANARY, "metadata": {"k": CANARY}}),
        ("/v1/artifacts", {"kind": CANARY, "content": CANARY}),
        ("/v1/artifacts", {"kind": "plan", "content": CANARY, CANARY: 1}),
        ("/v1/tokenize", {"model_ref": SIGNED, "text": CANARY}),
        ("/v1/tasks", task_body(prompt=CANARY, model_ref=INSIDE)),
        ("/v1/tasks", task_body(prompt=CANARY, ctx=CANARY)),
        ("/v1/placement/explain", task_body(prompt=CANARY, model_ref=SIGNED)),
        ("/v1/pools/demo/drain", {"deadline_ms": CANARY}),
        ("/v1/pools/demo/reload", {"new_model_ref": INSIDE}),
        ("/v1/workers/register", {"pool_id": "demo", "replica_id": CANARY}),
        (f"/v1/{CANARY}", None),
    ]
    statuses = set()
    with log.capture() as events:
        async with front() as it:
            for path, body in asked:
                answer = await it.post(path, body)
                statuses.add(answer.status)
                if answer.status >= 400:
                    clean(answer.body)
            clean((await it.get("/metrics")).body)
            clean((await it.get("/readyz")).body)
            for path in ("/v1/capabilities", "/v1/pools", "/v1/pools/demo/health", "/v1/tasks"):
                clean((await it.get(path)).body)
    assert statuses >= {201, 202, 400, 404}
    assert {event["event"] for event in events} >= {"model_registered", "pool_reloading"}
    clean(events)
