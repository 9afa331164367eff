"""`orchctl sessions SESSION [--end]`: turns, time to live and budgets of a session, or its end."""

from __future__ import annotations

from pathlib import Path

import click

from orchd.cli import reach, say
from orchd.wire.shapes import SessionStatus


@click.command(name="sessions")
@click.argument("session", type=click.UUID)
@click.option("--end", is_flag=True, help="Forget it: turns, budgets, place. Its tasks go on.")
@reach.JSON
@reach.options
def command(
    session: object, end: bool, as_json: bool, url: str | None, token_file: Path | None
) -> None:
    """Show SESSION: turns, time to live, KV cache, and what is left of its budgets."""
    where = reach.find(url, token_file)
    path = f"/v1/sessions/{session}"
    if end:
        reach.run(where, reach.ask, "DELETE", path)
        if as_json:
            say.json({"session_id": str(session), "ended": True})
        else:
            say.note(f"{session} is over; a task with its id begins a new session.", "")
        return
    found = reach.run(where, reach.fetch, SessionStatus, path)
    say.json(found) if as_json else _show(session, found)


def _show(session: object, found: SessionStatus) -> None:
    time_ms = found.time_budget_remaining_ms
    lines: list[tuple[str, object]] = [
        ("turns", found.turns),
        ("over in", f"{say.seconds(found.ttl_ms_remaining)} without a task"),
        ("KV cache", "warm" if found.kv_warmth else "cold"),
        ("KV bytes", found.kv_bytes or None),
        ("tokens left", found.tokens_budget_remaining),
        ("GPU time left", None if time_ms is None else say.seconds(time_ms)),
        ("cost left", found.cost_budget_remaining),
    ]
    say.show(f"session [bold]{session}[/]")
    for name, value in lines:
        if value is not None:
            say.show(f"  {name:<14} {say.cell(value)}")
