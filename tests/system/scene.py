"""A suite with one mock pool that streams while a case breaks something, and is whole again after.

Here: starting it once for many cases, the stream, the checks that each case ends with. Not here:
what is broken (test_chaos.py), what a leak is (footprint.py).
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from attrs import define, field

from orchd.wire.sse import Event
from tests.system.footprint import Footprint, nothing_leaked
from tests.system.house import READY_S, SIMULATED, House, mock_pool, names_of, pool, task

REPLICA = "demo:0"
UNIT = pool(REPLICA)
LONG = 6000
"""Tokens of a task that is broken off: a minute."""
ENGINE = "tokens_per_s = 100"
WATCHDOG = "watchdog = { idle_ms = 2000 }"
PAUSE = "[Service]\nRestartSec=1500ms\nRestartSteps=0\n"
"""The first wait before a restart, long enough to be seen. Backoff: test_failures.py."""


@define
class Scene:
    """A suite that has served once, and what it held then; cases that leave it whole share it."""

    house: House
    before: Footprint = field(factory=lambda: Footprint(Counter()))
    restarts: int = 0
    whole: bool = False
    drop_in: str = ""

    def ready(self, drop_in: str = "") -> None:
        """Start it, unless the case before has left it whole, and with this `drop_in`."""
        house = self.house
        if not self.whole or drop_in != self.drop_in:
            house.clear()
            house.drop_in(UNIT, PAUSE + drop_in)
            if drop_in:
                house.drop_in("orchd.service", drop_in)
            self.drop_in = drop_in
            house.configure(SIMULATED, mock_pool(engine=ENGINE, more=WATCHDOG))
            house.start(REPLICA)
            house.wait_ready()
            self.served()
            self.before = Footprint.of(house, REPLICA)
        self.whole = False
        house.forget()
        self.restarts = int(house.property(UNIT, "NRestarts"))

    @contextmanager
    def streaming(self, wish: Mapping[str, object] | None = None) -> Iterator[Iterator[Event]]:
        """A task whose tokens come while the body breaks something."""
        wish = wish or long_task()
        assert self.house.ask("POST", "/v1/tasks", wish).status == 202
        with self.house.stream(wish["task_id"]) as events:
            next(event for event in events if event.name == "token")
            yield events

    def last_error(self, deadline_s: float = READY_S) -> Any:
        """Why the pool is not ready, as health says it. It is not ready long enough (PAUSE)."""

        def error() -> Any:
            health = self.house.health()
            return not health["ready"] and health.get("last_error")

        return self.house.wait(error, "health says why", deadline_s)

    def served(self) -> None:
        """A new task is served, whole."""
        assert names_of(self.house.complete(task()))[-1] == "end"

    def over(self, restarts: int = 0) -> None:
        """It serves again by itself, after so many restarts of the pool, and nothing is left."""
        house = self.house
        house.wait(lambda: house.property(UNIT, "ActiveState") == "active", "the pool is back")
        house.wait_ready()
        self.served()
        assert house.property(UNIT, "StatusText").startswith("Ready:")
        assert int(house.property(UNIT, "NRestarts")) - self.restarts == restarts
        nothing_leaked(house, self.before, REPLICA)
        self.whole = True


def long_task(tokens: int = LONG) -> dict[str, object]:
    """A task that is broken off before its end."""
    return task(max_tokens=tokens, ctx=8192, deadline_ms=600_000)


def last_of(events: Iterator[Event]) -> tuple[str, Any]:
    """The last frame of a stream: its kind and what it says."""
    last = list(events)[-1]
    return last.name, json.loads(last.data)
