"""The adapter of vLLM's OpenAI-compatible server: how it is started. What it says is dialects'.

Why each argument: specs/07-engines.md, recorded from vLLM 0.32.0 itself.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Final

from orchd.config.pool import Api, Mode
from orchd.wire.errors import Kind, OrchError
from orchd.wire.ids import EngineId
from orchd.wire.shapes import Workload
from poolmgr.core.fit import FLOOR, Need
from poolmgr.core.modelfile import Head
from poolmgr.dialects.vllm import VllmServer
from poolmgr.engines.base import Bridge, Launch, Told, gpu_environment

if TYPE_CHECKING:
    from orchd.config.pool import Pool

RAM_BYTES: Final = 4 << 30  # seen: 2.9 GB resident with a model of 0.5 MB (torch, two processes)
DRAIN_S: Final = 10
"""With its default of 0, SIGTERM hangs while streams are open."""
_RUNNERS: Final = {
    Workload.COMPLETION: ("--runner", "generate"),
    Workload.EMBEDDING: ("--runner", "pooling", "--convert", "embed"),
    Workload.RERANK: ("--runner", "pooling", "--convert", "classify"),
}
OOM: Final = re.compile(
    r"CUDA out of memory|torch\.OutOfMemoryError|No available memory for the cache blocks"
    r"|is less than desired GPU memory utilization"
)
NO_GPU: Final = re.compile(
    r"No CUDA GPUs are available|Failed to infer device type|No platform detected|device_config=cpu"
)


class Vllm(Told, VllmServer):
    """One vLLM server. Has the methods of engines.base.Adapter."""

    engine_id = EngineId("vllm")
    oom = OOM
    no_gpu = NO_GPU

    def __init__(self, pool: Pool) -> None:
        engine = pool.engine
        named = pool.model.ref if pool.mode is Mode.EXTERNAL else pool.id
        super().__init__(
            engine.served_name or named,
            base="/v1",
            form="chat" if engine.api is Api.CHAT else "completions",
            profile=engine.sampler_profile_version,
        )

    def serving(self, pool: Pool) -> tuple[str, ...]:
        """Return what makes it serve the pool's one workload."""
        return _RUNNERS[pool.workloads[0]]

    def launch(
        self, pool: Pool, model: Path | None, socket: Path, device_uuids: tuple[str, ...]
    ) -> Launch:
        """Return how to start it, for the pool's one workload. Raises OrchError(MODEL_MISSING)."""
        if model is None:
            raise OrchError(Kind.MODEL_MISSING, "vLLM needs a model's folder, and there is none")
        argv = [
            str(model),
            # one name through every reload: the model's own is a path
            "--served-model-name", self._model,
            "--uds", str(socket),
            "--max-model-len", str(pool.ctx),
            "--max-num-seqs", str(pool.slots),
            "--shutdown-timeout", str(DRAIN_S),
            # the model's folder must not bring sampling defaults of its own
            "--generation-config", "vllm",
            "--no-enable-log-requests",
            "--disable-uvicorn-access-log",
            "--disable-fastapi-docs",
        ]  # fmt: skip
        if len(device_uuids) > 1:
            argv += ["--tensor-parallel-size", str(len(device_uuids))]
        environment = {
            **gpu_environment(device_uuids),
            "VLLM_NO_USAGE_STATS": "1",
            "DO_NOT_TRACK": "1",
            # what it needs is here: nothing is fetched behind the pool's back
            "HF_HUB_OFFLINE": "1",
            "TRANSFORMERS_OFFLINE": "1",
        }
        return Launch(
            argv=(*argv, *self.serving(pool), *pool.engine.args),
            env=environment,
            # torch.distributed, also of one GPU: ports of the loopback, where nobody is asked who
            # he is (seen with 0.32.0: eight)
            bridge=Bridge(),
        )

    def need(self, pool: Pool, size_bytes: int | None, head: Head) -> Need:  # noqa: ARG002
        """Return what its weights take. It gives its KV cache the share of VRAM that
        `--gpu-memory-utilization` says, whatever the model needs."""
        weights = head.weights_bytes or size_bytes
        return Need(
            weights_bytes=weights,
            kv_bytes=None,
            kv_why="vLLM takes the share of VRAM that --gpu-memory-utilization says",
            ram_bytes=RAM_BYTES,
            floor_bytes=None if weights is None else int(weights * FLOOR),
        )
