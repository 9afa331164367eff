"""Steps about any route: what is asked, and what the answer says."""

from __future__ import annotations

import math

from pytest_bdd import then, when

from tests.bdd.client import ask
from tests.bdd.story import Story
from tests.bdd.words.phrase import check, phrase

Table = list[list[str]]


@when(phrase('somebody asks {method:Method} "{path:Name}"'))
def asks(story: Story, method: str, path: str) -> None:
    story.ask(method, path)


@when(phrase('somebody sends {method:Method} "{path:Name}"'))
def sends(story: Story, method: str, path: str, docstring: str) -> None:
    story.ask(method, path, story.filled(docstring).encode())


@when(phrase('somebody asks {method:Method} "{path:Name}" with the headers'))
def asks_with(story: Story, method: str, path: str, datatable: Table) -> None:
    story.ask(method, path, headers={name: story.filled(value) for name, value in datatable})


@then(phrase("the answer is {status:Count}"))
def answer_is(story: Story, status: int) -> None:
    assert story.answer.status == status, story.answer


@then(phrase("the answer is {status:Count} {code:Code}"))
def answer_is_error(story: Story, status: int, code: str) -> None:
    assert story.answer.status == status, story.answer
    envelope = story.answer.json
    assert envelope["code"] == code
    assert envelope["message"]
    assert envelope["hint"]


@then("the answer says")
def answer_says(story: Story, datatable: Table) -> None:
    check(story.answer.json, datatable, story)


@then("the headers say")
def headers_say(story: Story, datatable: Table) -> None:
    check(story.answer.headers, [[name.lower(), value] for name, value in datatable], story)


@then("the answer says when to come back")
def come_back(story: Story) -> None:
    """The same prediction thrice: in the envelope, in seconds rounded up, and in ms."""
    wait_ms = story.answer.json["retry_after_ms"]
    assert story.answer.json["retriable"] is True
    assert wait_ms > 0
    assert int(story.answer.headers["x-backoff-ms"]) == wait_ms
    assert int(story.answer.headers["retry-after"]) == math.ceil(wait_ms / 1000)


@then(phrase('the header "{header:Name}" is kept as "{name:Name}"'))
def kept(story: Story, header: str, name: str) -> None:
    story.names[name] = story.answer.headers[header.lower()]


OFFERED: dict[str, dict[str, str]] = {
    "no token": {},
    "another token": {"Authorization": "Bearer not-the-token"},
    "the user's name": {"Authorization": "Basic dXNlcjpwYXNz"},
}


@when(phrase('a stranger asks {method:Method} "{path:Name}" with {offered}'))
def stranger_asks(story: Story, method: str, path: str, offered: str) -> None:
    body = b"{}" if method == "POST" else None
    story.reply = ask(story.here.port, method, path, body, OFFERED[offered])
