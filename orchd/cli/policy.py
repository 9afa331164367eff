"""`orchctl policy test PLUGIN.wasm QUESTION.json`: the harness of the SDK for policy plugins.

Nothing is asked of a daemon, and no configuration is read.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Final, TypeVar

import click

from orchd.cli import reach, say
from orchd.config.policies import MAX_DEADLINE_MS, MAX_FUEL, MAX_MEMORY_MB
from orchd.config.policy import Plugin as Keys
from orchd.policy.gate import MISSING
from orchd.policy.question import Decision, PluginError, Question
from orchd.wire import codec
from orchd.wire.errors import TABLE, Kind, OrchError
from orchd.wire.ids import Text

if TYPE_CHECKING:
    from orchd.policy.sandbox import Plugin

F = TypeVar("F", bound=Callable[..., Any])
MAX_BYTES: Final = 1 << 20
_USUAL: Final = Keys(name=Text("usual"), path=Text("/"), sha256=Text("0"))


def _bound(name: str, usual: int, most: int, words: str) -> Callable[[F], F]:
    kind = click.IntRange(1, most)
    return click.option(name, type=kind, default=usual, show_default=True, metavar="N", help=words)


@click.group(name="policy")
def command() -> None:
    """Ask a policy plugin, as orchd would."""


@command.command(name="test")
@click.argument("plugin", type=click.Path(path_type=Path))
@click.argument("question", type=click.File("rb"))
@click.option("--arg", "args", multiple=True, metavar="WORD", help="One of its args; repeatable.")
@_bound("--fuel", _USUAL.fuel, MAX_FUEL, "What a decision may take: about wasm instructions.")
@_bound("--memory-mb", _USUAL.memory_mb, MAX_MEMORY_MB, "MiB of its memory.")
@_bound("--deadline-ms", _USUAL.deadline_ms, MAX_DEADLINE_MS, "How long a decision may take.")
@reach.JSON
def test(
    plugin: Path,
    question: BinaryIO,
    args: tuple[str, ...],
    fuel: int,
    memory_mb: int,
    deadline_ms: int,
    as_json: bool,
) -> int:
    """Load PLUGIN and ask it QUESTION (a file, or - for standard input), within its bounds.

    QUESTION is JSON, such as {"what": "outbound", "time_unix_s": 0, "minute_of_day": 0, "weekday":
    0, "scheme": "https", "host": "cdn.hf.co", "port": 443}. It is asked twice: both answers must be
    the same. Exits 0 for allow, 77 for deny, 65 for a module or an answer that is none.
    """
    asked = _question(question)
    loaded = _loaded(plugin, args, fuel, memory_mb, deadline_ms)
    decision = _decided(plugin, loaded, asked)
    if _decided(plugin, loaded, asked) != decision:
        raise OrchError(Kind.INTERNAL, f"{plugin} decides one thing and then another")
    if as_json:
        say.json(decision)
    else:
        word = "[green]allow[/]" if decision.allowed else "[red]deny[/]"
        why = f": {say.cell(decision.reason)}" if decision.reason else ""
        say.show(f"{word}{why} ({decision.fuel} of {fuel} fuel)")
    return 0 if decision.allowed else TABLE[Kind.POLICY_DENIED].exit_code


def _question(file: BinaryIO) -> Question:
    data = file.read(MAX_BYTES + 1)
    if len(data) > MAX_BYTES:
        raise OrchError(Kind.INVALID_PARAMS, f"the question has more than {MAX_BYTES} bytes")
    try:
        return codec.loads(Question, data)
    except codec.ShapeError as exc:
        raise exc.as_error() from None


def _loaded(path: Path, args: tuple[str, ...], fuel: int, memory_mb: int, ms: int) -> Plugin:
    try:
        from orchd.policy import sandbox  # an extra
    except ImportError:
        raise OrchError(Kind.CONFIG_INVALID, f"orchctl policy {MISSING}") from None
    bounds = sandbox.Bounds(fuel=fuel, memory_bytes=memory_mb << 20, deadline_s=ms / 1000)
    try:
        return sandbox.Plugin(sandbox.read(path), bounds, args)
    except PluginError as exc:
        raise OrchError(Kind.INVALID_PARAMS, f"{path}: it {exc}") from None


def _decided(path: Path, plugin: Plugin, question: Question) -> Decision:
    try:
        return plugin.decide(question)
    except PluginError as exc:
        raise OrchError(Kind.INVALID_PARAMS, f"{path}: it {exc}") from None
