"""`orchctl status [TASK]`: is the daemon ready and what is it doing; or one task."""

from __future__ import annotations

from pathlib import Path

import click
from attrs import frozen
from rich.table import Table

from orchd.cli import reach, say
from orchd.cli.pools import overview
from orchd.kit.client import Client
from orchd.wire.control import Health, Pools
from orchd.wire.shapes import Candidate, DecisionLog, TaskStatus, TaskStatuses

UNREADY = frozenset({503})


@frozen
class Overview:
    """What `orchctl status` shows, and prints with --json."""

    url: str
    health: Health
    pools: Pools
    tasks: TaskStatuses


@click.command(name="status")
@click.argument("task", type=click.UUID, required=False)
@reach.JSON
@reach.options
def command(task: object, as_json: bool, url: str | None, token_file: Path | None) -> None:
    """Show the daemon, its pools and its tasks; or TASK: state, place, prediction, timings."""
    where = reach.find(url, token_file)
    if task is not None:
        found = reach.run(where, reach.fetch, TaskStatus, f"/v1/tasks/{task}")
        say.json(found) if as_json else _show_task(found)
    else:
        whole = reach.run(where, _overview)
        say.json(whole) if as_json else _show(whole)


async def _overview(client: Client) -> Overview:
    return Overview(
        str(client.target),
        await reach.fetch(client, Health, "/readyz", good=UNREADY),
        await reach.fetch(client, Pools, "/v1/pools"),
        await reach.fetch(client, TaskStatuses, "/v1/tasks"),
    )


def _show(whole: Overview) -> None:
    health = whole.health
    style = "green" if health.status == "ready" else "yellow"
    say.show(
        f"orchd {say.cell(health.version)} at {say.cell(whole.url)}: "
        f"[{style}]{say.cell(health.status)}[/]"
    )
    for reason in health.reasons:
        say.show(f"  {say.cell(reason)}")
    if whole.pools.pools:
        say.show("")
        say.show(overview(whole.pools.pools))
    if whole.tasks.tasks:
        say.show("")
        say.show(_tasks(whole.tasks))
        if whole.tasks.next_cursor is not None:
            say.show("... and more: GET /v1/tasks?cursor= has the rest.")
    if health.status != "ready":
        say.show("\n[bold]Next:[/] orchctl pools shows the cause for each replica.")


def _tasks(page: TaskStatuses) -> Table:
    table = say.table("task", "state", "pool", "priority", ">position", "starts in", ">tokens")
    for task in page.tasks:
        starts = task.predicted_start_ms
        table.add_row(
            *map(
                say.cell,
                (
                    task.task_id,
                    task.state.value,
                    task.replica_id or task.pool_id,
                    task.priority.value,
                    task.queue_position,
                    None if starts is None else say.seconds(starts),
                    task.tokens_out,
                ),
            )
        )
    return table


def _show_task(task: TaskStatus) -> None:
    times = task.timings
    starts = task.predicted_start_ms
    lines: list[tuple[str, object]] = [
        ("state", task.state.value if task.error is None else f"{task.state.value}: {task.error}"),
        ("finish", task.finish_reason.value if task.finish_reason else None),
        ("pool", task.pool_id),
        ("replica", task.replica_id),
        ("model", f"{task.model_ref} on {task.engine}"),
        ("priority", task.priority.value),
        ("position", task.queue_position),
        ("starts in", None if starts is None else say.seconds(starts)),
        ("waited", None if times.queue_time_ms is None else say.seconds(times.queue_time_ms)),
        (
            "first token",
            None if times.first_token_ms is None else say.seconds(times.first_token_ms),
        ),
        ("decoded in", None if times.decode_time_ms is None else say.seconds(times.decode_time_ms)),
        ("tokens", f"{task.tokens_out} out, {say.cell(task.tokens_in)} in"),
        ("session", task.session_id),
        ("correlation", task.correlation_id),
    ]
    say.show(f"task [bold]{task.task_id}[/]")
    for name, value in lines:
        if value is not None:
            say.show(f"  {name:<12} {say.cell(value)}")
    if task.decision is not None:
        for candidate in task.decision.considered:
            verdict = _verdict(candidate, task.decision)
            say.show(f"  {'considered':<12} {say.cell(candidate.replica_id)}: {say.cell(verdict)}")


def _verdict(candidate: Candidate, log: DecisionLog) -> str:
    """Return what placement thought of a replica, in words."""
    if candidate.excluded is not None:
        return candidate.excluded
    if candidate.replica_id == log.selected:
        return "chosen"
    starts = candidate.predicted_start_ms
    return f"busy for {say.seconds(starts)}" if starts else "could be taken"
