"""Sessions over HTTP: what is told of them and their budgets, and what is refused."""

from __future__ import annotations

from uuid import uuid4

import orjson
import pytest
import trio

from orchd.config.pool import Price
from orchd.config.serving import Budget, Sessions
from orchd.wire import sse
from orchd.wire.ids import NonNegative, Positive
from tests.edge.conftest import Front, Opener, read_json
from tests.fakes.tasks import task_body

PRICE = Price(tokens_in=NonNegative(1.0), tokens_out=NonNegative(2.0))
SESSIONS = Sessions(
    budget=Budget(tokens=Positive(100), time_ms=Positive(60_000), cost=NonNegative(0.5))
)


async def a_turn(front: Front, session: str, **more: object) -> list[sse.Event]:
    """A whole task of two tokens; its frames."""
    task = await front.submit(session_id=session, prompt="x" * 7, max_tokens=10, **more)
    job = await front.peer.next_job()
    job.tokens("a", "b")
    job.end()
    decoder, events = sse.Decoder(), []
    with trio.fail_after(5):
        async with front.client.open("GET", f"/v1/tasks/{task}/stream") as incoming:
            while data := await incoming.read_some():
                events += decoder.feed(data)
    return events


async def ended(front: Front, task: str) -> None:
    with trio.fail_after(5):
        while read_json(await front.get(f"/v1/tasks/{task}"))["state"] != "ended":
            await trio.sleep(0.01)


@pytest.mark.req("OC-CORE-1024", "OC-METRICS-7111", "ORCH-3105")
async def test_what_is_left_is_in_headers_in_started_and_in_the_session(front: Opener) -> None:
    async with front(sessions=SESSIONS, price=PRICE) as it:
        session = str(uuid4())
        body = task_body(session_id=session, prompt="x" * 7, max_tokens=10)
        answer = await it.post("/v1/tasks", body)
        told = {k: v for k, v in answer.headers.items() if k.startswith("x-budget")}
        # at most 10 tokens of prompt and 10 out: 20 tokens, 0.03 of cost; 10 tokens at 50 a second
        assert told == {
            "x-budget-tokens-remaining": "80",
            "x-budget-time-remaining-ms": "59780",
            "x-budget-cost-remaining": "0.47",
        }
        again = await it.post("/v1/tasks", body)
        assert again.headers["x-budget-tokens-remaining"] == "80"
        job = await it.peer.next_job()
        job.tokens("a", "b")
        job.end()
        await ended(it, body["task_id"])
        events = await a_turn(it, session)
        started = orjson.loads(events[0].data)
        assert (started["tokens_used"], started["tokens_remaining"]) == (5, 75)
        said = read_json(await it.get(f"/v1/sessions/{session}"))
        assert said.pop("ttl_ms_remaining") in range(599_000, 600_001)
        assert said == {
            "turns": 2,
            "kv_bytes": 0,
            "kv_warmth": True,
            "tokens_budget_remaining": 90,
            "time_budget_remaining_ms": 59_980,
            "cost_budget_remaining": pytest.approx(0.5 - 2 * 0.007),
        }


async def test_without_budgets_nothing_is_said_of_them(front: Opener) -> None:
    async with front() as it:
        session = str(uuid4())
        answer = await it.post("/v1/tasks", task_body(session_id=session))
        assert not [name for name in answer.headers if name.startswith("x-budget")]
        assert read_json(await it.get(f"/v1/sessions/{session.upper()}")) == {
            "ttl_ms_remaining": 600_000, "turns": 1, "kv_bytes": 0, "kv_warmth": False,
        }  # fmt: skip


@pytest.mark.req("OC-CORE-1023", "ORCH-3099", "OC-CTRL-2068")
async def test_a_task_beyond_the_budget_is_refused_with_the_field_and_what_to_do(
    front: Opener,
) -> None:
    async with front(sessions=SESSIONS, price=PRICE) as it:
        answer = await it.post("/v1/tasks", task_body(max_tokens=100))
        said = read_json(answer)
        assert (answer.status, said["code"], said["retriable"]) == (400, "INVALID_PARAMS", False)
        assert said["message"].startswith("$.max_tokens: session ")
        assert "100 tokens left, and this task may use 102" in said["message"]
        assert "fewer tokens" in said["hint"]
        assert read_json(await it.get("/v1/tasks"))["tasks"] == []


@pytest.mark.req("OC-CORE-1023")
async def test_the_exact_count_of_a_prompt_decides_where_its_bytes_are_too_many(
    front: Opener,
) -> None:
    async with front(sessions=SESSIONS, price=PRICE) as it:
        answer = await it.post("/v1/tasks", task_body(prompt="word " * 30, max_tokens=10))
        assert answer.status == 202
        assert answer.headers["x-budget-tokens-remaining"] == "60"
        assert len(it.peer.asked) == 1


@pytest.mark.req("ORCH-3021")
async def test_the_turn_over_the_limit_ends_the_session(front: Opener) -> None:
    async with front(sessions=Sessions(max_turns=Positive(2))) as it:
        session = str(uuid4())
        for _ in range(2):
            await a_turn(it, session)
        body = task_body(session_id=session)
        answer = await it.post("/v1/tasks", body)
        said = read_json(answer)
        assert (answer.status, said["code"], said["retriable"]) == (409, "INVALID_PARAMS", True)
        assert said["message"].startswith("$.session_id: ")
        assert (await it.get(f"/v1/sessions/{session}")).status == 404
        assert (await it.post("/v1/tasks", body)).status == 202
        assert read_json(await it.get(f"/v1/sessions/{session}"))["turns"] == 1


async def test_a_session_that_is_deleted_is_gone_and_its_task_goes_on(front: Opener) -> None:
    async with front() as it:
        session = str(uuid4())
        task = await it.submit(session_id=session)
        job = await it.peer.next_job()
        for _ in range(2):
            answer = await it.client.request("DELETE", f"/v1/sessions/{session}", deadline_s=5)
            assert (answer.status, answer.body) == (204, b"")
        missing = await it.get(f"/v1/sessions/{session}")
        assert (missing.status, read_json(missing)["code"]) == (404, "INVALID_PARAMS")
        job.tokens("a")
        job.end()
        await ended(it, task)
        assert (await it.get(f"/v1/sessions/{session}")).status == 404


async def test_a_session_is_over_after_its_time_to_live(front: Opener) -> None:
    async with front(sessions=Sessions(ttl_ms=Positive(60))) as it:
        session = str(uuid4())
        await it.submit(session_id=session)
        job = await it.peer.next_job()
        await trio.sleep(0.1)  # a task of it runs
        assert b"\nsessions_active 1.0\n" in (await it.get("/metrics")).body
        assert (await it.get(f"/v1/sessions/{session}")).status == 200
        job.end()
        with trio.fail_after(5):
            while (await it.get(f"/v1/sessions/{session}")).status != 404:
                await trio.sleep(0.01)
        assert b"\nsessions_active 0.0\n" in (await it.get("/metrics")).body


@pytest.mark.parametrize("method", ["GET", "DELETE"])
async def test_what_is_no_uuid_is_no_session(front: Opener, method: str) -> None:
    async with front(ready=False) as it:
        answer = await it.client.request(method, "/v1/sessions/mine", deadline_s=5)
        assert (answer.status, read_json(answer)["code"]) == (404, "INVALID_PARAMS")


@pytest.mark.req("ORCH-3100", "OC-METRICS-7110", "HME-021")
async def test_metrics_frames_of_running_and_of_waiting_tasks_carry_the_budgets(
    front: Opener,
) -> None:
    async with front(sessions=SESSIONS, price=PRICE) as it:
        first = await it.submit(max_tokens=10, prompt="x" * 7)
        second = await it.submit(max_tokens=20, prompt="x" * 7)
        await it.peer.next_job()
        decoder = sse.Decoder()

        async def budget(task: str) -> tuple[object, ...]:
            with trio.fail_after(5):
                async with it.client.open("GET", f"/v1/tasks/{task}/stream") as incoming:
                    while True:
                        for event in decoder.feed(await incoming.read_some()):
                            if event.name == "metrics":
                                frame = orjson.loads(event.data)
                                keys = ("tokens_budget_remaining", "cost_budget_remaining",
                                        "kv_warmth", "queue_depth")  # fmt: skip
                                assert "on_time_probability" in frame
                                return tuple(frame[key] for key in keys)

        assert await budget(first) == (80, 0.47, False, 1)
        assert await budget(second) == (70, 0.45, False, 1)
