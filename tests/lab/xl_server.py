"""llama.cpp's own HTTP server out of the prebuilt `xllamacpp` wheel: a llama-server in one file.

Here: main() and the options that our engine adapter and its tests pass; the HTTP layer, the routes
and the inference are llama.cpp's C++ code inside the wheel. Runs as a program, imported by nobody.
Not here: installing the wheel (llama.py).
"""

from __future__ import annotations

import argparse
import signal
import sys
import threading
from typing import Any

SWITCHES = (
    "slots",
    "no-slots",
    "metrics",
    "props",
    "embeddings",
    "reranking",
    "no-cont-batching",
    "no-cache-prompt",
    "kv-unified",
    "no-kv-unified",
    "offline",
    "log-timestamps",
)


def parser() -> argparse.ArgumentParser:
    """The part of llama-server's options that is understood here."""
    options = argparse.ArgumentParser(prog="xl_server", allow_abbrev=False)
    options.add_argument("-m", "--model", required=True)
    options.add_argument("-a", "--alias")
    options.add_argument("--host", default="127.0.0.1", help="an address, or PATH.sock")
    options.add_argument("--port", type=int, default=8080)
    options.add_argument("-np", "--parallel", type=int)
    options.add_argument("-c", "--ctx-size", type=int, default=0)
    options.add_argument("-b", "--batch-size", type=int)
    options.add_argument("-ub", "--ubatch-size", type=int)
    options.add_argument("-s", "--seed", type=int)
    options.add_argument("-t", "--threads", type=int)
    options.add_argument("--threads-http", type=int)
    options.add_argument("--sleep-idle-seconds", type=int)
    options.add_argument("--api-key")
    options.add_argument("--pooling", choices=("none", "mean", "cls", "last", "rank"))
    for switch in SWITCHES:
        options.add_argument("--" + switch, action="store_true")
    return options


def parameters(xlc: Any, chosen: argparse.Namespace) -> Any:
    """llama.cpp's parameter block for the chosen options; what was not given keeps its default."""
    params = xlc.CommonParams()
    params.model.path = chosen.model
    params.hostnames = [chosen.host]
    params.port = chosen.port
    params.n_ctx = chosen.ctx_size
    if chosen.alias:
        params.model_alias = {chosen.alias}
    if chosen.api_key:
        params.api_keys = [chosen.api_key]
    if chosen.seed is not None:
        params.sampling.seed = chosen.seed
    if chosen.threads is not None:
        params.cpuparams.n_threads = chosen.threads
        params.cpuparams_batch.n_threads = chosen.threads
    numbers = {
        "n_parallel": chosen.parallel,
        "n_batch": chosen.batch_size,
        "n_ubatch": chosen.ubatch_size,
        "n_threads_http": chosen.threads_http,
        "sleep_idle_seconds": chosen.sleep_idle_seconds,
    }
    for name, number in numbers.items():
        if number is not None:
            setattr(params, name, number)
    params.endpoint_slots = not chosen.no_slots
    params.endpoint_metrics = chosen.metrics
    params.endpoint_props = chosen.props
    params.cont_batching = not chosen.no_cont_batching
    params.cache_prompt = not chosen.no_cache_prompt
    if chosen.kv_unified or chosen.no_kv_unified:
        params.kv_unified = chosen.kv_unified
    if chosen.embeddings or chosen.reranking:
        params.embedding = True
    pooling = "rank" if chosen.reranking else chosen.pooling
    if pooling is not None:
        name = f"LLAMA_POOLING_TYPE_{pooling.upper()}"
        params.pooling_type = getattr(xlc.llama_pooling_type, name)
    return params


def main() -> None:
    """Serve until SIGTERM or SIGINT."""
    chosen, unknown = parser().parse_known_args()
    if unknown:
        # Debian's llama-server, the other build, refuses an option that does not exist.
        print("not understood here, ignored:", *unknown, file=sys.stderr)
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    import xllamacpp as xlc  # only the server's process has it

    server = xlc.Server(parameters(xlc, chosen))
    print("listening on", server.listening_address, flush=True)
    stop.wait()
    del server  # its destructor closes the listener and waits for open streams, as llama-server


if __name__ == "__main__":
    main()
