"""What a policy plugin is asked, and what it answers: the typed side of the SDK for Python.

How both lie in a plugin's memory is abi.py's.
"""

from __future__ import annotations

from attrs import frozen

from orchd.wire.ids import Count
from orchd.wire.policy import What


@frozen(kw_only=True)
class Question:
    """A snapshot: all that a decision may depend on, beside the plugin's own args.

    Metadata only: no prompt, no query of a URL, no header. "" and 0: the question has none.
    """

    what: What
    time_unix_s: Count
    """When it is asked. A plugin has no other clock."""
    minute_of_day: Count
    """0 to 1439, in the machine's time zone."""
    weekday: Count
    """0 is Monday, 6 Sunday; of the same zone."""
    identity: str = ""
    """Who asks orchd: `localhost`, `uid:N`, `proxy:USER` or `token:<fp6>`."""
    purpose: str = ""
    """What a request is for, as the journal has it: `model of pool llama`."""
    scheme: str = ""
    host: str = ""
    """Lower case, no brackets; empty where a tool chooses its hosts itself."""
    port: Count = Count(0)
    path: str = ""
    """Without the query."""
    via: str = ""
    """Who would send it: `http` is our client, else a tool's name."""
    size_bytes: Count | None = None
    """Of the whole answer, as far as it is known before."""
    model_ref: str = ""
    engine: str = ""
    workload: str = ""
    priority: str = ""
    max_tokens: Count = Count(0)
    ctx: Count = Count(0)


@frozen
class Decision:
    """What a plugin answered."""

    allowed: bool
    reason: str
    """In its own words, for the journal and for whoever is refused; may be empty."""
    fuel: int = 0
    """What it took."""


class PluginError(Exception):
    """A module cannot be used, or gave no decision; the message says why, without a subject."""

    fuel: int = 0
    """What it took before."""
