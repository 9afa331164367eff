"""The adapter of llama.cpp's llama-server: how it is started. What it says is dialects/llama*.py.

Why each argument: specs/07-engines.md, recorded from the program itself.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from orchd.wire.errors import Kind, OrchError
from orchd.wire.ids import EngineId
from orchd.wire.shapes import Workload
from poolmgr.dialects.llama_server import LlamaServer
from poolmgr.engines.base import Launch, gpu_environment

if TYPE_CHECKING:
    from orchd.config.schema import Pool

_FLAGS = {Workload.EMBEDDING: "--embeddings", Workload.RERANK: "--reranking"}
SPARE_HTTP_THREADS = 8
"""Threads beside one for each stream: with too few, /health hangs while streams are open."""


class LlamaCpp(LlamaServer):
    """One llama-server. Has the methods of engines.base.Adapter."""

    engine_id = EngineId("llamacpp")
    strict_needs_single_slot = True

    def serving(self, pool: Pool) -> tuple[str, ...]:
        """Return what makes it serve the pool's one workload."""
        flag = _FLAGS.get(pool.workloads[0])
        if flag is None:
            return ()
        # a text is read in one batch: one over the micro-batch (512) would be refused
        return (flag, "--batch-size", str(pool.ctx), "--ubatch-size", str(pool.ctx))

    def launch(
        self, pool: Pool, model: Path | None, socket: Path, device_uuids: tuple[str, ...]
    ) -> Launch:
        """Return how to start it, for the pool's one workload. Raises OrchError(MODEL_MISSING)."""
        if model is None:
            raise OrchError(Kind.MODEL_MISSING, "llama.cpp needs a GGUF file, and there is none")
        argv = [
            "--model", str(model),
            "--alias", pool.model.ref,
            "--host", str(socket),
            # divided evenly among the slots, because their number is given: no unified KV then
            "--ctx-size", str(pool.ctx * pool.slots),
            "--parallel", str(pool.slots),
            # all layers, and none quietly on the CPU when they do not fit
            "--n-gpu-layers", "999",
            "--threads-http", str(pool.slots + SPARE_HTTP_THREADS),
            "--no-webui",
        ]  # fmt: skip
        argv += self.serving(pool)
        if pool.tensor_split is not None:
            argv += ["--tensor-split", ",".join(f"{share:g}" for share in pool.tensor_split)]
        return Launch(argv=(*argv, *pool.engine.args), env=gpu_environment(device_uuids))
