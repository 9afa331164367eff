"""Artifacts: names that follow from what was sent, bounds that refuse, pages, spoiled files."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import pytest
from attrs import evolve
from hypothesis import given
from hypothesis import strategies as st

from orchd.catalog.artifacts import (
    MAX_CONTENT_BYTES,
    RECORD_BYTES,
    Artifacts,
    Store,
    name,
    plain,
)
from orchd.wire import codec
from orchd.wire.artifacts import ArtifactRecord, ArtifactUpload
from orchd.wire.errors import Kind, OrchError
from orchd.wire.ids import TaskId


def upload(**more: Any) -> ArtifactUpload:
    return plain(codec.structure(ArtifactUpload, {"kind": "plan", "content": "Hé", **more}))


def record(now_ms: int = 1, **more: Any) -> ArtifactRecord:
    return name(upload(**more), now_ms)


def refusal(table: Artifacts, new: ArtifactRecord) -> OrchError:
    with pytest.raises(OrchError) as raised:
        table.admit(new)
    return raised.value


@pytest.mark.req("OC-CTRL-2065", "OC-CTRL-2066", "ORCH-3098")
def test_the_id_follows_from_all_that_was_sent_and_the_digest_from_the_content() -> None:
    first = record()
    assert first.digest == "sha256:" + hashlib.sha256("Hé".encode()).hexdigest()
    assert first.content_bytes == 3
    assert record(2).id == first.id
    assert record(tags=["b", "a", "b"]) == record(tags=["a", "b"])
    assert record(metadata={"a": "1", "b": "2"}).id == record(metadata={"b": "2", "a": "1"}).id
    others: list[dict[str, Any]] = [
        {"kind": "diff"}, {"content": "He"}, {"tags": ["a"]}, {"parent": "0" * 32},
        {"metadata": {"a": "b"}},
    ]  # fmt: skip
    assert len({first.id, *(record(**more).id for more in others)}) == 6
    assert {record(**more).digest for more in others[2:]} == {first.digest}


@pytest.mark.req("ORCH-3098")
def test_an_unknown_parent_is_refused() -> None:
    table = Artifacts(1 << 20, 10)
    parent = record()
    child = record(parent=parent.id, content="child")
    error = refusal(table, child)
    assert (error.kind, error.fields.path) == (Kind.INVALID_PARAMS, "$.parent")
    table.add(parent)
    table.admit(child)


@pytest.mark.parametrize(
    ("said", "kind", "path"),
    [
        ({"content": "é" * (MAX_CONTENT_BYTES // 2) + "x"}, Kind.BODY_TOO_LARGE, "$.content"),
        ({"metadata": {"a": "x" * 4090}}, Kind.BODY_TOO_LARGE, "$.metadata"),
        ({"tags": [str(n) for n in range(17)]}, Kind.INVALID_PARAMS, "$.tags"),
    ],
)
def test_one_artifact_has_bounds(said: dict[str, Any], kind: Kind, path: str) -> None:
    with pytest.raises(OrchError) as raised:
        upload(**said)
    assert (raised.value.kind, raised.value.fields.path) == (kind, path)


def test_a_record_at_its_bounds_takes_no_more_than_is_counted_for_it() -> None:
    tags = [f"{n:02}" + "x" * 126 for n in range(16)]
    metadata = {"k" * 128: "v" * 3958}
    most = record(2**53 - 1, content="x", tags=tags, metadata=metadata, parent="0" * 32)
    assert 6000 < len(codec.dumps(most)) <= RECORD_BYTES


def test_past_its_bounds_the_store_refuses_and_throws_nothing_out() -> None:
    table = Artifacts(2 * RECORD_BYTES + 10, 2)
    table.add(record(content="x" * 8))
    error = refusal(table, record(content="y" * 3))
    assert (error.kind, "artifacts.max_mb" in error.message) == (Kind.STORE_FULL, True)
    table.admit(record(content="x" * 8, kind="diff"))  # its content is there already
    table.add(record(content="y" * 2))
    assert table.used_bytes == 2 * RECORD_BYTES + 10
    error = refusal(table, record(content=""))
    assert (error.kind, "artifacts.max_count" in error.message) == (Kind.STORE_FULL, True)
    assert len(table.records) == 2


CHOICES = st.tuples(st.sampled_from("abc"), st.sampled_from(["plan", "diff"]))


@given(st.lists(st.tuples(st.booleans(), CHOICES, st.integers(0, 3)), max_size=40))
def test_the_table_counts_what_it_holds(steps: list[tuple[bool, tuple[str, str], int]]) -> None:
    table = Artifacts(1 << 30, 100)
    for put, (text, kind), now_ms in steps:
        one = record(now_ms, content=text * 100, kind=kind, tags=[text])
        known = table.records.get(one.id)
        if put and known is None:
            table.add(one)
        elif not put and known is not None:
            table.drop(known)
        held = list(table.records.values())
        contents = {each.digest for each in held}
        assert table.used_bytes == RECORD_BYTES * len(held) + 100 * len(contents)
        assert all(table.holders(each) for each in contents)
        ordered = sorted(held, key=lambda r: (r.created_ms, r.id), reverse=True)
        assert table.page(None, None, 100) == (ordered, None)
        paged: list[ArtifactRecord] = []
        before = None
        while True:
            some, before = table.page("a", before, 1)
            paged += some
            if before is None:
                break
        assert paged == [each for each in ordered if "a" in each.tags]


@pytest.mark.req("ORCH-3098", "HME-022")
def test_a_content_that_changed_on_disk_is_never_given_out(tmp_path: Path) -> None:
    store, one = Store.at(str(tmp_path)), record(content="first")
    store.load()
    store.put(one, "first")
    assert store.content(one) == "first"
    file = tmp_path / "content" / one.digest.removeprefix("sha256:")
    file.write_bytes(b"other")
    with pytest.raises(OSError, match="has changed on disk") as raised:
        store.content(one)
    assert f"{file}.bad" in str(raised.value)
    found, spoiled = store.load()
    assert found == []
    assert "content" in spoiled[0].why
    assert spoiled[0].path == str(tmp_path / "records" / f"{one.id}.json.bad")
    store.put(one, "first")
    assert store.load() == ([one], [])


def test_a_spoiled_record_does_not_cost_its_content(tmp_path: Path) -> None:
    store, one = Store.at(str(tmp_path)), record(content="first")
    store.load()
    store.put(one, "first")
    (tmp_path / "records" / f"{one.id}.json").write_bytes(b"{")
    found, spoiled = store.load()
    assert (found, len(spoiled)) == ([], 1)
    assert (tmp_path / "content" / one.digest.removeprefix("sha256:")).read_bytes() == b"first"


def job_record(now_ms: int, content: str = "x") -> ArtifactRecord:
    made = record(now_ms, content=content, tags=[f"job:{now_ms}"])
    return evolve(made, job=TaskId(str(now_ms)))


@pytest.mark.req("ORCH-3350")
def test_records_of_jobs_make_room_the_oldest_first_and_a_parent_stays() -> None:
    table = Artifacts(max_bytes=100_000, max_count=4, max_jobs=2)
    kept = record(1, content="plan")
    old, young = job_record(3, "old"), job_record(5, "young")
    for one in (kept, young, old):
        assert table.givers(one) == []
        table.add(one)
    assert table.givers(record(9, content="fits")) == []
    assert table.givers(job_record(9, "third")) == [old]
    table.add(record(9, content="last place"))
    assert table.givers(record(10, content="new")) == [old]
    assert table.givers(record(10, content="new", parent=old.id)) == [young]
    table.drop(old)
    assert table.givers(job_record(11, "again")) == []
    table.drop(young)
    table.add(record(12, content="a"))
    table.add(record(12, content="b"))
    assert table.givers(record(13, content="c")) == []  # nothing is left that may go
    with pytest.raises(OrchError):
        table.admit(record(13, content="c"))


def test_records_of_jobs_give_way_by_their_bytes_and_not_in_vain() -> None:
    table = Artifacts(max_bytes=4 * RECORD_BYTES + 300, max_count=100, max_jobs=100)
    olds = [job_record(n, str(n) * 100) for n in range(3)]
    for one in olds:
        table.add(one)
    small = record(8, content="s" * 100)
    assert table.givers(small) == olds[:1]
    assert table.givers(record(8, content="s" * (RECORD_BYTES + 400))) == olds[:2]
    assert table.givers(record(8, content="s" * (5 * RECORD_BYTES))) == []
    table.add(record(9, content="0" * 100))  # the same content: it stays when the job's record goes
    assert table.givers(small) == olds[:2]


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 3)), max_size=30))
def test_what_givers_name_is_enough_and_only_ever_of_jobs(steps: list[tuple[bool, int]]) -> None:
    table = Artifacts(max_bytes=6 * RECORD_BYTES, max_count=5, max_jobs=3)
    for now_ms, (of_job, size) in enumerate(steps):
        content = f"{size}" * (size * RECORD_BYTES // 2)
        new = job_record(now_ms, content) if of_job else record(now_ms, content=content)
        if new.id in table.records:
            continue
        going = table.givers(new)
        assert all(one.job is not None for one in going)
        for one in going:
            table.drop(one)
        if going:
            table.admit(new)
        try:
            table.admit(new)
        except OrchError:
            continue
        if of_job and sum(one.job is not None for one in table.records.values()) >= 3:
            continue
        table.add(new)
    assert sum(one.job is not None for one in table.records.values()) <= 3
