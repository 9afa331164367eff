"""The catalog and models that were fetched: over a real socket, with a real cache under it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
import trio

from orchd.edge.disk import Disk
from orchd.kit import log
from orchd.wire.cached import Shape
from orchd.wire.ids import Digest
from tests.edge.conftest import Front, Opener, read_json
from tests.edge.test_catalog import DIGEST, MODELS, code, delete, verified
from tests.fakes.cached import fetched
from tests.fakes.tasks import task_body
from tests.kit.test_cached import seen

REF = "https://a.test/m0.gguf"
OTHER = "sha256:" + "cd" * 32


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of fetched models, as orchd's unit names it."""
    monkeypatch.setenv("CACHE_DIRECTORY", str(tmp_path))
    return tmp_path / "models"


@pytest.fixture
def hashed(monkeypatch: pytest.MonkeyPatch) -> list[Sequence[str]]:
    """What was hashed, call by call."""
    calls: list[Sequence[str]] = []
    real = Disk.sha256_of

    async def noted(self: Disk, paths: Sequence[str]) -> str:
        calls.append(paths)
        return await real(self, paths)

    monkeypatch.setattr(Disk, "sha256_of", noted)
    return calls


def has_fetched(it: Front, digest: str, ref: str = REF, instance: str = "a") -> None:
    """Have the pool say that it has a fetched model."""
    it.peer.state(model_ref=ref, fetched_digest=Digest(digest), instance=instance)


def write(path: str, data: bytes) -> None:
    Path(path).write_bytes(data)


async def listed(it: Front, count: int) -> list[dict[str, Any]]:
    """Return the models of the catalog, once there are so many."""
    with trio.fail_after(5):
        while len(found := read_json(await it.get(MODELS))["models"]) != count:
            await trio.sleep(0.005)
    return list(found)


async def located(it: Front, name: str) -> dict[str, Any]:
    answer = await it.get(f"/v1/catalog/locate?name={quote(name, safe='')}")
    assert answer.status == 200
    return dict(read_json(answer))


@pytest.mark.req("ORCH-3436", "ORCH-3037")
async def test_what_is_registered_after_a_fetch_has_the_word_of_the_fetch(
    front: Opener, cache: Path, hashed: list[Sequence[str]]
) -> None:
    done = fetched(cache, f"{REF}?sig=canary", b"model")
    written = Path(done.path).parents[1].joinpath("model.json").stat().st_mtime_ns // 1_000_000
    async with front(ready=False) as it:
        body = {"id": "m", "digest": done.digest, "source_url": REF}
        said = read_json(await it.post(MODELS, body))
        verification = {"result": "ok", "reason": "match", "at_ms": written}
        assert (said["verification"], said["verifying"]) == (verification, False)
        assert read_json(await it.get(f"{MODELS}/m"))["verification"] == verification
        assert hashed == []
        await it.post(f"{MODELS}/m/verify")
        said = (await verified(it, "m"))["verification"]
        assert (said["result"], said["reason"]) == ("ok", "match")
        assert said["at_ms"] > written - 1
        assert hashed == [(done.path,)]
        # a digest that is not the fetch's is not believed: it is hashed
        await it.post(MODELS, {"id": "n", "digest": DIGEST, "source_url": REF})
        assert (await verified(it, "n"))["verification"]["reason"] == "mismatch"
        answer = await it.post("/v1/tasks", task_body(model_ref="n"))
        assert code(answer) == (400, "UNTRUSTED_ARTIFACT")


@pytest.mark.req("ORCH-3037", "ORCH-3097", "ORCH-3435")
async def test_verify_hashes_all_files_of_a_fetched_model_as_its_digest_does(
    front: Opener, cache: Path
) -> None:
    for shape in Shape:
        done = fetched(cache, f"hf:org/{shape}", b"part one, ", b"part two", shape=shape)
        async with front(ready=False) as it:
            body = {"id": shape, "digest": done.digest, "source_url": f"hf:org/{shape}"}
            await it.post(MODELS, body)
            await it.post(f"{MODELS}/{shape}/verify")
            assert (await verified(it, shape))["verification"]["reason"] == "match"
            write(done.files[1], b"part TWO")
            await it.post(f"{MODELS}/{shape}/verify")
            assert (await verified(it, shape))["verification"]["reason"] == "mismatch"
            write(done.files[1], b"part")  # the model is not whole: it is not in the cache
            await it.post(f"{MODELS}/{shape}/verify")
            assert (await verified(it, shape))["verification"]["reason"] == "not_local"


@pytest.mark.req("CAT-EXISTS", "CAT-LOCATE", "ORCH-3470")
async def test_looking_tells_where_models_are_and_changes_nothing(
    front: Opener, cache: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done = fetched(cache, f"{REF}?sig=canary", b"model")
    stray = fetched(cache, "hf:org/stray", b"stray")
    lines: list[str] = []
    async with front(ready=False) as it:
        await it.post(MODELS, {"id": "m", "digest": done.digest, "source_url": REF})
        before = [*seen(cache), *seen(folder / "catalog")]
        monkeypatch.setattr(log, "event", lambda *a, **k: lines.append(repr((a, k))))
        here = {"path": done.path, "size_bytes": 5, "digest": done.digest}
        for name in ("m", done.digest, REF, f"{REF}?sig=canary"):
            said = await located(it, name)
            assert said == {"name": name, "exists": True, "models": ["m"], **here}
        said = await located(it, "hf:org/none")
        assert said == {"name": "hf:org/none", "exists": False, "models": []}
        assert (await located(it, stray.digest))["path"] == stray.path
        one = await it.get("/v1/catalog/cache")
        found = [(each["ref"], each["models"]) for each in read_json(one)["cached"]]
        assert found == [("hf:org/stray", []), (REF, ["m"])]
        again = await it.get("/v1/catalog/cache", **{"if-none-match": one.headers["etag"]})
        assert again.status == 304
        for wrong in ("", "?name=", f"?name={'x' * 4097}", "?ref=x"):
            answer = await it.get(f"/v1/catalog/locate{wrong}")
            assert code(answer) == (400, "INVALID_PARAMS")
        assert [*seen(cache), *seen(folder / "catalog")] == before
    assert "canary" not in "".join(lines)


@pytest.mark.req("ORCH-3436", "ORCH-3090")
async def test_what_a_pool_fetched_is_registered_once_in_its_life(
    front: Opener, cache: Path, hashed: list[Sequence[str]]
) -> None:
    done = fetched(cache, f"{REF}?sig=canary", b"model")
    async with front() as it:
        has_fetched(it, done.digest, f"{REF}?sig=canary")
        (model,) = await listed(it, 1)
        assert (model["id"], model["digest"], model["source_url"]) == ("m0", done.digest, REF)
        assert (model["state"], model["verification"]["reason"]) == ("Active", "match")
        assert (await delete(it, f"{MODELS}/m0")).status == 204
        for _ in range(3):  # heartbeats bring it back no more
            has_fetched(it, done.digest, f"{REF}?sig=canary")
        has_fetched(it, DIGEST, "hf:org/other")  # heard after them
        has_fetched(it, done.digest, f"{REF}?sig=canary")  # reloaded to it once more
        assert [each["id"] for each in await listed(it, 1)] == ["other"]
        has_fetched(it, OTHER, "hf:org/last")
        assert [each["id"] for each in await listed(it, 2)] == ["last", "other"]
        assert (await delete(it, f"{MODELS}/last")).status == 204
        has_fetched(it, done.digest, f"{REF}?sig=canary", instance="b")
        await listed(it, 2)
        assert hashed == []
    async with front() as it:  # the next orchd has it, and takes it for what it is
        has_fetched(it, done.digest)
        has_fetched(it, OTHER, "hf:org/repo/m0.gguf")
        models = await listed(it, 3)
        assert [each["id"] for each in models] == ["m0", "m0-cdcdcdcd", "other"]


@pytest.mark.req("ORCH-3031", "ORCH-3436")
async def test_a_fetched_model_that_is_retired_stays_so(front: Opener, cache: Path) -> None:
    done = fetched(cache, "hf:org/m", b"model")
    async with front() as it:
        has_fetched(it, done.digest, "hf:org/m")
        await listed(it, 1)
        retired = await it.post(f"{MODELS}/m/state", {"state": "Retired"})
        assert retired.status == 202
        has_fetched(it, done.digest, "hf:org/m", instance="b")
        has_fetched(it, done.digest, "hf:mirror/m", instance="c")
        for name in ("m", done.digest):
            answer = await it.post("/v1/tasks", task_body(model_ref=name))
            assert code(answer) == (400, "MODEL_DEPRECATED")
        ((model),) = await listed(it, 1)
        assert model["state"] == "Retired"


@pytest.mark.req("ORCH-3097")
async def test_a_pool_that_fetched_something_else_has_the_catalog_s_model_verified(
    front: Opener, cache: Path
) -> None:
    async with front() as it:
        await it.post(MODELS, {"id": "mine", "digest": DIGEST, "source_url": "hf:org/m"})
        await verified(it, "mine")
        done = fetched(cache, "hf:org/m", b"changed at its source")
        has_fetched(it, done.digest, "hf:org/m")
        models = await listed(it, 2)
        assert [each["id"] for each in models] == ["m", "mine"]
        with trio.fail_after(5):
            while (await verified(it, "mine"))["verification"]["reason"] != "mismatch":
                await trio.sleep(0.005)
        answer = await it.post("/v1/tasks", task_body(model_ref="mine"))
        assert code(answer) == (400, "UNTRUSTED_ARTIFACT")


async def test_a_registration_that_fails_is_told_and_nothing_else_stops(
    front: Opener, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[tuple[str, str]] = []
    heard = trio.Event()

    def note(name: str, human: str, **_: object) -> None:
        told.append((name, human))
        if name == "model_not_registered":
            heard.set()

    monkeypatch.setattr(log, "event", note)
    async with front(state_dir=Path("/dev/null/state")) as it:
        has_fetched(it, DIGEST, f"{REF}?sig=canary")
        it.peer.state(model_ref="mock:lorem", fetched_digest=None)
        with trio.fail_after(5):
            await heard.wait()
        await it.submit()
    (human,) = [human for name, human in told if name == "model_not_registered"]
    assert human.startswith(f"{REF} was fetched, and the catalog does not have it: ")
    assert "Not a directory" in human
