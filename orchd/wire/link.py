"""orchd-link/1: the frames between orchd and one poolmgr, many jobs on one connection, sans-IO.

A message is a head of 9 bytes, big-endian `u32 length, u8 type, u32 job`, and `length` bytes of
body. Job 0 is the link itself. Bodies are JSON of the classes below, but for FRAMES, whose body is
`u32 first token index, u16 token count` and then SSE frames exactly as a client will read them:
orchd counts with the head and copies the rest; and for RESULT, whose bodies together are the JSON
of the result. specs/04-link.md tells the conversation.

    orchd -> poolmgr: HELLO, OPEN, CANCEL, CREDIT, ACK
    poolmgr -> orchd: WELCOME, STATE, FRAMES, RESULT, END, FAIL, FREED
"""

from __future__ import annotations

import enum
import struct
from collections.abc import Iterator
from typing import Final

from attrs import field, frozen

from orchd.wire import codec
from orchd.wire.errors import Kind, OrchError
from orchd.wire.ids import Count, Int64, JobNo, PoolId, Positive, ReplicaId, TaskId
from orchd.wire.shapes import Determinism, FinishReason, Workload

PROTOCOL: Final = "orchd-link/1"
"""The token of the HTTP Upgrade header that opens a link (`GET /link`)."""

HEAD: Final = struct.Struct(">IBI")
FRAMES_HEAD: Final = struct.Struct(">IH")
MAX_BODY: Final = 16 << 20
"""Bytes. A prompt of a million tokens is about 4 MB of JSON."""
MAX_FRAMES_BODY: Final = 64 << 10
"""Bytes of one FRAMES message: a reader's send; larger is slower (specs/benchmarks.md)."""


class Type(enum.IntEnum):
    """The kinds of message."""

    HELLO = 1
    OPEN = 2
    CANCEL = 3
    CREDIT = 4
    ACK = 5
    WELCOME = 65
    STATE = 66
    FRAMES = 67
    END = 68
    FAIL = 69
    FREED = 70
    RESULT = 71


_LEAST = {int(t): FRAMES_HEAD.size if t is Type.FRAMES else 0 for t in Type}
"""Bytes that a body of a known type has at least: its reader unpacks without looking."""


@frozen(kw_only=True)
class Hello:
    """First message of orchd: who it is."""

    version: str
    instance: str
    """A UUID of this life of orchd."""


@frozen(kw_only=True)
class Welcome:
    """First message of poolmgr; a STATE follows at once."""

    version: str
    pool_id: PoolId
    replica_id: ReplicaId


@frozen(kw_only=True)
class Open:
    """OPEN: run this job now. poolmgr has a free slot, or it answers FAIL replica_exhausted."""

    task_id: TaskId
    correlation_id: str
    workload: Workload
    max_tokens: Positive
    determinism: Determinism
    first_id: Positive
    """The SSE id of token 0; token i has first_id + i."""
    credit: Positive
    """Bytes of FRAMES bodies that may be sent before a CREDIT."""
    ctx: Positive
    seed: Int64 | None = None
    prompt: str | None = field(default=None, repr=False)
    inputs: tuple[str, ...] | None = field(default=None, repr=False)
    model_ref: str | None = None
    """Of the task: a replica that has changed its model meanwhile answers FAIL pool_unready."""


@frozen(kw_only=True)
class Credit:
    """CREDIT: so many more bytes of FRAMES bodies may be sent for this job."""

    bytes: Positive


@frozen(kw_only=True)
class End:
    """END: the job ran to its end; its slot is free. orchd answers ACK."""

    tokens_in: Count
    tokens_out: Count
    first_token_ms: Count | None = None
    """From OPEN to the first token, as poolmgr saw it."""
    decode_ms: Count
    """From OPEN to the end."""
    finish_reason: FinishReason


@frozen(kw_only=True)
class Fail:
    """FAIL: the job broke; its slot is free. orchd answers ACK."""

    kind: Kind
    message: str
    tokens_out: Count = Count(0)


@frozen(kw_only=True)
class Freed:
    """FREED: answer to CANCEL, sent when the engine's slot is free. Nothing of the job follows."""

    tokens_out: Count


Message = tuple[int, int, bytes]
"""(type, job, body): a tuple, because the decoder makes one for every batch of tokens."""


def encode(kind: Type, job: JobNo | int, body: bytes = b"") -> bytes:
    """Return one message."""
    return HEAD.pack(len(body), kind, job) + body


def encode_json(kind: Type, job: JobNo | int, value: object) -> bytes:
    """Return one message whose body is the JSON of `value`."""
    return encode(kind, job, codec.dumps(value))


def encode_frames(job: JobNo | int, first_index: int, count: int, frames: bytes) -> bytes:
    """Return a FRAMES message of `count` tokens, the first of index `first_index`."""
    return b"%b%b%b" % (
        HEAD.pack(FRAMES_HEAD.size + len(frames), Type.FRAMES, job),
        FRAMES_HEAD.pack(first_index, count),
        frames,
    )


def encode_result(job: JobNo | int, result: bytes) -> Iterator[bytes]:
    """Yield the RESULT messages of a job, in order: frames of other jobs fit between them."""
    for at in range(0, len(result), MAX_FRAMES_BODY):
        yield encode(Type.RESULT, job, result[at : at + MAX_FRAMES_BODY])


class Decoder:
    """Bytes in any pieces -> whole messages, in order."""

    def __init__(self) -> None:
        self._buffer = b""

    def feed(self, data: bytes) -> list[Message]:
        """Return the messages that `data` completes. Raises OrchError(ENGINE_PROTOCOL)."""
        buffer = self._buffer + data if self._buffer else data
        messages: list[Message] = []
        at, size, head = 0, len(buffer), HEAD.size
        unpack = HEAD.unpack_from
        while size - at >= head:
            length, kind, job = unpack(buffer, at)
            if length > MAX_BODY or length < _LEAST.get(kind, MAX_BODY + 1):
                raise OrchError(
                    Kind.ENGINE_PROTOCOL,
                    f"the link's peer sent a message of type {kind} and {length} bytes",
                )
            end = at + head + length
            if end > size:
                break
            messages.append((kind, job, buffer[at + head : end]))
            at = end
        self._buffer = buffer[at:] if at else buffer
        return messages


def body(cls: type[codec.T], data: bytes) -> codec.T:
    """Return a JSON body as its class. Raises OrchError(ENGINE_PROTOCOL)."""
    try:
        return codec.loads(cls, data)
    except codec.ShapeError as exc:
        raise OrchError(
            Kind.ENGINE_PROTOCOL, f"the link's peer sent a wrong message: {exc}"
        ) from exc
