"""Checks of what belongs to one engine and not to another: its keys, how it may be reached.

Each check yields faults that say what is allowed. What holds for every engine is in checks.py.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final
from urllib.parse import urlsplit

import attrs

from orchd.config.pool import (
    LLAMACPP,
    MOCK,
    OPENAI,
    TGI,
    TRITON,
    VLLM,
    Api,
    Engine,
    Mode,
    Pool,
    Provisioning,
)
from orchd.wire.codec import Fault
from orchd.wire.shapes import Workload

MAX_SOCKET_PATH: Final = 107
"""Bytes: sun_path of sockaddr_un without its zero (unix(7))."""
EXTERNAL_ONLY: Final = (OPENAI,)
MOCK_ONLY: Final = (
    *("tokens_per_s", "first_token_ms", "embedding_dim", "vram_mb", "kv_bytes_per_token", "faults"),
)
_APIS: Final = {
    VLLM: (Api.COMPLETIONS, Api.CHAT),
    OPENAI: (Api.COMPLETIONS, Api.CHAT),
    TRITON: (Api.HTTP, Api.GRPC),
}
_NAMED: Final = (VLLM, TRITON, OPENAI)
_ONE_WORKLOAD: Final = {
    LLAMACPP: "llama-server is started for completions, for embeddings or for reranking",
    VLLM: "vLLM is started for completions, for embeddings or for reranking",
}
_COMPLETION_ONLY: Final = (TGI, TRITON)
_LOCAL: Final = re.compile(
    r"http://(?:127\.\d{1,3}\.\d{1,3}\.\d{1,3}|localhost|\[::1\]):\d{1,5}"
    r"(?P<path>/[\w.~\-/]{0,200})?"
)
_FAR: Final = re.compile(r"https://[A-Za-z0-9.\-]{1,253}(?::\d{1,5})?(?:/[\w.~\-/]{0,200})?")
_PROXY: Final = re.compile(r"http://[A-Za-z0-9.\-]{1,253}:\d{1,5}/?")
_KEY: Final = re.compile(
    r"credential:[A-Za-z0-9][\w.\-]{0,200}|file:/[^\x00-\x1f]+|env:[A-Za-z_]\w*"
)


def check_engine(pool: Pool, path: str) -> Iterator[Fault]:
    """Yield the faults of one pool's engine, workloads and provisioning."""
    yield from _keys(pool.engine, f"{path}.engine")
    yield from _workloads(pool, f"{path}.workloads")
    yield from _provisioning(pool, path)


def _keys(engine: Engine, path: str) -> Iterator[Fault]:
    defaults = {each.name: each.default for each in attrs.fields(Engine)}
    for name in MOCK_ONLY:
        if engine.id != MOCK and getattr(engine, name) != defaults[name]:
            yield Fault(f"{path}.{name}", "is only for engine mock")
    apis = _APIS.get(engine.id, ())
    if engine.api is not None and engine.api not in apis:
        must = f"must be {' or '.join(apis)} for {engine.id}" if apis else f"is not for {engine.id}"
        yield Fault(f"{path}.api", must)
    if engine.served_name is not None and engine.id not in _NAMED:
        yield Fault(f"{path}.served_name", f"is only for {', '.join(_NAMED)}")
    if engine.api_key is not None and not _KEY.fullmatch(engine.api_key):
        # not shown: it may be the key itself
        yield Fault(
            f"{path}.api_key",
            "must say where the key is, and not be it: credential:NAME, file:/path or env:NAME",
        )


def _workloads(pool: Pool, path: str) -> Iterator[Fault]:
    named, engine = pool.workloads, pool.engine.id
    if not named or len(set(named)) < len(named):
        yield Fault(path, "must name each workload once, and at least one")
    elif engine in _ONE_WORKLOAD and len(named) > 1:
        yield Fault(
            path,
            f"must be one workload for {engine}, not {', '.join(named)}: {_ONE_WORKLOAD[engine]}; "
            "make a pool for each",
        )
    elif engine in _COMPLETION_ONLY and named != (Workload.COMPLETION,):
        yield Fault(path, f"must be completion for {engine}")


def _provisioning(pool: Pool, path: str) -> Iterator[Fault]:
    how, engine, at = pool.provisioning, pool.engine, f"{path}.provisioning"
    if pool.mode is Mode.EXTERNAL:
        yield from _external(pool, at)
        if how.command is not None:
            yield Fault(f"{at}.command", "is not for mode external: it runs already")
        if engine.args:
            must = "must be empty for mode external: poolmgr does not start that engine"
            yield Fault(f"{path}.engine.args", must)
        return
    if engine.id in EXTERNAL_ONLY:
        yield Fault(f"{at}.mode", f"must be external for {engine.id}, which poolmgr does not start")
    for name in ("url", "grpc_url", "metrics_url", "ca", "proxy"):
        if getattr(how, name) is not None:
            yield Fault(f"{at}.{name}", "is only for mode external")
    if engine.api_key is not None:
        must = "is only for mode external: what poolmgr starts is reached by nobody else"
        yield Fault(f"{path}.engine.api_key", must)
    if how.gpu_attested:
        yield Fault(
            f"{at}.gpu_attested",
            "is only for mode external: an engine that poolmgr starts is verified through NVML",
        )
    if how.command is not None and (not how.command or not how.command[0]):
        yield Fault(f"{at}.command", 'must name a program, such as ["llama-server"]')


def _external(pool: Pool, path: str) -> Iterator[Fault]:
    how, engine = pool.provisioning, pool.engine
    yield from _url(how.url, f"{path}.url", far=engine.id == OPENAI)
    far = engine.id == OPENAI and how.url is not None and how.url.startswith("https:")
    if far and not how.gpu_attested:
        yield Fault(
            f"{path}.gpu_attested",
            "must be true for an engine on another machine: nothing here can see its GPU",
        )
    for name in ("ca", "proxy"):
        if getattr(how, name) is not None and not far:
            yield Fault(f"{path}.{name}", "is only for a url that begins with https:")
    if how.proxy is not None and not _PROXY.fullmatch(how.proxy):
        yield Fault(f"{path}.proxy", "must be http://HOST:PORT")
    yield from _grpc(how, engine, path)


def _grpc(how: Provisioning, engine: Engine, path: str) -> Iterator[Fault]:
    if engine.api is not Api.GRPC:
        if how.grpc_url is not None:
            yield Fault(f"{path}.grpc_url", 'is only for triton with engine.api = "grpc"')
    else:
        yield from _url(how.grpc_url, f"{path}.grpc_url", far=False)
    if how.metrics_url is not None:
        if engine.id != TRITON:
            yield Fault(f"{path}.metrics_url", "is only for triton")
        yield from _url(how.metrics_url, f"{path}.metrics_url", far=False)


def _url(url: str | None, path: str, *, far: bool) -> Iterator[Fault]:
    form = "unix:/path/to.sock or http://127.0.0.1:PORT"
    if far:
        form += ", or https://HOST of another machine"
    if url is None:
        yield Fault(path, f"is required for mode external: {form}")
    elif url.startswith("unix:"):
        socket = url.removeprefix("unix:")
        if not socket.startswith("/"):
            yield Fault(path, f"must be {form}, not {url!r}")
        elif len(socket.encode()) > MAX_SOCKET_PATH:
            yield Fault(path, f"must have a path of at most {MAX_SOCKET_PATH} bytes")
    elif not (far and _FAR.fullmatch(url) and _port(url)):
        match = _LOCAL.fullmatch(url)
        if match is None or not _port(url) or (match["path"] not in (None, "/") and not far):
            shown = "one with a password" if "@" in url else repr(url)
            yield Fault(path, f"must be {form}, not {shown}")


def _port(url: str) -> bool:
    try:
        port = urlsplit(url).port
    except ValueError:
        return False
    return port is None or port > 0
