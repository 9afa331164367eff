"""`python -m tools.bench [MEASURE...]`: measure, print tables, optionally write them down."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

from orchd.wire import codec
from tools.bench import (
    admission,
    calibration,
    cancel,
    core,
    dialects,
    page,
    plugins,
    relay,
    staging,
    standing,
)
from tools.bench.figures import Figure, markdown

MEASURES: Final[dict[str, Callable[[int], list[Figure]]]] = {
    "first-token": relay.first_token,
    "paced": relay.paced,
    "flat": relay.flat,
    "tasks": standing.whole_tasks,
    "admission": admission.admission,
    "beside": admission.beside_streams,
    "idle": standing.idle_streams,
    "start": standing.start,
    "cancel": cancel.freed,
    "dialects": dialects.dialects,
    "curve": core.curve,
    "crowd": core.crowd,
    "plugins": plugins.decisions,
    "predictions": calibration.predictions,
    "staging": staging.staging,
}


def main() -> int:
    """Run the measures that were asked for.

    Returns 0 also when a goal was missed; 1 when a measure failed: then nothing is written into
    the page.
    """
    options = _options()
    print(page.machine(), file=sys.stderr)
    figures: list[Figure] = []
    failed: list[str] = []
    for name in options.measures or MEASURES:
        began = time.monotonic()
        try:
            fresh = MEASURES[name](options.runs)
        except (OSError, RuntimeError) as exc:
            print(f"{name} FAILED: {exc}", file=sys.stderr)
            failed.append(name)
            continue
        print(f"\n{markdown(fresh)}", flush=True)
        print(f"({name}: {time.monotonic() - began:.0f} s)", file=sys.stderr)
        figures += fresh
    if options.json is not None:
        options.json.write_bytes(codec.dumps({"machine": page.machine(), "figures": figures}))
    if options.write is not None and not failed:
        page.write(options.write, "tools.bench", f"{page.machine()}\n\n{markdown(figures)}")
    return 1 if failed else 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tools.bench", description=__doc__)
    parser.add_argument(
        "measures", nargs="*", metavar="MEASURE", help=f"of {', '.join(MEASURES)} (default: all)"
    )
    parser.add_argument(
        "--runs", type=int, default=3, help="repeat what is noisy so often (default: 3)"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all figures here too")
    parser.add_argument(
        "--write", type=Path, metavar="FILE", help="replace the tables between the marks of FILE"
    )
    options = parser.parse_args()
    unknown = [name for name in options.measures if name not in MEASURES]
    if unknown:
        parser.error(f"no measure {', '.join(unknown)}; there are {', '.join(MEASURES)}")
    return options


if __name__ == "__main__":
    sys.exit(main())
