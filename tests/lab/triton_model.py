"""The model that the real tritonserver serves in tests: tokens without a network, one at a time.

Runs inside Triton's Python backend, which copies nothing and knows no package of ours. Its text is
a function of prompt and seed. Its outputs are those of vLLM's backend; where the configuration has
`cum_log_probs`, those of TensorRT-LLM's. It ends by itself after 40 + (37 seed mod 400) tokens.
Prompts `boom` and `boom-late` fail, before and after two tokens.
TINY_LIVE names a file that holds how many requests run.
"""

from __future__ import annotations

import json
import os
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import triton_python_backend_utils as pb_utils

CTX = int(os.environ.get("TINY_CTX", "512"))
DELAY_S = float(os.environ.get("TINY_DELAY_MS", "0")) / 1000


class TritonPythonModel:
    """What the backend looks for."""

    def initialize(self, args: Any) -> None:
        """Begin with nothing running."""
        outputs = json.loads(args["model_config"])["output"]
        self.trtllm = any(one["name"] == "cum_log_probs" for one in outputs)
        self.live = 0
        self.lock = threading.Lock()
        self.count(0)

    def count(self, change: int) -> None:
        """Tell how many requests run."""
        with self.lock:
            self.live += change
            name = os.environ.get("TINY_LIVE")
            if name:
                fresh = Path(f"{name}.{os.getpid()}")  # the other model writes there too
                fresh.write_text(str(self.live))
                fresh.rename(name)

    def execute(self, requests: list[Any]) -> None:
        """Run each in a thread: the answers go out one by one."""
        for request in requests:
            self.count(1)
            sender = request.get_response_sender()
            threading.Thread(target=self.run, args=(request, sender), daemon=True).start()

    def run(self, request: Any, sender: Any) -> None:
        """Answer one request."""
        try:
            self.answer(request, sender)
        finally:
            sender.send(flags=pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL)
            self.count(-1)

    def answer(self, request: Any, sender: Any) -> None:
        """Send the tokens, until it is canceled."""
        prompt = value(request, "text_input", b"").decode()
        most = int(value(request, "max_tokens", 16))
        seed = int(value(request, "random_seed" if self.trtllm else "seed", 0))
        words = len(prompt.split())
        if prompt == "boom":
            fail(sender, "bad prompt", pb_utils.TritonError.INVALID_ARG)
            return
        if words > CTX:
            why = f"Prompt length ({words}) exceeds maximum input length ({CTX})"
            fail(sender, why, pb_utils.TritonError.INVALID_ARG)
            return
        own_end = 40 + seed * 37 % 400
        for at in range(min(most, own_end)):
            if request.is_cancelled() or sender.is_cancelled():
                return
            if prompt == "boom-late" and at == 2:
                fail(sender, "late failure", pb_utils.TritonError.INTERNAL)
                return
            last = at + 1 == min(most, own_end)
            reason = "None" if not last else "stop" if own_end < most else "length"
            text = chr((sum(prompt.encode()) + seed + at * 7) % 26 + 97)
            made = of_trtllm(text) if self.trtllm else of_vllm(text, words, reason)
            sender.send(pb_utils.InferenceResponse(made))
            if DELAY_S:
                time.sleep(DELAY_S)


def of_vllm(text: str, words: int, reason: str) -> list[Any]:
    """One token as vLLM's backend gives it."""
    return [
        tensor("text_output", text.encode(), np.object_),
        tensor("num_input_tokens", words, np.uint32),
        tensor("num_output_tokens", 1, np.uint32),
        tensor("finish_reason", reason.encode(), np.object_),
    ]


def of_trtllm(text: str) -> list[Any]:
    """One token as TensorRT-LLM's models give it: with a dimension for the batch, and no count."""
    return [
        pb_utils.Tensor("text_output", np.array([[text.encode()]], dtype=np.object_)),
        pb_utils.Tensor("cum_log_probs", np.array([[-0.5]], dtype=np.float32)),
        pb_utils.Tensor("output_log_probs", np.array([[[-0.5]]], dtype=np.float32)),
        pb_utils.Tensor("context_logits", np.array([[[0.0]]], dtype=np.float32)),
        pb_utils.Tensor("generation_logits", np.array([[[[0.0]]]], dtype=np.float32)),
        pb_utils.Tensor("batch_index", np.array([[0]], dtype=np.int32)),
    ]


def value(request: Any, name: str, default: Any) -> Any:
    """An input's one element."""
    found = pb_utils.get_input_tensor_by_name(request, name)
    return default if found is None else found.as_numpy().reshape(-1)[0]


def tensor(name: str, element: Any, kind: Any) -> Any:
    """An output of one element."""
    return pb_utils.Tensor(name, np.array([element], dtype=kind))


def fail(sender: Any, why: str, code: Any) -> None:
    """Send an error."""
    sender.send(pb_utils.InferenceResponse(error=pb_utils.TritonError(why, code)))
