"""What is logged of an error that nobody expected holds nothing that a user wrote."""

from __future__ import annotations

import json

import pytest

from orchd.core.events import Event, Submit
from orchd.wire import codec, control, link, results, shapes
from tests.edge.conftest import Opener, read_json
from tests.fakes.tasks import task_body

CANARY = "a canary that nobody may keep"


@pytest.mark.req("ORCH-3021")
async def test_a_traceback_with_the_request_in_its_words_says_no_prompt(
    front: Opener, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    async with front() as it:

        def broken(event: Event, _now: float) -> object:
            assert isinstance(event, Submit)
            raise LookupError(f"a bug of ours, about {event!r} and {vars(it.app.front)}")

        with monkeypatch.context() as patch:
            patch.setattr(it.app.front, "handle", broken)
            body = task_body(prompt=CANARY)
            answer = await it.post("/v1/tasks", body)
        assert (answer.status, read_json(answer)["code"]) == (500, "INTERNAL")
        assert CANARY.encode() not in answer.body
    logged = capfd.readouterr().err
    [event] = [
        each for each in map(json.loads, logged.splitlines()) if each["event"] == "handler_failed"
    ]
    assert "LookupError: a bug of ours" in event["traceback"]
    assert body["task_id"] in event["traceback"]
    assert CANARY not in logged


@pytest.mark.req("ORCH-3021")
@pytest.mark.parametrize(
    "value",
    [
        codec.structure(shapes.TaskRequest, task_body(prompt=CANARY)),
        codec.structure(shapes.TaskRequest, task_body(inputs=[CANARY])),
        codec.structure(shapes.Token, {"t": CANARY, "i": 0}),
        codec.structure(control.TokenizeRequest, {"model_ref": "m", "text": CANARY}),
        codec.structure(control.PoolTokenize, {"text": CANARY}),
        codec.structure(
            shapes.Ended,
            {"tokens_out": 0, "decode_time_ms": 0, "decode_ms": 0, "finish_reason": "stop",
             "result": [CANARY]},
        ),
        results.Ready(CANARY.encode()),
        codec.structure(
            link.Open,
            {**{k: v for k, v in task_body().items() if k in
                ("task_id", "workload", "max_tokens", "ctx")},
             "correlation_id": "c", "determinism": "strict", "first_id": 1, "credit": 1,
             "prompt": CANARY, "inputs": [CANARY]},
        ),
    ],
    ids=lambda value: type(value).__name__,
)  # fmt: skip
def test_what_users_and_models_write_is_in_no_repr(value: object) -> None:
    assert CANARY not in repr(value)
    assert CANARY.encode() in codec.dumps(value)
