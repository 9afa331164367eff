"""A plan and its problems in words, and as one JSON value. Pure: the same bytes each time."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Sequence
from typing import Any, assert_never

import attrs

from poolmgr.provision.plans import steps as s
from poolmgr.provision.plans.preflight import Problem


def sentence(step: s.Step) -> str:
    """Return what one step does."""
    match step:
        case s.Attach(url=url):
            return f"use the engine that answers at {url}"
        case s.FindProgram(program=program):
            return f"find {program}"
        case s.Clone(repo=repo, ref=ref, submodules=submodules):
            return f"git clone {repo} at {ref}{', with its submodules' if submodules else ''}"
        case s.Configure(argv=argv) | s.Build(argv=argv) | s.Install(argv=argv):
            return shlex.join(argv)
        case s.CheckCuda(program=program):
            return f"see that {program} was built with CUDA"
        case s.Download(url=url, checksum=checksum):
            return f"download {url.partition('?')[0]}, which has {checksum}"
        case s.Extract(into=into):
            return f"extract it into {into}"
        case s.Pull(runtime=runtime, reference=reference):
            return f"{runtime} pull {reference}"
        case s.Register(entry_id=entry_id):
            return f"write {entry_id} into the catalog of engines"
        case _:
            assert_never(step)


def lines(plan: s.Plan, problems: Sequence[Problem]) -> Iterator[str]:
    """Yield the lines for people."""
    yield f"Pool {plan.pool}, mode {plan.mode}" + (f": {plan.folder}" if plan.folder else "")
    for number, step in enumerate(plan.steps, 1):
        yield f"  {number}. {step.name:<12} {sentence(step)}"
    for warning in plan.warnings:
        yield f"Warning: {warning}"
    for problem in problems:
        yield f"In the way: {problem.what}"
        yield f"    {problem.command}"
    if not problems:
        brought = plan.entry_id is not None
        yield (
            f"Nothing is in the way: orchctl provision {plan.pool}"
            if brought
            else ("There is nothing to bring.")
        )


def value(plan: s.Plan, problems: Sequence[Problem]) -> dict[str, Any]:
    """Return the same for programs."""
    return {
        "pool": plan.pool,
        "mode": plan.mode,
        "engine_catalog_id": plan.entry_id,
        "folder": plan.folder,
        "flags": list(plan.flags),
        "steps": [{"step": step.name, **attrs.asdict(step)} for step in plan.steps],
        "warnings": list(plan.warnings),
        "problems": [attrs.asdict(problem) for problem in problems],
    }
