"""Stands in for Text Generation Inference, of which nothing can be had here: its three programs.

Written from its published API and from what the source of its launcher does: which arguments there
are and which pairs are refused, processes in groups of their own, an end that takes router and
shards along. Nothing of it is proof of the real one. One file, the standard library alone: it is
installed under three names (tests/lab/tgi.py), also into machines and images.
Its text is a function of prompt and seed; a word is a token, and one more begins each prompt.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

DELAY_S = float(os.environ.get("TINY_DELAY_MS", "0")) / 1000
POLL_S = 0.02  # the real one looks every 100 ms
VERSION = "3.3.6"
SHA = "b5e2a1c0d3f4e5a6b7c8d9e0f1a2b3c4d5e6f708"


def launcher() -> int:
    """`text-generation-launcher`: weights, shards, router; and their end."""
    parser = argparse.ArgumentParser(allow_abbrev=False)
    for name, default in (
        ("--model-id", "bigscience/bloom-560m"), ("--hostname", "0.0.0.0"), ("--port", "3000"),
        ("--shard-uds-path", "/tmp/text-generation-server"), ("--master-port", "29500"),
    ):  # fmt: skip
        parser.add_argument(name, default=default)
    for name, number in (
        ("--num-shard", None), ("--max-concurrent-requests", 128), ("--max-input-tokens", None),
        ("--max-total-tokens", 4096), ("--max-batch-prefill-tokens", None),
    ):  # fmt: skip
        parser.add_argument(name, type=int, default=number)
    parser.add_argument("--cuda-memory-fraction", type=float, default=1.0)
    args = parser.parse_args()
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    if args.max_input_tokens >= args.max_total_tokens:
        print("Error: ArgumentValidation(`max_input_tokens must be < `max_total_tokens`)")
        return 1
    visible = os.environ["CUDA_VISIBLE_DEVICES"].split(",")
    shards = args.num_shard or len(visible)
    print(f"Using prefix caching {os.environ.get('PREFIX_CACHING', 'true')}", flush=True)
    if subprocess.call(["text-generation-server", "download-weights", args.model_id]) != 0:
        print("Error: DownloadError")
        return 1
    running = []
    for rank in range(shards):
        uds = Path(f"{args.shard_uds_path}-{rank}")
        uds.unlink(missing_ok=True)
        serve = ["text-generation-server", "serve", args.model_id, "--uds-path", str(uds)]
        running.append(subprocess.Popen(serve, process_group=0))
        while not uds.exists() and not stop.is_set():
            if running[-1].poll() is not None:
                print("Error: ShardCannotStart")
                return 1
            time.sleep(POLL_S)
    route = [
        "text-generation-router", args.hostname, args.port, args.model_id,
        str(args.max_concurrent_requests), str(args.max_input_tokens), str(args.max_total_tokens),
    ]  # fmt: skip
    running.insert(0, subprocess.Popen(route, process_group=0))
    code = 0
    while not stop.wait(POLL_S):
        if any(one.poll() is not None for one in running):
            print("Error: WebserverFailed or ShardFailed", flush=True)
            code = 1
            break
    for one in running:
        one.terminate()
        one.wait()
    return code


def server() -> int:
    """`text-generation-server`: looks for the weights, or is a shard that does nothing."""
    verb, model = sys.argv[1:3]
    if not list(Path(model).glob("*.safetensors")):
        print(f"no safetensors in {model}", file=sys.stderr)
        return 1
    if verb == "serve":
        with socket.socket(socket.AF_UNIX) as shard:
            shard.bind(sys.argv[4])
            signal.sigwait({signal.SIGTERM})
    return 0


def router() -> int:
    """`text-generation-router`: HTTP."""
    host, port, model, most, inputs, total = sys.argv[1:]
    Handler.model, Handler.most = model, int(most)
    Handler.inputs, Handler.total = int(inputs), int(total)
    ThreadingHTTPServer((host, int(port)), Handler).serve_forever()
    return 0


class Handler(BaseHTTPRequestHandler):
    """The routes."""

    protocol_version = "HTTP/1.1"
    model = ""
    most = inputs = total = running = 0
    lock = threading.Lock()

    def do_GET(self) -> None:
        """Health, what it is, metrics."""
        if self.path == "/info":
            self.answer(
                200,
                {
                    "model_id": self.model, "model_sha": None, "version": VERSION, "sha": SHA,
                    "max_concurrent_requests": self.most, "max_input_tokens": self.inputs,
                    "max_total_tokens": self.total, "router": "text-generation-router",
                },
            )  # fmt: skip
        elif self.path == "/metrics":
            self.send(200, f"tgi_batch_current_size {Handler.running}\n".encode(), "text/plain")
        else:
            self.send(200 if self.path == "/health" else 404, b"", "text/plain")

    def do_POST(self) -> None:
        """Tokens of a text, and generation."""
        asked = json.loads(self.rfile.read(int(self.headers["content-length"])))
        words = asked["inputs"].split()
        if self.path == "/tokenize":
            begin = [{"id": 1, "text": "<s>", "start": 0, "stop": 0}]
            told = [{"id": len(w) + 2, "text": w, "start": 0, "stop": 0} for w in words]
            self.answer(200, begin + told)
            return
        count, most = len(words) + 1, asked["parameters"]["max_new_tokens"]
        wrong = None
        if count > self.inputs:
            wrong = f"`inputs` must have less than {self.inputs} tokens. Given: {count}"
        elif count + most > self.total:
            wrong = (
                f"`inputs` tokens + `max_new_tokens` must be <= {self.total}. Given: {count} "
                f"`inputs` tokens and {most} `max_new_tokens`"
            )
        if wrong is not None:
            said = f"Input validation error: {wrong}"
            self.answer(422, {"error": said, "error_type": "validation"})
            return
        with self.lock:
            full = Handler.running >= self.most
            Handler.running += not full
        if full:
            self.answer(429, {"error": "Model is overloaded", "error_type": "overloaded"})
            return
        try:
            self.generate(asked["inputs"], count, most, asked["parameters"].get("seed") or 0)
        finally:
            with self.lock:
                Handler.running -= 1

    def generate(self, prompt: str, count: int, most: int, seed: int) -> None:
        """Stream the tokens, until the client has gone."""
        self.send_response(200)
        self.send_header("content-type", "text/event-stream")
        self.send_header("transfer-encoding", "chunked")
        self.end_headers()
        own_end, begin = 40 + seed * 37 % 400, sum(prompt.encode()) + seed
        made = min(most, own_end)
        whole = ""
        for at in range(made):
            text = chr((begin + at * 7) % 26 + 97)
            whole += text
            last = at + 1 == made
            frame: dict[str, Any] = {
                "index": at + 1,
                "token": {"id": at, "text": text, "logprob": -0.5, "special": False},
                "generated_text": whole if last else None,
                "details": None,
            }
            if last:
                frame["details"] = {
                    "finish_reason": "eos_token" if own_end < most else "length",
                    "generated_tokens": made, "seed": seed, "input_length": count,
                }  # fmt: skip
            data = b"data:" + json.dumps(frame).encode() + b"\n\n"
            try:
                self.wfile.write(b"%x\r\n%s\r\n" % (len(data), data))
            except OSError:
                self.close_connection = True
                return
            time.sleep(DELAY_S)
        self.wfile.write(b"0\r\n\r\n")

    def answer(self, status: int, value: object) -> None:
        """Send a value."""
        self.send(status, json.dumps(value).encode(), "application/json")

    def send(self, status: int, body: bytes, kind: str) -> None:
        """Send a whole answer."""
        self.send_response(status)
        self.send_header("content-type", kind)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Say nothing of requests."""


PROGRAMS = {
    "text-generation-launcher": launcher,
    "text-generation-server": server,
    "text-generation-router": router,
}

if __name__ == "__main__":
    sys.exit(PROGRAMS[Path(sys.argv[0]).name]())
