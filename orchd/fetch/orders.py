"""What the fetching program is told and what it answers, line by line: the formats between it and
whoever started it (child.py, __main__.py).
"""

from __future__ import annotations

from attrs import frozen

from orchd.config.policy import Outbound, Plugin
from orchd.wire.cached import Shape
from orchd.wire.ids import Count, NonNegative, Positive, Text


@frozen(kw_only=True)
class Order:
    """One model to be fetched. No secret is in here: those come by environment and credential."""

    ref: Text
    folder: Text
    """The cache: its entries are made below it."""
    shape: Shape = Shape.GGUF
    digest: Text | None = None
    """sha256:<hex> that the model must have."""
    named_by: Text | None = None
    """What of the configuration, or which command, names the model, and so its hosts; None: nothing
    does, and the rules alone say what may be asked."""
    purpose: Text
    """For the journal: `model llama`."""
    outbound: Outbound = Outbound()
    plugins: tuple[Plugin, ...] = ()
    """Of policy.plugins: those that decide on outbound requests are asked too."""
    connections: Positive = Positive(8)
    """At the same time, over all files."""


@frozen(kw_only=True)
class Progress:
    """Where it is."""

    what: Text
    """What is done: `fetching model.gguf`, `waiting for ...`, `verifying ...`."""
    done_bytes: Count = Count(0)
    total_bytes: Count | None = None
    bytes_per_s: NonNegative | None = None
    left_s: NonNegative | None = None


@frozen(kw_only=True)
class Done:
    """It is in the cache, whole and verified."""

    path: Text
    """What an engine is given: a file, or a folder."""
    files: tuple[Text, ...]
    """Those that `digest` counts, in order: all of a folder, all parts of a GGUF model."""
    size_bytes: Count
    digest: Text
    """sha256:<hex> of `files`, one after the other."""
    fetched_bytes: Count = Count(0)
    """Of them, those that came just now."""


@frozen(kw_only=True)
class Failed:
    """It is not; what has come is kept."""

    kind: Text
    """A Kind of the error table."""
    message: Text


@frozen(kw_only=True)
class Said:
    """One line of the program: exactly one of these."""

    progress: Progress | None = None
    done: Done | None = None
    failed: Failed | None = None
