"""What one scenario knows: its workstation, who acts, the tasks by the names it gave them.

At its end the workstation must be as it was: nothing queued, no slot leased, no stream open, and no
error in the log. Words only call what is here; HTTP is client.py's.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from typing import Any
from uuid import uuid4

from attrs import define, field

from tests.bdd.client import Follower, Frame, Reply, ask
from tests.bdd.workstations import TOKEN
from tests.fakes.tasks import task_body
from tests.sockets.suite import Suite

FACT_S = 20.0
PAUSE_S = 0.01
FILLER = "filler"
DEADLINE_MS = 6 * 3_600_000
"""Where a scenario is not about deadlines. On a busy machine orchd learns that a pool is slow, and
would refuse a task that has to wait for the filler: rightly."""


@define(eq=False)
class Story:
    """One scenario's state."""

    open_suite: Callable[[str], Suite]
    suite: Suite | None = None
    guarded: bool = False
    """The workstation wants a token; agents present it unless a step says otherwise."""
    mark: int = 0
    """Where the suite's log was when the scenario began."""
    sessions: dict[str, str] = field(factory=dict)
    """Agent -> its session."""
    bodies: dict[str, dict[str, Any]] = field(factory=dict)
    """Task's name -> what was sent for it last."""
    accepted: dict[str, Any] = field(factory=dict)
    """Task's name -> its first 202."""
    followers: dict[str, Follower] = field(factory=dict)
    before: dict[str, list[Frame]] = field(factory=dict)
    """Task -> the frames that an earlier reader of it has."""
    names: dict[str, str] = field(factory=dict)
    """What a scenario keeps by a name: ids that answers gave."""
    breaking: str = ""
    """The pool whose engine is to die: what the log says of it is no fault."""
    reply: Reply | None = None
    """The last answer."""

    def enter(self, name: str) -> None:
        """Take the workstation of this name, and note where its log is."""
        self.suite = self.open_suite(name)
        self.guarded = "auth_token" in self.suite.config.read_text()
        self.mark = len(self.suite.events)

    @property
    def here(self) -> Suite:
        """The workstation; a scenario names it first."""
        assert self.suite is not None, "the scenario begins with: Given the workstation NAME"
        return self.suite

    @property
    def answer(self) -> Reply:
        """The last answer."""
        assert self.reply is not None, "nobody has asked anything yet"
        return self.reply

    def headers(self) -> dict[str, str]:
        """Return what every agent sends."""
        return {"Authorization": f"Bearer {TOKEN}"} if self.guarded else {}

    def ask(
        self, method: str, path: str, body: object = None, headers: dict[str, str] | None = None
    ) -> Reply:
        """Ask, and keep the answer as the last one."""
        self.reply = ask(
            self.here.port, method, self.filled(path), body, self.headers() | (headers or {})
        )
        return self.reply

    def look(self, path: str) -> Any:
        """Return a 200's JSON; the last answer stays what it was."""
        reply = ask(self.here.port, "GET", path, headers=self.headers())
        assert reply.status == 200, (reply.status, reply.body)
        return reply.json

    def wait(self, what: str, fact: Callable[[], object]) -> None:
        """Ask again and again until `fact` holds; a deadline, no other wait."""
        deadline = time.monotonic() + FACT_S
        while not fact():
            assert time.monotonic() < deadline, f"within {FACT_S:g} s not: {what}"
            time.sleep(PAUSE_S)

    # names in a scenario's texts

    def filled(self, text: str) -> str:
        """Put ids in: `{task first}`, `{session of Ada}`, `{NAME}` of what was kept."""

        def known(match: re.Match[str]) -> str:
            word = match[1]
            if word.startswith("task "):
                return self.task_id(word.removeprefix("task "))
            if word.startswith("session of "):
                return self.session(word.removeprefix("session of "))
            return self.names[word]

        return re.sub(r"\{([a-zA-Z][\w ]*)\}", known, text)

    def session(self, agent: str) -> str:
        """Return an agent's session, made when it is named first."""
        return self.sessions.setdefault(agent, str(uuid4()))

    def task_id(self, name: str) -> str:
        """Return the id under which the task of this name was submitted."""
        task_id = self.bodies[name]["task_id"]
        assert isinstance(task_id, str)
        return task_id

    # tasks

    def submit(self, agent: str, name: str, pool: str, changes: dict[str, Any]) -> Reply:
        """Submit a new task for the model of a pool."""
        return self.send(name, self.body(agent, pool, changes))

    def body(self, agent: str, model: str, changes: dict[str, Any]) -> dict[str, Any]:
        """Return the body of a new task."""
        body = task_body(
            session_id=self.session(agent), model_ref=f"mock:{model}", deadline_ms=DEADLINE_MS
        )
        return merged(body, changes)

    def send(self, name: str, body: dict[str, Any]) -> Reply:
        """Send a body under a name."""
        self.bodies[name] = body
        reply = self.ask("POST", "/v1/tasks", body)
        if reply.status == 202:
            self.accepted.setdefault(name, reply.json)
        return reply

    def status(self, name: str) -> Any:
        """Return `GET /v1/tasks/{id}`."""
        return self.look(f"/v1/tasks/{self.task_id(name)}")

    def becomes(self, name: str, state: str) -> None:
        """Wait until a task is in this state."""
        self.wait(f"{name} is {state}", lambda: self.status(name)["state"] == state)

    def follow(self, name: str, headers: dict[str, str] | None = None) -> Follower:
        """Return the reader of a task's stream; begin to read unless somebody does already."""
        if name not in self.followers or headers is not None:
            follower = self.followers[name] = Follower()
            path = f"/v1/tasks/{self.task_id(name)}/stream"
            follower.start(self.here.port, path, self.headers() | (headers or {}))
        return self.followers[name]

    def cancel(self, name: str) -> Reply:
        """Cancel a task."""
        return self.ask("POST", f"/v1/tasks/{self.task_id(name)}/cancel")

    def pool(self, name: str) -> Any:
        """Return a pool's health."""
        return self.look(f"/v1/pools/{name}/health")

    def fill(self, pool: str) -> None:
        """Give every slot of a pool to a task of minutes."""
        for index in range(self.pool(pool)["metrics"]["slots_total"]):
            name = f"{FILLER} {pool} {index}"
            long = {"max_tokens": 8000, "ctx": 8192}
            assert self.submit("Filler", name, pool, long).status == 202, self.answer
            self.becomes(name, "running")

    def free(self, pool: str) -> None:
        """Cancel what `fill` started."""
        for name in self.bodies:
            if name.startswith(f"{FILLER} {pool} "):
                assert self.cancel(name).status == 204

    # the log

    def events(self) -> list[dict[str, Any]]:
        """Return what the daemons have logged since the scenario began."""
        return self.here.events[self.mark :]

    # the end

    def leave(self) -> None:
        """Undo what the scenario did, and see that nothing is left of it."""
        if self.suite is None:
            return
        for name in self.accepted:
            self.cancel(name)
        for follower in self.followers.values():
            follower.leave()
        self.wait("the workstation is idle again", self._idle)
        assert [event for event in self.events() if self._wrong(event)] == []
        assert all(event.get("human") for event in self.events()), "each event has a sentence"

    def _wrong(self, event: dict[str, Any]) -> bool:
        expected = bool(self.breaking) and event["event"] in {"engine_ended", "failed"}
        return "traceback" in event or (event.get("level") == "error" and not expected)

    def _idle(self) -> bool:
        pools = self.look("/v1/pools")["pools"]
        waiting = [
            self.look(f"/v1/tasks?state={state}")["tasks"] for state in ("queued", "running")
        ]
        leased = sum(pool["metrics"]["slots_active"] for pool in pools)
        return not leased and waiting == [[], []]


def merged(body: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """Return the body with changes, whose keys may be paths: `placement.mode`."""
    result = dict(body)
    for path, value in changes.items():
        head, _, rest = path.partition(".")
        if rest:
            result[head] = merged(result.get(head) or {}, {rest: value})
        else:
            result[head] = value
    return result
