"""Becomes a daemon as systemd would start it: sockets at descriptors 3, 4, ..., LISTEN_PID set.

Run as a file by `orchctl up`, with Python's -I -S: it must not import more than this.
Arguments: the descriptors as `7,9`, then the program and its arguments.
"""

from __future__ import annotations

import fcntl
import os
import sys

FIRST = 3  # SD_LISTEN_FDS_START, sd_listen_fds(3)


def main() -> None:
    """Put the descriptors in place and execute the program. Does not return."""
    given = [int(text) for text in sys.argv[1].split(",")]
    # out of the way first: a target may be another one's source
    high = [fcntl.fcntl(fd, fcntl.F_DUPFD, FIRST + len(given)) for fd in given]
    for offset, fd in enumerate(high):
        os.dup2(fd, FIRST + offset, inheritable=True)
    for fd in {*given, *high} - set(range(FIRST, FIRST + len(given))):
        os.close(fd)
    os.environ["LISTEN_PID"] = str(os.getpid())
    os.execv(sys.argv[2], sys.argv[2:])


if __name__ == "__main__":
    main()
