"""The catalog from outside: over a real socket, with a real disk under it."""

from __future__ import annotations

import hashlib
import os
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import trio

from orchd.catalog import files
from orchd.edge import disk
from orchd.kit import log
from orchd.kit.client import Answer
from tests.edge.conftest import Front, Opener, read_json
from tests.fakes.tasks import task_body
from tools.metrics_lint import lint

MODELS = "/v1/catalog/models"
DIGEST = "sha256:" + "ab" * 32


def registration(**more: Any) -> dict[str, Any]:
    return {"id": "lorem", "digest": DIGEST, "source_url": "mock:lorem", **more}


async def delete(it: Front, path: str) -> Answer:
    return await it.client.request("DELETE", path, deadline_s=5)


def files_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.rglob("*") if path.is_file() and path.stat().st_size)


async def verified(it: Front, model_id: str) -> dict[str, Any]:
    with trio.fail_after(5):
        while (said := read_json(await it.get(f"{MODELS}/{model_id}")))["verifying"]:
            await trio.sleep(0.005)
    return said


def code(answer: Answer) -> tuple[int, str]:
    return answer.status, read_json(answer)["code"]


@pytest.mark.req("ORCH-3037", "ORCH-3470")
async def test_a_model_is_registered_read_listed_and_removed(front: Opener, folder: Path) -> None:
    async with front() as it:
        answer = await it.post(MODELS, registration(tags=["a"]))
        assert answer.status == 201
        said = read_json(answer)
        assert (said["id"], said["state"], said["tags"]) == ("lorem", "Active", ["a"])
        assert said["warnings"] == ["it has no signature", "it has no SBOM"]
        assert (await it.post(MODELS, registration(tags=["a"]))).body == answer.body
        assert code(await it.post(MODELS, registration())) == (409, "INVALID_PARAMS")
        for number in range(4):
            await it.post(MODELS, registration(id=f"m{number}"))
        for path in (f"{MODELS}/lorem", f"{MODELS}?limit=2"):
            one = await it.get(path)
            known = await it.get(path, **{"if-none-match": one.headers["etag"]})
            assert (one.status, known.status, known.body) == (200, 304, b"")
        ids: list[str] = []
        cursor = ""
        while True:
            page = read_json(await it.get(f"{MODELS}?limit=2{cursor}"))
            ids += [each["id"] for each in page["models"]]
            if "next_cursor" not in page:
                break
            cursor = f"&cursor={page['next_cursor']}"
        assert ids == ["lorem", "m0", "m1", "m2", "m3"]
        assert (await delete(it, f"{MODELS}/lorem")).status == 204
        for gone in (await delete(it, f"{MODELS}/lorem"), await it.get(f"{MODELS}/lorem")):
            assert code(gone) == (404, "INVALID_PARAMS")
    kept = sorted(path.name for path in (folder / "catalog/models").iterdir())
    assert kept == ["m0.json", "m1.json", "m2.json", "m3.json"]
    async with front() as it:  # the next orchd
        assert len(read_json(await it.get(MODELS))["models"]) == 4


@pytest.mark.parametrize(
    ("method", "path", "body", "status"),
    [
        ("GET", f"{MODELS}?limit=0", None, 400),
        ("GET", f"{MODELS}?limit=101", None, 400),
        ("GET", f"{MODELS}?limit=x", None, 400),
        ("GET", f"{MODELS}?cursor=../x", None, 400),
        ("GET", f"{MODELS}/%2e%2e%2fx", None, 404),
        ("GET", f"{MODELS}/..", None, 404),
        ("DELETE", f"{MODELS}/none", None, 404),
        ("POST", f"{MODELS}/none/verify", None, 404),
        ("POST", f"{MODELS}/none/state", {"state": "Retired"}, 404),
        ("POST", f"{MODELS}/none/state", {"state": "retired"}, 400),
        ("POST", f"{MODELS}/none/state", {"state": "Retired", "deadline_ms": 0}, 400),
        ("POST", MODELS, registration(id="../x"), 400),
        ("POST", MODELS, registration(id="a/b"), 400),
        ("POST", MODELS, registration(id=".a"), 400),
        ("POST", MODELS, registration(digest="sha256:AB"), 400),
        ("POST", MODELS, registration(tags=["a b"]), 400),
        ("POST", MODELS, registration(sbom={}), 400),
        ("POST", MODELS, registration(trust_policy={"mode": "loose"}), 400),
        ("POST", MODELS, registration(signatures=["x" * 4096] * 20), 413),
        ("PUT", MODELS, None, 405),
    ],
)
async def test_what_cannot_be_is_refused(
    front: Opener, method: str, path: str, body: object, status: int, folder: Path
) -> None:
    async with front(ready=False) as it:
        if body is None:
            answer = await it.client.request(method, path, deadline_s=5)
        else:
            answer = await it.post(path, body)
        assert answer.status == status
        assert read_json(answer)["code"] == "INVALID_PARAMS"
    assert files_in(folder) == []


@pytest.mark.req("ORCH-3037")
async def test_strict_trust_refuses_an_unsigned_model(front: Opener) -> None:
    async with front(ready=False) as it:
        strict = {"x-trust-policy": "strict"}
        answer = await it.post(MODELS, registration(), **strict)
        assert code(answer) == (400, "UNTRUSTED_ARTIFACT")
        assert (await it.get(f"{MODELS}/lorem")).status == 404
        signed = registration(signatures=["c2ln"])
        assert (await it.post(MODELS, signed, **strict)).status == 201
        odd = await it.post(MODELS, signed, **{"x-trust-policy": "odd"})
        assert code(odd) == (400, "INVALID_PARAMS")


@pytest.mark.req("ORCH-3031", "ORCH-3090")
async def test_a_retired_model_is_refused_also_by_the_next_orchd(front: Opener) -> None:
    async with front() as it:
        await it.post(MODELS, registration())
        await it.submit(model_ref="lorem")
        await it.submit(model_ref=DIGEST)
        retired = await it.post(f"{MODELS}/lorem/state", {"state": "Retired"})
        assert (retired.status, read_json(retired)) == (202, {"status": "accepted"})
        said = read_json(await it.get(f"{MODELS}/lorem"))
        assert said["state"] == "Retired"
        assert said["retires_at_ms"] > said["created_ms"] - 1
        assert (await it.get("/readyz")).status == 503
        page = (await it.get("/metrics")).body.decode()
        assert 'model_state{model_id="lorem",state="Retired"} 1.0' in page
        assert lint(page) == []
    async with front(ready=False) as it:
        for name in ("lorem", DIGEST, "mock:lorem"):
            answer = await it.post("/v1/tasks", task_body(model_ref=name))
            assert code(answer) == (400, "MODEL_DEPRECATED")
        active = await it.post(f"{MODELS}/lorem/state", {"state": "Active"})
        assert active.status == 202
    async with front() as it:
        await it.submit(model_ref="lorem")
        assert (await it.get("/readyz")).status == 200


@pytest.mark.req("ORCH-3031")
async def test_a_deadline_lets_tasks_in_until_it_has_come(front: Opener) -> None:
    async with front() as it:
        await it.post(MODELS, registration())
        change = {"state": "Retired", "deadline_ms": 300}
        assert (await it.post(f"{MODELS}/lorem/state", change)).status == 202
        await it.submit(model_ref="lorem")
        assert read_json(await it.get(f"{MODELS}/lorem"))["state"] == "Active"
        with trio.fail_after(5):
            while (await it.get("/readyz")).status == 200:
                await trio.sleep(0.02)
        answer = await it.post("/v1/tasks", task_body(model_ref="lorem"))
        assert code(answer) == (400, "MODEL_DEPRECATED")
        assert read_json(await it.get(f"{MODELS}/lorem"))["state"] == "Retired"


@pytest.mark.req("ORCH-3097", "ORCH-3037", "ORCH-3436", "CAT-LOCATE")
async def test_a_local_file_is_verified_and_a_mismatch_refuses_tasks(
    front: Opener, folder: Path
) -> None:
    file = folder / "m.gguf"
    file.write_bytes(b"model")
    digest = f"sha256:{hashlib.sha256(b'model').hexdigest()}"
    async with front() as it:
        await it.post(MODELS, registration(source_url=f"file:{file}", digest=digest))
        said = (await verified(it, "lorem"))["verification"]
        assert (said["result"], said["reason"]) == ("ok", "match")
        file.write_bytes(b"other")
        answer = await it.post(f"{MODELS}/lorem/verify")
        assert (answer.status, read_json(answer)) == (202, {"status": "started"})
        said = (await verified(it, "lorem"))["verification"]
        assert (said["result"], said["reason"]) == ("failed", "mismatch")
        answer = await it.post("/v1/tasks", task_body(model_ref="lorem"))
        assert code(answer) == (400, "UNTRUSTED_ARTIFACT")
    async with front() as it:
        answer = await it.post("/v1/tasks", task_body(model_ref="lorem"))
        assert code(answer) == (400, "UNTRUSTED_ARTIFACT")
        file.write_bytes(b"model")
        await it.post(f"{MODELS}/lorem/verify")
        await verified(it, "lorem")
        answer = await it.post("/v1/tasks", task_body(model_ref="lorem"))
        assert code(answer) == (503, "POOL_UNAVAILABLE")  # no pool has this file


@pytest.mark.req("ORCH-3037")
async def test_what_cannot_be_hashed_is_not_held_against_a_model(
    front: Opener, folder: Path
) -> None:
    os.mkfifo(folder / "pipe")
    (folder / "zero").symlink_to("/dev/zero")
    (folder / "folder").mkdir()
    sources = {
        "mock:lorem": "not_local",
        None: "not_local",
        "none.gguf": "not_found",
        f"file:{folder}/pipe": "not_found",
        f"file:{folder}/zero": "not_found",
        f"file:{folder}/folder": "not_found",
    }
    async with front() as it:
        for number, (source, reason) in enumerate(sources.items()):
            body = registration(id=f"m{number}", source_url=source)
            await it.post(MODELS, {k: v for k, v in body.items() if v is not None})
            await it.post(f"{MODELS}/m{number}/verify")
            said = (await verified(it, f"m{number}"))["verification"]
            assert (said["result"], said["reason"]) == ("unknown", reason), source
        await it.submit(model_ref="m0")
        page = (await it.get("/metrics")).body.decode()
        assert (
            'catalog_verifications_total{engine="mock",reason="not_local",result="unknown"} 1.0'
            in page
        )
        assert lint(page) == []


async def test_a_model_that_is_removed_while_it_is_hashed_stays_removed(
    front: Opener, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder / "m.gguf").write_bytes(b"model")
    begun, go_on = trio.Event(), trio.Event()
    real = files.sha256_of_all

    async def slow(self: disk.Disk, paths: Sequence[str]) -> str:
        begun.set()
        await go_on.wait()
        return real(paths, lambda: None)

    monkeypatch.setattr(disk.Disk, "sha256_of", slow)
    async with front(ready=False) as it:
        await it.post(MODELS, registration(source_url=f"file:{folder}/m.gguf"))
        with trio.fail_after(5):
            await begun.wait()
        await it.post(f"{MODELS}/lorem/verify")  # it is under way: once is enough
        assert (await delete(it, f"{MODELS}/lorem")).status == 204
        go_on.set()
        again = registration(source_url=f"file:{folder}/m.gguf", tags=["another"])
        await it.post(MODELS, again)
        said = await verified(it, "lorem")
        assert said["verification"]["reason"] == "mismatch"
        assert said["tags"] == ["another"]


@pytest.mark.req("ORCH-3037", "ORCH-3302")
async def test_the_log_tells_of_models_and_has_no_source(
    front: Opener, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines: list[str] = []
    monkeypatch.setattr(log, "event", lambda *a, **k: lines.append(repr((a, k))))
    async with front(ready=False) as it:
        secret = "https://a.test/m?X-Amz-Signature=canary"
        assert (await it.post(MODELS, registration(source_url=secret))).status == 201
        await it.post(f"{MODELS}/lorem/verify")
        await verified(it, "lorem")
        await it.post(f"{MODELS}/lorem/state", {"state": "Retired"})
        await delete(it, f"{MODELS}/lorem")
    text = "\n".join(lines)
    assert all(word in text for word in ("model_registered", "model_verified", "model_state"))
    assert "model_removed" in text
    assert "canary" not in text


async def test_a_spoiled_file_is_logged_and_orchd_starts(
    front: Opener, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with front(ready=False) as it:
        await it.post(MODELS, registration())
        await it.post(MODELS, registration(id="other"))
    (folder / "catalog/models/lorem.json").write_bytes(b"{")
    told: list[tuple[str, str]] = []
    monkeypatch.setattr(log, "event", lambda name, human, **_: told.append((name, human)))
    async with front(ready=False) as it:
        assert [m["id"] for m in read_json(await it.get(MODELS))["models"]] == ["other"]
    (human,) = [human for name, human in told if name == "state_spoiled"]
    assert "catalog/models/lorem.json.bad could not be read" in human


async def test_a_folder_that_another_orchd_has_is_left_alone(front: Opener, folder: Path) -> None:
    async with front() as it:
        await it.post(MODELS, registration())
    beside = folder / "catalog/models/x.json.tmp"
    beside.write_bytes(b"of the other")
    held = files.hold(str(folder / "orchd.lock"))
    assert held is not None
    async with front() as it:
        answer = await it.post(MODELS, registration())
        assert code(answer) == (500, "INTERNAL")
        assert "another orchd" in read_json(answer)["message"]
        assert read_json(await it.get(MODELS)) == {"models": []}
        await it.submit()  # it serves
    assert beside.read_bytes() == b"of the other"
    files.release(held)


async def test_a_state_folder_that_cannot_be_made_stops_no_task(front: Opener) -> None:
    async with front(state_dir=Path("/dev/null/state")) as it:
        await it.submit()
        answer = await it.post(MODELS, registration())
        assert code(answer) == (500, "INTERNAL")
        assert "Not a directory" in read_json(answer)["message"]
        assert (await it.get("/v1/artifacts")).status == 200


@pytest.mark.parametrize(
    ("number", "status", "said"), [(28, 507, "REPLICA_EXHAUSTED"), (5, 500, "INTERNAL")]
)
async def test_a_disk_that_does_not_write_is_told_and_changes_nothing(
    front: Opener, monkeypatch: pytest.MonkeyPatch, number: int, status: int, said: str
) -> None:
    async with front(ready=False) as it:
        await it.post(MODELS, registration())

        def broken(*_: object) -> None:
            raise OSError(number, os.strerror(number))

        monkeypatch.setattr(files.Folder, "write", broken)
        monkeypatch.setattr(files.Folder, "remove", broken)
        for answer in (
            await it.post(MODELS, registration(id="more")),
            await it.post(f"{MODELS}/lorem/state", {"state": "Retired"}),
            await delete(it, f"{MODELS}/lorem"),
            await it.post("/v1/artifacts", {"kind": "plan", "content": "x"}),
        ):
            assert code(answer) == (status, said)
            assert os.strerror(number) in read_json(answer)["message"]
        monkeypatch.undo()
        models = read_json(await it.get(MODELS))["models"]
        assert [(m["id"], m["state"]) for m in models] == [("lorem", "Active")]
        assert read_json(await it.get("/v1/artifacts")) == {"artifacts": []}


async def test_a_disk_that_hangs_holds_up_no_stream(
    front: Opener, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The loop goes on while a write is under way; who wants to write too waits for a while."""
    monkeypatch.setattr(disk, "TURN_S", 0.1)
    begun, release = trio.Event(), threading.Event()
    token = trio.lowlevel.current_trio_token()
    real = files.Folder.write

    def hang(self: files.Folder, name: str, data: bytes) -> None:
        token.run_sync_soon(begun.set)
        assert release.wait(10)
        real(self, name, data)

    monkeypatch.setattr(files.Folder, "write", hang)
    async with front() as it, trio.open_nursery() as nursery:
        nursery.start_soon(it.post, MODELS, registration())
        with trio.fail_after(5):
            await begun.wait()
        await it.submit()
        job = await it.peer.next_job()
        job.tokens("a")
        answer = await it.post(MODELS, registration(id="late"))
        assert code(answer) == (500, "INTERNAL")
        release.set()
        monkeypatch.setattr(files.Folder, "write", real)
