"""What vLLM's OpenAI-compatible server has beside the routes that all have: version, tokens, load.

Recorded from vLLM 0.32.0 (contracts/dialects/vllm). A slow reader gets merged frames, so tokens are
counted by `usage` only; a prompt and max_tokens that together are over the context are accepted,
and cut short with `length`, which openai.py tells apart.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any, Final

import orjson

from orchd.wire.errors import Kind, OrchError
from poolmgr.dialects import openai, openai_errors, prom
from poolmgr.dialects.exchange import Call, Job, Load, Props, Reply, Usage
from poolmgr.dialects.openai_server import JSON, OpenAiServer, json_of, positive

SAMPLERS: Final[dict[str, dict[str, Any]]] = {
    "v1": {"temperature": 0.8, "top_k": 40, "top_p": 0.95, "min_p": 0.05}
}
_SEEDS: Final = 2**63
"""The client's seed is taken modulo this: vLLM takes signed 64 bits, and -1 means "draw one"."""
_RUNNING: Final = "vllm:num_requests_running"
_KV: Final = ("vllm:kv_cache_usage_perc", "vllm:gpu_cache_usage_perc")
"""The share of the KV cache, 0..1 in spite of its name; the second is what versions before 0.10
call it."""


class VllmServer(OpenAiServer):
    """The methods of engines.base.Adapter that talk."""

    sampler_profiles = SAMPLERS
    strict_slots = 1

    def health(self) -> Call:
        """Return `GET /health`."""
        return Call(method="GET", path="/health")

    def load_state(self, status: int, body: bytes) -> tuple[Load, str]:
        """Return where it is: while it loads nobody answers, and 503 is a dead engine core."""
        if status == 200:
            return Load.SERVING, "the engine serves"
        if status == 503:
            return Load.BROKEN, "vLLM's engine core is dead"
        return Load.BROKEN, openai_errors.http_error(status, body).message

    def props(self) -> tuple[Call, ...]:
        """Return `GET /version` and `GET /v1/models`."""
        return (Call(method="GET", path="/version"), *super().props())

    def read_props(self, replies: Sequence[Reply]) -> Props:
        """Return version and context; vLLM does not tell its slots. Raises OrchError."""
        told, models = replies
        value = json_of(told.body) if told.status == 200 else None
        version = value.get("version") if isinstance(value, dict) else None
        if not isinstance(version, str) or not version:
            raise OrchError(Kind.ENGINE_PROTOCOL, "/version names no version: this is no vLLM")
        listed = self.listed(models)
        return Props(
            engine_version=version, slots=None, ctx_max=positive(listed.get("max_model_len"))
        )

    def usage(self) -> Call | None:
        """Return `GET /metrics`."""
        return Call(method="GET", path="/metrics")

    def read_usage(self, body: bytes) -> Usage:
        """Return how many requests run, and the share of the KV cache that they hold.

        Raises OrchError(ENGINE_PROTOCOL).
        """
        found = prom.sums(body, (_RUNNING, *_KV))
        if _RUNNING not in found:
            raise OrchError(Kind.ENGINE_PROTOCOL, f"the engine's /metrics has no {_RUNNING}")
        ratio = next((found[name] for name in _KV if name in found), None)
        return Usage(slots_active=int(found[_RUNNING]), kv_cache_usage_ratio=ratio)

    def tokenize(self, text: str) -> Call | None:
        """Return `POST /tokenize`, which reads the text as a completion reads its prompt; None for
        chats, whose template is the server's."""
        if self._form == "chat":
            return None
        value = {"model": self._model, "prompt": text, "add_special_tokens": True}
        return Call(
            method="POST", path="/tokenize", body=orjson.dumps(value), headers=JSON, repeatable=True
        )

    def read_tokenize(self, status: int, body: bytes) -> tuple[int, ...]:
        """Return the tokens. Raises OrchError: what the engine's error means, ENGINE_PROTOCOL."""
        if status != 200:
            raise openai_errors.http_error(status, body)
        value = json_of(body)
        tokens = value.get("tokens") if isinstance(value, dict) else None
        if not isinstance(tokens, list) or not set(map(type, tokens)) <= {int}:
            raise OrchError(Kind.ENGINE_PROTOCOL, "the engine's /tokenize has no list of tokens")
        return tuple(tokens)

    def sampler(self) -> dict[str, Any]:
        """Return the parameters of the sampler profile."""
        return SAMPLERS[self._profile]

    def more(self, job: Job) -> dict[str, Any]:
        """Return the seed, and for a strict job what keeps it from warm prefixes.

        A prefix that is in the cache changes the batches of the prompt, and so the rounding. A
        salt of its own finds none; it is no id of the client's.
        """
        value: dict[str, Any] = {}
        seed = openai.seed_of(job, _SEEDS)
        if seed is not None:
            value["seed"] = seed
        if job.strict:
            value["cache_salt"] = hashlib.sha256(job.task_id.encode()).hexdigest()[:32]
        return value
