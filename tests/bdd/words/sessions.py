"""Steps about sessions."""

from __future__ import annotations

from pytest_bdd import then

from tests.bdd.story import Story
from tests.bdd.words.phrase import phrase


@then(phrase("the session of {agent:Agent} is forgotten"))
def forgotten(story: Story, agent: str) -> None:
    path = f"/v1/sessions/{story.session(agent)}"
    story.wait(f"{agent}'s session is over", lambda: story.ask("GET", path).status == 404)
