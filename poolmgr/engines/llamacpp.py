"""The adapter of llama.cpp's llama-server: how it is started. What it says is dialects/llama*.py.

Why each argument: specs/07-engines.md, recorded from the program itself.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from orchd.wire.errors import Kind, OrchError
from orchd.wire.ids import EngineId
from orchd.wire.shapes import Workload
from poolmgr.core import kvcache, modelfile
from poolmgr.core.fit import FLOOR, RAM_OVERHEAD_BYTES, Need
from poolmgr.core.modelfile import Head
from poolmgr.dialects import llama_memory
from poolmgr.dialects.llama_server import LlamaServer
from poolmgr.engines.base import Launch, gpu_environment

if TYPE_CHECKING:
    from orchd.config.pool import Pool

_FLAGS = {Workload.EMBEDDING: "--embeddings", Workload.RERANK: "--reranking"}
SPARE_HTTP_THREADS = 8
"""Threads beside one for each stream: with too few, /health hangs while streams are open."""


class LlamaCpp(LlamaServer):
    """One llama-server. Has the methods of engines.base.Adapter."""

    engine_id = EngineId("llamacpp")
    strict_slots = 1

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

    def need(self, pool: Pool, size_bytes: int | None, head: Head) -> Need:
        """Return what it will take, as far as the file tells. Raises OrchError(CONFIG_INVALID)."""
        told = llama_memory.placement(pool.engine.args)
        if told.layers == 0:
            raise OrchError(
                Kind.CONFIG_INVALID,
                f"pool {pool.id}: engine.args keep all layers off the GPU (--n-gpu-layers 0), and "
                "nothing runs on the CPU",
                pool_id=pool.id,
            )
        weights = modelfile.weights(head, told.layers)
        where = weights or modelfile.Weights(size_bytes or 0, 0)
        host = 0 if told.mapped else where.host
        kv, each, why = _cache(pool, told, head)
        if kv is not None and not told.kv_on_gpu:
            host, kv = host + kv, 0
        elif kv is not None:
            on_gpu = int(kv * modelfile.share_of_layers(head, told.layers))
            host, kv = host + kv - on_gpu, on_gpu
        known = size_bytes is not None and not told.moved
        return Need(
            weights_bytes=where.gpus if known else None,
            kv_bytes=kv,
            kv_why=why,
            kv_bytes_per_token=each,
            more=told.more,
            ram_bytes=RAM_OVERHEAD_BYTES + ((size_bytes or 0) if told.locked else host),
            floor_bytes=int(where.gpus * FLOOR) if weights is not None and known else None,
            split=told.split,
        )


def _cache(
    pool: Pool, told: llama_memory.Placement, head: Head
) -> tuple[int | None, int | None, str | None]:
    """Return the KV cache's bytes, those of one token, and why they are not known."""
    cell = kvcache.cell(head.keys) if head.tensors is not None else head.why
    if not isinstance(cell, kvcache.Cell):
        return None, None, cell
    each = cell.bytes(told.type_k, told.type_v)
    if each is None:
        return None, None, f"cache type {told.type_k} or {told.type_v} is not known"
    slots = told.slots or pool.slots
    count = kvcache.cells(told.ctx or pool.ctx * pool.slots, slots, unified=told.unified)
    return int(each * count), int(each), None
