"""A model's file: there, readable, the right one."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import Any

import pytest
from attrs import evolve

from orchd.config.pool import Engine, Mode, Model, Pool, Provisioning
from orchd.config.schema import Settings
from orchd.kit import log
from orchd.wire import codec
from orchd.wire.errors import Kind, OrchError
from orchd.wire.ids import DeviceMask, EngineId, PoolId, Positive, Text
from poolmgr.provision.models.digests import Digests
from poolmgr.provision.models.models import digest_of, stage


def pool(ref: str, engine: str = "llamacpp", digest: str | None = None, **more: Any) -> Pool:
    return Pool(
        id=PoolId("p"),
        engine=Engine(id=EngineId(engine)),
        model=Model(ref=Text(ref), digest=None if digest is None else Text(digest)),
        replicas=(DeviceMask((0,)),),
        ctx=Positive(1024),
        **more,
    )


def settings(folder: Path) -> Settings:
    return Settings(state_dir=folder, run_dir=folder, source=folder / "orchd.toml")


async def refused(folder: Path, pool: Pool, kind: Kind = Kind.MODEL_MISSING) -> str:
    with pytest.raises(OrchError) as caught:
        await stage(settings(folder), pool)
    assert caught.value.kind is kind
    return caught.value.message


@pytest.mark.req("ORCH-3421")
@pytest.mark.parametrize("form", ["file:{0}/m.gguf", "{0}/m.gguf", "m.gguf", "file:m.gguf"])
async def test_a_file_is_found_also_relative_to_the_configuration(
    tmp_path: Path, form: str
) -> None:
    (tmp_path / "m.gguf").write_bytes(b"12345")
    staged = await stage(settings(tmp_path), pool(form.format(tmp_path)))
    assert (staged.name, staged.size_bytes) == ("m.gguf", 5)
    assert staged.path is not None
    assert staged.path.samefile(tmp_path / "m.gguf")


async def test_all_parts_of_a_model_count(tmp_path: Path) -> None:
    for number in (1, 2):
        (tmp_path / f"m-0000{number}-of-00002.gguf").write_bytes(b"x" * number)
    whole = pool(f"{tmp_path}/m-00001-of-00002.gguf")
    assert (await stage(settings(tmp_path), whole)).size_bytes == 3
    (tmp_path / "m-00002-of-00002.gguf").unlink()
    assert "m-00002-of-00002.gguf" in await refused(tmp_path, whole)


@pytest.mark.req("ORCH-3421", "OC-POOL-3003")
async def test_what_is_wrong_with_a_file_is_said(tmp_path: Path) -> None:
    assert "there is no model file" in await refused(tmp_path, pool("none.gguf"))
    assert "is a folder" in await refused(tmp_path, pool(str(tmp_path)))


async def test_who_cannot_read_it_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def closed(*_arguments: object, **_more: object) -> None:
        raise PermissionError(13, "Permission denied")

    (tmp_path / "m.gguf").touch()
    monkeypatch.setattr(Path, "open", closed)  # root reads everything
    monkeypatch.setenv("LOGNAME", "poolmgr")
    message = await refused(tmp_path, pool("m.gguf"))
    assert message == f"user poolmgr cannot read {tmp_path}/m.gguf"


@pytest.mark.req("ORCH-3421")
async def test_a_digest_is_verified(tmp_path: Path) -> None:
    (tmp_path / "m.gguf").write_bytes(b"right")
    right = "sha256:" + hashlib.sha256(b"right").hexdigest()
    assert await stage(settings(tmp_path), pool("m.gguf", digest=right))
    (tmp_path / "m.gguf").write_bytes(b"wrong")
    message = await refused(tmp_path, pool("m.gguf", digest=right), Kind.DIGEST_MISMATCH)
    assert hashlib.sha256(b"wrong").hexdigest() in message


async def test_mock_and_external_engines_need_no_file(tmp_path: Path) -> None:
    assert (await stage(settings(tmp_path), pool("mock:lorem", "mock"))).path is None
    external = Provisioning(mode=Mode.EXTERNAL, url="unix:/x.sock")
    staged = await stage(settings(tmp_path), pool("org/name", provisioning=external))
    assert (staged.name, staged.path) == ("name", None)


@pytest.mark.req("ORCH-3097")
@pytest.mark.parametrize("digest", [None, "sha256:" + "0" * 64])
async def test_a_digest_that_cannot_be_verified_is_said(tmp_path: Path, digest: str | None) -> None:
    external = Provisioning(mode=Mode.EXTERNAL, url="unix:/x.sock")
    with log.capture() as events:
        await stage(settings(tmp_path), pool("org/name", digest=digest, provisioning=external))
    said = [event["event"] for event in events]
    assert said == ([] if digest is None else ["model_not_verified"])


@pytest.mark.req("ORCH-3097")
async def test_a_digest_is_that_of_all_parts_one_after_the_other(tmp_path: Path) -> None:
    for number in (1, 2):
        (tmp_path / f"m-0000{number}-of-00002.gguf").write_bytes(b"x" * number)
    digest = "sha256:" + hashlib.sha256(b"xxx").hexdigest()
    whole = pool(f"{tmp_path}/m-00001-of-00002.gguf", digest=digest)
    await stage(settings(tmp_path), whole)
    (tmp_path / "m-00002-of-00002.gguf").write_bytes(b"xy")
    message = await refused(tmp_path, whole, Kind.DIGEST_MISMATCH)
    assert "is not the model that model.digest names" in message


@pytest.mark.req("ORCH-3097")
async def test_a_file_without_a_digest_is_served_with_a_warning(tmp_path: Path) -> None:
    (tmp_path / "m.gguf").write_bytes(b"x")
    with log.capture() as events:
        assert await stage(settings(tmp_path), pool("m.gguf"))
    said = [(one["event"], one["level"]) for one in events]
    assert said == [("model_not_verified", "warning"), ("model_staged", "info")]


@pytest.mark.req("ORCH-3046", "ORCH-3054")
async def test_what_nobody_configured_is_hashed_all_the_same(tmp_path: Path) -> None:
    (tmp_path / "m.gguf").write_bytes(b"x")
    staged = await stage(settings(tmp_path), pool("m.gguf"))
    assert staged.digest is None
    waits: list[str] = []
    found = await digest_of(settings(tmp_path), staged, lambda: waits.append("still"))
    assert found == "sha256:" + hashlib.sha256(b"x").hexdigest()
    assert waits, "systemd is asked to wait"


async def test_what_is_known_or_has_no_file_is_not_hashed(tmp_path: Path) -> None:
    (tmp_path / "m.gguf").write_bytes(b"x")
    digest = "sha256:" + hashlib.sha256(b"x").hexdigest()
    known = await stage(settings(tmp_path), pool("m.gguf", digest=digest))
    mock = await stage(settings(tmp_path), pool("mock:lorem", "mock"))
    (tmp_path / "m.gguf").unlink()
    assert await digest_of(settings(tmp_path), known, lambda: None) == digest
    assert await digest_of(settings(tmp_path), mock, lambda: None) is None


@pytest.mark.req("ORCH-3097", "ORCH-3436")
async def test_a_file_is_hashed_once_until_it_changes(tmp_path: Path) -> None:
    path = tmp_path / "m.gguf"
    path.write_bytes(b"right")
    mine = pool("m.gguf", digest="sha256:" + hashlib.sha256(b"right").hexdigest())
    memory = tmp_path / "pools" / "digests"
    await stage(settings(tmp_path), mine)
    assert not memory.exists()  # so fresh that it may change once more under the same time
    long_ago = 1_000_000_000
    os.utime(path, (long_ago, long_ago))
    await stage(settings(tmp_path), mine)
    (known,) = codec.loads(Digests, memory.read_bytes()).known
    assert f"{path}" in known.files[0]
    # the hash that is remembered is what counts, so the file was not read
    memory.write_bytes(codec.dumps(Digests(known=(evolve(known, sha256="0" * 64),))))
    await refused(tmp_path, mine, Kind.DIGEST_MISMATCH)
    # another content of the same size and time is another ctime
    path.write_bytes(b"wrong")
    os.utime(path, (long_ago, long_ago))
    message = await refused(tmp_path, mine, Kind.DIGEST_MISMATCH)
    assert hashlib.sha256(b"wrong").hexdigest() in message
    assert len(codec.loads(Digests, memory.read_bytes()).known) == 1
    # what cannot be read is forgotten, and said
    memory.write_bytes(b"nonsense")
    with log.capture() as events:
        await refused(tmp_path, mine, Kind.DIGEST_MISMATCH)
    assert [one["event"] for one in events] == ["digests_forgotten"]


@pytest.mark.req("OC-POOL-3003")
async def test_a_file_that_breaks_while_it_is_read_is_told(tmp_path: Path) -> None:
    broken = Path("/proc/self/mem")  # opens, and its first page cannot be read
    message = await refused(tmp_path, pool(str(broken), digest="sha256:" + "0" * 64))
    assert message == f"{broken} cannot be read: Input/output error"
