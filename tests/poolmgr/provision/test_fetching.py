"""A pool's model from elsewhere: fetched when it may be, told when not, found when it is here."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import trio
import trio.testing
from attrs import evolve

from orchd.config.policy import Outbound, Policy
from orchd.config.pool import Mode, Provisioning
from orchd.config.provisioning import Binary
from orchd.config.schema import Settings
from orchd.kit import log
from orchd.kit.client import Target
from orchd.wire.errors import Kind, OrchError
from orchd.wire.ids import Digest, Positive, Text
from poolmgr.provision.bringing.door import PolicyDoor
from poolmgr.provision.models.models import Staged, stage
from poolmgr.provision.starting.outward import gate_of
from tests.fakes.certs import make_certificate
from tests.fakes.fileserver import Files
from tests.fetch.making import content, sha256
from tests.policy.modules import answer, module
from tests.policy.modules import configured as plugin
from tests.poolmgr.provision.test_models import pool, settings

pytestmark = pytest.mark.slow


@pytest.fixture
def secure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Files]:
    cert, key = make_certificate(tmp_path)
    monkeypatch.setenv("SSL_CERT_FILE", str(cert))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("CACHE_DIRECTORY", str(tmp_path / "cache"))
    server = Files((cert, key))
    yield server
    server.close()


def configured(folder: Path, ref: str, **policy: object) -> Settings:
    outbound = Outbound(**policy)  # type: ignore[arg-type]
    return evolve(settings(folder), pools=(pool(ref),), policy=Policy(outbound=outbound))


async def staged(folder: Path, ref: str, heard: list[str] | None = None) -> Staged:
    say = list[str]().append if heard is None else heard.append
    return await stage(configured(folder, ref), pool(ref), say)


@pytest.mark.req("ORCH-3091", "ORCH-3090", "ORCH-3205", "ORCH-3490")
async def test_an_absent_model_is_fetched_and_told_of(secure: Files, tmp_path: Path) -> None:
    data = content(9_000_000)
    secure.add("/m.gguf", data, bytes_per_s=600_000)
    ref, heard = f"{secure.url}/m.gguf", list[str]()
    with log.capture() as events:
        first = await staged(tmp_path, ref, heard)
    assert first.path is not None
    assert first.path.is_relative_to(tmp_path / "cache/models")
    assert (first.name, first.size_bytes) == ("m.gguf", len(data))
    assert any("fetching m.gguf" in words and "% of 9.0 MB" in words for words in heard), heard
    said = {event["event"]: event for event in events}
    assert said["model_fetch_began"]["pool_id"] == "p"
    assert f"sha256:{sha256(data)}" in said["model_fetched"]["human"]
    count = len(secure.asked)
    again = await staged(tmp_path, ref)
    assert again.path == first.path
    assert len(secure.asked) == count


@pytest.mark.req("ORCH-3091", "ORCH-3206")
async def test_where_it_may_not_be_fetched_it_says_so_at_once(
    secure: Files, tmp_path: Path
) -> None:
    ref = f"{secure.url}/m.gguf"
    closed = evolve(pool(ref), model=evolve(pool(ref).model, fetch=False))
    with pytest.raises(OrchError) as caught:
        await stage(configured(tmp_path, ref), closed)
    assert caught.value.kind is Kind.MODEL_MISSING
    assert "model.fetch of pool p is false" in caught.value.message
    assert "orchctl models fetch" in caught.value.row.advice
    assert (caught.value.row.code, caught.value.row.status) == ("POOL_UNREADY", 503)
    with pytest.raises(OrchError) as caught:
        await stage(configured(tmp_path, ref, enabled=False), pool(ref))
    assert caught.value.kind is Kind.OUTBOUND_DENIED
    assert "policy.outbound.enabled is false" in caught.value.message
    assert secure.asked == []


@pytest.mark.req("ORCH-3206", "ORCH-3080")
async def test_what_only_a_reload_names_needs_a_rule(secure: Files, tmp_path: Path) -> None:
    secure.add("/other.gguf", b"x")
    other = pool(f"{secure.url}/other.gguf")
    with pytest.raises(OrchError) as caught:
        await stage(configured(tmp_path, f"{secure.url}/m.gguf"), other)
    assert f"(add 'localhost:{secure.port}')" in caught.value.message
    allowing = configured(
        tmp_path, f"{secure.url}/m.gguf", allow=(Text(f"localhost:{secure.port}"),)
    )
    assert (await stage(allowing, other)).size_bytes == 1


@pytest.mark.req("ORCH-3097", "ORCH-3436")
async def test_a_digest_holds_for_what_is_fetched_and_for_what_was(
    secure: Files, tmp_path: Path
) -> None:
    secure.add("/m.gguf", b"right")
    ref = f"{secure.url}/m.gguf"
    good, bad = (f"sha256:{sha256(data)}" for data in (b"right", b"wrong"))
    with pytest.raises(OrchError) as caught:
        await stage(configured(tmp_path, ref), pool(ref, digest=bad))
    assert caught.value.kind is Kind.DIGEST_MISMATCH
    first = await stage(configured(tmp_path, ref), pool(ref, digest=good))
    with pytest.raises(OrchError) as caught:
        await stage(configured(tmp_path, ref), pool(ref, digest=bad))
    assert "remove " in caught.value.message
    assert first.path is not None
    first.path.write_bytes(b"wrong")  # of the same size: only reading it tells
    with pytest.raises(OrchError) as caught:
        await stage(configured(tmp_path, ref), pool(ref, digest=good))
    assert caught.value.kind is Kind.DIGEST_MISMATCH


@pytest.mark.req("ORCH-3435")
async def test_two_replicas_fetch_once(secure: Files, tmp_path: Path) -> None:
    secure.add("/m.gguf", content(3_000_000), bytes_per_s=500_000)
    ref, found = f"{secure.url}/m.gguf", []

    async def replica() -> None:
        found.append((await staged(tmp_path, ref)).path)

    with log.capture() as events:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(replica)
            nursery.start_soon(replica)
    assert len(set(found)) == 1
    fetched = [event["fetched_bytes"] for event in events if event["event"] == "model_fetched"]
    assert sorted(fetched) == [0, 3_000_000]


async def test_a_stop_ends_the_fetch(secure: Files, tmp_path: Path) -> None:
    secure.add("/m.gguf", content(30_000_000), bytes_per_s=100_000)
    began = trio.current_time()
    with trio.move_on_after(2):
        await staged(tmp_path, f"{secure.url}/m.gguf")
    assert trio.current_time() - began < 8


@pytest.mark.req("ORCH-3080", "ORCH-3206")
async def test_an_engine_elsewhere_is_asked_about(tmp_path: Path) -> None:
    far = Target.parse("https://engine.example")
    named = configured(tmp_path, "m.gguf")
    with log.capture() as events:
        gate_of(named, pool("m"), far)
        gate_of(configured(tmp_path, "m", enabled=False), pool("m"), Target.unix(tmp_path))
    assert [(event["url"], event["rule"]) for event in events] == [
        ("https://engine.example/", "provisioning.url of pool p")
    ]
    for rules in ({"enabled": False}, {"deny": (Text("engine.example"),)}):
        with pytest.raises(OrchError) as caught:
            gate_of(configured(tmp_path, "m", **rules), pool("m"), far)
        assert caught.value.kind is Kind.OUTBOUND_DENIED


@pytest.mark.req("ORCH-3080", "ORCH-3206", "OC-ADAPT-OAI-6031")
async def test_each_request_to_an_engine_elsewhere_is_counted_and_waits(
    tmp_path: Path, autojump_clock: trio.testing.MockClock
) -> None:
    far = Target.parse("https://engine.example")
    passes = gate_of(configured(tmp_path, "m", requests_per_min=Positive(2)), pool("m"), far)
    assert passes is not None
    with log.capture() as events:
        await passes(far, "POST", "/v1/completions?key=secret")
        began = trio.current_time()
        await passes(far, "POST", "/v1/completions")
    assert trio.current_time() - began > 50, "the third within a minute, with the first question"
    told = [(event["event"], event["url"]) for event in events]
    assert told == [
        ("outbound_allowed", "https://engine.example/v1/completions"),
        ("outbound_delayed", "https://engine.example/v1/completions"),
    ]


@pytest.mark.req("POLICY-4001", "ORCH-3206")
async def test_a_plugin_is_asked_about_an_engine_elsewhere(tmp_path: Path) -> None:
    far = Target.parse("https://engine.example")
    no = plugin(tmp_path, "no", module(answer(2), reason="no"))
    asking = evolve(configured(tmp_path, "m"), policy=Policy(plugins=(no,)))
    with pytest.raises(OrchError) as caught:
        gate_of(asking, pool("m"), far)
    assert caught.value.kind is Kind.OUTBOUND_DENIED
    assert "https://engine.example is denied by the policy plugin no: no" in caught.value.message
    spoilt = evolve(no, sha256=Text("0" * 64))
    with pytest.raises(OrchError) as caught:
        gate_of(evolve(asking, policy=Policy(plugins=(spoilt,))), pool("m"), far)
    assert caught.value.kind is Kind.CONFIG_INVALID


@pytest.mark.req("POLICY-4001", "ORCH-3206")
async def test_a_plugin_is_asked_about_tools_and_downloads_of_provisioning(
    secure: Files, tmp_path: Path
) -> None:
    no = plugin(tmp_path, "no", module(answer(2), reason="no"))
    secure.add("/llama.tar.gz", content(10))
    asking = evolve(configured(tmp_path, "m"), policy=Policy(plugins=(no,)))
    binary = Binary(url=Text(f"{secure.url}/llama.tar.gz"), checksum=Digest("sha256:" + "0" * 64))
    from_there = Provisioning(mode=Mode.BINARY, binary=binary)
    door = PolicyDoor(asking, evolve(pool("m"), provisioning=from_there), tmp_path)
    said = "is denied by the policy plugin no: no"
    with pytest.raises(OrchError) as caught:
        await door.permit(None, "pacman")
    assert caught.value.kind is Kind.OUTBOUND_DENIED
    assert f"pacman {said}" in caught.value.message
    with pytest.raises(OrchError) as caught:
        await door.download(binary.url or "", str(binary.checksum), list[str]().append)
    assert said in caught.value.message
    assert secure.asked == []
