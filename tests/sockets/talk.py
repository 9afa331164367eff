"""Requests of the public API, for tests of the whole suite."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import orjson
import trio

from orchd.kit.client import Answer, Client, Incoming
from orchd.wire import sse
from tests.fakes.tasks import task_body

STREAM_S = 30.0


async def post(client: Client, path: str, body: object = None) -> Answer:
    data = b"" if body is None else orjson.dumps(body)
    headers = {"content-type": "application/json"}
    return await client.request("POST", path, data, headers=headers)


async def get(client: Client, path: str) -> Any:
    answer = await client.request("GET", path)
    assert answer.status == 200, answer.body
    return orjson.loads(answer.body)


async def submit(client: Client, **changes: Any) -> dict[str, Any]:
    answer = await post(client, "/v1/tasks", task_body(**changes))
    assert answer.status == 202, answer.body
    accepted = orjson.loads(answer.body)
    assert isinstance(accepted, dict)
    return accepted


@asynccontextmanager
async def stream(client: Client, task: str) -> AsyncIterator[Incoming]:
    async with client.open("GET", f"/v1/tasks/{task}/stream") as incoming:
        assert incoming.status == 200
        yield incoming


async def events_of(client: Client, task: str) -> list[sse.Event]:
    decoder, events = sse.Decoder(), []
    with trio.fail_after(STREAM_S):
        async with stream(client, task) as incoming:
            while data := await incoming.read_some():
                events += decoder.feed(data)
    return events


async def until(incoming: Incoming, mark: bytes) -> bytes:
    data = b""
    with trio.fail_after(STREAM_S):
        while mark not in data:
            more = await incoming.read_some()
            assert more, "the stream ended early"
            data += more
    return data


def text_of(events: list[sse.Event]) -> str:
    return "".join(orjson.loads(e.data)["t"] for e in events if e.name == "token")


def last(events: list[sse.Event]) -> Any:
    return orjson.loads(events[-1].data)


def names(events: list[sse.Event]) -> list[str]:
    return [event.name for event in events if event.name != "metrics"]
