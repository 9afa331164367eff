"""The mock engine's routes, its slots and its queue: which request is answered by what.

HTTP/1.1 with keep-alive and bodies of known length, as llama-server's clients send; one request at
a time on a connection. While loading every route answers 503.
"""

from __future__ import annotations

import os
import signal
import socket
from collections import deque
from typing import Any, cast

import orjson

from poolmgr.mockengine import frames, text, vectors
from poolmgr.mockengine.generation import Generation, Order
from poolmgr.mockengine.loop import Loop, Wire
from poolmgr.mockengine.options import Options

MAX_HEAD = 64 << 10
MAX_BODY = 64 << 20  # a prompt of a million words, and more
RANDOM_SEED = 0xFFFFFFFF  # llama.cpp's LLAMA_DEFAULT_SEED: draw one
_POSTS = ("POST /completion", "POST /tokenize", "POST /v1/embeddings", "POST /rerank")
_SAMPLING = ("temperature", "top_k", "top_p", "min_p", "typical_p", "repeat_penalty")


class Server:
    """All connections, and who has a slot."""

    def __init__(self, loop: Loop, options: Options) -> None:
        self.loop, self.options = loop, options
        self.of_self_test = options.of_self_test
        self.loading = True
        self._free = list(range(options.slots - 1, -1, -1))
        self._waiting: deque[Connection] = deque()
        self.running: dict[int, Generation | vectors.Reader] = {}

    def accept_from(self, listener: socket.socket) -> None:
        """Serve every connection that `listener` brings."""

        def accept(_events: int) -> None:
            try:
                sock, _ = listener.accept()
            except OSError:  # it left again, or there are no descriptors left for it
                return
            Connection(self, Wire(self.loop, sock, split=self.options.split_utf8))

        listener.setblocking(False)
        self.loop.add(listener.fileno(), 1, accept)

    def admit(self, connection: Connection) -> None:
        """Give the connection's order a slot, now or when one is free."""
        if self._free:
            connection.run(self._free.pop())
        else:
            self._waiting.append(connection)

    def release(self, slot: int) -> None:
        """Pass a slot on to whoever waits for one."""
        del self.running[slot]
        if self._waiting:
            # in a turn of its own: one-token answers would nest as deep as the queue is long
            self.loop.soon(lambda: self._pass_on(slot))
        else:
            self._free.append(slot)

    def _pass_on(self, slot: int) -> None:
        if self._waiting:
            self._waiting.popleft().run(slot)
        else:
            self._free.append(slot)

    def forget(self, connection: Connection) -> None:
        """Strike a connection off the queue."""
        self._waiting.remove(connection)

    def slots(self) -> list[dict[str, Any]]:
        """Return what `GET /slots` says."""
        return [
            {"id": slot, "n_ctx": self.options.ctx, "is_processing": False}
            if (generation := self.running.get(slot)) is None
            else {
                "id": slot,
                "n_ctx": self.options.ctx,
                "is_processing": True,
                "n_prompt_tokens": generation.tokens_held,
            }
            for slot in range(self.options.slots)
        ]


class Connection:
    """One client: reads requests one after the other, answers each."""

    def __init__(self, server: Server, wire: Wire) -> None:
        self._server, self._wire = server, wire
        self._buffer = bytearray()
        self._order: Order | vectors.Reading | None = None
        """What is being generated, or waits for a slot."""
        self._generation: Generation | vectors.Reader | None = None
        self._slot = -1
        self._testing = False
        """The request is of poolmgr's self-test."""
        wire.on_data, wire.on_gone = self._data, self._gone

    def run(self, slot: int) -> None:
        """Generate the order in this slot."""
        server, order = self._server, self._order
        assert order is not None
        self._slot = slot
        options = server.of_self_test if self._testing else server.options
        self._generation = (
            Generation(server.loop, options, self._wire, order, self._generated)
            if isinstance(order, Order)
            else vectors.Reader(server.loop, options, self._wire, order, self._generated)
        )
        server.running[slot] = self._generation
        self._generation.start(slot)

    def _generated(self) -> None:
        self._order = self._generation = None
        self._server.release(self._slot)
        if self._buffer:
            self._server.loop.soon(self._parse)

    def _gone(self) -> None:
        if self._testing and self._server.options.self_test == "keep_slot":
            return
        if self._generation is not None:
            self._generation.cancel()
            self._generation = self._order = None
            self._server.release(self._slot)
        elif self._order is not None:
            self._order = None
            self._server.forget(self)

    def _data(self, data: bytes) -> None:
        self._buffer += data
        if self._order is None:
            self._parse()
        elif len(self._buffer) > MAX_HEAD + MAX_BODY:
            self._wire.close()
            self._gone()

    def _parse(self) -> None:
        while self._order is None and not self._wire.gone:
            end = self._buffer.find(b"\r\n\r\n")
            if end < 0:
                if len(self._buffer) > MAX_HEAD:
                    self._wire.close()
                return
            head = bytes(self._buffer[:end]).lower()
            size = _length(head)
            if size is None or size > MAX_BODY:
                status = 411 if size is None else 413
                self._wire.write(frames.error(status, "invalid_request_error", "no usable length"))
                self._wire.close()
                return
            if len(self._buffer) < end + 4 + size:
                return
            method, _, rest = bytes(self._buffer[:end]).partition(b" ")
            path = rest.split(b" ", 1)[0].split(b"?", 1)[0]
            body = bytes(self._buffer[end + 4 : end + 4 + size])
            del self._buffer[: end + 4 + size]
            self._testing = b"\r\nx-self-test:" in head
            answer = self._answer(f"{method.decode('latin-1')} {path.decode('latin-1')}", body)
            if answer:
                self._wire.write(answer)

    def _answer(self, route: str, body: bytes) -> bytes:
        """Return the answer; b"" when an order was taken, which is answered as it goes."""
        options = self._server.options
        if self._server.loading:
            return frames.error(503, "unavailable_error", "Loading model")
        if route == "GET /health":
            return frames.answer(200, {"status": "ok"})
        if route == "GET /props":
            return frames.answer(200, _props(options))
        if route == "GET /slots":
            return frames.answer(200, self._server.slots())
        if route not in _POSTS:
            return frames.error(404, "not_found_error", "File Not Found")
        try:
            value = orjson.loads(body)
        except orjson.JSONDecodeError as exc:
            return frames.error(400, "invalid_request_error", f"not JSON: {exc.msg}")
        if not isinstance(value, dict):
            return frames.error(400, "invalid_request_error", "must be an object")
        if route == "POST /tokenize":
            words = str(value.get("content", "")).split()
            return frames.answer(200, {"tokens": [len(word) for word in words]})
        if self._testing and options.self_test in ("die", "garbage"):
            return _no_answer(options.self_test)
        if route == "POST /completion":
            return self._complete(cast("dict[str, Any]", value))
        make = vectors.rerank if route == "POST /rerank" else vectors.embedding
        reading = make(cast("dict[str, Any]", value), options)
        if isinstance(reading, bytes):
            return reading
        self._order = reading
        self._server.admit(self)
        return b""

    def _complete(self, value: dict[str, Any]) -> bytes:
        options, prompt, asked = self._server.options, value.get("prompt"), value.get("n_predict")
        if not isinstance(prompt, str):
            return frames.error(400, "invalid_request_error", '"prompt" must be a string')
        tokens_in = text.count(prompt)
        if tokens_in >= options.ctx:
            return frames.too_long(tokens_in, options.ctx)
        seed = value.get("seed", RANDOM_SEED)
        if type(seed) is not int:
            return frames.error(400, "invalid_request_error", '"seed" must be an integer')
        room = options.ctx - tokens_in
        wanted = asked if isinstance(asked, int) and asked >= 0 else room + 1
        if seed in (-1, RANDOM_SEED):
            seed = int.from_bytes(os.urandom(4), "big")
        parameters = repr([value.get(name) for name in _SAMPLING])
        self._order = Order(
            voice=text.voice(options.model, prompt, seed, parameters),
            tokens_in=tokens_in,
            limit=min(wanted, room),
            truncated=wanted > room,
            stream=value.get("stream") is True,
        )
        self._server.admit(self)
        return b""


def _no_answer(fault: str) -> bytes:
    """Fail a self-test in a way that needs no job."""
    if fault == "die":
        os.kill(os.getpid(), signal.SIGKILL)
    return frames.answer(200, {"garbage": "no result"})


def _length(head: bytes) -> int | None:
    """Return the length of the body; None when it is chunked or makes no sense."""
    if b"\r\ntransfer-encoding:" in head:
        return None
    at = head.find(b"\r\ncontent-length:")
    if at < 0:
        return 0
    digits = head[at + 17 :].split(b"\r\n", 1)[0].strip()
    return int(digits) if digits.isdigit() and len(digits) < 19 else None


def _props(options: Options) -> dict[str, Any]:
    return {
        "default_generation_settings": {"n_ctx": options.ctx, "params": {}},
        "total_slots": options.slots,
        "model_alias": options.model,
        "model_path": options.model,
        "build_info": frames.BUILD_INFO,
    }
