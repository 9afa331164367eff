"""`orchctl embed TEXT...` and `orchctl rerank QUERY DOCUMENT...`: one task, and its result."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, TypeVar

import click
import orjson
from attrs import evolve

from orchd.cli import reach, say
from orchd.cli.frames import Lines, Text
from orchd.cli.run import COUNT, Wanted, draft_of, drive, utf8
from orchd.wire.errors import Kind, OrchError
from orchd.wire.shapes import Priority, Workload

F = TypeVar("F", bound=Callable[..., Any])
DEADLINE_MS: Final = 600_000


class Vectors(Text):
    """One vector a line, as a JSON array."""

    def result(self, result: dict[str, Any]) -> None:
        """Write the vectors in the order of the texts."""
        for vector in result["embeddings"]:
            sys.stdout.write(orjson.dumps(vector).decode() + "\n")


class Ranked(Text):
    """One document a line, the best first: its score, a tab and its text."""

    def __init__(self, documents: tuple[str, ...]) -> None:
        super().__init__()
        self._documents = documents

    def result(self, result: dict[str, Any]) -> None:
        """Write the documents by their scores."""
        for row in result["ranking"]:
            shown = " ".join(say.plain(self._documents[row["index"]]).split())
            sys.stdout.write(f"{row['score']:.6g}\t{shown}\n")


def _options(command: F) -> F:
    for option in (
        click.option("--engine", metavar="E", help="Engine; needless when only one serves."),
        click.option("--model", metavar="REF", help="Model; needless when only one is served."),
        click.option("--ctx", type=COUNT, metavar="N", help="Tokens of a text. [the pool's]"),
        click.option(
            "--priority",
            type=click.Choice([each.value for each in Priority]),
            default="interactive",
        ),
        click.option("--json", "as_json", is_flag=True, help="One JSON object per frame."),
        reach.options,
    ):
        command = option(command)
    return command


@click.command(name="embed")
@click.argument("texts", nargs=-1, required=True, metavar="TEXT...")
@_options
def embed(texts: tuple[str, ...], as_json: bool, **asked: Any) -> int:
    """Print the vector of each TEXT, one JSON array a line."""
    return _run(Workload.EMBEDDING, texts, Lines() if as_json else Vectors(), **asked)


@click.command(name="rerank")
@click.argument("query")
@click.argument("documents", nargs=-1, required=True, metavar="DOCUMENT...")
@_options
def rerank(query: str, documents: tuple[str, ...], as_json: bool, **asked: Any) -> int:
    """Print the DOCUMENTs with their scores for QUERY, the best first."""
    shown = Lines() if as_json else Ranked(documents)
    return _run(Workload.RERANK, (query, *documents), shown, **asked)


def _run(
    workload: Workload,
    inputs: tuple[str, ...],
    shown: Text | Lines,
    *,
    engine: str | None,
    model: str | None,
    ctx: int | None,
    priority: str,
    url: str | None,
    token_file: Path | None,
) -> int:
    for text in inputs:
        utf8(text, "TEXT")
    # nothing is generated, so max_tokens is 1
    wanted = Wanted(workload=workload, engine=engine, model=model, ctx=ctx, max_tokens=1)
    draft = evolve(draft_of(wanted, priority=priority, deadline_ms=DEADLINE_MS), inputs=inputs)
    end = reach.run(reach.find(url, token_file), drive, draft, wanted, shown)
    if isinstance(shown, Vectors | Ranked) and end.code == 0:
        try:
            shown.result(end.data["result"])
        except (KeyError, IndexError, TypeError):
            raise OrchError(Kind.ENGINE_PROTOCOL, "the end frame holds no result") from None
    return end.code
