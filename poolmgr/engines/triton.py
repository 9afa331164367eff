"""The adapter of NVIDIA Triton: how it is started. What it says is dialects/triton*.py.

Why each argument: specs/07-engines.md, recorded from tritonserver 2.51 itself.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Final

from orchd.config.pool import Api
from orchd.wire.errors import Kind, OrchError
from orchd.wire.ids import EngineId
from poolmgr.core.fit import Need
from poolmgr.core.modelfile import Head
from poolmgr.dialects.triton_server import TritonServer
from poolmgr.engines.base import Launch, Service, Told, gpu_environment

if TYPE_CHECKING:
    from orchd.config.pool import Pool

RAM_BYTES: Final = 1 << 30
DRAIN_S: Final = 10
GRPC_PORT: Final = 2
"""A part of the socket's name: gRPC writes every address as HOST:PORT."""
OOM: Final = re.compile(r"CUDA out of memory|out of memory|cudaMalloc.{0,60}fail", re.IGNORECASE)
NO_GPU: Final = re.compile(r"no CUDA-capable device|unable to (?:initialize|get) CUDA|CUDA driver")


class Triton(Told, TritonServer):
    """One tritonserver. Has the methods of engines.base.Adapter."""

    engine_id = EngineId("triton")
    oom = OOM
    no_gpu = NO_GPU

    def __init__(self, pool: Pool) -> None:
        engine = pool.engine
        super().__init__(
            engine.served_name or pool.model.ref,
            grpc=engine.api is Api.GRPC,
            profile=engine.sampler_profile_version,
        )

    def serving(self, pool: Pool) -> tuple[str, ...]:  # noqa: ARG002
        """Return nothing: the repository says what its models do."""
        return ()

    def launch(
        self, pool: Pool, model: Path | None, socket: Path, device_uuids: tuple[str, ...]
    ) -> Launch:
        """Return how to start it. Raises OrchError(MODEL_MISSING)."""
        if model is None:
            raise OrchError(Kind.MODEL_MISSING, "Triton needs a model repository: a folder")
        grpc = socket.with_name(f"{socket.name}:{GRPC_PORT}")
        metrics = socket.with_name(f"{socket.name}.metrics")
        sockets: dict[Service, Path] = {"metrics": metrics}
        argv = [
            f"--model-repository={model}",
            # unix: is libevhtp's own word; the ports are asked for and mean nothing
            f"--http-address=unix:{socket}", "--http-port=1",
            f"--metrics-address=unix:{metrics}", "--metrics-port=3",
            "--allow-gpu-metrics=false",  # NVML is poolmgr's
            f"--exit-timeout-secs={DRAIN_S}",
        ]  # fmt: skip
        if self._grpc:
            argv += [f"--grpc-address=unix:{socket}", f"--grpc-port={GRPC_PORT}"]
            sockets["grpc"] = grpc
        else:
            argv += ["--allow-grpc=false"]
        return Launch(
            argv=(*argv, *pool.engine.args),
            env=gpu_environment(device_uuids),
            sockets=sockets,
        )

    def need(self, pool: Pool, size_bytes: int | None, head: Head) -> Need:  # noqa: ARG002
        """Return the size of the repository: what its models make of it is theirs."""
        return Need(
            weights_bytes=size_bytes,
            kv_bytes=None,
            kv_why="Triton's models do not tell theirs",
            ram_bytes=RAM_BYTES,
        )
