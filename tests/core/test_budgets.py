"""The arithmetic of one account."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchd.core.limits.budgets import NOTHING, PICO, Account, Amounts, Budget, Left, Price, Short

AMOUNTS = st.builds(Amounts, st.integers(0, 500), st.integers(0, 500), st.integers(0, 500))


def test_an_account_without_a_bound_takes_everything_and_says_nothing() -> None:
    account = Account()
    assert account.short(Amounts(10**15, 10**15, 10**15)) is None
    assert account.left() == Left()


def test_what_is_reserved_is_not_left_and_what_is_settled_is_charged_as_it_was() -> None:
    account = Account(Budget(tokens=100, time_ms=1000, cost=PICO))
    held = Amounts(60, 400, PICO // 4)
    account.hold(held)
    assert account.left() == Left(tokens=40, time_ms=600, cost=0.75)
    assert account.short(Amounts(41, 0, 0)) == Short("tokens", 40, 41)
    assert account.short(Amounts(40, 601, 0)) == Short("time_ms", 600, 601)
    assert account.short(Amounts(40, 600, PICO)) == Short("cost", 3 * PICO // 4, PICO)
    account.settle(held, Amounts(10, 100, PICO // 8))
    assert account.held == NOTHING
    assert account.left() == Left(tokens=90, time_ms=900, cost=0.875)


def test_more_than_was_reserved_is_charged_and_leaves_nothing_not_less() -> None:
    account = Account(Budget(time_ms=100))
    account.hold(Amounts(0, 80, 0))
    account.settle(Amounts(0, 80, 0), Amounts(0, 300, 0))
    assert account.left().time_ms == 0
    assert account.short(Amounts(0, 1, 0)) == Short("time_ms", 0, 1)
    assert account.short(NOTHING) is None


@pytest.mark.req("OC-CORE-1023", "ORCH-3099", "OC-CTRL-2068")
@given(tasks=st.lists(st.tuples(AMOUNTS, st.floats(0, 1), st.booleans()), max_size=40))
def test_tasks_that_keep_to_their_reservation_never_overdraw_together(
    tasks: list[tuple[Amounts, float, bool]],
) -> None:
    """Some run on beside the next, some are over at once: no order of them goes past the bound."""
    bound = Budget(tokens=1000, time_ms=900, cost=800)
    account, running = Account(bound), []
    for wanted, share, over in tasks:
        if account.short(wanted) is None:
            account.hold(wanted)
            running.append((wanted, share))
        if over and running:
            held, part = running.pop(0)
            used = Amounts(int(held.tokens * part), int(held.time_ms * part), int(held.cost * part))
            account.settle(held, used)
        total = account.used.plus(account.held)
        assert total.tokens <= 1000
        assert total.time_ms <= 900
        assert total.cost <= 800
    for held, _ in running:
        account.settle(held, NOTHING)
    assert account.held == NOTHING


def test_a_price_is_per_thousand_tokens_and_exact() -> None:
    price = Price.per_thousand(0.1, 0.3)
    assert price.of(1000, 1000) == round(0.4 * PICO)
    assert sum(price.of(0, 1) for _ in range(1000)) == price.of(0, 1000)
    assert Price.per_thousand(0.0000004, 0).of(10**9, 0) == round(0.4 * PICO)
