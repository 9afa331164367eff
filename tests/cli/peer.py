"""An orchd of canned answers, on kit's server, in a thread of its own: what orchctl talks to."""

from __future__ import annotations

import threading
from collections.abc import Callable
from functools import partial
from pathlib import Path

import orjson
import trio

from orchd.kit import fds, http
from orchd.kit.http import Request, Response, Sink, Streaming, json_response
from orchd.wire import sse
from orchd.wire.control import Capabilities, Capability
from orchd.wire.errors import Kind, OrchError
from orchd.wire.ids import Count, EngineId, PoolId, Positive, TaskId
from orchd.wire.shapes import TaskAccepted, Workload

Answer = Response | Streaming | OrchError
Answering = Callable[[Request], Answer]


def capability(model: str, *workloads: Workload) -> Capability:
    return Capability(
        engine=EngineId("mock"),
        engine_version="1",
        sampler_profile_version="v1",
        model_ref=model,
        ctx_max=Positive(4000),
        max_tokens_out=Positive(100),
        supported_workloads=workloads or (Workload.COMPLETION,),
        concurrency=Count(1),
        slots_total=Count(1),
        rate_limits={},
        features=(),
        pools=(PoolId("demo"),),
    )


def capabilities(*models: str) -> Capabilities:
    return Capabilities(api_version="1.0.0", engines=tuple(map(capability, models)))


def stream(*frames: bytes, cut: bool = False) -> Streaming:
    """Return an answer of these frames; `cut`: the connection is reset after them."""

    async def run(sink: Sink) -> None:
        sink.send_nowait(b"".join(frames))
        await sink.flush()
        if cut:
            await trio.sleep(0.01)  # a reset discards what the reader has not taken yet
            sink.abort()

    return Streaming("text/event-stream", run)


def tokens(first_id: int, *texts: str) -> bytes:
    return sse.token_frames(first_id, first_id - 2, texts)


STARTED = sse.frame(1, "started", b'{"queue_position":0,"predicted_start_ms":0}')


def end(frame_id: int, reason: str = "length") -> bytes:
    data = b'{"tokens_out":2,"decode_time_ms":40,"decode_ms":40,"finish_reason":"%b"}'
    return sse.frame(frame_id, "end", data % reason.encode())


class Peer:
    """Its routes are `answers`: (method, path) -> what is answered next, the last one for ever."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.url = f"unix:{path}"
        self.requests: list[Request] = []
        self.answers: dict[tuple[str, str], list[Answer | Answering]] = {}
        self.say("GET", "/v1/capabilities", json_response(capabilities("mock:lorem")))
        self.say("POST", "/v1/tasks", self.accept)
        self.say("POST", "cancel", Response(204))
        self._ready = threading.Event()
        self._token: trio.lowlevel.TrioToken | None = None
        self._stop: trio.Event | None = None
        self._thread = threading.Thread(target=trio.run, args=(self._main,))

    def say(self, method: str, path: str, *answers: Answer | Answering) -> None:
        """Answer requests for a path, or for one that ends so, with these in turn."""
        self.answers[method, path] = list(answers)

    def asked(self, end: str) -> list[Request]:
        return [each for each in self.requests if each.path.endswith(end)]

    def accept(self, request: Request, position: int = 0) -> Response:
        task = task_id(request)
        accepted = TaskAccepted(
            task_id=task,
            queue_position=Count(position),
            predicted_start_ms=Count(position * 1000),
            predicted_start_p90_ms=Count(position * 2000),
            backoff_ms=Count(0),
            pool_id=PoolId("demo"),
            stream_url=f"/v1/tasks/{task}/stream",
        )
        return json_response(accepted, 202)

    def __enter__(self) -> Peer:
        self._thread.start()
        self._ready.wait(5)
        return self

    def __exit__(self, *_: object) -> None:
        assert self._token is not None
        assert self._stop is not None
        self._token.run_sync_soon(self._stop.set)
        self._thread.join(10)
        assert not self._thread.is_alive()

    async def _main(self) -> None:
        self._token = trio.lowlevel.current_trio_token()
        self._stop = trio.Event()
        listener = fds.bind_unix(self.path)
        with listener:
            async with trio.open_nursery() as nursery:
                await nursery.start(
                    partial(http.serve, [listener], self._handle, stop=self._stop, drain_s=0.0)
                )
                self._ready.set()

    async def _handle(self, request: Request) -> Response | Streaming:
        self.requests.append(request)
        for (method, path), answers in self.answers.items():
            if method == request.method and request.path.endswith(path):
                answer = answers.pop(0) if len(answers) > 1 else answers[0]
                if callable(answer) and not isinstance(answer, Response | Streaming):
                    answer = answer(request)
                if isinstance(answer, OrchError):
                    raise answer
                return answer
        raise OrchError(Kind.UNKNOWN_ROUTE, f"nothing at {request.path}")


def task_id(request: Request) -> TaskId:
    return TaskId(orjson.loads(request.body)["task_id"])
