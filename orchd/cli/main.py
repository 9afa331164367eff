"""The program orchctl from its first moment. What it does is in program.py."""

from __future__ import annotations

import signal
import sys


def main(arguments: list[str] | None = None) -> int:
    """Run one verb; return its exit code.

    Importing takes a third of a second, and Ctrl-C in there was a traceback: now it just ends us.
    """
    ours = signal.getsignal(signal.SIGINT) is signal.default_int_handler
    if ours:  # and not ignored, as behind nohup
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    from orchd.cli import program

    if ours:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    return program.run(arguments)


if __name__ == "__main__":
    sys.exit(main())
