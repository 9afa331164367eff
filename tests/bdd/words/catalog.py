"""Steps about the catalog and artifacts."""

from __future__ import annotations

from pytest_bdd import then, when

from tests.bdd.story import Story
from tests.bdd.words.phrase import pairs, phrase

Table = list[list[str]]


@when(phrase('somebody sends {method:Method} "{path:Name}" with the header "{header:Name}"'))
def sends_with(story: Story, method: str, path: str, header: str, docstring: str) -> None:
    name, _, value = header.partition(": ")
    story.ask(method, path, story.filled(docstring).encode(), {name: value})


@then(phrase('"{path:Name}" of the answer is kept as "{name:Name}"'))
def kept_of_body(story: Story, path: str, name: str) -> None:
    story.names[name] = story.answer.json[path]


@when(phrase('{agent:Agent} submits "{task:Name}" for the reference "{reference:Name}"'))
def submits_by_reference(
    story: Story, agent: str, task: str, reference: str, datatable: Table | None = None
) -> None:
    story.submit(agent, task, "", {"model_ref": reference, **pairs(story, datatable)})
