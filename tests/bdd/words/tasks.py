"""Steps about tasks: who submits what, who cancels it, and where it is."""

from __future__ import annotations

from pytest_bdd import given, then, when

from tests.bdd.story import Story, merged
from tests.bdd.words.phrase import check, pairs, phrase

Table = list[list[str]]


@given(phrase('every slot of pool "{pool:Name}" is busy'))
def busy(story: Story, pool: str) -> None:
    story.fill(pool)


@when(phrase('the slots of pool "{pool:Name}" become free'))
def become_free(story: Story, pool: str) -> None:
    story.free(pool)


@given(phrase('{agent:Agent} has submitted "{task:Name}" to pool "{pool:Name}"'))
def has_submitted(
    story: Story, agent: str, task: str, pool: str, datatable: Table | None = None
) -> None:
    reply = story.submit(agent, task, pool, pairs(story, datatable))
    assert reply.status == 202, reply


@when(phrase('{agent:Agent} submits "{task:Name}" to pool "{pool:Name}"'))
def submits(story: Story, agent: str, task: str, pool: str, datatable: Table | None = None) -> None:
    story.submit(agent, task, pool, pairs(story, datatable))


@given(phrase('{agent:Agent} has submitted "{task:Name}" for the model "{model:Name}"'))
def has_submitted_for(
    story: Story, agent: str, task: str, model: str, datatable: Table | None = None
) -> None:
    has_submitted(story, agent, task, model, datatable)


@when(phrase('{agent:Agent} submits "{task:Name}" for the model "{model:Name}"'))
def submits_for(
    story: Story, agent: str, task: str, model: str, datatable: Table | None = None
) -> None:
    """Several pools may serve a model; a pool without a model of its own is named by neither."""
    story.submit(agent, task, model, pairs(story, datatable))


@when(phrase('{agent:Agent} asks what would become of "{task:Name}" for the model "{model:Name}"'))
def explained(story: Story, agent: str, task: str, model: str) -> None:
    story.bodies[task] = story.body(agent, model, {})
    story.ask("POST", "/v1/placement/explain", story.bodies[task])


@when(phrase('"{task:Name}" is sent again'))
def sent_again(story: Story, task: str, datatable: Table | None = None) -> None:
    story.send(task, merged(story.bodies[task], pairs(story, datatable)))


@then(phrase('the answer is the first one of "{task:Name}"'))
def as_before(story: Story, task: str) -> None:
    assert story.answer.json == story.accepted[task]


@when(phrase('"{task:Name}" is cancelled'))
def cancelled(story: Story, task: str) -> None:
    story.cancel(task)


@then(phrase('"{task:Name}" becomes {state:Word}'))
def becomes(story: Story, task: str, state: str) -> None:
    story.becomes(task, state)


@then(phrase('"{task:Name}" is {state:Word} now'))
def is_now(story: Story, task: str, state: str) -> None:
    assert story.status(task)["state"] == state


@then(phrase('"{task:Name}" has {count:Count} before it'))
def position(story: Story, task: str, count: int) -> None:
    assert story.status(task)["queue_position"] == count


@then(phrase('the status of "{task:Name}" says'))
def status_says(story: Story, task: str, datatable: Table) -> None:
    check(story.status(task), datatable, story)
