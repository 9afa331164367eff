"""`orchctl pools [POOL]`: every pool with its replicas, and why one is not ready."""

from __future__ import annotations

from pathlib import Path

import click
from rich.table import Table

from orchd.cli import reach, reset, say
from orchd.kit.client import Client
from orchd.wire.control import PoolHealth, Pools, ReplicaHealth
from orchd.wire.errors import Kind
from orchd.wire.ids import POOL_ID
from orchd.wire.snapshot import Cause


@click.command(name="pools")
@click.argument("pool", required=False, metavar="[POOL]")
@click.argument("reset_pool", required=False, metavar="| reset POOL")
@click.option("--user", is_flag=True, help="With reset: of your own systemd instance.")
@reach.JSON
@reach.options
def command(
    pool: str | None,
    reset_pool: str | None,
    user: bool,
    as_json: bool,
    url: str | None,
    token_file: Path | None,
) -> None:
    """Show POOL, or all pools: state, GPU proof, VRAM, queue, slots, and the last error.

    `orchctl pools reset POOL` lets systemd try again to start a pool that it has given up.
    """
    if reset_pool is not None:
        if pool != "reset" or not POOL_ID.fullmatch(reset_pool):
            raise click.UsageError("it is orchctl pools [POOL], or orchctl pools reset POOL")
        reset.reset(reset_pool, user=user)
        return
    if pool is not None and not POOL_ID.fullmatch(pool):
        raise click.BadParameter("a pool id is a-z, 0-9 and -, at most 63", param_hint="POOL")
    where = reach.find(url, token_file)
    found = reach.run(where, _fetch, pool)
    if as_json:
        say.json(found.pools[0] if pool is not None else found)
        return
    if not found.pools:
        say.note("No pools are configured. Add one to orchd.toml; then orchctl config check.", "")
        return
    say.show(overview(found.pools))
    for each in found.pools:
        say.show("")
        say.show(_replicas(each))
        _causes(each)


async def _fetch(client: Client, pool: str | None) -> Pools:
    if pool is None:
        return await reach.fetch(client, Pools, "/v1/pools")
    return Pools(pools=(await reach.fetch(client, PoolHealth, f"/v1/pools/{pool}/health"),))


def overview(pools: tuple[PoolHealth, ...]) -> Table:
    """Return the table of pools, one line each."""
    table = say.table("pool", "state", "engine", "model", ">slots", ">waiting", "starts in")
    for pool in pools:
        figures = pool.metrics
        depth = figures.queue_depth
        starts = figures.predicted_start_ms
        table.add_row(
            f"[bold]{say.cell(pool.pool_id)}[/]",
            _state(pool),
            say.cell(pool.engine),
            say.cell(pool.model_ref),
            f"{figures.slots_active}/{figures.slots_total}",
            f"{depth.interactive}+{depth.batch}",
            say.seconds(min(starts.values())) if starts and pool.ready else "-",
        )
    return table


def _state(pool: PoolHealth) -> str:
    if pool.draining:
        return "[yellow]draining[/]"
    if pool.reloading is not None:
        return "[green]ready, reloading[/]" if pool.ready else "[yellow]reloading[/]"
    if pool.ready and pool.slo is not None and pool.slo.state != "closed":
        return "[yellow]ready, sheds load[/]"
    if pool.ready:
        return "[green]ready[/]"
    return "[yellow]not ready[/]" if pool.live else "[red]down[/]"


def _replicas(pool: PoolHealth) -> Table:
    table = say.table("replica", "phase", "GPUs", ">VRAM free/total GiB", "GPU proof", "status")
    for replica in pool.replicas:
        table.add_row(*_row(replica))
    return table


def _row(replica: ReplicaHealth) -> tuple[str, ...]:
    snapshot = replica.snapshot
    if snapshot is None:
        return (say.cell(replica.replica_id), "[red]down[/]", "-", "-", "-", "no poolmgr answers")
    style = "green" if snapshot.ready and replica.live else "yellow" if replica.live else "red"
    phase = snapshot.phase.value if replica.live else f"lost ({snapshot.phase.value})"
    names = ", ".join(f"{device.index} {device.name}" for device in snapshot.devices)
    total = snapshot.vram_total_bytes
    vram = f"{say.gigabytes(snapshot.vram_free_bytes)}/{say.gigabytes(total)}" if total else "-"
    return (
        say.cell(replica.replica_id),
        f"[{style}]{phase}[/]",
        say.cell(names or snapshot.device_mask),
        vram,
        say.cell(snapshot.gpu_proof.value),
        say.cell(snapshot.status if replica.live else "no answer from its poolmgr"),
    )


def _causes(pool: PoolHealth) -> None:
    """Write the last error of each replica, or else the pool's, with what to do."""
    told = False
    for replica in pool.replicas:
        cause = replica.last_error
        if cause is None and replica.snapshot is not None:
            cause = replica.snapshot.last_error
        if cause is not None:
            _cause(replica.replica_id, cause)
            told = True
        elif replica.snapshot is None:
            say.show(f"  [bold]Next:[/] {_read_the_log(replica.replica_id)}")
            told = True
    if pool.last_error is not None and not told:
        _cause(pool.pool_id, pool.last_error)


def _cause(who: str, cause: Cause) -> None:
    kind = Kind(cause.kind).value
    say.show(f"  [red]{say.cell(who)}: {kind}:[/] {say.cell(cause.message)}")
    # the table's advice for this kind is the command that has just been typed
    own = kind == Kind.POOL_UNREADY
    say.show(f"  [bold]Next:[/] {_read_the_log(who) if own else say.cell(cause.advice)}")


def _read_the_log(who: str) -> str:
    name = who if ":" in who else f"{who}:*"
    return f"systemctl status 'poolmgr@{say.cell(name)}', or the terminal of orchctl up"
