"""https: models from a real server over TLS: parts, resume, faults, digests, redirects."""

from __future__ import annotations

from pathlib import Path

import pytest
import trio

from orchd.fetch import attempts, parts
from orchd.fetch.entry import Entry
from orchd.fetch.orders import Progress
from orchd.kit import log
from orchd.wire.cached import Shape
from orchd.wire.errors import Kind
from tests.fakes.fileserver import Files
from tests.fetch.making import bring, content, order, read, refused, sha256

SIZE = 3_000_000


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Parts that a test can afford, and no long pauses."""
    monkeypatch.setattr(parts, "MIN_PART", 100_000)
    monkeypatch.setattr(attempts, "BACKOFF_S", 0.01)


@pytest.mark.req("ORCH-3090", "ORCH-3436")
async def test_a_file_comes_in_parts_and_is_whole(secure: Files, tmp_path: Path) -> None:
    data = content(SIZE)
    secure.add("/m/tiny.gguf", data)
    said: list[Progress] = []
    done = await bring(f"{secure.url}/m/tiny.gguf", tmp_path, said.append)
    assert read(done.path) == data
    assert (done.size_bytes, done.fetched_bytes) == (SIZE, SIZE)
    assert done.digest == f"sha256:{sha256(data)}"
    assert Path(done.path).name == "tiny.gguf"
    ranges = {asked.headers["range"] for asked in secure.asked}
    assert len(ranges) == 31  # one byte first, then 30 parts
    assert 1 < secure.at_once <= 8
    assert said


@pytest.mark.req("CAT-LOCATE", "ORCH-3436")
async def test_what_is_here_is_not_asked_for_again(secure: Files, tmp_path: Path) -> None:
    secure.add("/tiny.gguf", content(1000))
    ref = f"{secure.url}/tiny.gguf"
    entry = Entry(tmp_path / "cache", ref, Shape.GGUF)
    assert entry.locate() is None
    assert not (tmp_path / "cache").exists()  # looking writes nothing
    first = await bring(ref, tmp_path)
    count = len(secure.asked)
    again = await bring(ref, tmp_path)
    assert (again.path, again.digest, again.fetched_bytes) == (first.path, first.digest, 0)
    assert len(secure.asked) == count
    assert entry.locate() == again


async def test_lines_that_break_are_taken_up_where_they_broke(
    secure: Files, tmp_path: Path
) -> None:
    data = content(SIZE)
    secure.add("/m.gguf", data, cut_after=30_000, cuts=40)
    done = await bring(f"{secure.url}/m.gguf", tmp_path)
    assert read(done.path) == data
    assert done.fetched_bytes == SIZE  # nothing came twice


@pytest.mark.parametrize("status", [429, 503, 500])
async def test_a_server_that_says_later_is_asked_later(
    secure: Files, tmp_path: Path, status: int
) -> None:
    secure.add("/m.gguf", content(1000), statuses=[status] * 3, headers={"Retry-After": "0"})
    await bring(f"{secure.url}/m.gguf", tmp_path)
    assert len(secure.asked) == 5


async def test_a_server_that_never_answers_well_is_given_up(secure: Files, tmp_path: Path) -> None:
    secure.add("/m.gguf", b"", statuses=[503] * 99)
    error = await refused(f"{secure.url}/m.gguf", tmp_path)
    assert error.kind is Kind.FETCH_FAILED
    assert "503" in error.message
    assert "given up after 6 attempts" in error.message
    assert len(secure.asked) == attempts.ATTEMPTS


@pytest.mark.parametrize("length", [True, False])
async def test_a_server_without_ranges_will_do(secure: Files, tmp_path: Path, length: bool) -> None:
    data = content(500_000)
    secure.add("/m.gguf", data, ranges=False, length=length, cut_after=1000, cuts=2 * length)
    done = await bring(f"{secure.url}/m.gguf", tmp_path)
    assert read(done.path) == data


async def test_an_empty_file_is_whole(secure: Files, tmp_path: Path) -> None:
    secure.add("/m.gguf", b"")
    done = await bring(f"{secure.url}/m.gguf", tmp_path)
    assert done.size_bytes == 0


async def test_a_file_that_changes_under_way_is_begun_anew(
    secure: Files, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old, new = content(SIZE), content(SIZE, seed=2)
    served = secure.add("/m.gguf", old, bytes_per_s=2_000_000)
    ref = f"{secure.url}/m.gguf"
    with trio.move_on_after(0.3):
        await bring(ref, tmp_path, connections=1)
    served.bytes_per_s = None
    served.data = new
    done = await bring(ref, tmp_path)
    assert read(done.path) == new


@pytest.mark.req("ORCH-3436")
async def test_a_wrong_digest_is_refused_and_leaves_nothing(secure: Files, tmp_path: Path) -> None:
    data = content(1000)
    secure.add("/m.gguf", data)
    ref, wrong = f"{secure.url}/m.gguf", "sha256:" + "0" * 64
    error = await refused(ref, tmp_path, digest=wrong)
    assert error.kind is Kind.DIGEST_MISMATCH
    assert sha256(data) in error.message
    entry = Entry(tmp_path / "cache", ref, Shape.GGUF)
    assert entry.locate() is None
    assert not entry.part.exists()
    done = await bring(ref, tmp_path, digest=f"sha256:{sha256(data)}")
    assert done.digest == f"sha256:{sha256(data)}"
    # and one that was fetched before anybody named a digest
    assert (await refused(ref, tmp_path, digest=wrong)).kind is Kind.DIGEST_MISMATCH


@pytest.mark.req("ORCH-3435")
async def test_all_parts_of_a_model_come_together(secure: Files, tmp_path: Path) -> None:
    names = [f"m-0000{number}-of-00003.gguf" for number in (1, 2, 3)]
    for number, name in enumerate(names):
        secure.add(f"/{name}", content(300_000, number), bytes_per_s=1_000_000)
    whole = b"".join(secure.files[f"/{name}"].data for name in names)
    done = await bring(f"{secure.url}/{names[1]}", tmp_path)  # whichever of them is named
    assert [Path(file).name for file in done.files] == names
    assert b"".join(read(file) for file in done.files) == whole
    assert done.path == done.files[0]
    assert done.digest == f"sha256:{sha256(whole)}"
    assert secure.at_once > 3


async def test_a_part_that_is_missing_is_named(secure: Files, tmp_path: Path) -> None:
    secure.add("/m-00001-of-00002.gguf", b"x")
    error = await refused(f"{secure.url}/m-00001-of-00002.gguf", tmp_path)
    assert "404 for m-00002-of-00002.gguf: there is no such file" in error.message


@pytest.mark.req("ORCH-3206", "ORCH-3080")
async def test_a_redirect_to_a_host_that_nobody_named_is_refused(
    secure: Files, files: Files, tmp_path: Path
) -> None:
    secure.add("/m.gguf", b"", redirect="https://elsewhere.example/m.gguf?sig=SECRETSECRET")
    with log.capture() as events:
        error = await refused(f"{secure.url}/m.gguf", tmp_path)
    assert error.kind is Kind.OUTBOUND_DENIED
    assert "https://elsewhere.example is named neither" in error.message
    assert "policy.outbound.allow (add 'elsewhere.example')" in error.message
    assert [event["event"] for event in events] == ["outbound_allowed", "outbound_denied"]
    assert "SECRET" not in str(events) + error.message
    # down to plain HTTP, on this machine too
    secure.add("/d.gguf", b"", redirect=f"{files.url}/m.gguf")
    allow = {"allow": (f"localhost:{files.port}",)}
    error = await refused(f"{secure.url}/d.gguf", tmp_path, outbound=allow)
    assert "which is not encrypted" in error.message
    assert files.asked == []


async def test_redirects_are_followed_where_they_may_go_and_no_further(
    secure: Files, tmp_path: Path
) -> None:
    data = content(300_000)
    secure.add("/a.gguf", b"", redirect="/b/c.gguf?x=1")
    secure.add("/b/c.gguf", data)
    done = await bring(f"{secure.url}/a.gguf", tmp_path)
    assert read(done.path) == data
    assert Path(done.path).name == "a.gguf"
    secure.add("/round.gguf", b"", redirect="/round.gguf")
    assert "more than 8 redirects" in (await refused(f"{secure.url}/round.gguf", tmp_path)).message


@pytest.mark.req("ORCH-3206")
async def test_rules_of_size_and_the_off_switch_hold(secure: Files, tmp_path: Path) -> None:
    secure.add("/m.gguf", content(1_100_000))
    ref = f"{secure.url}/m.gguf"
    error = await refused(ref, tmp_path, outbound={"max_mb": 1})
    assert (error.kind, "policy.outbound.max_mb" in error.message) == (Kind.OUTBOUND_DENIED, True)
    count = len(secure.asked)
    error = await refused(ref, tmp_path, outbound={"enabled": False})
    assert "policy.outbound.enabled is false" in error.message
    assert len(secure.asked) == count


async def test_one_fetches_and_the_others_wait(secure: Files, tmp_path: Path) -> None:
    data = content(SIZE)
    secure.add("/m.gguf", data, bytes_per_s=1_000_000)
    found: list[int] = []
    said: list[Progress] = []

    async def one() -> None:
        done = await bring(f"{secure.url}/m.gguf", tmp_path, said.append)
        found.append(done.fetched_bytes)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(one)
        nursery.start_soon(one)
    assert sorted(found) == [0, SIZE]
    assert any("waiting" in progress.what for progress in said)


def test_an_order_shows_no_secret_of_a_url(tmp_path: Path) -> None:
    ref = "https://user.example/m.gguf?X-Amz-Signature=abcdef0123456789"
    entry = Entry(Path(order(ref, tmp_path).folder), ref, Shape.GGUF)
    assert "abcdef" not in str(entry.path)
