"""`pools[].canary`: what a reload asks of the new engine before jobs are sent to it.

How the answer is judged is poolmgr/core/canary.py's.
"""

from __future__ import annotations

from attrs import frozen

from orchd.wire.ids import Count, Digest, NonNegative, Positive, Text


@frozen(kw_only=True)
class Canary:
    """What a reload asks of the new engine before jobs are sent to it; a miss keeps the old."""

    prompt: Text | None = None
    """The golden prompt, generated from with seed 0. Without it, the self-test's."""
    max_tokens: Positive = Positive(16)
    """Tokens to generate at most."""
    expect: Text | None = None
    """Text that the answer must hold."""
    expect_sha256: Digest | None = None
    """sha256:<64 hex digits> of the whole answer; the last reload in pool health shows the hash."""
    min_rate_ratio: NonNegative = NonNegative(0.0)
    """Least tokens a second, as a share of what the old engine does: 0.5 is half; 0: no bound."""
    vram_margin_mb: Count = Count(1024)
    """MiB of VRAM that it may hold beyond what was counted before its start."""
