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
from tests.lab.host_python import venv_in_machine
from tests.lab.llama import Command, run_quietly
from tests.lab.needs import PYTHON

WHEEL = "nvidia-pytriton==0.7.0"
NUMPY = "numpy<2"
MODEL = "tinyllm"
TRTLLM = "tensorrt_llm_bls"
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


INPUTS = (
    *(("text_input", "STRING", ""), ("decoder_text_input", "STRING", "optional: true")),
    ("max_tokens", "INT32", ""),
    *((name, "INT32", "optional: true") for name in ("end_id", "pad_id", "top_k", "min_length")),
    *((name, "INT32", "optional: true") for name in ("beam_width", "prompt_vocab_size")),
    *((name, "FP32", "optional: true") for name in ("top_p", "temperature", "length_penalty")),
    *((name, "FP32", "optional: true") for name in ("repetition_penalty", "presence_penalty")),
    ("random_seed", "UINT64", "optional: true"),
    ("stream", "BOOL", "optional: true"),
    *(
        (name, "BOOL", "reshape: { shape: [ ] } optional: true")
        for name in ("return_log_probs", "return_context_logits", "return_generation_logits")
    ),
)
OUTPUTS = (
    *(("text_output", "STRING", "-1"), ("cum_log_probs", "FP32", "-1")),
    *(("output_log_probs", "FP32", "-1, -1"), ("context_logits", "FP32", "-1, -1")),
    *(("generation_logits", "FP32", "-1, -1, -1"), ("batch_index", "INT32", "1")),
)
"""Names, types and dimensions of TensorRT-LLM's model of text (tensorrt_llm_bls, 0.1x)."""
TRTLLM_CONFIG = f"""
name: "{TRTLLM}"
backend: "python"
max_batch_size: 8
model_transaction_policy {{ decoupled: true }}
input [
{",".join(f'{{ name: "{n}" data_type: TYPE_{t} dims: [ 1 ] {more} }}' for n, t, more in INPUTS)}
]
output [
{",".join(f'{{ name: "{n}" data_type: TYPE_{t} dims: [ {dims} ] }}' for n, t, dims in OUTPUTS)}
]
instance_group [ {{ count: 1 kind: KIND_CPU }} ]
parameters {{ key: "accumulate_tokens" value: {{ string_value: "false" }} }}
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
    """The folder of a model repository with our model in both its shapes, written once."""
    digest = file_digest(SOURCE)
    configs = {MODEL: CONFIG.lstrip() % digest, TRTLLM: TRTLLM_CONFIG.lstrip()}

    def recipe(folder: Path) -> None:
        for name, config in configs.items():
            version = folder / name / "1"
            version.mkdir(parents=True)
            shutil.copy2(SOURCE, version / "model.py")
            (folder / name / "config.pbtxt").write_text(config)

    return (cache or Cache.default()).build(
        "triton-repository", {"model": digest, "config": configs}, recipe
    )


Inside = tuple[dict[Path, Path], list[str], dict[str, str]]


def triton_in_machine(inside: Path, cache: Cache | None = None) -> Inside:
    """In a Machine, below `inside`: what to bind there, argv, and environment."""
    store = cache or Cache.default()
    folder = build_triton(store)
    server = inside / server_folder(folder).relative_to(folder)
    binds, python = venv_in_machine(folder, inside, store)
    libraries = inside / f"lib/python{PYTHON}/site-packages/nvidia_pytriton.libs"
    argv = [str(server / "bin/tritonserver"), f"--backend-directory={server / 'backends'}"]
    env = {"PATH": f"{inside}/bin:/usr/bin", "LD_LIBRARY_PATH": f"{libraries}:{python}"}
    return binds, argv, env
