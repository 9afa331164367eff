"""Is the new engine as good as it was to be? The canary's answer against what the pool asks. Pure.

Its figures are in the reload of the snapshot, whether it passed or not. The golden prompt and its
answer are nowhere: only the answer's hash.
"""

from __future__ import annotations

from attrs import frozen

from orchd.wire.errors import Kind, OrchError
from orchd.wire.ids import Count, NonNegative
from orchd.wire.snapshot import Canary
from poolmgr.core.fit import Need
from poolmgr.core.gpus import gib


@frozen(kw_only=True)
class Wanted:
    """What the pool asks of a canary."""

    expect: str | None
    expect_sha256: str | None
    min_rate_ratio: float
    """0: no bound."""
    vram_margin_bytes: int


@frozen(kw_only=True)
class Answer:
    """What the new engine generated."""

    text: str
    sha256: str
    """sha256:<hex> of the text in UTF-8."""
    tokens: int
    tokens_per_s: float | None
    """From the first token to the last; None: it cannot be said."""


def planned_bytes(need: Need, gpus: int) -> int | None:
    """Return what was counted for an engine on so many GPUs; None where a part is not known."""
    if need.weights_bytes is None or need.kv_bytes is None or need.more:
        return None
    return need.weights_bytes + need.kv_bytes + gpus * need.gpu_overhead_bytes


def rate(tokens: int, spent_s: float) -> float | None:
    """Return tokens a second, where `spent_s` passed between the first and the last token."""
    # what came in one packet has no pace; below a millisecond it is the packet's, not the engine's
    return (tokens - 1) / spent_s if tokens > 1 and spent_s >= 0.001 else None


def figures(
    answer: Answer | None,
    old_tokens_per_s: float | None,
    held_bytes: int | None,
    planned: int | None,
) -> Canary:
    """Return what is told of it; `answer` is None in a pool without completions."""
    new = answer.tokens_per_s if answer else None
    return Canary(
        tokens=Count(answer.tokens if answer else 0),
        sha256=answer.sha256 if answer else None,
        tokens_per_s=None if new is None else NonNegative(round(new, 1)),
        old_tokens_per_s=(
            None if old_tokens_per_s is None else NonNegative(round(old_tokens_per_s, 1))
        ),
        vram_bytes=None if held_bytes is None else Count(held_bytes),
        vram_planned_bytes=None if planned is None else Count(planned),
    )


def judge(wanted: Wanted, answer: Answer | None, seen: Canary) -> None:
    """Raise OrchError(CANARY_FAILED) with everything that is amiss, in figures.

    What could not be measured is not held against it.
    """
    misses = []
    if answer is not None:
        if wanted.expect is not None and wanted.expect not in answer.text:
            misses.append(f"canary.expect is not in its answer of {answer.tokens} tokens")
        if wanted.expect_sha256 is not None and seen.sha256 != wanted.expect_sha256:
            misses.append(
                f"its answer has {seen.sha256}, and canary.expect_sha256 is {wanted.expect_sha256}"
            )
    new, old = seen.tokens_per_s, seen.old_tokens_per_s
    if new is not None and old is not None and new < old * wanted.min_rate_ratio:
        misses.append(
            f"it does {new:g} tokens/s, and canary.min_rate_ratio asks for "
            f"{wanted.min_rate_ratio:g} of the old model's {old:g} tokens/s"
        )
    held, planned = seen.vram_bytes, seen.vram_planned_bytes
    if held is not None and planned is not None and held > planned + wanted.vram_margin_bytes:
        misses.append(
            f"it holds {gib(held)} of VRAM, and {gib(planned)} were counted with a margin of "
            f"{gib(wanted.vram_margin_bytes)}"
        )
    if misses:
        raise OrchError(Kind.CANARY_FAILED, f"the canary failed: {'; '.join(misses)}")
