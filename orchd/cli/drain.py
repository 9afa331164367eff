"""`orchctl drain POOL`: let a pool run empty, and wait until it is."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import click
import trio

from orchd.cli import names, reach, say
from orchd.kit.client import Client
from orchd.wire import codec
from orchd.wire.control import MAX_DRAIN_MS, DrainRequest, PoolControl, PoolHealth
from orchd.wire.errors import Kind, OrchError
from orchd.wire.ids import PoolId, Positive
from orchd.wire.snapshot import Phase

POLL_S: Final = 0.2
SLACK_S: Final = 10.0
"""Beyond the deadline: a poolmgr that does not end its jobs by then is not going to."""


@click.command(name="drain")
@click.argument("pool", type=names.POOL)
@click.option(
    "--deadline",
    "seconds",
    type=click.FloatRange(min=0.001, max=MAX_DRAIN_MS / 1000),
    default=60.0,
    show_default=True,
    metavar="SECONDS",
    help="How long running tasks may take.",
)
@click.option("--no-wait", is_flag=True, help="Return once it has begun.")
@reach.JSON
@reach.options
def command(
    pool: PoolId,
    seconds: float,
    no_wait: bool,
    as_json: bool,
    url: str | None,
    token_file: Path | None,
) -> None:
    """Place nothing more on POOL, let its running tasks end, and wait until they have.

    The model stays loaded. orchctl reload POOL, or a restart of its units, brings it back.
    """
    where = reach.find(url, token_file)
    health = reach.run(where, _drain, pool, seconds, not no_wait)
    if as_json:
        say.json(health or PoolControl(pool_id=pool, status="draining"))
    elif health is None:
        say.note(f"Pool {pool} drains; its running tasks have {seconds:g} s.", "")
    else:
        say.note(f"Pool {pool} is drained. orchctl reload {pool} brings it back.", "")


async def _drain(client: Client, pool: PoolId, seconds: float, wait: bool) -> PoolHealth | None:
    body = codec.dumps(DrainRequest(deadline_ms=Positive(max(1, round(seconds * 1000)))))
    await reach.ask(client, "POST", f"/v1/pools/{pool}/drain", body)
    if not wait:
        return None
    with trio.move_on_after(seconds + SLACK_S):
        while True:
            health = await reach.fetch(client, PoolHealth, f"/v1/pools/{pool}/health")
            if _drained(health):
                return health
            await trio.sleep(POLL_S)
    raise OrchError(
        Kind.WORKER_RESET, f"pool {pool} is not empty {SLACK_S:.0f} s after its deadline"
    )


def _drained(health: PoolHealth) -> bool:
    """Whether every replica that answers is drained. A pool that is lost meanwhile is empty."""
    snapshots = [each.snapshot for each in health.replicas if each.live]
    return all(snapshot is not None and snapshot.phase is Phase.DRAINED for snapshot in snapshots)
