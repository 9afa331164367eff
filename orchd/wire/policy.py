"""Words of policies: what a full pool does with one more task, in the configuration and in
`policy_label`, and what policy plugins decide.

What each means is core/flow/full.py's and orchd/policy's.
"""

from __future__ import annotations

import enum
from typing import Final


class FullPolicy(enum.StrEnum):
    """What a full pool does with one more task."""

    REJECT = "reject"
    DROP_LRU = "drop-lru"
    SHED_LOW_PRIORITY = "shed-low-priority"


THROTTLE: Final = "throttle"
"""The `policy_label` of a 429 for too many requests or tokens of one identity."""


class What(enum.StrEnum):
    """What a policy plugin is asked about."""

    OUTBOUND = "outbound"
    """A request that would leave this machine."""
    ADMISSION = "admission"
    """A task, before the core is asked."""


class OnError(enum.StrEnum):
    """What holds when a plugin gives no decision."""

    DENY = "deny"
    ALLOW = "allow"
