"""Steps about streams: who follows, who leaves, how they end."""

from __future__ import annotations

from pytest_bdd import then, when

from tests.bdd.client import Frame
from tests.bdd.story import Story
from tests.bdd.words.phrase import check, phrase

Table = list[list[str]]


def tokens(frames: list[Frame]) -> list[Frame]:
    return [frame for frame in frames if frame.name == "token"]


@when(phrase('the reader of "{task:Name}" has seen a token'))
def seen_a_token(story: Story, task: str) -> None:
    story.follow(task).wait("token", tokens)


@when(phrase('the reader of "{task:Name}" hangs up'))
def hangs_up(story: Story, task: str) -> None:
    story.follow(task).leave()


@when(phrase('the reader of "{task:Name}" hangs up and comes back'))
def comes_back(story: Story, task: str) -> None:
    """A second reader takes over before the first one leaves: the last one takes the task along."""
    old = story.follow(task)
    with_ids = [frame for frame in old.frames if frame.name != "metrics"]
    story.follow(task, {"Last-Event-ID": str(with_ids[-1].id)})
    old.leave()
    story.before[task] = [frame for frame in old.frames if frame.id <= with_ids[-1].id]


@then(phrase('"{task:Name}" ends with {reason:Word}'))
def ends(story: Story, task: str, reason: str) -> None:
    last = story.follow(task).last()
    assert last.name == "end", last
    assert last.data["finish_reason"] == reason


@then(phrase('"{task:Name}" ends with {reason:Word} after {count:Count} tokens'))
def ends_after(story: Story, task: str, reason: str, count: int) -> None:
    ends(story, task, reason)
    follower = story.follow(task)
    frames = story.before.get(task, []) + follower.frames
    assert [frame.data["i"] for frame in tokens(frames)] == list(range(count))
    assert frames[-1].data["tokens_out"] == count


@then(phrase('"{task:Name}" breaks with {code:Code}'))
def breaks(story: Story, task: str, code: str) -> None:
    last = story.follow(task).last()
    assert last.name == "error", last
    assert last.data["code"] == code


@then(phrase('the "{event:Name}" frame of "{task:Name}" says'))
def frame_says(story: Story, event: str, task: str, datatable: Table) -> None:
    follower = story.follow(task)
    follower.wait(event, lambda frames: [frame for frame in frames if frame.name == event])
    found = [frame for frame in follower.frames if frame.name == event]
    check(found[-1].data, datatable, story)


@then(phrase('no token of "{task:Name}" follows its cancel'))
def nothing_follows(story: Story, task: str) -> None:
    frames = story.follow(task).frames
    (at,) = [
        index
        for index, frame in enumerate(frames)
        if frame.name == "narration" and frame.data["action"] == "cancel"
    ]
    assert tokens(frames[at:]) == []
    assert frames[-1].data["tokens_out"] == len(tokens(frames))
