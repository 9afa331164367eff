"""A Triton server as a whole: the calls that poolmgr makes, and what answers mean.

Recorded from tritonserver 2.51 (contracts/dialects/triton). engines/triton.py adds how it is
started.
"""

from __future__ import annotations

import re
from collections.abc import Container, Sequence
from typing import Any, Final

import orjson

from orchd.wire.errors import Kind, OrchError
from poolmgr.dialects import prom, triton, triton_errors, triton_grpc
from poolmgr.dialects.exchange import Call, Job, Load, Props, Reader, Reply, Usage
from poolmgr.dialects.refused import ErrorReader
from poolmgr.dialects.triton import Outline

_JSON: Final = (("content-type", "application/json"),)
_DIGEST: Final = re.compile(r"sha256:[0-9a-f]{64}")
_PENDING: Final = "nv_inference_pending_request_count"
_ACTIVE: Final = 'nv_trt_llm_request_metrics{request_type="active"}'
_KV: Final = 'nv_trt_llm_kv_cache_block_metrics{kv_cache_block_type="fraction"}'


class TritonServer:
    """The methods of engines.base.Adapter that talk, for one model of a server."""

    sampler_profiles: Container[str] = triton.SAMPLERS
    strict_slots: int | None = 1

    def __init__(self, model: str, *, grpc: bool, profile: str) -> None:
        self._model = model
        self._grpc = grpc
        self._profile = profile
        self._outline: Outline | None = None
        """What the model takes, once the server has told it."""

    def health(self) -> Call:
        """Return `GET /v2/health/ready`."""
        return Call(method="GET", path="/v2/health/ready")

    def load_state(self, status: int, body: bytes) -> tuple[Load, str]:
        """Return where it is: 400 while a model is not ready."""
        if status == 200:
            return Load.SERVING, "the engine serves"
        if status in (400, 503):
            return Load.LOADING, "the engine loads its models"
        return Load.BROKEN, triton_errors.http_error(status, body).message

    def props(self) -> tuple[Call, ...]:
        """Return `GET /v2` and the model's configuration."""
        return (
            Call(method="GET", path="/v2"),
            Call(method="GET", path=f"/v2/models/{self._model}/config"),
        )

    def read_props(self, replies: Sequence[Reply]) -> Props:
        """Return the version, with TensorRT-LLM's where the model's parameters tell it, and the
        digest that they tell; learn what the model takes. Raises OrchError."""
        server, config = replies
        for reply in replies:
            if reply.status != 200:
                raise triton_errors.http_error(reply.status, reply.body)
        told, value = _object(server.body), _object(config.body)
        version, inputs = told.get("version"), value.get("input")
        if not isinstance(version, str) or not version or not isinstance(inputs, list):
            raise OrchError(Kind.ENGINE_PROTOCOL, "/v2 names no version: this is no Triton")
        types = {
            str(row["name"]): str(row.get("data_type"))
            for row in inputs
            if isinstance(row, dict) and "name" in row
        }
        outputs = value.get("output") if isinstance(value.get("output"), list) else []
        if types.get(triton.PROMPT) != "TYPE_STRING" or not any(
            isinstance(row, dict) and row.get("name") == triton.TEXT for row in outputs or ()
        ):
            raise OrchError(
                Kind.CONFIG_INVALID,
                f"model {self._model!r} does not turn {triton.PROMPT} into {triton.TEXT}: name one "
                "that does with engine.served_name, such as ensemble",
            )
        if _parameter(value, "accumulate_tokens") == "true":
            raise OrchError(
                Kind.CONFIG_INVALID,
                f"model {self._model!r} repeats its whole text with each token: set its parameter "
                "accumulate_tokens to false",
            )
        self._outline = Outline(inputs=types, batched=bool(value.get("max_batch_size")))
        trt = _parameter(value, "trtllm_version")
        digest = _parameter(value, "model_digest")
        return Props(
            engine_version=f"{version}+trtllm-{trt}" if trt else version,
            slots=None,
            ctx_max=None,
            model_digest=digest if digest and _DIGEST.fullmatch(digest) else None,
        )

    def usage(self) -> Call | None:
        """Return `GET /metrics`, which has an address of its own."""
        return Call(method="GET", path="/metrics", service="metrics")

    def read_usage(self, body: bytes) -> Usage:
        """Return what waits or runs, and TensorRT-LLM's share of its KV cache.

        Raises OrchError(ENGINE_PROTOCOL).
        """
        found = prom.sums(body, (_PENDING, _ACTIVE, _KV))
        if _PENDING not in found and _ACTIVE not in found:
            raise OrchError(Kind.ENGINE_PROTOCOL, f"the engine's /metrics has no {_PENDING}")
        active = found.get(_ACTIVE, found.get(_PENDING, 0.0))
        return Usage(slots_active=int(active), kv_cache_usage_ratio=found.get(_KV))

    def tokenize(self, text: str) -> Call | None:  # noqa: ARG002
        """Return None: Triton has no such route."""
        return None

    def read_tokenize(self, status: int, body: bytes) -> tuple[int, ...]:  # noqa: ARG002
        """Raise OrchError: nothing was asked."""
        raise OrchError(Kind.ENGINE_PROTOCOL, "the engine does not tell tokens")

    def submit(self, job: Job) -> Call:
        """Return `generate_stream`, or `ModelStreamInfer` over gRPC. Raises OrchError."""
        outline = self._outline
        if outline is None:
            raise OrchError(Kind.POOL_UNREADY, "the engine has not told what its model takes")
        if self._grpc:
            body = triton_grpc.body(job, self._model, outline, self._profile)
            return Call(
                method="POST",
                path=triton_grpc.PATH,
                body=body,
                service="grpc",
            )
        path = f"/v2/models/{self._model}/generate_stream"
        body = triton.body(job, outline, self._profile)
        return Call(method="POST", path=path, body=body, headers=_JSON)

    def reader(self, job: Job, status: int) -> Reader:
        """Return the reader of a completion or of an error."""
        if status != 200:
            return ErrorReader(status, triton_errors.http_error)
        return triton_grpc.GrpcReader(job) if self._grpc else triton.StreamReader(job)


def _parameter(config: dict[str, Any], name: str) -> str | None:
    parameters = config.get("parameters")
    said = parameters.get(name) if isinstance(parameters, dict) else None
    value = said.get("string_value") if isinstance(said, dict) else None
    return value if isinstance(value, str) and value else None


def _object(body: bytes) -> dict[str, Any]:
    try:
        value = orjson.loads(body)
    except orjson.JSONDecodeError:
        return {}
    return value if isinstance(value, dict) else {}
