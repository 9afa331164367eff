"""orchctl run: text, place in the queue, resuming, cancel, exit codes."""

from __future__ import annotations

import io
import os
import signal
import sys
import time
from types import SimpleNamespace

import orjson
import pytest

from orchd.cli import follow, reach
from orchd.kit.http import Response, Sink, Streaming, json_response
from orchd.wire import codec, sse
from orchd.wire.errors import TABLE, Envelope, Kind, OrchError
from orchd.wire.shapes import TaskRequest
from tests.cli.peer import STARTED, capabilities, end, stream, tokens

GOOD = (STARTED, tokens(2, "Hel", "lo"), end(4))


def metrics(frame_id: int, position: int, starts_ms: int, **more: int) -> bytes:
    data = {"queue_depth": 9, "on_time_probability": 0.5, "queue_position": position}
    data |= {"predicted_start_ms": starts_ms, **more}
    return sse.frame(frame_id, "metrics", orjson.dumps(data))


def test_text_goes_to_stdout_and_the_rest_to_stderr(peer, orchctl):
    peer.say("GET", "stream", stream(*GOOD))
    ran = orchctl("run", "--url", peer.url, "Say hello")
    assert (ran.code, ran.out) == (0, "Hello\n")
    assert "is accepted by demo: position 0, starts in 0 ms" in ran.err
    assert "2 tokens in 40 ms (length)" in ran.err
    body = codec.loads(TaskRequest, peer.asked("/v1/tasks")[0].body)
    assert (body.engine, body.model_ref, body.prompt) == ("mock", "mock:lorem", "Say hello")
    assert (body.ctx, body.max_tokens, body.priority) == (4000, 100, "interactive")
    assert body.determinism == "best_effort"  # a pool of several slots takes it too


def test_every_option_reaches_the_task(peer, orchctl, monkeypatch):
    peer.say("GET", "stream", stream(*GOOD))
    monkeypatch.setattr(sys, "stdin", io.StringIO("from stdin\n"))
    session = "0e6b8c8e-9d6e-4a52-8e6c-1fb3a3f0c001"
    options = "--engine mock --model mock:lorem --priority batch --max-tokens 7 --ctx 99 --seed -4"
    more = f"--strict --deadline-ms 1234 --session {session} --url {peer.url} -"
    assert orchctl("run", *options.split(), *more.split()).code == 0
    body = codec.loads(TaskRequest, peer.asked("/v1/tasks")[0].body)
    assert (body.priority, body.max_tokens, body.ctx, body.seed) == ("batch", 7, 99, -4)
    assert body.determinism == "strict"
    assert (body.deadline_ms, body.session_id, body.prompt) == (1234, session, "from stdin\n")


@pytest.mark.req("HME-020")
def test_position_prediction_and_budgets_are_shown(peer, orchctl):
    def accepted(request):
        answer = peer.accept(request, position=3)
        budgets = (("X-Budget-Tokens-Remaining", "500"), ("X-Budget-Time-Remaining-Ms", "90"))
        return Response(202, answer.body, headers=budgets)

    waiting = (
        metrics(1, 2, 2100),
        metrics(1, 2, 2000),
        metrics(1, 1, 900, cost_budget_remaining=7),
    )
    peer.say("POST", "/v1/tasks", accepted)
    peer.say("GET", "stream", stream(STARTED, *waiting, tokens(2, "x"), metrics(2, 0, 0), end(3)))
    ran = orchctl("run", "--url", peer.url, "p")
    assert ran.out == "x\n"
    lines = ran.err.splitlines()
    assert "position 3, starts in 3.0 s (90 %: 6.0 s); budget left: 500 tokens, 90 ms" in lines[0]
    assert lines[1] == "waiting: position 2, starts in 2.1 s"
    assert lines[2] == "waiting: position 1, starts in 900 ms; budget left: cost 7"
    assert len(lines) == 4  # the position that did not change is not repeated, nor one at work


def test_a_broken_stream_is_resumed_and_nothing_is_lost_or_seen_twice(peer, orchctl, monkeypatch):
    monkeypatch.setattr(follow, "FIRST_DELAY_S", 0.001)
    peer.say(
        "GET",
        "stream",
        stream(STARTED, tokens(2, "a", "b"), b"id: 4\nevent: tok", cut=True),
        stream(tokens(4, "c"), b": beat\n\n", cut=True),
        stream(tokens(5, "d")),  # an orderly end of the body is no end of the task
        stream(end(6)),
    )
    ran = orchctl("run", "--url", peer.url, "p")
    assert (ran.code, ran.out) == (0, "abcd\n")
    resumed = [each.headers.get("last-event-id") for each in peer.asked("/stream")]
    assert resumed == [None, "3", "4", "5"]


def test_it_gives_up_after_some_breaks_in_a_row(peer, orchctl, monkeypatch):
    monkeypatch.setattr(follow, "FIRST_DELAY_S", 0.004)
    peer.say("GET", "stream", stream(STARTED, cut=True), stream(cut=True))
    begun = time.monotonic()
    ran = orchctl("run", "--url", peer.url, "p")
    assert time.monotonic() - begun >= 0.004 * (1 + 1 + 2 + 4 + 8)
    assert ran.code == TABLE[Kind.DAEMON_UNREACHABLE].exit_code
    assert len(peer.asked("/stream")) == follow.MAX_BREAKS + 1
    assert "systemctl start orchd.socket" in ran.err


@pytest.mark.parametrize(
    ("then", "why"),
    [
        (stream(end(2, "canceled")), "orchd cancels a task whose last reader leaves"),
        (OrchError(Kind.UNKNOWN_ID, "no task"), "orchd was started anew"),
    ],
)
def test_a_break_that_ended_the_task_is_no_cancel_of_ours(peer, orchctl, monkeypatch, then, why):
    monkeypatch.setattr(follow, "FIRST_DELAY_S", 0.001)
    peer.say("GET", "stream", stream(STARTED, cut=True), then)
    ran = orchctl("run", "--url", peer.url, "p")
    assert ran.code == TABLE[Kind.DAEMON_UNREACHABLE].exit_code
    assert "the stream broke (" in ran.err
    assert why in ran.err
    assert "cancel_on_disconnect = false" in ran.err


@pytest.mark.parametrize(
    ("answers", "kind"),
    [
        ([OrchError(Kind.UNKNOWN_ID, "no task")], Kind.UNKNOWN_ID),
        ([stream(STARTED, cut=True), OrchError(Kind.BAD_TOKEN, "no")], Kind.BAD_TOKEN),
    ],
)
def test_a_stream_that_is_refused_is_no_break(peer, orchctl, monkeypatch, answers, kind):
    monkeypatch.setattr(follow, "FIRST_DELAY_S", 0.001)
    peer.say("GET", "stream", *answers)
    ran = orchctl("run", "--json", "--url", peer.url, "p")
    assert ran.code == TABLE[kind].exit_code
    assert "cancel_on_disconnect" not in ran.err
    said = [orjson.loads(line)["event"] for line in ran.out.splitlines()]
    assert said == ["accepted", *["started", "broken"] * (len(answers) - 1), "failed"]


@pytest.mark.req("ORCH-3331", "ORCH-3330", "HME-032")
@pytest.mark.parametrize(
    ("kind", "code"),
    [
        (Kind.WORKER_RESET, 75),
        (Kind.DECODE_TIMEOUT, 75),
        (Kind.DEADLINE_PASSED, 75),
        (Kind.INTERNAL, 70),
    ],
)
def test_an_error_frame_ends_with_its_exit_code_and_advice(peer, orchctl, kind, code):
    envelope = codec.dumps(OrchError(kind, "it broke").envelope())
    peer.say("GET", "stream", stream(STARTED, tokens(2, "a"), sse.frame(3, "error", envelope)))
    ran = orchctl("run", "--url", peer.url, "p")
    assert (ran.code, ran.out) == (code, "a\n")
    assert f"{TABLE[kind].code}: it broke" in ran.err
    assert f"Next: {TABLE[kind].advice}" in ran.err


@pytest.mark.req("ORCH-3331", "ORCH-3330", "HME-032")
@pytest.mark.parametrize(
    ("kind", "code", "whose"),
    [
        (Kind.QUEUE_FULL, 75, "The pool is at fault, or busy"),
        (Kind.INVALID_PARAMS, 65, "The request is at fault"),
        (Kind.POOL_UNAVAILABLE, 69, "The pool is at fault, or busy"),
        (Kind.MISSING_TOKEN, 77, "The request is at fault"),
        (Kind.DEADLINE_UNMET, 75, "The request is at fault"),
    ],
)
def test_a_refusal_says_what_whose_fault_and_what_next(peer, orchctl, kind, code, whose):
    fields = {"policy_label": "reject", "retry_after_ms": 1500} if kind is Kind.QUEUE_FULL else {}
    peer.say("POST", "/v1/tasks", OrchError(kind, "it is so", **fields))
    ran = orchctl("run", "--url", peer.url, "p")
    assert (ran.code, ran.out) == (code, "")
    assert "it is so" in ran.err
    assert whose in ran.err
    assert ("Retry in 1.5 s." in ran.err) == (kind is Kind.QUEUE_FULL)
    next_step = "--token-file" if kind is Kind.MISSING_TOKEN else f"Next: {TABLE[kind].advice}"
    assert next_step in ran.err
    assert not peer.asked("/stream")


@pytest.mark.req("HME-020")
def test_budgets_are_numbers_in_json_as_they_are_in_frames(peer, orchctl):
    def accepted(request):
        answer = peer.accept(request)
        told = (("X-Budget-Tokens-Remaining", "500"), ("X-Budget-Cost-Remaining", "2.25"))
        return Response(202, answer.body, headers=told)

    peer.say("POST", "/v1/tasks", accepted)
    peer.say("GET", "stream", stream(STARTED, end(2)))
    ran = orchctl("run", "--json", "--url", peer.url, "p")
    first = orjson.loads(ran.out.splitlines()[0])
    assert first["budgets"] == {"tokens_budget_remaining": 500, "cost_budget_remaining": 2.25}


def test_json_is_one_object_for_each_frame(peer, orchctl):
    peer.say("GET", "stream", stream(STARTED, metrics(1, 0, 0), tokens(2, "é\n"), end(3)))
    ran = orchctl("run", "--json", "--url", peer.url, "p")
    frames = [orjson.loads(line) for line in ran.out.splitlines()]
    assert [each["event"] for each in frames] == [
        "accepted", "started", "metrics", "token", "end"
    ]  # fmt: skip
    assert frames[3] == {"event": "token", "id": "2", "data": {"t": "é\n", "i": 0}}
    assert ran.err == ""
    peer.say("POST", "/v1/tasks", OrchError(Kind.QUEUE_FULL, "full", retry_after_ms=5))
    ran = orchctl("run", "--json", "--url", peer.url, "p")
    failed = orjson.loads(ran.out)
    assert failed["event"] == "failed"
    assert codec.structure(Envelope, failed["data"]).retry_after_ms == 5


def test_ctrl_c_cancels_the_task(peer, orchctl):
    async def run(sink: Sink) -> None:
        sink.send_nowait(STARTED + tokens(2, "a"))
        os.kill(os.getpid(), signal.SIGINT)
        await sink.wait_closed()

    peer.say("GET", "stream", Streaming("text/event-stream", run))
    ran = orchctl("run", "--url", peer.url, "p")
    assert ran.code == 130
    (canceled,) = peer.asked("/cancel")
    task = orjson.loads(peer.asked("/v1/tasks")[0].body)["task_id"]
    assert canceled.path == f"/v1/tasks/{task}/cancel"
    assert f"{task} is canceled" in ran.err


def test_ctrl_c_says_when_the_cancel_was_not_answered(peer, orchctl):
    async def run(sink: Sink) -> None:
        os.kill(os.getpid(), signal.SIGINT)
        await sink.wait_closed()

    peer.say("GET", "stream", Streaming("text/event-stream", run))
    peer.say("POST", "cancel", OrchError(Kind.INTERNAL, "no"))
    ran = orchctl("run", "--url", peer.url, "p")
    assert ran.code == 130
    assert "orchd did not answer to the cancel" in ran.err


def test_a_reader_that_left_cancels_the_task(peer, orchctl, monkeypatch):
    def write(_text: str) -> None:
        raise BrokenPipeError

    peer.say("GET", "stream", stream(*GOOD))
    gone = SimpleNamespace(write=write, flush=lambda: None, isatty=lambda: False)
    monkeypatch.setattr(sys, "stdout", gone)
    ran = orchctl("run", "--url", peer.url, "p")
    assert ran.code == 130
    assert len(peer.asked("/cancel")) == 1


def test_a_task_that_somebody_else_canceled(peer, orchctl):
    peer.say("GET", "stream", stream(STARTED, end(2, "canceled")))
    assert orchctl("run", "--url", peer.url, "p").code == 130
    assert not peer.asked("/cancel")


@pytest.mark.parametrize(
    ("served", "options", "code", "message"),
    [
        ((), [], 75, "no pool is ready"),
        (("a", "b"), [], 65, "choose one"),
        (("a", "b"), ["--model", "c"], 69, "nothing that is ready serves model c"),
        (("a",), ["--engine", "vllm"], 69, "Use one of: --engine mock --model a"),
    ],
)
def test_what_cannot_be_chosen_is_said(peer, orchctl, served, options, code, message):
    peer.say("GET", "/v1/capabilities", json_response(capabilities(*served)))
    ran = orchctl("run", "--url", peer.url, *options, "p")
    assert ran.code == code
    assert message in ran.err
    assert not peer.asked("/v1/tasks")


def test_what_is_named_in_full_is_asked_for_even_if_it_is_not_ready(peer, orchctl):
    peer.say("GET", "/v1/capabilities", json_response(capabilities()))
    peer.say("POST", "/v1/tasks", OrchError(Kind.POOL_UNREADY, "still loading"))
    ran = orchctl("run", "--url", peer.url, "--engine", "mock", "--model", "m", "p")
    assert ran.code == 75
    assert "still loading" in ran.err


def test_a_terminal_gets_no_control_characters(peer, orchctl, monkeypatch):
    peer.say("GET", "stream", stream(STARTED, tokens(2, "a\x1b[2Jb", "\tc\nd"), end(4)))
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    assert orchctl("run", "--url", peer.url, "p").out == "a [2Jb\tc\nd\n"


def test_a_small_context_leaves_room_for_the_prompt(peer, orchctl):
    peer.say("GET", "stream", stream(*GOOD))
    assert orchctl("run", "--url", peer.url, "--ctx", "60", "p").code == 0
    body = codec.loads(TaskRequest, peer.asked("/v1/tasks")[0].body)
    assert (body.ctx, body.max_tokens) == (60, 30)


def test_an_empty_prompt_is_wrong_usage(orchctl):
    assert orchctl("run", "").code == 2


def test_a_prompt_that_is_no_text_is_wrong_usage(orchctl, monkeypatch):
    assert orchctl("run", "\udcff").code == 2
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"\xff"), "utf-8"))
    ran = orchctl("run", "-")
    assert ran.code == 2
    assert "stdin is not UTF-8" in ran.err


def test_what_no_pool_can_have_is_wrong_usage(orchctl, monkeypatch):
    for option in ("--seed", "--ctx", "--max-tokens", "--deadline-ms"):
        ran = orchctl("run", option, "9" * 20, "p")
        assert (ran.code, f"Invalid value for '{option}'" in ran.err) == (2, True)
    monkeypatch.setattr(sys, "stdin", io.StringIO("x" * (reach.MAX_TEXT + 1)))
    ran = orchctl("run", "-")
    assert (ran.code, "which orchd does not take" in ran.err) == (2, True)
