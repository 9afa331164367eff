"""A llama-server as a whole: the calls that every adapter of one makes, and the answers' meaning.

engines/llamacpp.py and engines/mock.py add how theirs is started. Its OpenAI routes are never
exposed [OC-ADAPT-5002]; of them only /v1/embeddings is asked, by poolmgr itself.
"""

from __future__ import annotations

from collections.abc import Container, Sequence
from typing import Any

import orjson

from orchd.wire.errors import Kind, OrchError
from orchd.wire.ids import EngineId
from poolmgr.dialects import (
    llama,
    llama_arguments,
    llama_errors,
    llama_memory,
    llama_vectors,
    vectors,
)
from poolmgr.dialects.exchange import Call, Job, Load, Props, Reader, Reply, Tuning, Usage
from poolmgr.dialects.refused import ErrorReader

_JSON = (("content-type", "application/json"),)


class LlamaServer:
    """The methods of engines.base.Adapter, but for `launch`."""

    engine_id: EngineId
    sampler_profiles: Container[str] = llama.SAMPLERS

    def tuning(self, arguments: Sequence[str]) -> Tuning:
        """Return micro-batch size and flash attention."""
        return llama_arguments.tuning(arguments)

    def telling(self, line: str) -> bool:
        """Whether a line says of VRAM or of the GPU what may matter later."""
        return llama_memory.telling(line)

    def out_of_vram(self, lines: Sequence[str]) -> str | None:
        """Return the line about CUDA's memory that ran out."""
        return llama_memory.out_of_vram(lines)

    def why_on_cpu(self, lines: Sequence[str]) -> str | None:
        """Return the line about layers or CUDA."""
        return llama_memory.why_on_cpu(lines)

    def health(self) -> Call:
        """Return `GET /health`."""
        return Call(method="GET", path="/health")

    def load_state(self, status: int, body: bytes) -> tuple[Load, str]:
        """Return where it is: while it loads, every route answers 503."""
        if status == 200:
            return Load.SERVING, "the engine serves"
        error = llama_errors.http_error(status, body)
        if error.kind is Kind.POOL_UNREADY:
            return Load.LOADING, "the engine loads the model"
        return Load.BROKEN, error.message

    def props(self) -> tuple[Call, ...]:
        """Return `GET /props`."""
        return (Call(method="GET", path="/props"),)

    def read_props(self, replies: Sequence[Reply]) -> Props:
        """Return build, slots and context. Raises OrchError(ENGINE_PROTOCOL)."""
        (reply,) = replies
        if reply.status != 200:
            raise OrchError(
                Kind.ENGINE_PROTOCOL,
                f"the engine answers {reply.status} when asked what it is",
            )
        value = _json(reply.body)
        known = value if isinstance(value, dict) else {}
        build, settings = known.get("build_info"), known.get("default_generation_settings")
        if not isinstance(build, str) or not build or not isinstance(settings, dict):
            raise OrchError(
                Kind.ENGINE_PROTOCOL, "/props names no build_info: this is no llama-server we know"
            )
        return Props(
            engine_version=build,
            slots=_positive(known.get("total_slots")),
            ctx_max=_positive(settings.get("n_ctx")),
        )

    def usage(self) -> Call | None:
        """Return `GET /slots`."""
        return Call(method="GET", path="/slots")

    def read_usage(self, body: bytes) -> Usage:
        """Return the slots in use, and the share of the context that they hold.

        Raises OrchError(ENGINE_PROTOCOL).
        """
        slots = _json(body)
        if not isinstance(slots, list) or not all(isinstance(slot, dict) for slot in slots):
            raise OrchError(Kind.ENGINE_PROTOCOL, "the engine's /slots is no list of slots")
        active = [slot for slot in slots if slot.get("is_processing") is True]
        room = [_positive(slot.get("n_ctx")) for slot in slots]
        # "prompt" is what the slot holds by now: the prompt and all that was generated
        held = [_positive(slot.get("n_prompt_tokens")) for slot in active]
        ratio = None
        if slots and None not in room and None not in held:
            ratio = sum(filter(None, held)) / sum(filter(None, room))
        return Usage(slots_active=len(active), kv_cache_usage_ratio=ratio)

    def tokenize(self, text: str) -> Call | None:
        """Return `POST /tokenize`, which reads the text as `/completion` reads a prompt: special
        tokens in it are recognised, and those of the beginning are added."""
        value = {"content": text, "add_special": True, "parse_special": True}
        return Call(
            method="POST", path="/tokenize", body=orjson.dumps(value), headers=_JSON,
            repeatable=True,
        )  # fmt: skip

    def read_tokenize(self, status: int, body: bytes) -> tuple[int, ...]:
        """Return the tokens. Raises OrchError: what the engine's error means, ENGINE_PROTOCOL."""
        if status != 200:
            raise llama_errors.http_error(status, body)
        value = _json(body)
        tokens = value.get("tokens") if isinstance(value, dict) else None
        if not isinstance(tokens, list) or not set(map(type, tokens)) <= {int}:
            raise OrchError(Kind.ENGINE_PROTOCOL, "the engine's /tokenize has no list of tokens")
        return tuple(tokens)

    def submit(self, job: Job) -> Call:
        """Return `POST /completion`, or that of the workload. Nothing of the client's headers goes
        along: X-Conversation-Id would cut the generation loose from its connection, and cancel
        would be lost."""
        path = llama_vectors.PATHS.get(job.workload)
        if path is not None:
            return Call(method="POST", path=path, body=vectors.body(job), headers=_JSON)
        return Call(method="POST", path="/completion", body=llama.completion(job), headers=_JSON)

    def reader(self, job: Job, status: int) -> Reader:
        """Return the reader of a completion, of vectors or scores, or of an error."""
        if job.workload in llama_vectors.PATHS:
            return vectors.VectorsReader(job, status, llama_vectors.refusal)
        if status != 200:
            return ErrorReader(status, llama_errors.http_error)
        return llama.StreamReader(job)


def _json(body: bytes) -> Any:
    try:
        return orjson.loads(body)
    except orjson.JSONDecodeError:
        return None


def _positive(value: object) -> int | None:
    return value if type(value) is int and value > 0 else None
