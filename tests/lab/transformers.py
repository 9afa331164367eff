"""`transformers serve`, an OpenAI-compatible server that has nothing of llama.cpp's or vLLM's.

For the opt-in run `make test-vllm`: it is in vLLM's venv, but for one package. Here: installing
that, a cache of the Hub that has the model, the command. Not here: talking to it.
"""

from __future__ import annotations

from pathlib import Path

from tests.lab.cache import Cache
from tests.lab.llama import Command, run_quietly
from tests.lab.vllm import build_vllm

BESIDE = "accelerate==1.15.0"
"""Without it no model is put on a device that is named, the CPU included."""


NAME = "lab/tiny"
REVISION = "0" * 40


def serve_command(model: Path, home: Path, port: int, cache: Cache | None = None) -> Command:
    """The argv that serves a model's folder as NAME on a port of the loopback, and its environment.

    `home` becomes the Hub's cache: without one it cannot list its models, and answers 500.
    """
    store = cache or Cache.default()
    venv = build_vllm(store)

    def install(folder: Path) -> None:
        pip = [str(venv / "bin/python"), "-m", "pip", "install", "--quiet", "--no-deps"]
        run_quietly([*pip, "--target", str(folder), BESIDE])

    beside = store.build("accelerate", {"wheel": BESIDE}, install)
    kept = home / "hub" / f"models--{NAME.replace('/', '--')}"
    (kept / "refs").mkdir(parents=True)
    (kept / "refs/main").write_text(REVISION)
    (kept / "blobs").mkdir()
    (kept / "snapshots" / REVISION).mkdir(parents=True)
    for file in model.iterdir():
        (kept / "snapshots" / REVISION / file.name).symlink_to(file)
    program = [str(venv / "bin/python"), str(venv / "bin/transformers"), "serve", NAME]
    where = ["--host", "127.0.0.1", "--port", str(port), "--device", "cpu"]
    return [*program, *where], {
        "PYTHONPATH": str(beside),
        "HF_HOME": str(home),
        "HF_HUB_OFFLINE": "1",
        "OMP_NUM_THREADS": "1",
    }
