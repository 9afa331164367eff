"""One run of the load generator: a process of its own, on the engine's core unless it may roam."""

from __future__ import annotations

import subprocess
import sys
import time
from typing import Final

from orchd.wire import codec
from tools.bench import proc
from tools.bench.orders import Answer, Order

REST_S: Final = 0.5  # after a run: cancelled tasks free their slots
PATIENCE_S: Final = 300.0


def load(order: Order, *, roams: bool = False) -> Answer:
    """Carry out an order. Raises RuntimeError when the answers were not those expected."""
    place = [] if roams else ["taskset", "--cpu-list", str(proc.cores()[1])]
    argv = [*place, sys.executable, "-m", "tools.bench.load"]
    done = subprocess.run(
        [*argv, codec.dumps(order).decode()],
        capture_output=True,
        text=True,
        check=False,
        timeout=PATIENCE_S,
    )
    if done.returncode != 0:
        raise RuntimeError(f"the load generator failed:\n{done.stderr}")
    answer = codec.loads(Answer, done.stdout.encode())
    if answer.refused:
        raise RuntimeError(f"{answer.refused} answers were wrong, the first: {answer.refusal}")
    time.sleep(REST_S)
    return answer
