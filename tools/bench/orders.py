"""What the load generator is told and what it answers: frozen classes, JSON between processes.

How load is made is in load.py, what is measured with it in measures.py.
"""

from __future__ import annotations

import enum

from attrs import frozen


class Mode(enum.StrEnum):
    """What the load generator does."""

    FIRST = "first"
    """One stream at a time, the targets in turn."""
    ANSWERS = "answers"
    """POSTs one after another: the time to each 202."""
    STREAMS = "streams"
    """Streams that last; tokens and CPU over a window of time."""
    ADMISSIONS = "admissions"
    """POSTs alone; CPU over windows of counts."""
    HOLD = "hold"
    """Streams that wait; memory before and after."""


class Api(enum.StrEnum):
    """What a target speaks."""

    TASKS = "tasks"
    """orchd's: POST /v1/tasks, then GET its stream, on the same connection."""
    COMPLETION = "completion"
    """The engine's own: POST /completion, itself or through a proxy."""


@frozen(kw_only=True)
class Target:
    """Where to send requests. `address`: a path of a unix socket, or IP:PORT."""

    name: str
    api: Api
    address: str


@frozen(kw_only=True)
class Order:
    """One run of the load generator. Only the fields of its mode matter."""

    mode: Mode
    targets: tuple[Target, ...]
    pids: tuple[int, ...] = ()
    """Whose CPU time and memory are read, at the edges of each window."""
    streams: int = 1
    max_tokens: int = 1
    again: bool = False
    """STREAMS: begin the next task on the connection when one has ended."""
    warm_s: float = 1.0
    window_s: float = 5.0
    tasks: int = 300
    """FIRST, ANSWERS: for each target."""
    in_a_row: int = 1
    """FIRST: tasks that a target is asked before it is the next one's turn."""
    gap_s: float = 0.0
    """FIRST: silence before each task."""
    windows: tuple[int, ...] = ()
    """ADMISSIONS: counts of tasks at which CPU time is read: begin, end, begin, end, ..."""


@frozen(kw_only=True)
class Samples:
    """Times of one target, in milliseconds, in the order taken: to its first tokens, or answers."""

    name: str
    ms: tuple[float, ...]


@frozen(kw_only=True)
class Window:
    """What happened between two instants."""

    wall_s: float
    tokens: int
    tasks: int
    """That ended, or were admitted."""
    cpu_s: tuple[float, ...]
    """Of each pid of the order."""
    load_cpu_s: float
    """Of the load generator itself: it must not be the bottleneck."""


@frozen(kw_only=True)
class Held:
    """Memory of each pid of the order, in KiB (PSS), before and after the streams were opened."""

    streams: int
    before_kib: tuple[int, ...]
    after_kib: tuple[int, ...]
    settle: Window
    """What happened while they only waited."""


@frozen(kw_only=True)
class Answer:
    """What a run found out; the fields of other modes are empty."""

    samples: tuple[Samples, ...] = ()
    windows: tuple[Window, ...] = ()
    held: Held | None = None
    refused: int = 0
    """Requests that were not answered as expected; any makes the figures worthless."""
    refusal: str = ""
    """The head of the first of them."""
