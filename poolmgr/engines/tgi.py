"""The adapter of Text Generation Inference: how it is started. What it says is dialects/tgi.py.

Why each argument: specs/07-engines.md. No server of it can be had here: what follows is from the
source of its launcher (versions 2 and 3).
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Final

from orchd.wire.errors import Kind, OrchError
from orchd.wire.ids import EngineId
from poolmgr.core.fit import FLOOR, Need
from poolmgr.core.modelfile import Head
from poolmgr.dialects.tgi import TgiServer
from poolmgr.engines.base import Bridge, Launch, Told, gpu_environment

if TYPE_CHECKING:
    from orchd.config.pool import Pool

PORT: Final = 8080
"""In a network of its own. 9000 (its metrics once more) and 29500 (torch) are its own too."""
BRIDGE: Final = Bridge(port=PORT, image_entry="/tgi-entrypoint.sh")
RAM_BYTES: Final = 4 << 30
"""Assumed: torch in a process for each GPU takes as much as it does in vLLM, which was measured."""
OOM: Final = re.compile(
    r"CUDA out of memory|torch\.(?:cuda\.)?OutOfMemoryError|Not enough memory to handle"
)
NO_GPU: Final = re.compile(r"No CUDA GPUs are available|CUDA is not available")


class Tgi(Told, TgiServer):
    """One such server. Has the methods of engines.base.Adapter."""

    engine_id = EngineId("tgi")
    oom = OOM
    no_gpu = NO_GPU

    def __init__(self, pool: Pool) -> None:
        super().__init__(profile=pool.engine.sampler_profile_version)

    def serving(self, pool: Pool) -> tuple[str, ...]:  # noqa: ARG002
        """Return nothing: it does completions only."""
        return ()

    def launch(
        self, pool: Pool, model: Path | None, socket: Path, device_uuids: tuple[str, ...]
    ) -> Launch:
        """Return how to start it behind a bridge. Raises OrchError(MODEL_MISSING)."""
        if model is None:
            raise OrchError(Kind.MODEL_MISSING, "TGI needs a model's folder, and there is none")
        shard = socket.with_name(f"{socket.name}.shard")
        argv = (
            "--model-id", str(model),
            "--hostname", "127.0.0.1",
            "--port", str(PORT),
            # the default is one name for all servers of a machine
            "--shard-uds-path", str(shard),
            "--num-shard", str(len(device_uuids)),
            "--max-concurrent-requests", str(pool.slots),
            # the launcher wants room for one more
            "--max-input-tokens", str(pool.ctx - 1),
            "--max-total-tokens", str(pool.ctx),
        )  # fmt: skip
        environment = {
            **gpu_environment(device_uuids),
            # what it needs is here: nothing is fetched or told behind the pool's back. Variables,
            # as versions that do not know one of them pass over it
            "HF_HUB_OFFLINE": "1",
            "TRANSFORMERS_OFFLINE": "1",
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "USAGE_STATS": "off",
        }
        if pool.slots == 1:  # where strict jobs may run: a warm prefix rounds otherwise
            environment["PREFIX_CACHING"] = "0"
        ranks = range(len(device_uuids))
        return Launch(
            argv=(*argv, *pool.engine.args),
            env=environment,
            files=tuple(shard.with_name(f"{shard.name}-{rank}") for rank in ranks),
            bridge=BRIDGE,
        )

    def need(self, pool: Pool, size_bytes: int | None, head: Head) -> Need:  # noqa: ARG002
        """Return what its weights take. It gives its KV cache what is left, up to
        `--cuda-memory-fraction`."""
        weights = head.weights_bytes or size_bytes
        return Need(
            weights_bytes=weights,
            kv_bytes=None,
            kv_why="TGI takes the share of VRAM that --cuda-memory-fraction says",
            ram_bytes=RAM_BYTES,
            floor_bytes=None if weights is None else int(weights * FLOOR),
        )
