"""Policies through the API: tasks that a plugin forbids, and pages fetched for clients."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from orchd.config.policy import Fetch, Policy
from orchd.kit import log
from orchd.wire.ids import Positive, Text
from orchd.wire.policy import What
from tests.edge.conftest import Opener, read_json
from tests.fakes.fileserver import Files
from tests.fakes.tasks import task_body
from tests.policy.modules import answer, configured, module
from tools.metrics_lint import lint

MODELS = Path(__file__).resolve().parents[2] / "packaging" / "examples" / "plugins" / "models.wasm"


@pytest.fixture
def files() -> Iterator[Files]:
    house = Files()
    yield house
    house.close()


def models(folder: Path, *args: str) -> Policy:
    """The example plugin, with these args."""
    keys = {"decides": (What.ADMISSION,), "args": tuple(map(Text, args))}
    return Policy(plugins=(configured(folder, "models", MODELS.read_bytes(), **keys),))


@pytest.mark.req("ORCH-3961", "POLICY-4002", "POLICY-4022", "POLICY-SDK-4112")
async def test_a_plugin_forbids_a_task_before_the_core_is_asked(
    front: Opener, tmp_path: Path
) -> None:
    async with front(policy=models(tmp_path, "*=mock:other")) as it:
        body = task_body()
        with log.capture() as events:
            answer = await it.post("/v1/tasks", body)
        assert answer.status == 403
        said = read_json(answer)
        assert (said["code"], said["retriable"], said["engine"]) == (
            *("INVALID_PARAMS", False, "mock"),
        )
        assert said["message"] == "policy plugin models: the model is not this identity's"
        (told,) = [event for event in events if event["event"] == "policy_denied"]
        assert told["identity"].startswith("uid:")
        assert body["prompt"] not in str(events)
        assert (await it.get(f"/v1/tasks/{body['task_id']}")).status == 404
        explained = read_json(await it.post("/v1/placement/explain", body))
        assert (explained["outcome"], explained["refusal"]["code"]) == (
            *("refused", "INVALID_PARAMS"),
        )
        page = (await it.get("/metrics")).body.decode()
        assert 'policy_decisions_total{plugin="models",result="deny"} 2.0' in page
        assert 'policy_fuel_total{plugin="models"}' in page
        assert lint(page) == []


@pytest.mark.req("POLICY-4002", "ORCH-3024")
async def test_a_task_that_was_let_in_is_not_asked_about_again(
    front: Opener, tmp_path: Path
) -> None:
    async with front(policy=models(tmp_path, "*=mock:lorem")) as it:
        body = task_body()
        for _ in range(3):
            assert (await it.post("/v1/tasks", body)).status == 202
        page = (await it.get("/metrics")).body.decode()
        assert 'policy_decisions_total{plugin="models",result="allow"} 1.0' in page


@pytest.mark.req("POLICY-4014")
async def test_a_plugin_that_fails_denies_and_the_daemon_goes_on(
    front: Opener, tmp_path: Path
) -> None:
    plugin = configured(tmp_path, "bad", module("(unreachable)"), decides=(What.ADMISSION,))
    async with front(policy=Policy(plugins=(plugin,))) as it:
        answered = await it.post("/v1/tasks", task_body())
        assert answered.status == 403
        assert read_json(answered)["message"] == "policy plugin bad: it trapped: unreachable"
        assert (await it.get("/healthz")).status == 200
        page = (await it.get("/metrics")).body.decode()
        assert 'policy_decisions_total{plugin="bad",result="error"} 1.0' in page


@pytest.mark.req("POLICY-4002")
async def test_no_byte_of_a_prompt_is_in_a_question(front: Opener, tmp_path: Path) -> None:
    """The module looks through all its memory for the word, and denies what has it."""
    decide = (
        "(local $i i32) (loop (if (i32.eq (i32.load (local.get $i)) (i32.const 0x4f44414d))"
        f" (then (return {answer(2)}))) (br_if 0 (i32.lt_u (local.tee $i (i32.add (local.get $i)"
        " (i32.const 1))) (i32.const 60000))))" + answer(1)
    )
    plugin = configured(tmp_path, "look", module(decide), decides=(What.ADMISSION,))
    async with front(policy=Policy(plugins=(plugin,))) as it:
        assert (await it.post("/v1/tasks", task_body(prompt="MADO MADO"))).status == 202
        # it does find what a question has
        refused = await it.post("/v1/tasks", task_body(model_ref="mock:MADO"))
        assert refused.status == 403


@pytest.mark.req("POLICY-4030", "POLICY-4031", "POLICY-4033")
async def test_a_page_is_fetched_for_whoever_asks(front: Opener, files: Files) -> None:
    files.add("/a", b"Hello", headers={"Content-Type": "text/plain"})
    fetch = Fetch(
        enabled=True, allow=(Text(f"localhost:{files.port}"),), private=(Text("127.0.0.1"),
        Text("::1")),
    )  # fmt: skip
    async with front(policy=Policy(fetch=fetch)) as it:
        got = await it.post("/v1/fetch", {"url": f"{files.url}/a"})
        assert got.status == 200
        assert read_json(got) == {
            "status": 200,
            "url": f"{files.url}/a",
            "content_type": "text/plain",
            "size_bytes": 5,
            "encoding": "utf-8",
            "body": "Hello",
        }
        refused = await it.post("/v1/fetch", {"url": "https://evil.example/"})
        assert (refused.status, read_json(refused)["retriable"]) == (403, False)
        assert (await it.post("/v1/fetch", {"url": "gopher://x"})).status == 400
        more = {"url": f"{files.url}/a", "method": "PUT"}
        assert (await it.post("/v1/fetch", more)).status == 400
        page = (await it.get("/metrics")).body.decode()
        assert 'policy_fetches_total{result="ok"} 1.0' in page
        assert 'policy_fetches_total{result="denied"} 2.0' in page
        assert lint(page) == []


@pytest.mark.req("POLICY-4030")
async def test_without_a_word_in_the_configuration_nothing_is_fetched(front: Opener) -> None:
    async with front() as it:
        refused = await it.post("/v1/fetch", {"url": "https://example.org/"})
        assert refused.status == 403
        assert "policy.fetch.enabled is false" in read_json(refused)["message"]


@pytest.mark.req("POLICY-4032")
async def test_whoever_fetches_too_often_is_told_when_to_come_back(
    front: Opener, files: Files
) -> None:
    files.add("/a", b"a")
    fetch = Fetch(
        enabled=True, allow=(Text(f"localhost:{files.port}"),), private=(Text("127.0.0.1"),
        Text("::1")), requests_per_min=Positive(1),
    )  # fmt: skip
    async with front(policy=Policy(fetch=fetch)) as it:
        assert (await it.post("/v1/fetch", {"url": f"{files.url}/a"})).status == 200
        late = await it.post("/v1/fetch", {"url": f"{files.url}/a"})
        assert late.status == 429
        assert read_json(late)["policy_label"] == "throttle"
        assert 0 < int(late.headers["retry-after"]) <= 60
        assert int(late.headers["x-backoff-ms"]) <= 60_000
