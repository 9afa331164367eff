"""Timers against a plain dict."""

from hypothesis import given
from hypothesis import strategies as st

from orchd.core.limits.timers import Timers

KEYS = st.integers(0, 5)
TIMES = st.integers(0, 20)


@given(st.lists(st.tuples(st.sampled_from(["set", "drop", "pop"]), KEYS, TIMES), max_size=300))
def test_timers_behave_like_a_dict_of_times(steps: list[tuple[str, int, int]]) -> None:
    timers: Timers[int] = Timers()
    plain: dict[int, int] = {}
    for what, key, when in steps:
        if what == "set":
            timers.set(key, when)
            plain[key] = when
        elif what == "drop":
            timers.drop(key)
            plain.pop(key, None)
        else:
            popped = timers.pop_due(when)
            if popped is None:
                assert all(at > when for at in plain.values())
            else:
                assert plain.pop(popped) <= when
        assert timers.next() == min(plain.values(), default=None)
        assert len(timers) == len(plain)
        assert all((k in timers) == (k in plain) for k in range(6))


def test_what_is_set_again_and_again_does_not_pile_up() -> None:
    timers: Timers[int] = Timers()
    for when in range(10_000):
        timers.set(1, when)
    assert len(timers._heap) < 200
    assert timers.next() == 9_999
