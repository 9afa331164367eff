"""llama-server's errors, mapped to the suite's table: here and nowhere else.

They come as the body of an answer that is not 200, or as a frame of a stream.
"""

from __future__ import annotations

import orjson

from orchd.wire.errors import Kind, OrchError

_TYPES: dict[str, tuple[Kind, str]] = {
    "exceed_context_size_error": (Kind.INVALID_PARAMS, "$.prompt"),
    "invalid_request_error": (Kind.INVALID_PARAMS, "$.prompt"),
    "unavailable_error": (Kind.POOL_UNREADY, ""),
    "authentication_error": (Kind.CONFIG_INVALID, ""),
    "permission_error": (Kind.CONFIG_INVALID, ""),
    "not_supported_error": (Kind.CONFIG_INVALID, ""),
    "not_found_error": (Kind.ENGINE_PROTOCOL, ""),
    "server_error": (Kind.WORKER_RESET, ""),
}


def mapped(value: object, status: int | None) -> OrchError:
    """Return what an `error` object means; `status` is the answer's, None within a stream."""
    fields = value if isinstance(value, dict) else {}
    kind, path = _TYPES.get(str(fields.get("type")), (None, ""))
    if kind is None:
        code = status if status is not None else fields.get("code")
        failed = type(code) is int and code >= 500
        kind = Kind.WORKER_RESET if failed else Kind.ENGINE_PROTOCOL
        if code == 503:
            kind = Kind.POOL_UNREADY
    prompt, ctx = fields.get("n_prompt_tokens"), fields.get("n_ctx")
    if fields.get("type") == "exceed_context_size_error" and type(prompt) is type(ctx) is int:
        message = f"the prompt has {prompt} tokens, more than the context of {ctx} of one slot"
    else:
        said = str(fields.get("message", "")).strip()[:500] or "no message"
        message = f"the engine answered {status or 'with an error'}: {said}"
    return OrchError(kind, message, path=path or None)


def http_error(status: int, body: bytes) -> OrchError:
    """Return what an answer other than 200 means."""
    try:
        value = orjson.loads(body)
    except orjson.JSONDecodeError:
        value = None
    return mapped(value.get("error") if isinstance(value, dict) else None, status)
