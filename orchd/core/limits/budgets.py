"""What a session may use, has used and has reserved: tokens, GPU time, cost. Exact, in integers.

Here is the arithmetic of one account. What a task reserves and is charged is turns.py's; which
session an account belongs to, and for how long, is sessions.py's.
"""

from __future__ import annotations

from typing import Final, Literal

from attrs import define, field, frozen

PICO: Final = 10**12
"""Costs are counted in 1e-12 of the operator's unit: sums of floats would drift."""
PER_TOKENS: Final = 1000
"""Prices are said per so many tokens."""

What = Literal["tokens", "time_ms", "cost"]
KINDS: Final[tuple[What, ...]] = ("tokens", "time_ms", "cost")


@frozen
class Amounts:
    """What is used or reserved. None of it is below 0."""

    tokens: int = 0
    """In and out."""
    time_ms: int = 0
    """On a GPU: from the start of a job to its end."""
    cost: int = 0
    """In 1e-12 of the unit of the prices."""

    def plus(self, other: Amounts) -> Amounts:
        """Return the sum."""
        return Amounts(
            self.tokens + other.tokens, self.time_ms + other.time_ms, self.cost + other.cost
        )

    def less(self, other: Amounts) -> Amounts:
        """Return the difference."""
        return Amounts(
            self.tokens - other.tokens, self.time_ms - other.time_ms, self.cost - other.cost
        )


NOTHING: Final = Amounts()


@frozen(kw_only=True)
class Budget:
    """What one session may use in its life. None: without a bound."""

    tokens: int | None = None
    time_ms: int | None = None
    cost: int | None = None
    """In 1e-12 of the unit."""
    bounded: bool = field(init=False)
    """Whether there is a bound at all."""

    @bounded.default
    def _bounded(self) -> bool:
        return (self.tokens, self.time_ms, self.cost) != (None, None, None)

    @property
    def on_prompts(self) -> bool:
        """Whether the length of a prompt counts."""
        return self.tokens is not None or self.cost is not None


UNBOUNDED: Final = Budget()


@frozen
class Price:
    """What tokens of a pool cost, each, in 1e-12 of the unit."""

    token_in: int = 0
    token_out: int = 0

    @classmethod
    def per_thousand(cls, tokens_in: float, tokens_out: float) -> Price:
        """Return the price of a pool whose 1,000 tokens cost so many units."""
        return cls(
            round(tokens_in * PICO / PER_TOKENS),
            round(tokens_out * PICO / PER_TOKENS),
        )

    def of(self, tokens_in: int, tokens_out: int) -> int:
        """Return the cost of so many tokens."""
        return tokens_in * self.token_in + tokens_out * self.token_out


FREE: Final = Price()


@frozen(kw_only=True)
class Left:
    """What a session may still ask for. None: without a bound. Never below 0."""

    tokens: int | None = None
    time_ms: int | None = None
    cost: float | None = None
    """In the operator's unit."""


WITHOUT_BOUND: Final = Left()


@frozen
class Short:
    """A budget that a task does not fit into."""

    what: What
    left: int
    wanted: int


@define(eq=False)
class Account:
    """One session's. What is used only grows; what is reserved comes and goes with tasks."""

    budget: Budget = UNBOUNDED
    used: Amounts = NOTHING
    held: Amounts = NOTHING

    def room(self, what: What) -> int | None:
        """Return what is neither used nor reserved, at least 0; None: there is no bound."""
        bound: int | None = getattr(self.budget, what)
        if bound is None:
            return None
        used: int = getattr(self.used, what)
        held: int = getattr(self.held, what)
        return max(0, bound - used - held)

    def short(self, wanted: Amounts) -> Short | None:
        """Return the first budget that `wanted` does not fit into beside what is reserved."""
        for what in KINDS:
            room = self.room(what)
            asked: int = getattr(wanted, what)
            if room is not None and asked > room:
                return Short(what, room, asked)
        return None

    def hold(self, amounts: Amounts) -> None:
        """Reserve for a task that is let in."""
        self.held = self.held.plus(amounts)

    def settle(self, held: Amounts, used: Amounts) -> None:
        """Give a task's reservation back and charge what it really used, were it more."""
        if held is not NOTHING:
            self.held = self.held.less(held)
        self.used = self.used.plus(used)

    def left(self) -> Left:
        """Return what clients are told."""
        if not self.budget.bounded:
            return WITHOUT_BOUND
        cost = self.room("cost")
        return Left(
            tokens=self.room("tokens"),
            time_ms=self.room("time_ms"),
            cost=None if cost is None else cost / PICO,
        )
