"""How far, how fast, how long still: figures and their words. Time is an argument.

Who is told is the caller's.
"""

from __future__ import annotations

from collections import deque
from typing import Final

from orchd.fetch.orders import Progress
from orchd.wire.ids import Count, NonNegative, Text

WINDOW_S: Final = 10.0
"""Over what time the rate is measured: short enough to see a change, long enough to be read."""
_UNITS: Final = ("B", "kB", "MB", "GB", "TB")


class Meter:
    """Counts bytes that come; what was there before is no part of the rate."""

    def __init__(self, done_bytes: int, total_bytes: int | None) -> None:
        self.done_bytes = done_bytes
        self.total_bytes = total_bytes
        self._marks: deque[tuple[float, int]] = deque()

    def add(self, count: int) -> None:
        """So many bytes have come; fewer than none: they have to come again."""
        self.done_bytes += count

    def progress(self, what: str, now: float) -> Progress:
        """Return the figures of now; call it about once a second."""
        self._marks.append((now, self.done_bytes))
        while len(self._marks) > 2 and self._marks[0][0] < now - WINDOW_S:
            self._marks.popleft()
        began, before = self._marks[0]
        rate = max(0.0, (self.done_bytes - before) / (now - began)) if now > began else None
        left = None
        if rate and self.total_bytes is not None:
            left = max(0.0, (self.total_bytes - self.done_bytes) / rate)
        return Progress(
            what=Text(what),
            done_bytes=Count(max(0, self.done_bytes)),
            total_bytes=None if self.total_bytes is None else Count(self.total_bytes),
            bytes_per_s=None if rate is None else NonNegative(rate),
            left_s=None if left is None else NonNegative(left),
        )


def words(said: Progress) -> str:
    """Return the sentence for a status line: `fetching x.gguf: 43 % of 4.1 GB, 85 MB/s, 28 s
    left`."""
    if said.total_bytes:
        share = 100 * said.done_bytes // said.total_bytes
        text = f"{said.what}: {share} % of {size(said.total_bytes)}"
    elif said.done_bytes:
        text = f"{said.what}: {size(said.done_bytes)}"
    else:
        return said.what
    if said.bytes_per_s:
        text += f", {size(said.bytes_per_s)}/s"
    if said.left_s is not None:
        text += f", {duration(said.left_s)} left"
    return text


def size(count: float) -> str:
    """Return bytes for people, in steps of 1000 as disks and networks are sold: 4.1 GB."""
    unit = 0
    while count >= 999.5 and unit < len(_UNITS) - 1:
        count /= 1000
        unit += 1
    return (
        f"{count:.1f} {_UNITS[unit]}" if unit and count < 99.95 else f"{count:.0f} {_UNITS[unit]}"
    )


def duration(seconds: float) -> str:
    """Return a time for people: 28 s, 3 min 05 s, 2 h 10 min."""
    whole = int(seconds + 0.5)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"
