"""What every engine adapter is: requests to send as data, answers read from data [ADAPT-API].

An adapter opens nothing and waits for nothing. poolmgr.edge sends its calls, feeds what comes back
to its readers, and starts what `launch` says; so every adapter is proven with bytes alone.
How the engines' formats look is in poolmgr.dialects. specs/07-engines.md has the rules.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

from attrs import field, frozen

from orchd.wire.errors import OrchError
from orchd.wire.ids import EngineId, TaskId
from orchd.wire.shapes import FinishReason, Workload

if TYPE_CHECKING:
    from orchd.config.schema import Pool


@frozen(kw_only=True)
class Job:
    """One job as an adapter sees it: what the client asked for, none of the client's headers."""

    task_id: TaskId
    workload: Workload = Workload.COMPLETION
    prompt: str | None = field(default=None, repr=False)
    inputs: tuple[str, ...] | None = field(default=None, repr=False)
    max_tokens: int
    """Tokens to generate at most, at least 1."""
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


@frozen(kw_only=True)
class Launch:
    """How to start the engine: what follows provisioning's command, and what to add to its
    environment."""

    argv: tuple[str, ...]
    env: Mapping[str, str]


@frozen(kw_only=True)
class Props:
    """What a serving engine says of itself. None: it does not say."""

    engine_version: str
    slots: int | None
    ctx_max: int | None
    """Tokens of context of one slot: prompt and output together."""
    model_digest: str | None = None


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
    result: Any = None


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


class Adapter(Protocol):
    """One engine.

    Cancelling has no call: the pool closes the connection of the job. An engine for which that is
    not enough has no place here.
    """

    @property
    def engine_id(self) -> EngineId:
        """The `engine.id` of configuration."""
        ...

    @property
    def workloads(self) -> tuple[Workload, ...]:
        """What `submit` takes."""
        ...

    @property
    def strict_needs_single_slot(self) -> bool:
        """True: with more than one slot, jobs that run together change each other's output, so the
        pool refuses strict jobs (`refuse_strict`)."""
        ...

    def launch(
        self, pool: Pool, model: Path | None, socket: Path, device_uuids: tuple[str, ...]
    ) -> Launch:
        """Return how to start the engine so that it serves `socket`, on exactly these GPUs.

        The socket's file must not exist then. `model` is None where the engine needs no file.
        """
        ...

    def health(self) -> Call:
        """Return the request that `load_state` reads the answer of."""
        ...

    def load_state(self, status: int, body: bytes) -> tuple[Load, str]:
        """Return where the engine is, and one sentence for STATUS=."""
        ...

    def props(self) -> Call:
        """Return the request that `read_props` reads the answer of."""
        ...

    def read_props(self, body: bytes) -> Props:
        """Return what the engine says of itself. Raises OrchError(ENGINE_PROTOCOL)."""
        ...

    def submit(self, job: Job) -> Call:
        """Return the request of one job. Raises OrchError(INVALID_PARAMS) for one it cannot do."""
        ...

    def reader(self, job: Job, status: int) -> Reader:
        """Return the reader of the body of the answer to `submit(job)`; `status` is the HTTP
        status."""
        ...
