"""What a run of orchctl in the pact is made of, and the states that its provider is brought into.

The runs are in runs.py and control_runs.py.
"""

from __future__ import annotations

from typing import Any, Final

from attrs import field, frozen

from tools.pactfile.matchers import STREAM_RULE

TOKEN: Final = "the-token-of-the-pact"  # noqa: S105 - of a test
WRONG_TOKEN: Final = "another-token"  # noqa: S105
READ, SHOWN, LISTED, CANCELED = (f"0b7e2f3a-6c1d-4e59-8a90-1f2e3d4c5b6{n}" for n in "abcd")
"""Tasks that are there already; no interaction uses another's."""
UNKNOWN: Final = "00000000-0000-4000-8000-000000000000"

READY: Final = "a pool is ready"
UNREADY: Final = "no pool is ready"
QUEUED: Final = "a task is queued"
ENDED: Final = "a task has ended after 2 tokens"
FULL: Final = "the queues are full"
EMBEDDED: Final = "two texts were embedded"
RERANKED: Final = "a document was ranked"
SESSION: Final = "a session has had a turn"
MODEL: Final = "a model is in the catalog"
NO_MODEL: Final = "the catalog is empty"
ARTIFACT: Final = "an artifact is stored"
NO_ARTIFACT: Final = "no artifact is stored"
"""States of the provider; those about a task, a session, a model or an artifact name it."""


@frozen(kw_only=True)
class Ask:
    """One interaction: what orchctl sends, and what it needs of the answer."""

    words: str
    state: str = READY
    task: str | None = None
    """The task that the state is about."""
    about: dict[str, Any] = field(factory=dict)
    """What else it is about."""
    method: str = "GET"
    path: Any
    """A string or a matcher."""
    query: dict[str, str] = field(factory=dict)
    body: Any = None
    token: str = TOKEN
    status: int = 200
    answer: Any = None
    """The body as matchers, or the text of a stream."""
    rule: str = STREAM_RULE
    """What a stream has to be like, as a regular expression."""
    headers: tuple[tuple[str, Any], ...] = ()


@frozen(kw_only=True)
class Run:
    """One run of orchctl: its arguments, what it asks for, and how it ends."""

    arguments: tuple[str, ...]
    asks: tuple[Ask, ...]
    exit_code: int = 0
    out: str = ""
    """A piece of what it prints."""
    token: str = field(default=TOKEN)
    stdin: str = ""
