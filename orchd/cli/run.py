"""`orchctl run PROMPT`: one task, from the prompt to the last token. Ctrl-C cancels it."""

from __future__ import annotations

import contextlib
import signal
import sys
import uuid
from pathlib import Path
from typing import Any, Final

import click
import trio
from attrs import evolve, frozen

from orchd.cli import reach, wishes
from orchd.cli.follow import follow
from orchd.cli.frames import Lines, Text
from orchd.kit.client import Client, PeerError
from orchd.wire import codec, ids
from orchd.wire.control import Capabilities, Capability
from orchd.wire.errors import TABLE, Kind, OrchError
from orchd.wire.shapes import (
    Determinism,
    Placement,
    Priority,
    TaskAccepted,
    TaskRequest,
    Workload,
)

CANCELED: Final = TABLE[Kind.CANCELED].exit_code
CANCEL_S: Final = 5.0
"""How long Ctrl-C waits for the answer to the cancel."""
MAX_TOKENS: Final = 256
CTX: Final = 4096
"""Asked for when nothing tells what the pool has: the daemon refuses what is too much."""
DEADLINE_MS: Final = 3_600_000
_WHAT: Final = {
    Workload.COMPLETION: "completions",
    Workload.EMBEDDING: "embeddings",
    Workload.RERANK: "reranking",
}
COUNT: Final = click.IntRange(1, 10**9)
"""Tokens, or milliseconds of eleven days: beyond every pool, and within what JSON carries."""
SEED: Final = click.IntRange(-(2**63), 2**63 - 1)
STRICT: Final = click.option(
    "--strict", is_flag=True, help="Only where the same seed gives the same bytes: slots = 1."
)


@frozen(kw_only=True)
class Wanted:
    """What the command line asked for; None: to be found out."""

    workload: Workload
    engine: str | None
    model: str | None
    ctx: int | None
    max_tokens: int | None


def draft_of(
    wanted: Wanted,
    *,
    priority: str,
    session: uuid.UUID | None = None,
    deadline_ms: int = DEADLINE_MS,
    strict: bool = False,
) -> TaskRequest:
    """Return a task of new ids with what is known before orchd is asked; completed() fills in.

    The API's default is strict, which a pool of several slots refuses; a person in a terminal asks
    for that with an option.
    """
    return TaskRequest(
        task_id=ids.TaskId(str(uuid.uuid4())),
        session_id=ids.SessionId(str(session or uuid.uuid4())),
        workload=wanted.workload,
        model_ref=ids.Text(wanted.model or ""),
        engine=ids.EngineId(wanted.engine or ""),
        ctx=ids.Positive(wanted.ctx or CTX),
        priority=Priority(priority),
        max_tokens=ids.Positive(wanted.max_tokens or MAX_TOKENS),
        deadline_ms=ids.Positive(deadline_ms),
        determinism=Determinism.STRICT if strict else Determinism.BEST_EFFORT,
    )


@frozen(kw_only=True)
class End:
    """How a task came to its end here: the exit code, and the data of its `end` frame."""

    code: int
    data: dict[str, Any]


@click.command(name="run")
@click.argument("prompt")
@click.option(
    "--engine", "--pool-engine", metavar="E", help="Engine; needless when only one serves."
)
@click.option("--model", metavar="REF", help="Model reference; needless when only one is served.")
@click.option(
    "--priority",
    type=click.Choice([each.value for each in Priority]),
    default="interactive",
    show_default=True,
)
@click.option("--max-tokens", type=COUNT, metavar="N", help=f"Most tokens out. [{MAX_TOKENS}]")
@click.option("--ctx", type=COUNT, metavar="N", help="Tokens of context. [what the pool has]")
@click.option(
    "--deadline-ms",
    type=COUNT,
    default=DEADLINE_MS,
    show_default=True,
    metavar="MS",
    help="From admission to its end; refused when it cannot be met.",
)
@click.option("--seed", type=SEED, metavar="N", help="Seed of the sampler.")
@STRICT
@click.option("--session", type=click.UUID, metavar="UUID", help="Session. [a new one]")
@wishes.options
@click.option("--json", "as_json", is_flag=True, help="One JSON object per frame.")
@reach.options
def command(
    prompt: str,
    engine: str | None,
    model: str | None,
    priority: str,
    max_tokens: int | None,
    ctx: int | None,
    deadline_ms: int,
    seed: int | None,
    strict: bool,
    session: uuid.UUID | None,
    placement: Placement | None,
    as_json: bool,
    url: str | None,
    token_file: Path | None,
) -> int:
    """Send PROMPT ("-": read it from stdin) and print the answer as it comes.

    The text goes to stdout, position and predicted start to stderr. Ctrl-C cancels the task.
    """
    if prompt == "-":
        prompt = _stdin()
    if not prompt:
        raise click.BadParameter("the prompt is empty", param_hint="PROMPT")
    utf8(prompt, "PROMPT")
    wanted = Wanted(
        workload=Workload.COMPLETION, engine=engine, model=model, ctx=ctx, max_tokens=max_tokens
    )
    draft = evolve(
        draft_of(
            wanted, priority=priority, session=session, deadline_ms=deadline_ms, strict=strict
        ),
        seed=None if seed is None else ids.Int64(seed),
        prompt=prompt,
        placement=placement,
    )
    where = reach.find(url, token_file)
    return reach.run(where, drive, draft, wanted, Lines() if as_json else Text()).code


def utf8(text: str, hint: str) -> None:
    """Refuse bytes that are no UTF-8: argv and stdin bring them as lone surrogates.

    Raises click.BadParameter.
    """
    try:
        text.encode()
    except UnicodeEncodeError:
        raise click.BadParameter("it is not UTF-8", param_hint=hint) from None


def _stdin() -> str:
    try:
        text = sys.stdin.read(reach.MAX_TEXT + 1)
    except UnicodeDecodeError:
        raise click.BadParameter("stdin is not UTF-8", param_hint="PROMPT") from None
    if len(text) > reach.MAX_TEXT:
        what = f"stdin has more than {reach.MAX_TEXT} characters, which orchd does not take"
        raise click.BadParameter(what, param_hint="PROMPT")
    return text


async def drive(client: Client, draft: TaskRequest, wanted: Wanted, out: Text | Lines) -> End:
    """Run the task; cancel it on a signal or when our reader leaves. Raises OrchError."""
    failure: BaseException | None = None
    end: dict[str, object] | None = None
    with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
        async with trio.open_nursery() as nursery:

            async def watch() -> None:
                await signals.__anext__()
                nursery.cancel_scope.cancel()

            nursery.start_soon(watch)
            try:
                task = await completed(client, draft, wanted)
                await _submit(client, task, out)
                end = await follow(client, draft.task_id, out)
            except (OrchError, BrokenPipeError) as exc:
                failure = exc
            nursery.cancel_scope.cancel()
        if isinstance(failure, OrchError):
            out.failed(failure)
            raise failure
        if end is None:  # a signal, or nobody reads our output any more
            with contextlib.suppress(BrokenPipeError):
                out.canceled(draft.task_id, await _cancel(client, draft.task_id))
    if end is None or end.get("finish_reason") == "canceled":
        return End(code=CANCELED, data=end or {})
    return End(code=0, data=end)


async def completed(client: Client, draft: TaskRequest, wanted: Wanted) -> TaskRequest:
    """Return the draft with engine, model and limits of the one capability that fits."""
    found = await reach.fetch(client, Capabilities, "/v1/capabilities")
    fitting = [each for each in found.engines if _fits(each, wanted)]
    if not fitting and wanted.engine is not None and wanted.model is not None:
        return draft  # configured but not ready, perhaps: the daemon knows and says so
    if len({(each.engine, each.model_ref) for each in fitting}) != 1:
        raise _undecided(found, fitting, wanted)
    one = fitting[0]
    ctx = wanted.ctx or one.ctx_max
    return evolve(
        draft,
        engine=one.engine,
        model_ref=ids.Text(one.model_ref),
        ctx=ids.Positive(ctx),
        # half of a small context: the prompt needs room too
        max_tokens=ids.Positive(
            wanted.max_tokens or max(1, min(MAX_TOKENS, one.max_tokens_out, ctx // 2))
        ),
    )


def _fits(one: Capability, wanted: Wanted) -> bool:
    return (
        wanted.engine in (None, one.engine)
        and wanted.model in (None, one.model_ref)
        and wanted.workload in one.supported_workloads
    )


def _undecided(found: Capabilities, fitting: list[Capability], wanted: Wanted) -> OrchError:
    if not found.engines:
        return reach.ToldError(
            Kind.POOL_UNREADY, "no pool is ready", "orchctl pools shows the cause for each replica."
        )
    served = "; ".join(
        f"--engine {each.engine} --model {each.model_ref}" for each in (fitting or found.engines)
    )
    if not fitting:
        asked = " and ".join(
            f"{name} {value}"
            for name, value in (("engine", wanted.engine), ("model", wanted.model))
            if value
        )
        return reach.ToldError(
            Kind.POOL_UNAVAILABLE,
            f"nothing that is ready serves {asked or _WHAT[wanted.workload]}",
            f"Use one of: {served}",
        )
    return reach.ToldError(
        Kind.INVALID_PARAMS, "several models are served: choose one", f"Use one of: {served}"
    )


async def _submit(client: Client, task: TaskRequest, out: Text | Lines) -> None:
    answer = await reach.ask(client, "POST", "/v1/tasks", codec.dumps(task))
    out.accepted(reach.understood(TaskAccepted, answer.body), answer.headers)


async def _cancel(client: Client, task_id: ids.TaskId) -> bool:
    """Cancel the task; whether orchd said that it is done (or never was)."""
    try:
        answer = await client.request("POST", f"/v1/tasks/{task_id}/cancel", deadline_s=CANCEL_S)
    except PeerError:
        return False
    return answer.status in {204, 404}
