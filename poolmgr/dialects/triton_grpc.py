"""Triton's `ModelStreamInfer` over gRPC: one request as bytes, the stream of answers read.

The messages are KServe's (inference.GRPCInferenceService, grpc_service.proto); the field numbers
are named below. A body is gRPC's: each message behind a byte of flags and four of length. The
trailers come as a last frame with flag 0x80, as gRPC-Web has them, so that they are bytes too.

A model's error is words without a status. `triton_grpc_error: true` would bring one, and kills the
server: tritonserver 2.51 ends with signal 11 when a stream fails at once (recorded).
"""

from __future__ import annotations

import struct
from functools import lru_cache
from typing import Any, Final

from orchd.wire.errors import Kind, OrchError
from poolmgr.dialects import protobuf, triton, triton_errors
from poolmgr.dialects.exchange import Broken, Event, Job, Pieces
from poolmgr.dialects.triton import Count, Outline

PATH: Final = "/inference.GRPCInferenceService/ModelStreamInfer"
MAX_MESSAGE: Final = 4 << 20  # gRPC's own default
TRAILERS: Final = 0x80
_HEAD: Final = struct.Struct(">BI")
# ModelInferRequest
_MODEL, _REQUEST_INPUTS, _RAW_INPUTS = 1, 5, 7
# InferInputTensor, InferOutputTensor
_NAME, _TYPE, _SHAPE = 1, 2, 3
# ModelStreamInferResponse, ModelInferResponse
_ERROR, _ANSWER, _OUTPUTS, _RAW_OUTPUTS = 1, 2, 5, 6
_TYPES: Final = {
    "TYPE_BOOL": ("BOOL", "<?"),
    "TYPE_INT32": ("INT32", "<i"),
    "TYPE_INT64": ("INT64", "<q"),
    "TYPE_UINT32": ("UINT32", "<I"),
    "TYPE_UINT64": ("UINT64", "<Q"),
    "TYPE_FP32": ("FP32", "<f"),
    "TYPE_FP64": ("FP64", "<d"),
}
_FORMATS: Final = dict(_TYPES.values())


def body(job: Job, model: str, outline: Outline, profile: str) -> bytes:
    """Return the one message of a request. Raises as triton.inputs_of."""
    message = protobuf.data(_MODEL, model.encode())
    raw = b""
    shape = protobuf.data(_SHAPE, b"\x01\x01" if outline.batched else b"\x01")
    for name, value in triton.inputs_of(job, outline, profile).items():
        kind, packed = _packed(value, outline.inputs.get(name, "TYPE_STRING"))
        tensor = protobuf.data(_NAME, name.encode()) + protobuf.data(_TYPE, kind.encode()) + shape
        message += protobuf.data(_REQUEST_INPUTS, tensor)
        raw += protobuf.data(_RAW_INPUTS, packed)
    message += raw
    return _HEAD.pack(0, len(message)) + message


def _packed(value: Any, kind: str) -> tuple[str, bytes]:
    if kind == "TYPE_STRING":
        try:
            text = str(value).encode()
        except UnicodeEncodeError:
            raise OrchError(
                Kind.INVALID_PARAMS, "the prompt is not valid Unicode", path="$.prompt"
            ) from None
        return "BYTES", struct.pack("<I", len(text)) + text
    if kind not in _TYPES:
        raise OrchError(Kind.CONFIG_INVALID, f"the model has an input of type {kind}, not known")
    name, form = _TYPES[kind]
    return name, struct.pack(form, value)


def frame(flags: int, payload: bytes) -> bytes:
    """Return one frame of a body."""
    return _HEAD.pack(flags, len(payload)) + payload


class GrpcReader:
    """Reads the stream of answers. Has the methods of engines.base.Reader."""

    def __init__(self, job: Job) -> None:
        self._count = Count(job)
        self._buffer = b""
        self._rest = b""
        """Of a character that is not whole yet."""
        self._over = False

    def feed(self, data: bytes) -> list[Event]:
        """Return what `data` completes."""
        if self._over:
            return []
        buffer, at = self._buffer + data, 0
        texts: list[str] = []
        end: list[Event] = []
        while not end and len(buffer) - at >= _HEAD.size:
            flags, size = _HEAD.unpack_from(buffer, at)
            if size > MAX_MESSAGE or flags not in (0, TRAILERS):
                end = self._broken("sent what is no gRPC message")
                break
            if len(buffer) - at - _HEAD.size < size:
                break
            at += _HEAD.size
            payload = buffer[at : at + size]
            at += size
            if flags == TRAILERS:
                end = self._last(payload)
                break
            try:
                text = self._message(payload)
            except OrchError as exc:
                end = self._end(Broken(exc))
            except (protobuf.BadMessage, struct.error, TypeError, ValueError, KeyError):
                end = self._broken("sent a message that is none of a model of text")
            else:
                if text:
                    texts.append(text)
        self._buffer = buffer[at:]
        return [Pieces(tuple(texts)), *end] if texts else end

    def eof(self) -> list[Event]:
        """Return the fault of a stream that ended without its status."""
        if self._over:
            return []
        why = "the engine broke off in the middle of its answer"
        return self._end(Broken(OrchError(Kind.ENGINE_DIED, why)))

    def _message(self, payload: bytes) -> str:
        answer = b""
        for field, _, value in protobuf.fields(payload):
            if field == _ERROR and value:
                raise triton_errors.mapped(_bytes(value).decode("utf-8", "replace"), None)
            if field == _ANSWER:
                answer = _bytes(value)
        outputs = _outputs(answer)
        if not outputs:
            return ""  # the last one of a decoupled model is empty
        text = outputs.pop(triton.TEXT, [b""])
        taken = self._count.take(outputs)
        assert not taken, "the text is taken as bytes here"
        return self._whole(b"".join(text))

    def _whole(self, data: bytes) -> str:
        """Return whole characters; the bytes of one that is not wait for the next answer."""
        data = self._rest + data
        self._rest = b""
        try:
            return data.decode()
        except UnicodeDecodeError as exc:
            if len(data) - exc.start < 4 and exc.reason == "unexpected end of data":
                self._rest = data[exc.start :]
                return data[: exc.start].decode()
            return data.decode("utf-8", "replace")

    def _last(self, payload: bytes) -> list[Event]:
        said: dict[str, str] = {}
        for line in payload.decode("latin-1").split("\r\n"):
            name, _, value = line.partition(":")
            said[name.strip().lower()] = value.strip()
        code = said.get("grpc-status", "")
        if code == "0":
            return self._end(self._count.end())
        if not code.isdigit():
            return self._broken("ended without a gRPC status")
        return self._end(Broken(triton_errors.of_grpc(int(code), said.get("grpc-message", ""))))

    def _broken(self, did: str) -> list[Event]:
        return self._end(Broken(OrchError(Kind.ENGINE_PROTOCOL, f"the engine {did}")))

    def _end(self, event: Event) -> list[Event]:
        self._over, self._buffer = True, b""
        return [event]


def _outputs(answer: bytes) -> dict[str, list[Any]]:
    """Return the tensors of one answer by name; texts as bytes. Raises as protobuf and struct."""
    named: list[tuple[str, str]] = []
    raw: list[bytes] = []
    for field, _, value in protobuf.fields(answer):
        if field == _OUTPUTS:
            named.append(_described(_bytes(value)))
        elif field == _RAW_OUTPUTS:
            raw.append(_bytes(value))
    if len(named) != len(raw):
        raise ValueError("outputs without their contents")
    found: dict[str, list[Any]] = {}
    for (name, kind), data in zip(named, raw, strict=True):
        if kind == "BYTES" and name != triton.TEXT:
            found[name] = [text.decode("utf-8", "replace") for text in _elements(kind, data)]
        elif kind == "BYTES" or kind in _FORMATS:
            found[name] = _elements(kind, data)
    return found


@lru_cache(256)
def _described(tensor: bytes) -> tuple[str, str]:
    """Return name and type of an output. All answers of a model have the same: three quarters of
    the work of reading one are saved."""
    said = {number: item for number, _, item in protobuf.fields(tensor)}
    return _bytes(said[_NAME]).decode(), _bytes(said[_TYPE]).decode()


def _elements(kind: str, data: bytes) -> list[Any]:
    if kind != "BYTES":
        return [value for (value,) in struct.iter_unpack(_FORMATS[kind], data)]
    found: list[Any] = []
    at = 0
    while at < len(data):
        (size,) = struct.unpack_from("<I", data, at)
        at += 4
        if at + size > len(data):
            raise ValueError("a text is cut off")
        found.append(data[at : at + size])
        at += size
    return found


def _bytes(value: int | bytes) -> bytes:
    if not isinstance(value, bytes):
        raise TypeError(value)
    return value
