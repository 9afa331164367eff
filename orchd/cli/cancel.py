"""`orchctl cancel TASK`."""

from __future__ import annotations

from pathlib import Path

import click

from orchd.cli import reach, say


@click.command(name="cancel")
@click.argument("task", type=click.UUID)
@reach.JSON
@reach.options
def command(task: object, as_json: bool, url: str | None, token_file: Path | None) -> None:
    """Cancel TASK, queued or running. Canceling it twice is no error."""
    where = reach.find(url, token_file)
    reach.run(where, reach.ask, "POST", f"/v1/tasks/{task}/cancel")
    if as_json:
        say.json({"task_id": str(task), "canceled": True})
    else:
        say.note(f"{task} is canceled; no token follows.", "")
