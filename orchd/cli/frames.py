"""How `orchctl run` shows a stream: text and its place in the queue, or JSON lines."""

from __future__ import annotations

import sys
from collections.abc import Mapping

import orjson

from orchd.cli import say
from orchd.wire.errors import OrchError
from orchd.wire.shapes import TaskAccepted
from orchd.wire.sse import Event
from orchd.wire.words import many

_BUDGETS = (
    ("x-budget-tokens-remaining", "tokens_budget_remaining", "{} tokens"),
    ("x-budget-time-remaining-ms", "time_budget_remaining_ms", "{} ms"),
    ("x-budget-cost-remaining", "cost_budget_remaining", "cost {}"),
)


class Text:
    """Tokens to stdout; position, prediction and budgets to stderr [HME-020]."""

    def __init__(self) -> None:
        self._live = sys.stderr.isatty()
        self._safe = sys.stdout.isatty()
        """A terminal is shown no control characters that a model made up."""
        self._waiting = ""
        self._started = False
        self._last = ""

    def accepted(self, task: TaskAccepted, headers: Mapping[str, str]) -> None:
        """Say what was promised."""
        told = {field: headers[name] for name, field, _ in _BUDGETS if name in headers}
        p90 = say.seconds(task.predicted_start_p90_ms)
        say.note(
            f"{task.task_id} is accepted by {task.pool_id}: position {task.queue_position}, starts "
            f"in {say.seconds(task.predicted_start_ms)} (90 %: {p90}){_budgets(told)}"
        )

    def frame(self, event: Event, data: dict[str, object]) -> None:
        """Show one frame."""
        if event.name == "token":
            self._token(str(data.get("t", "")))
        elif event.name == "metrics" and not self._started:
            self._metrics(data)
        elif event.name == "narration" and isinstance(data.get("human"), str):
            if data.get("action") != "end":  # the figures of `end` say it better
                self._line_end()
                say.note(str(data["human"]))
        elif event.name == "end":
            self._end(data)
        elif event.name == "error":
            self._line_end()

    def broken(self, why: str, again_s: float) -> None:
        """Say that the connection is made again. Text in a pipe goes on where it was."""
        self._line_end() if self._safe else self._clear()
        say.note(f"the stream broke ({why}); resuming in {say.seconds(again_s * 1000)}", "yellow")

    def failed(self, _error: OrchError) -> None:
        """Leave the line; the error itself is said once, by main."""
        self._line_end()

    def canceled(self, task_id: str, confirmed: bool) -> None:
        """Say that Ctrl-C has canceled the task."""
        self._line_end()
        word = "canceled" if confirmed else "left; orchd did not answer to the cancel"
        say.note(f"{task_id} is {word}", "yellow")

    def _token(self, text: str) -> None:
        if not self._started:
            self._started = True
            self._clear()
        if text:
            sys.stdout.write(say.plain(text) if self._safe else text)
            sys.stdout.flush()
            self._last = text[-1]

    def _metrics(self, data: dict[str, object]) -> None:
        position, starts = data.get("queue_position"), data.get("predicted_start_ms")
        if not isinstance(position, int) or not isinstance(starts, int):
            return
        budgets = {field: data[field] for _, field, _ in _BUDGETS if data.get(field) is not None}
        text = f"waiting: position {position}, starts in {say.seconds(starts)}{_budgets(budgets)}"
        if self._live:  # one line, written over
            sys.stderr.write(f"\r\033[K{text}")
            sys.stderr.flush()
        elif text.partition(",")[0] != self._waiting.partition(",")[0]:
            say.note(text)
        self._waiting = text

    def _clear(self) -> None:
        if self._live and self._waiting:
            sys.stderr.write("\r\033[K")
            sys.stderr.flush()
        self._waiting = ""

    def _line_end(self) -> None:
        self._clear()
        if self._started and self._last != "\n":
            sys.stdout.write("\n")
            sys.stdout.flush()
            self._last = "\n"

    def _end(self, data: dict[str, object]) -> None:
        self._line_end()
        took = data.get("decode_time_ms")
        time = f" in {say.seconds(took)}" if isinstance(took, int) else ""
        if "result" in data:
            read, done = data.get("tokens_in"), " read"
        else:
            read, done = data.get("tokens_out"), ""
        tokens = many(read, "token") if isinstance(read, int) else "tokens"
        say.note(f"{tokens}{done}{time} ({data.get('finish_reason')})")


class Lines:
    """One JSON object a line: `{event, id, data}` for each frame, `accepted` before them."""

    def __init__(self) -> None:
        self._failed = False
        """The last frame was an error."""

    def accepted(self, task: TaskAccepted, headers: Mapping[str, str]) -> None:
        """Write the 202 and the budgets that came with it."""
        told = {field: _number(headers[name]) for name, field, _ in _BUDGETS if name in headers}
        say.json({"event": "accepted", "data": task, **({"budgets": told} if told else {})})

    def frame(self, event: Event, data: dict[str, object]) -> None:
        """Write one frame."""
        self._failed = event.name == "error"
        say.json({"event": event.name, "id": event.id, "data": data})

    def broken(self, why: str, again_s: float) -> None:
        """Write that the connection is made again."""
        say.json({"event": "broken", "data": {"why": why, "again_ms": round(again_s * 1000)}})

    def failed(self, error: OrchError) -> None:
        """Write an error that came in no frame; its message and advice go to stderr as well."""
        if not self._failed:
            say.json({"event": "failed", "data": error.envelope()})

    def canceled(self, task_id: str, confirmed: bool) -> None:
        """Write that Ctrl-C has canceled the task."""
        say.json({"event": "canceled", "data": {"task_id": task_id, "confirmed": confirmed}})


def _number(text: str) -> int | float | str:
    """Return what a header says as the number it is in frames; what is none as it came."""
    try:
        value = orjson.loads(text)
    except orjson.JSONDecodeError:
        return text
    return value if isinstance(value, int | float) else text


def _budgets(told: Mapping[str, object]) -> str:
    parts = [form.format(told[field]) for _, field, form in _BUDGETS if field in told]
    return f"; budget left: {', '.join(parts)}" if parts else ""
