"""What a full pool does with one more task: the names in the configuration and in `policy_label`.

What each name means is core/full.py's.
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
