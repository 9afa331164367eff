"""The operator's plugins as one gate: loads them, asks those that decide, counts, tells of it.

What a plugin may do is sandbox.py's, what it is asked question.py's. Without plugins there is no
gate, and wasmtime is not imported.
"""

from __future__ import annotations

import datetime as dt
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final

import trio
from attrs import frozen

from orchd.config.policy import Plugin as Configured
from orchd.kit import log
from orchd.policy.question import PluginError, Question
from orchd.wire.codec import Fault
from orchd.wire.errors import Kind, OrchError
from orchd.wire.ids import Count
from orchd.wire.policy import OnError, What

if TYPE_CHECKING:
    from orchd.policy.sandbox import Plugin

AT_ONCE: Final = 4
"""Decisions that run at the same time, each in a thread: the others wait for their turn."""
MISSING: Final = (
    "needs wasmtime, which is not installed: pip install 'orchd[plugins]', or python-wasmtime"
)


@frozen
class Denied:
    """A plugin forbids it."""

    plugin: str
    reason: str


@frozen
class Outcome:
    """What became of asking one plugin."""

    plugin: str
    result: str
    """allow, deny or error: a label of policy_decisions_total."""
    reason: str
    fuel: int
    denies: bool
    """What holds: for an error its on_error."""


@frozen
class _Loaded:
    configured: Configured
    plugin: Plugin


def local_now() -> dt.datetime:
    """Return the time with the machine's zone."""
    return dt.datetime.now(dt.UTC).astimezone()


def load(plugins: Sequence[Configured], where: str = "policy.plugins") -> Gate | None:
    """Return the gate; None where there are no plugins. `where`: where they were configured.

    Raises OrchError(CONFIG_INVALID), which names the key at fault.
    """
    loaded, faults = _load(plugins)
    if faults:
        lines = "".join(f"\n  {fault}" for fault in faults)
        raise OrchError(Kind.CONFIG_INVALID, f"{where}:{lines}", path=faults[0].path)
    return Gate(loaded) if loaded else None


def faults(plugins: Sequence[Configured]) -> Sequence[Fault]:
    """Return what is wrong with the files of plugins, each with its key."""
    return _load(plugins)[1]


def _load(plugins: Sequence[Configured]) -> tuple[list[_Loaded], list[Fault]]:
    if not plugins:
        return [], []
    try:
        from orchd.policy import sandbox  # an extra, and 0.1 s that nobody else pays
    except ImportError:
        return [], [Fault("$.policy.plugins", MISSING)]
    loaded: list[_Loaded] = []
    wrong: list[Fault] = []
    for index, each in enumerate(plugins):
        key = "path"
        try:
            module = sandbox.read(Path(each.path))
            key = "sha256"
            sandbox.check_same(module, each.sha256)
            key = "path"
            bounds = sandbox.Bounds(
                fuel=each.fuel,
                memory_bytes=each.memory_mb << 20,
                deadline_s=each.deadline_ms / 1000,
            )
            loaded.append(_Loaded(each, sandbox.Plugin(module, bounds, each.args)))
        except PluginError as exc:
            wrong.append(Fault(f"$.policy.plugins[{index}].{key}", f"{each.name}: {exc}"))
    return loaded, wrong


class Gate:
    """All plugins. Counts are the loop's: only `_asked` runs in another thread."""

    def __init__(
        self, plugins: Sequence[_Loaded], clock: Callable[[], dt.datetime] = local_now
    ) -> None:
        self._plugins = tuple(plugins)
        self._clock = clock
        self._limiter = trio.CapacityLimiter(AT_ONCE)
        self.decisions: Counter[tuple[str, ...]] = Counter()
        """(plugin, result) -> how often."""
        self.fuel: Counter[tuple[str, ...]] = Counter()
        """(plugin,) -> what its decisions took."""

    def decides(self, what: What) -> bool:
        """Return whether any plugin is asked about it."""
        return any(what in each.configured.decides for each in self._plugins)

    def when(self) -> tuple[Count, Count, Count]:
        """Return time_unix_s, minute_of_day and weekday for a question."""
        now = self._clock()
        minute = now.hour * 60 + now.minute
        return Count(int(now.timestamp())), Count(minute), Count(now.weekday())

    async def judge(self, question: Question) -> Denied | None:
        """Return who denies it, if anybody does, without holding up the loop."""
        outcomes = await trio.to_thread.run_sync(
            self._asked, question, limiter=self._limiter, abandon_on_cancel=False
        )
        return self._settled(question, outcomes)

    def judge_nowait(self, question: Question) -> Denied | None:
        """As `judge`, but blocks: for what happens once, at a start."""
        return self._settled(question, self._asked(question))

    def _asked(self, question: Question) -> list[Outcome]:
        return list(self._each(question))

    def _each(self, question: Question) -> Iterator[Outcome]:
        for each in self._plugins:
            name, bounds = each.configured.name, each.configured
            if question.what not in bounds.decides:
                continue
            try:
                decision = each.plugin.decide(question)
            except PluginError as exc:
                denies = bounds.on_error is OnError.DENY
                outcome = Outcome(name, "error", f"it {exc}", exc.fuel, denies)
            else:
                word = "allow" if decision.allowed else "deny"
                outcome = Outcome(name, word, decision.reason, decision.fuel, not decision.allowed)
            yield outcome
            if outcome.denies:
                return

    def _settled(self, question: Question, outcomes: Sequence[Outcome]) -> Denied | None:
        for outcome in outcomes:
            self.decisions[outcome.plugin, outcome.result] += 1
            self.fuel[outcome.plugin,] += outcome.fuel
            _tell(question, outcome)
            if outcome.denies:
                return Denied(outcome.plugin, outcome.reason)
        return None


def _tell(question: Question, outcome: Outcome) -> None:
    name = {"allow": "policy_allowed", "deny": "policy_denied"}.get(outcome.result, "policy_error")
    level: log.Level = "debug"
    if outcome.result != "allow":
        level = "info" if outcome.result == "deny" else "warning"
    does = {"allow": "allows", "deny": "denies"}.get(outcome.result, "has not decided on")
    subject = _subject(question)
    human = f"Policy plugin {outcome.plugin} {does} {subject}"
    if outcome.result == "error":
        human += f", so it is {'denied' if outcome.denies else 'allowed'}"
    log.event(
        name,
        f"{human}: {outcome.reason}." if outcome.reason else f"{human}.",
        level=level,
        plugin=outcome.plugin,
        what=question.what.value,
        identity=question.identity or None,
        purpose=question.purpose or None,
        host=question.host or None,
        model=question.model_ref or None,
        reason=outcome.reason or None,
        fuel=outcome.fuel,
    )


def _subject(question: Question) -> str:
    if question.what is What.ADMISSION:
        return f"a task of {question.identity or 'somebody'} for {question.model_ref}"
    return f"{question.via} to {question.host or 'hosts of its own choice'}"
