"""The artifact registry from outside: over a real socket, with a real disk under it."""

from __future__ import annotations

import hashlib
import logging
from pathlib import Path
from typing import Any

import pytest
import trio

from orchd.catalog.artifacts import Store
from orchd.config.serving import ArtifactBounds
from orchd.kit import log
from orchd.kit.client import Answer
from orchd.wire.ids import Positive
from tests.edge.conftest import Front, Opener, read_json

URL = "/v1/artifacts"
NONE = "0" * 32


def plan(content: object = "1. Read.", **more: Any) -> dict[str, Any]:
    return {"kind": "plan", "content": content, **more}


async def stored(it: Front, **more: Any) -> dict[str, Any]:
    answer = await it.post(URL, plan(**more))
    assert answer.status == 201, answer.body
    return read_json(answer)


async def delete(it: Front, artifact_id: str) -> Answer:
    return await it.client.request("DELETE", f"{URL}/{artifact_id}", deadline_s=5)


@pytest.mark.req("OC-CTRL-2065", "OC-CTRL-2066", "ORCH-3098", "HME-022")
async def test_an_artifact_is_stored_by_its_content_and_found_again(
    front: Opener, folder: Path
) -> None:
    async with front(ready=False) as it:
        first = await stored(it, tags=["b", "a"], metadata={"turn": "3"})
        digest = hashlib.sha256(b"1. Read.").hexdigest()
        assert first == {
            "id": first["id"],
            "kind": "plan",
            "digest": f"sha256:{digest}",
            "created_ms": first["created_ms"],
            "tags": ["a", "b"],
        }
        assert await stored(it, tags=["a", "b"], metadata={"turn": "3"}) == first
        child = await stored(it, content="2. Write.", kind="diff", parent=first["id"], tags=["a"])
        assert child["id"] != first["id"]
    assert (folder / "artifacts" / "content" / digest).read_bytes() == b"1. Read."
    async with front(ready=False) as it:  # the next orchd
        said = read_json(await it.get(f"{URL}/{first['id']}"))
        assert said == {**first, "metadata": {"turn": "3"}, "content": "1. Read.",
                        "content_bytes": 8}  # fmt: skip
        assert read_json(await it.get(f"{URL}/{child['id']}"))["parent"] == first["id"]
        for query, ids in (("", 2), ("?tag=a", 2), ("?tag=b", 1), ("?tag=c", 0)):
            listed = read_json(await it.get(URL + query))["artifacts"]
            assert len(listed) == ids
            assert not any("content" in each for each in listed)
        assert (await delete(it, first["id"])).status == 204
        for gone in (await delete(it, first["id"]), await it.get(f"{URL}/{first['id']}")):
            assert (gone.status, read_json(gone)["code"]) == (404, "INVALID_PARAMS")
        assert (await it.get(f"{URL}/{child['id']}")).status == 200
    left = [path.name for path in (folder / "artifacts").rglob("*") if path.is_file()]
    assert len(left) == 2


@pytest.mark.parametrize(("limit", "size"), [("", 100), ("&limit=40", 40)])
async def test_pages_lead_to_the_oldest(front: Opener, limit: str, size: int) -> None:
    async with front(ready=False) as it:
        ids = [(await stored(it, content=str(n), tags=["all"]))["id"] for n in range(101)]
        found: list[str] = []
        query = f"?tag=all{limit}"
        while True:
            page = read_json(await it.get(URL + query))
            found += [each["id"] for each in page["artifacts"]]
            if "next_cursor" not in page:
                break
            assert len(page["artifacts"]) == size
            query = f"?tag=all{limit}&cursor={page['next_cursor']}"
        assert sorted(found) == sorted(ids)


@pytest.mark.parametrize(
    ("body", "status", "path"),
    [
        (plan(kind="poem"), 400, "$.kind"),
        (plan(parent=NONE), 400, "$.parent"),
        (plan(parent="../../x"), 400, "$.parent"),
        (plan(tags=["a b"]), 400, "$.tags[0]"),
        (plan(tags=[str(n) for n in range(17)]), 400, "$.tags"),
        (plan(metadata={"a": 1}), 400, "$.metadata[a]"),
        (plan(metadata=[]), 400, "$.metadata"),
        (plan(metadata={"a b": "c"}), 400, "$.metadata[a b]"),
        (plan(content={"a": 1}), 400, "$.content"),
        (plan("x" * (4 << 20) + "x"), 413, "$.content"),
        ({"kind": "plan"}, 400, "$.content"),
    ],
)
async def test_what_cannot_be_stored_is_refused(
    front: Opener, body: dict[str, Any], status: int, path: str
) -> None:
    async with front(ready=False) as it:
        answer = await it.post(URL, body)
        assert (answer.status, read_json(answer)["code"]) == (status, "INVALID_PARAMS")
        assert path in read_json(answer)["message"]
        assert read_json(await it.get(URL)) == {"artifacts": []}


@pytest.mark.parametrize(
    ("path", "status"),
    [
        (f"{URL}/{NONE}", 404),
        (f"{URL}/..", 404),
        (f"{URL}/%2e%2e%2f%2e%2e%2forchd.lock", 404),
        (f"{URL}/{'%C3%A9' * 300}", 404),
        (f"{URL}?cursor=1", 400),
        (f"{URL}?cursor=1.{'g' * 32}", 400),
        (f"{URL}?cursor=", 400),
    ],
)
async def test_what_is_no_artifact_and_no_cursor(front: Opener, path: str, status: int) -> None:
    async with front(ready=False) as it:
        assert (await it.get(path)).status == status


async def test_text_of_every_kind_comes_back_as_it_was_sent(front: Opener) -> None:
    async with front(ready=False) as it:
        for text in ("", "\0", "a\r\nb\x7f", "Hé \u2028 \U0001f600", "x" * (4 << 20)):
            one = await stored(it, content=text)
            assert read_json(await it.get(f"{URL}/{one['id']}"))["content"] == text


async def test_past_the_bounds_it_is_507_and_a_deletion_makes_room(front: Opener) -> None:
    bounds = ArtifactBounds(max_mb=Positive(1), max_count=Positive(2))
    async with front(ready=False, artifacts=bounds) as it:
        answer = await it.post(URL, plan("x" * (1 << 20)))
        said = read_json(answer)
        assert (answer.status, said["code"]) == (507, "REPLICA_EXHAUSTED")
        assert "artifacts.max_mb" in said["message"]
        assert "Delete what is not needed" in said["hint"]
        one = await stored(it, content="1")
        await stored(it, content="2")
        answer = await it.post(URL, plan("3"))
        assert (answer.status, "max_count" in read_json(answer)["message"]) == (507, True)
        assert await stored(it, content="1") == one  # it is there
        await delete(it, one["id"])
        await stored(it, content="3")


async def test_uploads_at_once_are_all_stored_once(front: Opener, folder: Path) -> None:
    async with front(ready=False) as it:
        ids: set[str] = set()

        async def upload(number: int) -> None:
            ids.add((await stored(it, content=str(number % 5)))["id"])

        async with trio.open_nursery() as nursery:
            for number in range(40):
                nursery.start_soon(upload, number)
        assert len(ids) == 5
        assert len(read_json(await it.get(URL))["artifacts"]) == 5
    files = [path for path in (folder / "artifacts").rglob("*") if path.is_file()]
    assert len(files) == 10


async def test_a_content_that_changed_on_disk_is_an_error_and_never_an_answer(
    front: Opener, folder: Path
) -> None:
    async with front(ready=False) as it:
        one = await stored(it)
        file = folder / "artifacts" / "content" / one["digest"].removeprefix("sha256:")
        file.write_bytes(b"other")
        answer = await it.get(f"{URL}/{one['id']}")
        assert (answer.status, read_json(answer)["code"]) == (500, "INTERNAL")
        assert "has changed on disk" in read_json(answer)["message"]


async def test_whoever_asks_before_the_records_are_read_waits(
    front: Opener, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with front(ready=False) as it:
        one = await stored(it)
    real, gate = Store.load, trio.Event()

    def slow(self: Store) -> Any:
        trio.from_thread.run(gate.wait)
        return real(self)

    monkeypatch.setattr(Store, "load", slow)
    async with front(ready=False) as it, trio.open_nursery() as nursery:
        answers: list[Answer] = []

        async def ask() -> None:
            answers.append(await it.get(f"{URL}/{one['id']}"))

        nursery.start_soon(ask)
        assert (await it.get("/healthz")).status == 200
        await trio.sleep(0.02)
        assert answers == []
        gate.set()
    assert [answer.status for answer in answers] == [200]


@pytest.mark.req("ORCH-3302")
async def test_no_content_and_no_metadata_is_ever_logged(
    front: Opener, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    lines: list[str] = []
    monkeypatch.setattr(log, "event", lambda *a, **k: lines.append(repr((a, k))))
    caplog.set_level(logging.DEBUG)
    async with front(ready=False) as it:
        one = await stored(it, content="canary-1", metadata={"k": "canary-2"})
        await it.post(URL, plan("canary-3", parent=NONE))
        await it.get(f"{URL}/{one['id']}")
        await delete(it, one["id"])
    text = "\n".join(lines) + caplog.text
    assert "artifact_stored" in text
    assert "artifact_removed" in text
    assert "canary" not in text
