"""The real tritonserver, out of the pytriton wheel, with a model of its own that needs no GPU.

Here: installing it (6 s, 250 MB), the model repository, the command that starts it. Not here: the
model (triton_model.py) and talking to the server. Its Python backend needs the Python that it was
built for, with numpy, first in PATH, and that Python's shared library.
"""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

from tests.lab.cache import Cache, file_digest
from tests.lab.llama import Command, run_quietly
from tests.lab.needs import PYTHON

WHEEL = "nvidia-pytriton==0.7.0"
NUMPY = "numpy<2"
MODEL = "tinyllm"
SOURCE = Path(__file__).with_name("triton_model.py")
CONFIG = """
name: "tinyllm"
backend: "python"
max_batch_size: 0
model_transaction_policy { decoupled: true }
input [
  { name: "text_input" data_type: TYPE_STRING dims: [ 1 ] },
  { name: "max_tokens" data_type: TYPE_INT32 dims: [ 1 ] optional: true },
  { name: "seed" data_type: TYPE_UINT64 dims: [ 1 ] optional: true },
  { name: "temperature" data_type: TYPE_FP32 dims: [ 1 ] optional: true },
  { name: "stream" data_type: TYPE_BOOL dims: [ 1 ] optional: true },
  { name: "return_num_input_tokens" data_type: TYPE_BOOL dims: [ 1 ] optional: true },
  { name: "return_num_output_tokens" data_type: TYPE_BOOL dims: [ 1 ] optional: true }
]
output [
  { name: "text_output" data_type: TYPE_STRING dims: [ 1 ] },
  { name: "num_input_tokens" data_type: TYPE_UINT32 dims: [ 1 ] },
  { name: "num_output_tokens" data_type: TYPE_UINT32 dims: [ 1 ] },
  { name: "finish_reason" data_type: TYPE_STRING dims: [ 1 ] }
]
instance_group [ { count: 1 kind: KIND_CPU } ]
parameters { key: "trtllm_version" value: { string_value: "0.0-test" } }
parameters { key: "model_digest" value: { string_value: "sha256:%s" } }
"""


def install(folder: Path) -> None:
    """Install the wheel into a venv; put the backend's stub where the server looks for it."""
    run_quietly([sys.executable, "-m", "venv", str(folder)])
    pip = [str(folder / "bin/python"), "-m", "pip", "install", "--quiet", "--no-deps"]
    run_quietly([*pip, "--only-binary=:all:", WHEEL, NUMPY])
    server = server_folder(folder)
    stub = server / f"python_backend_stubs/{PYTHON}/triton_python_backend_stub"
    shutil.copy2(stub, server / "backends/python")
    for program in (server / "bin/tritonserver", server / "backends/python" / stub.name):
        program.chmod(0o755)


def server_folder(folder: Path) -> Path:
    """Where the wheel keeps the server."""
    return folder / f"lib/python{PYTHON}/site-packages/pytriton/tritonserver"


def build_triton(cache: Cache) -> Path:
    """The cached venv, installed when missing (needs the network then)."""
    inputs = {"wheel": WHEEL, "numpy": NUMPY, "python": PYTHON, "recipe": 1}
    return cache.build("triton", inputs, install)


def triton_command(cache: Cache | None = None) -> Command:
    """The argv that tritonserver's options follow, and what to add to the environment."""
    folder = build_triton(cache or Cache.default())
    server = server_folder(folder)
    argv = [str(server / "bin/tritonserver"), f"--backend-directory={server / 'backends'}"]
    path = f"{folder / 'bin'}:{os.environ.get('PATH', os.defpath)}"
    libraries = folder / f"lib/python{PYTHON}/site-packages/nvidia_pytriton.libs"
    return argv, {"PATH": path, "LD_LIBRARY_PATH": str(libraries)}


def repository(cache: Cache | None = None) -> Path:
    """The folder of a model repository with our model, written once."""
    digest = file_digest(SOURCE)

    def recipe(folder: Path) -> None:
        version = folder / MODEL / "1"
        version.mkdir(parents=True)
        shutil.copy2(SOURCE, version / "model.py")
        (folder / MODEL / "config.pbtxt").write_text(CONFIG.lstrip() % digest)

    return (cache or Cache.default()).build(
        "triton-repository", {"model": digest, "config": CONFIG}, recipe
    )
