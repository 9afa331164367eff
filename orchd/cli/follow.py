"""Following one task's stream: resumed where it broke, with nothing lost or seen twice."""

from __future__ import annotations

from typing import Final, Protocol

import orjson
import trio

from orchd.cli import reach
from orchd.kit.client import Client, PeerError
from orchd.wire import sse
from orchd.wire.errors import Kind, OrchError
from orchd.wire.ids import TaskId
from orchd.wire.results import MAX_RESULT_BYTES

MAX_BREAKS: Final = 5
"""Breaks in a row without a frame in between before we give up: 6 s with the delays below."""
FIRST_DELAY_S: Final = 0.2
MAX_ERROR_BYTES: Final = 1 << 16
IDLE_S: Final = 120.0
"""Comments come every 15 s unless configured otherwise: longer silence is a dead connection."""


class Shown(Protocol):
    """Where frames go."""

    def frame(self, event: sse.Event, data: dict[str, object]) -> None:
        """Show one frame."""

    def broken(self, why: str, again_s: float) -> None:
        """Say that the connection broke and is made again."""


async def follow(client: Client, task_id: TaskId, shown: Shown) -> dict[str, object]:
    """Show every frame once; return the data of `end`.

    Raises OrchError: for `error`, and when a break of the connection was the end of the task.
    """
    last_id: str | None = None
    breaks, broke = 0, ""
    while True:
        before = last_id
        try:
            last_id, end = await _read(client, task_id, last_id, shown)
            why = "the stream ended before the task did"
        except _BrokenError as exc:
            last_id, end, why = exc.last_id, None, exc.why
        except reach.ToldError as exc:
            if broke and exc.kind is Kind.UNKNOWN_ID:
                raise _lost(broke, "orchd was started anew and does not know the task") from exc
            raise
        if end is not None:
            if broke and end.get("finish_reason") == "canceled":
                raise _lost(broke, "orchd cancels a task whose last reader leaves")
            return end
        broke = why
        breaks = 1 if last_id != before else breaks + 1
        if breaks > MAX_BREAKS:
            raise OrchError(Kind.DAEMON_UNREACHABLE, f"the stream of {task_id} broke: {why}")
        delay_s = FIRST_DELAY_S * 2 ** (breaks - 1)
        shown.broken(why, delay_s)
        await trio.sleep(delay_s)


def _lost(why: str, outcome: str) -> OrchError:
    return reach.ToldError(
        Kind.DAEMON_UNREACHABLE,
        f"the connection broke ({why}); {outcome}",
        "Run it again. With cancel_on_disconnect = false a task outlasts a connection.",
    )


class _BrokenError(Exception):
    def __init__(self, last_id: str | None, why: str) -> None:
        super().__init__(why)
        self.last_id = last_id
        self.why = why


async def _read(
    client: Client, task_id: TaskId, last_id: str | None, shown: Shown
) -> tuple[str | None, dict[str, object] | None]:
    """Read one connection to its end: the last id seen, and the data of `end` if that came."""
    headers = {"Last-Event-ID": last_id} if last_id is not None else {}
    decoder = sse.Decoder(limit=sse.MAX_EVENT_BYTES + MAX_RESULT_BYTES)
    try:
        async with client.open(
            "GET", f"/v1/tasks/{task_id}/stream", headers=headers, idle_s=IDLE_S
        ) as incoming:
            if incoming.status != 200:
                body = b""
                while len(body) < MAX_ERROR_BYTES and (data := await incoming.read_some()):
                    body += data
                raise reach.refused(incoming.status, body)
            while data := await incoming.read_some():
                for event in decoder.feed(data):
                    content = _content(event)
                    shown.frame(event, content)
                    last_id = event.id or last_id
                    if event.name == "error":
                        raise reach.from_envelope(content)
                    if event.name == "end":
                        return last_id, content
    except PeerError as exc:
        raise _BrokenError(last_id, exc.why) from exc
    return last_id, None


def _content(event: sse.Event) -> dict[str, object]:
    """Return a frame's data. Tolerant of fields that a newer daemon adds [contract: additive]."""
    try:
        content = orjson.loads(event.data)
    except orjson.JSONDecodeError:
        content = None
    if not isinstance(content, dict):
        raise OrchError(Kind.ENGINE_PROTOCOL, f"a {event.name} frame is no JSON object")
    return content
