"""Policy plugins: what a decision of an example costs, beside the rules that go before it.

In this process and one thread, CPU time, the least of five rounds. What admission costs without a
plugin is in admission.py.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

from orchd.config.policy import Plugin as Configured
from orchd.policy.question import Question
from orchd.policy.rules import Request, Rules, decide
from orchd.policy.sandbox import Bounds, Plugin, read
from orchd.wire import address
from orchd.wire.ids import Count, Text
from orchd.wire.policy import What
from tools.bench.figures import Figure

SECTION: Final = "A decision of a policy plugin: CPU (us)"
EXAMPLES: Final = Path(__file__).resolve().parents[2] / "packaging" / "examples" / "plugins"
DECISIONS: Final = 500
ROUNDS: Final = 5
HOST: Final = "cdn.hf.co"


def decisions(_runs: int) -> list[Figure]:
    """What the two examples and the rules of the configuration cost, each decision."""
    hosts = Plugin(read(EXAMPLES / "hosts.wasm"), _bounds(), ("suffix=.hf.co", "max_mb=10"))
    models = Plugin(read(EXAMPLES / "models.wasm"), _bounds(), ("uid:1000=*", "*=mock:lorem"))
    outbound, admission = _question(What.OUTBOUND), _question(What.ADMISSION)
    request = Request(address=address.parse(f"https://{HOST}/x"))
    rules = Rules(allow=("*.hf.co",))
    told: dict[str, Callable[[], object]] = {
        "rules alone": lambda: decide(request, rules),
        "hosts.wasm": lambda: hosts.decide(outbound),
        "models.wasm": lambda: models.decide(admission),
    }
    fuel = {"hosts.wasm": hosts.decide(outbound).fuel, "models.wasm": models.decide(admission).fuel}
    figures = [
        Figure(section=SECTION, what=what, who="CPU (us)", runs=(_least_us(once),))
        for what, once in told.items()
    ]
    return figures + [
        Figure(section=SECTION, what=what, who="fuel", runs=(float(used),))
        for what, used in fuel.items()
    ]


def _least_us(once: Callable[[], object]) -> float:
    rounds = []
    for _ in range(ROUNDS):
        began = time.thread_time()
        for _ in range(DECISIONS):
            once()
        rounds.append((time.thread_time() - began) / DECISIONS * 1e6)
    return min(rounds)


def _bounds() -> Bounds:
    """Those of the configuration, when it says nothing of them."""
    usual = Configured(name=Text("x"), path=Text("/x"), sha256=Text("0" * 64))
    return Bounds(
        fuel=usual.fuel,
        memory_bytes=usual.memory_mb << 20,
        deadline_s=usual.deadline_ms / 1000,
    )


def _question(what: What) -> Question:
    return Question(
        what=what,
        time_unix_s=Count(1_780_000_000),
        minute_of_day=Count(600),
        weekday=Count(2),
        identity="uid:1000",
        host=HOST,
        model_ref="mock:lorem",
    )
