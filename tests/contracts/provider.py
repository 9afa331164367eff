"""pact's verifier against a live daemon, which it brings into the states that the pact names.

A program, because what the verifier leaves behind (a listening socket) is a warning in a test:

    python -m tests.contracts.provider PORT STATES [FILE]     STATES is a regular expression
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any
from uuid import uuid4

import orjson
import trio
from pact import Verifier

from orchd.kit.client import Client, Target
from tests.fakes.tasks import task_body
from tests.sockets.talk import events_of, get, post
from tools.pactfile import asks, control_runs, vector_runs
from tools.pactfile.record import FILE

MODELS, ARTIFACTS = "/v1/catalog/models", "/v1/artifacts"
STATE_S = 20.0


class Provider:
    """Brings orchd at `port` into a state; called from the verifier's thread."""

    def __init__(self, port: int) -> None:
        self._target = Target.parse(f"http://127.0.0.1:{port}")

    def __call__(self, state: str, parameters: dict[str, Any] | None) -> None:
        if state and state != asks.UNREADY:  # the verifier also names a state without a name
            trio.run(self._enter, state, parameters or {})

    def leave(self) -> None:
        """Cancel what still runs: a daemon that stops would wait for it."""

        async def empty() -> None:
            client = Client(self._target, token=asks.TOKEN)
            await self._empty(client)
            client.close()

        trio.run(empty)

    async def _enter(self, state: str, about: dict[str, Any]) -> None:
        task_id = about.get("task_id")
        client = Client(self._target, token=asks.TOKEN)
        with trio.fail_after(STATE_S):
            await self._empty(client)
            await self._whole(client)
            match state:
                case asks.READY:
                    pass
                case asks.EMBEDDED | asks.RERANKED:
                    await self._vectors(client, state, task_id)
                case asks.SESSION:
                    await self._turn(client, about["session_id"])
                case asks.MODEL | asks.NO_MODEL:
                    await self._models(client, there=state == asks.MODEL)
                case asks.ARTIFACT | asks.NO_ARTIFACT:
                    await self._artifacts(client, there=state == asks.ARTIFACT)
                case asks.QUEUED:
                    await self._long(client, str(uuid4()), slot=True)
                    await self._long(client, task_id)
                case asks.FULL:
                    await self._long(client, str(uuid4()), slot=True)
                    await self._long(client, str(uuid4()))
                case asks.ENDED:
                    body = task_body(task_id=task_id, max_tokens=2)
                    assert (await post(client, "/v1/tasks", body)).status == 202
                    assert task_id is not None
                    await events_of(client, task_id)
                case _:
                    raise AssertionError(f"the pact names a state that is unknown here: {state}")
        client.close()

    async def _empty(self, client: Client) -> None:
        for state in ("queued", "running"):
            for task in (await get(client, f"/v1/tasks?state={state}"))["tasks"]:
                assert (await post(client, f"/v1/tasks/{task['task_id']}/cancel")).status == 204
        while (await get(client, "/v1/pools/demo/health"))["metrics"]["slots_active"]:
            await trio.sleep(0.01)

    async def _whole(self, client: Client) -> None:
        """Have the pool that was drained or reloaded serve again."""
        path = f"/v1/pools/{control_runs.SPARE}"
        health = await get(client, f"{path}/health")
        if health["draining"]:
            await post(client, f"{path}/reload", {"new_model_ref": "mock:spare"})
        while not health["ready"] or health["draining"] or health.get("reloading"):
            await trio.sleep(0.02)
            health = await get(client, f"{path}/health")

    async def _turn(self, client: Client, session_id: str) -> None:
        await client.request("DELETE", f"/v1/sessions/{session_id}")
        body = task_body(session_id=session_id, max_tokens=2)
        assert (await post(client, "/v1/tasks", body)).status == 202
        await events_of(client, body["task_id"])

    async def _vectors(self, client: Client, state: str, task_id: str | None) -> None:
        workload = "embedding" if state == asks.EMBEDDED else "rerank"
        body = task_body(
            task_id=task_id, workload=workload, prompt=None, inputs=list(vector_runs.TEXTS),
            determinism="best_effort",
        )  # fmt: skip
        assert (await post(client, "/v1/tasks", body)).status == 202
        await events_of(client, body["task_id"])

    async def _models(self, client: Client, *, there: bool) -> None:
        for model in (await get(client, MODELS))["models"]:
            answer = await client.request("DELETE", f"{MODELS}/{model['id']}")
            assert answer.status == 204
        if there:
            assert (await post(client, MODELS, control_runs.LLAMA)).status == 201

    async def _artifacts(self, client: Client, *, there: bool) -> None:
        for artifact in (await get(client, ARTIFACTS))["artifacts"]:
            answer = await client.request("DELETE", f"{ARTIFACTS}/{artifact['id']}")
            assert answer.status == 204
        if there:
            assert (await post(client, ARTIFACTS, control_runs.PLAN)).status == 201

    async def _long(self, client: Client, task_id: str | None, *, slot: bool = False) -> None:
        """Submit a task of minutes; `slot`: it has the only one when this returns."""
        body = task_body(task_id=task_id, max_tokens=8000, ctx=8192, deadline_ms=600_000)
        answer = await post(client, "/v1/tasks", body)
        assert answer.status == 202, answer.body
        if slot:
            task = orjson.loads(answer.body)["task_id"]
            while (await get(client, f"/v1/tasks/{task}"))["state"] != "running":
                await trio.sleep(0.01)


def main(port: int, states: str, file: Path = FILE) -> int:
    """Ask for every interaction whose state is one of these; 1 when an answer is another."""
    provider = Provider(port)
    verifier = (
        Verifier("orchd", host="127.0.0.1")
        .add_transport(url=f"http://127.0.0.1:{port}")
        .add_source(file)
        .filter(state=states)
        .state_handler(provider, teardown=False)
        .set_error_on_empty_pact(enabled=True)
    )
    try:
        verifier.verify()
    except RuntimeError:
        return 1
    finally:
        provider.leave()
        print(verifier.output(strip_ansi=True))
    return 0


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]), sys.argv[2], *map(Path, sys.argv[3:])))
