"""The file of lessons: whole or not at all, about one engine, and no harm when it cannot be had."""

from __future__ import annotations

from pathlib import Path

import pytest
from attrs import evolve

from orchd.config.schema import Settings
from orchd.kit import log
from orchd.wire.ids import DeviceMask, ReplicaId
from poolmgr.core.capacity import Lessons
from poolmgr.provision.models import lessons
from poolmgr.provision.models.models import Staged
from tests.poolmgr.core.test_capacity import KEY
from tests.poolmgr.core.test_fit import GIB, gpu
from tests.poolmgr.provision.test_models import pool

NAME, MASK = ReplicaId("p:0"), DeviceMask((0,))
KNOWN = Lessons().learn(KEY, gpu(0, 8), 4 * GIB)


@pytest.mark.req("ORCH-3039")
def test_it_lies_in_the_state_folder_of_the_unit_else_in_ours(tmp_path: Path) -> None:
    settings = Settings(state_dir=tmp_path, run_dir=tmp_path)
    assert lessons.file_of(settings, NAME, {}) == tmp_path / "pools/p:0.capacity"
    service = {"STATE_DIRECTORY": "/var/lib/poolmgr:/x"}
    assert lessons.file_of(settings, NAME, service) == Path("/var/lib/poolmgr/p:0.capacity")


@pytest.mark.req("ORCH-3039")
def test_what_was_saved_is_there_again(tmp_path: Path) -> None:
    path = tmp_path / "a/b/p:0.capacity"
    assert lessons.load(path) == Lessons()
    lessons.save(path, KNOWN)
    assert lessons.load(path) == KNOWN
    assert [each.name for each in path.parent.iterdir()] == [path.name]


@pytest.mark.parametrize("data", [b"", b"{", b'{"lessons": 1}', b"\xff" * 100, b'{"x": 1}'])
def test_a_file_that_is_none_is_told_and_forgotten(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "p:0.capacity"
    path.write_bytes(data)
    with log.capture() as events:
        assert lessons.load(path) == Lessons()
    assert [event["event"] for event in events] == ["capacity_forgotten"]


def test_a_folder_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with log.capture() as events:
        lessons.save(tmp_path / "file/p:0.capacity", KNOWN)
    assert [event["event"] for event in events] == ["capacity_not_kept"]


@pytest.mark.req("ORCH-3039")
def test_another_file_or_build_or_argument_is_another_engine(tmp_path: Path) -> None:
    model, program = tmp_path / "m.gguf", tmp_path / "server"
    model.write_bytes(b"1")
    program.write_bytes(b"1")

    def key(*args: str) -> object:
        made = pool(str(model))
        made = evolve(made, engine=evolve(made.engine, args=args))
        return lessons.key_of(made, MASK, Staged("m.gguf", model, 1), str(program))

    first = key()
    assert key() == first
    assert key("-fa", "on") != first
    program.write_bytes(b"22")
    second = key()
    assert second != first
    model.write_bytes(b"22")
    assert key() != second
