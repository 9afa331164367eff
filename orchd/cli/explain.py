"""`orchctl explain`: where a task would go now, and why. Nothing is sent to an engine."""

from __future__ import annotations

import uuid
from pathlib import Path
from typing import Final

import click
from attrs import evolve
from rich.table import Table

from orchd.cli import reach, say, wishes
from orchd.cli.run import COUNT, MAX_TOKENS, STRICT, Wanted, completed, draft_of
from orchd.kit.client import Client
from orchd.wire import codec
from orchd.wire.shapes import (
    DecisionLog,
    Placement,
    PlacementExplained,
    PlacementOutcome,
    Priority,
    TaskRequest,
    Workload,
)

_STYLES: Final = {
    PlacementOutcome.ASSIGNED: "green",
    PlacementOutcome.QUEUED: "yellow",
    PlacementOutcome.REFUSED: "red",
}


@click.command(name="explain")
@click.option("--engine", metavar="E", help="Engine; needless when only one serves.")
@click.option("--model", metavar="REF", help="Model reference; needless when only one is served.")
@click.option(
    "--priority",
    type=click.Choice([each.value for each in Priority]),
    default="interactive",
    show_default=True,
)
@click.option("--max-tokens", type=COUNT, metavar="N", help=f"Most tokens out. [{MAX_TOKENS}]")
@click.option("--ctx", type=COUNT, metavar="N", help="Tokens of context. [what the pool has]")
@STRICT
@click.option("--session", type=click.UUID, metavar="UUID", help="Session. [a new one]")
@wishes.options
@reach.JSON
@reach.options
def command(
    engine: str | None,
    model: str | None,
    priority: str,
    max_tokens: int | None,
    ctx: int | None,
    strict: bool,
    session: uuid.UUID | None,
    placement: Placement | None,
    as_json: bool,
    url: str | None,
    token_file: Path | None,
) -> None:
    """Show where a task would run or wait if it came now, and why not elsewhere."""
    wanted = Wanted(
        workload=Workload.COMPLETION, engine=engine, model=model, ctx=ctx, max_tokens=max_tokens
    )
    draft = draft_of(wanted, priority=priority, session=session, strict=strict)
    draft = evolve(draft, prompt="?", placement=placement)
    found = reach.run(reach.find(url, token_file), _ask, draft, wanted)
    say.json(found) if as_json else _show(found)


async def _ask(client: Client, draft: TaskRequest, wanted: Wanted) -> PlacementExplained:
    task = await completed(client, draft, wanted)
    answer = await reach.ask(client, "POST", "/v1/placement/explain", codec.dumps(task))
    return reach.understood(PlacementExplained, answer.body)


def _show(found: PlacementExplained) -> None:
    say.show(f"[{_STYLES[found.outcome]}]{found.outcome.value}[/]: {say.cell(_sentence(found))}")
    say.show("")
    say.show(_candidates(found.decision))
    ties = found.decision.tie_breakers_applied
    if ties:
        say.show(f"\nDecided by {say.cell(', '.join(ties))}.")
    if found.refusal is not None and found.refusal.hint is not None:
        say.show(f"\n[bold]Next:[/] {say.cell(found.refusal.hint)}")


def _sentence(found: PlacementExplained) -> str:
    if found.refusal is not None:
        return f"{found.refusal.code}: {found.refusal.message}"
    over = found.predicted_end_ms
    ends = "" if over is None else f", and would be over in about {say.seconds(over)}"
    if found.outcome is PlacementOutcome.ASSIGNED:
        return f"it would run at once on {found.replica_id}{ends}"
    start = say.seconds(found.predicted_start_ms or 0)
    where = f"it would wait in pool {found.pool_id}, {found.queue_position} before it"
    return f"{where}, start in about {start}{ends}"


def _candidates(log: DecisionLog) -> Table:
    table = say.table("replica", "pool", "verdict", ">starts in", ">over in", ">VRAM free", ">jobs")
    for each in log.considered:
        starts, ends, free = each.predicted_start_ms, each.predicted_end_ms, each.vram_free_bytes
        chosen = each.excluded is None and (
            each.replica_id == log.selected
            or (log.selected is None and each.pool_id == log.pool_id)
        )
        table.add_row(
            *map(
                say.cell,
                (
                    each.replica_id,
                    each.pool_id,
                    each.excluded or ("chosen" if chosen else "could be taken"),
                    None if starts is None else say.seconds(starts),
                    None if ends is None else say.seconds(ends),
                    None if free is None else f"{say.gigabytes(free)} GiB",
                    each.active_slots,
                ),
            )
        )
    return table
