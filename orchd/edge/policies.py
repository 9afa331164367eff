"""Policies as routes meet them: the plugins that tasks pass, and fetches of pages.

What is decided is orchd/policy's. A plugin sees of a task what is metadata, never its prompt.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

from orchd.config.policy import Policy
from orchd.policy import gate
from orchd.policy.mediated import Mediator
from orchd.policy.question import Question
from orchd.wire.errors import Kind, OrchError
from orchd.wire.ids import Count
from orchd.wire.pages import FetchRequest, Page
from orchd.wire.policy import What
from orchd.wire.shapes import TaskRequest


class Policies:
    """What the configuration's `policy` means for requests of clients."""

    def __init__(self, policy: Policy) -> None:
        """Load the plugins. Raises OrchError(CONFIG_INVALID) for one that cannot be used."""
        self._gate = gate.load(policy.plugins)
        self._mediator = Mediator(policy, self._gate)
        self.decide_tasks = self._gate is not None and self._gate.decides(What.ADMISSION)
        """Whether a plugin is to be asked about tasks: without one, nothing waits."""

    @property
    def counts(self) -> Mapping[str, Counter[tuple[str, ...]]]:
        """What is counted here, by family (wire/metrics.py)."""
        counts = {"policy_fetches_total": self._mediator.ended}
        if self._gate is not None:
            counts["policy_decisions_total"] = self._gate.decisions
            counts["policy_fuel_total"] = self._gate.fuel
        return counts

    async def check(self, request: TaskRequest, identity: str) -> None:
        """Raise OrchError(POLICY_DENIED) when a plugin forbids the task."""
        denied = await self.denied(request, identity)
        if denied is not None:
            raise denied

    async def denied(self, request: TaskRequest, identity: str) -> OrchError | None:
        """Return what the task would be refused with by a plugin, if by any."""
        if self._gate is None or not self.decide_tasks:
            return None
        found = await self._gate.judge(_question(self._gate, request, identity))
        if found is None:
            return None
        why = f"policy plugin {found.plugin}: {found.reason or 'denied'}"
        return OrchError(Kind.POLICY_DENIED, why, engine=request.engine)

    async def fetch(self, wanted: FetchRequest, identity: str) -> Page:
        """Raises OrchError as policy/mediated.py says."""
        return await self._mediator.fetch(wanted, identity)


def _question(asked: gate.Gate, request: TaskRequest, identity: str) -> Question:
    time_unix_s, minute_of_day, weekday = asked.when()
    return Question(
        what=What.ADMISSION,
        time_unix_s=time_unix_s,
        minute_of_day=minute_of_day,
        weekday=weekday,
        identity=identity,
        model_ref=request.model_ref,
        engine=request.engine,
        workload=request.workload.value,
        priority=request.priority.value,
        max_tokens=Count(request.max_tokens),
        ctx=Count(request.ctx),
    )
