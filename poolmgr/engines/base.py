"""What every engine adapter is: requests to send as data, answers read from data [ADAPT-API].

An adapter opens nothing and waits for nothing. poolmgr.edge sends its calls, feeds what comes back
to its readers, and starts what `launch` says; so every adapter is proven with bytes alone.
How the engines' formats look is in poolmgr.dialects. specs/07-engines.md has the rules.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from attrs import field, frozen

from orchd.wire.errors import Kind, OrchError
from orchd.wire.ids import EngineId
from poolmgr.core.fit import Need
from poolmgr.core.modelfile import Head
from poolmgr.dialects.exchange import (
    Broken,
    Call,
    Event,
    Finished,
    Job,
    Load,
    Pieces,
    Props,
    Reader,
    Reply,
    Service,
    Tuning,
    Usage,
)

if TYPE_CHECKING:
    from collections.abc import Container

    from orchd.config.pool import Pool

__all__ = [
    "Adapter",
    "Bridge",
    "Broken",
    "Call",
    "Event",
    "Finished",
    "Job",
    "Launch",
    "Load",
    "NotStarted",
    "Pieces",
    "Props",
    "Reader",
    "Reply",
    "Service",
    "Told",
    "Tuning",
    "Usage",
    "check_profile",
    "gpu_environment",
]


@frozen(kw_only=True)
class Bridge:
    """What an engine needs that uses TCP: poolmgr/bridge.py before it, a network of its own."""

    port: int | None = None
    """Where it listens, which is carried to the socket. None: it listens on the socket by itself,
    and only its processes meet at ports, which nobody else should reach; that is wished for."""
    image_entry: str = ""
    """What its image runs by itself, to be run in the place of the program's name."""


@frozen(kw_only=True)
class Launch:
    """How to start the engine: what follows provisioning's command, and what to add to its
    environment."""

    argv: tuple[str, ...]
    env: Mapping[str, str]
    sockets: Mapping[Service, Path] = field(factory=dict)
    """Where else it will listen, beside the socket that it was given."""
    files: tuple[Path, ...] = ()
    """Sockets that its processes make among themselves."""
    bridge: Bridge | None = None
    """None: it uses no TCP."""


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
    def sampler_profiles(self) -> Container[str]:
        """The values of `engine.sampler_profile_version` that it has."""
        ...

    @property
    def strict_slots(self) -> int | None:
        """With more slots than this the pool refuses strict jobs (`refuse_strict`), because those
        that run together change each other's output. 0: always. None: never."""
        ...

    def launch(
        self, pool: Pool, model: Path | None, socket: Path, device_uuids: tuple[str, ...]
    ) -> Launch:
        """Return how to start the engine so that it serves `socket`, on exactly these GPUs.

        The socket's file must not exist then. `model` is None where the engine needs no file.
        """
        ...

    def need(self, pool: Pool, size_bytes: int | None, head: Head) -> Need:
        """Return what an engine that we start will take with a model of this size and head.

        Raises OrchError(CONFIG_INVALID) for arguments that keep the model off the GPUs.
        """
        ...

    def telling(self, line: str) -> bool:
        """Whether a line of the engine's output may explain a failure much later."""
        ...

    def out_of_vram(self, lines: Sequence[str]) -> str | None:
        """Return the line in which the engine ran out of VRAM; None: it did not."""
        ...

    def why_on_cpu(self, lines: Sequence[str]) -> str | None:
        """Return the engine's own word about why its weights are not on a GPU."""
        ...

    def tuning(self, arguments: Sequence[str]) -> Tuning:
        """Return what arguments change of the output of an engine that we start."""
        ...

    def serving(self, pool: Pool) -> tuple[str, ...]:
        """Return the arguments that start it for the pool's workloads; `launch` has them too."""
        ...

    def health(self) -> Call:
        """Return the request that `load_state` reads the answer of."""
        ...

    def load_state(self, status: int, body: bytes) -> tuple[Load, str]:
        """Return where the engine is, and one sentence for STATUS=."""
        ...

    def props(self) -> tuple[Call, ...]:
        """Return the requests that `read_props` reads the answers of, at least one."""
        ...

    def read_props(self, replies: Sequence[Reply]) -> Props:
        """Return what the engine says of itself, from whatever it answered to each of `props`.

        Raises OrchError: ENGINE_PROTOCOL, or what an answer that is an error means.
        """
        ...

    def usage(self) -> Call | None:
        """Return the request that `read_usage` reads the answer of; None: it does not tell."""
        ...

    def read_usage(self, body: bytes) -> Usage:
        """Return how full the engine is. Raises OrchError(ENGINE_PROTOCOL)."""
        ...

    def tokenize(self, text: str) -> Call | None:
        """Return the request that `read_tokenize` reads the answer of: the tokens of `text` as a
        prompt, those that the engine adds included. None: this engine does not tell tokens."""
        ...

    def read_tokenize(self, status: int, body: bytes) -> tuple[int, ...]:
        """Return the tokens; as many as `Finished.tokens_in` would say. Raises OrchError."""
        ...

    def submit(self, job: Job) -> Call:
        """Return the request of one job. Raises OrchError(INVALID_PARAMS) for one it cannot do."""
        ...

    def reader(self, job: Job, status: int) -> Reader:
        """Return the reader of the body of the answer to `submit(job)`; `status` is the HTTP
        status."""
        ...


class Told:
    """The part of an adapter that finds causes in the lines of an engine which tells no tuning."""

    oom: re.Pattern[str]
    """Of a line that says that VRAM ran out."""
    no_gpu: re.Pattern[str]
    """Of a line that says why there is no GPU to run on."""

    def telling(self, line: str) -> bool:
        """Whether a line says of VRAM or of the GPU what may matter later."""
        return self.oom.search(line) is not None or self.no_gpu.search(line) is not None

    def out_of_vram(self, lines: Sequence[str]) -> str | None:
        """Return the line about memory that ran out."""
        return next((line for line in lines if self.oom.search(line)), None)

    def why_on_cpu(self, lines: Sequence[str]) -> str | None:
        """Return the line about a GPU that is not there."""
        return next((line for line in lines if self.no_gpu.search(line)), None)

    def tuning(self, arguments: Sequence[str]) -> Tuning:  # noqa: ARG002
        """Return that nothing is known."""
        return Tuning()


class NotStarted:
    """The part of an adapter whose engine others start."""

    engine_id: EngineId

    def launch(
        self,
        pool: Pool,
        model: Path | None,  # noqa: ARG002
        socket: Path,  # noqa: ARG002
        device_uuids: tuple[str, ...],  # noqa: ARG002
    ) -> Launch:
        """Raise OrchError(CONFIG_INVALID)."""
        raise OrchError(
            Kind.CONFIG_INVALID,
            f"pool {pool.id}: poolmgr does not start {self.engine_id}: provisioning.mode must be "
            "external",
            pool_id=pool.id,
        )

    def need(self, pool: Pool, size_bytes: int | None, head: Head) -> Need:  # noqa: ARG002
        """Return that nothing is known: it has what it needs."""
        return Need(weights_bytes=None, kv_bytes=None)

    def telling(self, line: str) -> bool:  # noqa: ARG002
        """Return False: its output is not ours to read."""
        return False

    def out_of_vram(self, lines: Sequence[str]) -> str | None:  # noqa: ARG002
        """Return None."""
        return None

    def why_on_cpu(self, lines: Sequence[str]) -> str | None:  # noqa: ARG002
        """Return None."""
        return None

    def tuning(self, arguments: Sequence[str]) -> Tuning:  # noqa: ARG002
        """Return that nothing is known."""
        return Tuning()

    def serving(self, pool: Pool) -> tuple[str, ...]:  # noqa: ARG002
        """Return nothing."""
        return ()


def check_profile(pool: Pool, adapter: Adapter) -> None:
    """Refuse a sampler profile that the engine's dialect does not have, whoever starts the engine.

    Raises OrchError(CONFIG_INVALID).
    """
    profile = pool.engine.sampler_profile_version
    if profile not in adapter.sampler_profiles:
        raise OrchError(
            Kind.CONFIG_INVALID,
            f"pool {pool.id}: engine.sampler_profile_version {profile!r} is not known to "
            f"{pool.engine.id}",
            pool_id=pool.id,
        )


def gpu_environment(device_uuids: tuple[str, ...]) -> dict[str, str]:
    """Return what makes exactly these GPUs visible, whatever order CUDA would number them in."""
    return {
        "CUDA_VISIBLE_DEVICES": ",".join(device_uuids),
        "CUDA_DEVICE_ORDER": "PCI_BUS_ID",
    }
