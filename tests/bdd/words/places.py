"""Steps about where the scenario is: the workstation, its pools, its log, its figures."""

from __future__ import annotations

import hashlib

from pytest_bdd import given, then

from tests.bdd.story import Story
from tests.bdd.words.phrase import check, phrase
from tests.bdd.workstations import TOKEN

Table = list[list[str]]


@given(phrase('the workstation "{name:Name}"'))
def workstation(story: Story, name: str) -> None:
    story.enter(name)


@given(phrase('the engine of pool "{pool:Name}" dies under every task'))
def dies(story: Story, pool: str) -> None:
    """So it is configured (workstations.py); the log may say so."""
    story.breaking = pool


@then(phrase('pool "{pool:Name}" comes back by itself'))
def comes_back(story: Story, pool: str) -> None:
    """The log says that it went first: a pool that is ready now may not have noticed yet."""
    for name in ("replica_unready", "replica_ready"):
        story.here.wait_event(name, story.mark, pool_id=pool)
    story.wait(f"{pool} is ready", lambda: story.pool(pool)["ready"])


@then(phrase('pool "{pool:Name}" says'))
def pool_says(story: Story, pool: str, datatable: Table) -> None:
    check(story.pool(pool), datatable, story)


@then(phrase('the slots of pool "{pool:Name}" are free again'))
def free_again(story: Story, pool: str) -> None:
    story.wait("slots are free", lambda: not story.pool(pool)["metrics"]["slots_active"])


@then(phrase('the log says of "{task:Name}", each in one sentence'))
def log_says(story: Story, task: str, datatable: Table) -> None:
    """Narration: a sentence for people beside actor, action and target [ORCH-3300]."""
    for (name,) in datatable:
        event = story.here.wait_event(name, story.mark, job_id=story.task_id(task))
        assert event["human"].endswith((".", "!")), event
        assert event["human"].count("\n") == 0
        assert {"actor", "action", "target", "correlation_id"} <= event.keys()


@then(phrase('nothing that the daemons say holds "{text:Name}"'))
def never_said(story: Story, text: str) -> None:
    assert text not in str(story.events())
    assert text not in str([story.status(name) for name in story.accepted])


@then(phrase('the log names the fingerprint of the token for "{task:Name}"'))
def fingerprint(story: Story, task: str) -> None:
    wanted = f"token:{hashlib.sha256(TOKEN.encode()).hexdigest()[:6]}"
    story.here.wait_event("task_admitted", story.mark, job_id=story.task_id(task), identity=wanted)


@then("nothing that the daemons say holds the token")
def token_never_said(story: Story) -> None:
    never_said(story, TOKEN)
