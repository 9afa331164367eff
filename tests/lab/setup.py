"""`python -m tests.lab.setup [--check]`: make this machine able to run the whole test suite.

Here: warming the cache, so that no test pays for it, after the system packages are there (as root
they are installed, otherwise the exact command is printed). Not here: what is needed and how it is
installed (needs.py), how the parts are made.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial

from tests.lab import needs as lab_needs
from tests.lab.boxes import box_layers
from tests.lab.cache import Cache
from tests.lab.cuda import NVCC, placeholders, toolkit
from tests.lab.llama import LlamaBuild, build_llama, needs_of, tiny_model
from tests.lab.llama_source import LLAMA_SOURCE, build_source
from tests.lab.needs import EVERYTHING, FAKE_NVML, MACHINE, TRITON, Need, install, missing
from tests.lab.nvml import build_stub
from tests.lab.rootfs import Suite
from tests.lab.tiny_gguf import SLOW
from tests.lab.triton import build_triton
from tests.lab.venv import dependency_layer

Step = tuple[str, tuple[Need, ...], Callable[[], object]]
PRINTING = threading.Lock()


def say(text: str) -> None:
    """One whole line, also while several steps run."""
    with PRINTING:
        print(text, flush=True)


def steps(cache: Cache) -> list[Step]:
    """Everything that the cache can hold, the longest first."""
    systems: list[Step] = [
        (f"{suite} system with our dependencies", MACHINE, partial(dependency_layer, suite, cache))
        for suite in Suite
    ]
    boxes: list[Step] = [
        (f"{suite} system with podman", MACHINE, partial(box_layers, suite, cache))
        for suite in Suite
    ]
    engines: list[Step] = [
        (f"llama.cpp's server, {build} build", needs_of(build), partial(build_llama, build, cache))
        for build in LlamaBuild
    ]
    return [
        *systems,
        *boxes,
        *engines,
        ("tritonserver", TRITON, partial(build_triton, cache)),
        ("llama.cpp's source", LLAMA_SOURCE, partial(build_source, cache)),
        ("NVIDIA's compiler", NVCC, lambda: [toolkit(cache), placeholders(cache)]),
        ("tiny models", (), lambda: [tiny_model(cache=cache), tiny_model(SLOW, cache)]),
        ("fake NVML", FAKE_NVML, lambda: build_stub(cache)),
    ]


def warm(step: Step) -> bool:
    """Run one step and tell how it went; True when its result can be used."""
    what, needs, make = step
    absent = missing(needs)
    if absent:
        say(f"  {what}: left out, {'; '.join(need.reason() for need in absent)}")
        return False
    began = time.monotonic()
    try:
        make()
    except (OSError, RuntimeError, subprocess.SubprocessError) as error:
        say(f"  {what}: FAILED, its tests will fail too: {error}")
        return False
    say(f"  {what}: ready ({time.monotonic() - began:.1f} s)")
    return True


def main() -> int:
    """Exit status 0 when everything is there, 1 when some tests will be skipped or fail."""
    options = argparse.ArgumentParser(prog="python -m tests.lab.setup", description=__doc__)
    options.add_argument("--check", action="store_true", help="only say what is missing")
    chosen = options.parse_args()
    began = time.monotonic()
    if chosen.check:
        return lab_needs.main()
    cache = Cache.default()
    say(f"Setting up the tests' real parts in {cache.root}")
    absent = missing(EVERYTHING)
    if absent:
        install(absent)
    with ThreadPoolExecutor(max(2, os.cpu_count() or 1)) as pool:
        done: list[Future[bool]] = [pool.submit(warm, step) for step in steps(cache)]
        ready = [future.result() for future in done]
    say(f"{sum(ready)} of {len(ready)} parts ready in {time.monotonic() - began:.1f} s")
    return 0 if all(ready) else 1


if __name__ == "__main__":
    sys.exit(main())
