"""Steps about what operators do: drain and reload."""

from __future__ import annotations

from pytest_bdd import then

from tests.bdd.story import Story
from tests.bdd.words.phrase import phrase


@then(phrase('pool "{pool:Name}" becomes draining'))
def becomes_draining(story: Story, pool: str) -> None:
    story.wait(f"{pool} is draining", lambda: story.pool(pool)["draining"])


@then(phrase('pool "{pool:Name}" serves the model "{model:Name}"'))
def serves(story: Story, pool: str, model: str) -> None:
    def fact() -> bool:
        health = story.pool(pool)
        same = {replica["snapshot"]["model_ref"] for replica in health["replicas"]} == {model}
        return health["ready"] and same and "reloading" not in health

    story.wait(f"{pool} serves {model}", fact)


@then(phrase('pool "{pool:Name}" tells what went wrong'))
def tells(story: Story, pool: str) -> None:
    def fact() -> bool:
        health = story.pool(pool)
        return "last_error" in health and "reloading" not in health

    story.breaking = pool
    story.wait(f"{pool} has a last error", fact)
