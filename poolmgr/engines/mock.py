"""The adapter of the mock engine (poolmgr.mockengine), which speaks llama-server's dialect.

provisioning's command is `python -m poolmgr.mockengine`; this is what follows it.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import attrs

from orchd.wire.ids import EngineId
from poolmgr.core.fit import FLOOR, Need
from poolmgr.core.modelfile import Head
from poolmgr.dialects.llama_server import LlamaServer
from poolmgr.engines.base import Launch, gpu_environment

if TYPE_CHECKING:
    from orchd.config.pool import Faults, Pool


RAM_BYTES = 64 << 20  # a Python process and its canned texts


class Mock(LlamaServer):
    """One mock engine. Has the methods of engines.base.Adapter."""

    engine_id = EngineId("mock")
    strict_slots = None  # its text depends on nothing but the request

    def serving(self, pool: Pool) -> tuple[str, ...]:  # noqa: ARG002
        """Return nothing: it serves every workload."""
        return ()

    def launch(
        self,
        pool: Pool,
        model: Path | None,  # noqa: ARG002 it needs no file
        socket: Path,
        device_uuids: tuple[str, ...],
    ) -> Launch:
        """Return how to start it."""
        engine = pool.engine
        faults = engine.faults.of(pool.model.ref)
        argv = [
            "--socket", str(socket),
            "--model", pool.model.ref,
            "--ctx", str(pool.ctx),
            "--slots", str(pool.slots),
            "--tokens-per-s", f"{engine.tokens_per_s / (faults.slower or 1):g}",
            "--first-token-ms", f"{engine.first_token_ms:g}",
            "--embedding-dim", str(engine.embedding_dim),
            *_faults(faults),
        ]  # fmt: skip
        return Launch(argv=(*argv, *engine.args), env=gpu_environment(device_uuids))

    def need(
        self,
        pool: Pool,
        size_bytes: int | None,  # noqa: ARG002 it has no file
        head: Head,  # noqa: ARG002
    ) -> Need:
        """Return what it says that it needs."""
        vram = pool.engine.vram_mb << 20
        return Need(
            weights_bytes=vram,
            kv_bytes=0,
            gpu_overhead_bytes=0,
            ram_bytes=RAM_BYTES,
            floor_bytes=int(vram * FLOOR),
        )


_OURS = frozenset({"only_model", "slower", "vram_mb"})
"""Faults that are not the program's: they choose its options, or its simulated memory."""


def held_bytes(pool: Pool) -> int:
    """Return the VRAM that is simulated for an engine of this pool."""
    return (pool.engine.vram_mb + pool.engine.faults.of(pool.model.ref).vram_mb) << 20


def _faults(faults: Faults) -> list[str]:
    """Return the options of the faults that are asked for; both sides use the same names."""
    argv = []
    for name, value in attrs.asdict(faults).items():
        if name in _OURS:
            continue
        option = "--" + name.replace("_", "-")
        if value is True:
            argv.append(option)
        elif value and not isinstance(value, bool):
            argv += [option, str(value)]
    return argv
