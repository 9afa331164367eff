"""What is exchanged with any engine: a job, the calls that ask for it, the events that come back.

The shapes only. How an engine writes them is in its dialect; who sends them is poolmgr.edge.
"""

from __future__ import annotations

import enum
from typing import Literal, Protocol

from attrs import field, frozen

from orchd.wire.errors import OrchError
from orchd.wire.ids import TaskId
from orchd.wire.shapes import FinishReason, Workload

Service = Literal["main", "grpc", "metrics"]


@frozen(kw_only=True)
class Job:
    """One job as an adapter sees it: what the client asked for, none of the client's headers."""

    task_id: TaskId
    workload: Workload = Workload.COMPLETION
    prompt: str | None = field(default=None, repr=False)
    inputs: tuple[str, ...] | None = field(default=None, repr=False)
    max_tokens: int
    """Tokens to generate at most, at least 1; without meaning beside completions."""
    seed: int | None = None
    strict: bool = True
    """The same request gives the same bytes [ORCH-3045]."""


@frozen(kw_only=True)
class Call:
    """One HTTP request to the engine."""

    method: Literal["GET", "POST"]
    path: str
    body: bytes = field(default=b"", repr=False)
    headers: tuple[tuple[str, str], ...] = ()
    service: Service = "main"
    """Which of the engine's addresses it goes to: some have more than one."""
    repeatable: bool = False
    """A POST that changes nothing: it may be sent again, as any GET may."""


@frozen
class Reply:
    """A whole answer to a call."""

    status: int
    body: bytes = field(repr=False)


@frozen(kw_only=True)
class Props:
    """What a serving engine says of itself. None: it does not say."""

    engine_version: str
    slots: int | None
    ctx_max: int | None
    """Tokens of context of one slot: prompt and output together."""
    model_digest: str | None = None


@frozen(kw_only=True)
class Tuning:
    """Of how an engine is started, what changes its output beside version and sampler. None: it is
    not known."""

    ubatch: int | None = None
    """Micro-batch size in tokens."""
    flash_attention: str | None = None
    """`on`, `off` or `auto`."""


@frozen(kw_only=True)
class Usage:
    """How full a serving engine is."""

    slots_active: int
    kv_cache_usage_ratio: float | None
    """Of all slots' context, the share that running jobs hold, 0..1. None: it does not say."""


class Load(enum.Enum):
    """What an engine's health says."""

    LOADING = "loading"
    SERVING = "serving"
    BROKEN = "broken"


@frozen
class Pieces:
    """Text in order, one item for each frame that had some: never empty, no item is empty."""

    texts: tuple[str, ...]


@frozen(kw_only=True)
class Finished:
    """The job ran to its end. The counts are the engine's own. Nothing follows."""

    tokens_in: int
    tokens_out: int
    """Frames are not tokens: this may differ from the number of pieces."""
    finish_reason: FinishReason
    result: bytes | None = None
    """Of an embedding or a rerank, as JSON (orchd.wire.results)."""


@frozen
class Broken:
    """The job failed, and why. Nothing follows."""

    error: OrchError


Event = Pieces | Finished | Broken


class Reader(Protocol):
    """Reads the body of one answer to `Adapter.submit`."""

    def feed(self, data: bytes) -> list[Event]:
        """Return what `data`, cut anywhere, completes. Never raises; bytes after the end are
        ignored."""
        ...

    def eof(self) -> list[Event]:
        """Return what the end of the body means: [] after Finished or Broken, else one Broken."""
        ...
