"""Files and shelves on a real disk: what a broken one leaves, and what is no file of ours."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from orchd.catalog import files
from orchd.catalog.files import Folder
from tests.catalog.killer import model, models


@pytest.mark.req("ORCH-3037")
@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"", "is not JSON"),
        (b'{"model": {"id": "a"', "is not JSON"),
        (b"\0" * 300, "is not JSON"),
        (b"[]", "must be an object"),
        (b'{"created_ms": 1}', "$.model: is required"),
        (b'{"model": {"id": "../../a", "digest": "x"}, "created_ms": 1}', "must be a model id"),
    ],
)
def test_a_file_that_is_spoiled_is_named_and_set_aside_and_the_others_are_read(
    tmp_path: Path, data: bytes, why: str
) -> None:
    shelf = models(str(tmp_path))
    shelf.load()
    for each in ("a", "b"):
        shelf.write(model(each, 1))
    file = tmp_path / "catalog" / "models" / "a.json"
    file.write_bytes(data)
    found, spoiled = shelf.load()
    assert list(found) == ["b"]
    assert [(each.path, why in each.why) for each in spoiled] == [(f"{file}.bad", True)]
    assert (file.parent / "a.json.bad").read_bytes() == data, "it is kept for whoever mends it"
    assert shelf.load() == (found, []), "nobody stumbles over it again"
    shelf.write(model("a", 2))
    assert set(shelf.load()[0]) == {"a", "b"}


def test_a_record_under_another_name_is_set_aside(tmp_path: Path) -> None:
    shelf = models(str(tmp_path))
    shelf.load()
    shelf.write(model("a", 1))
    (tmp_path / "catalog/models/a.json").rename(tmp_path / "catalog/models/b.json")
    found, spoiled = shelf.load()
    assert found == {}
    assert "holds a, which is not its name" in spoiled[0].why


def test_what_is_no_plain_file_neither_hangs_nor_stops_an_open(tmp_path: Path) -> None:
    shelf = models(str(tmp_path))
    shelf.load()
    shelf.write(model("a", 1))
    folder = tmp_path / "catalog" / "models"
    os.mkfifo(folder / "b.json")
    (folder / "c.json").mkdir()
    (folder / "d.json").symlink_to("/dev/zero")
    with (folder / "e.json").open("wb") as file:
        file.truncate(files.MAX_BYTES + 1)
    (folder / "not ours").write_bytes(b"x")
    found, spoiled = shelf.load()
    assert list(found) == ["a"]
    assert [Path(each.path).name for each in spoiled] == [f"{each}.json.bad" for each in "bcde"]


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "../a", ".a", "a\0b", "é", "a" * 161])
def test_no_name_leads_out_of_its_folder(tmp_path: Path, name: str) -> None:
    folder = Folder(str(tmp_path / "x"))
    folder.open()
    for call in (folder.read, folder.remove, folder.set_aside):
        with pytest.raises(ValueError, match="is no name"):
            call(name)
    with pytest.raises(ValueError, match="is no name"):
        folder.write(name, b"")


@pytest.mark.req("ORCH-3037")
def test_files_and_folders_are_for_their_user_alone(tmp_path: Path) -> None:
    shelf = models(str(tmp_path / "state"))
    shelf.load()
    shelf.write(model("a", 1))
    for path in [tmp_path / "state", *(tmp_path / "state").rglob("*")]:
        assert not stat.S_IMODE(path.stat().st_mode) & 0o077, path


def test_a_write_that_fails_leaves_the_old_file_and_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = Folder(str(tmp_path))
    folder.write("a", b"old")

    def full(_fd: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        folder.write("a", b"new")
    monkeypatch.undo()
    assert (folder.read("a"), os.listdir(tmp_path)) == (b"old", ["a"])  # noqa: PTH208


def test_one_daemon_holds_the_folder(tmp_path: Path) -> None:
    held = files.hold(str(tmp_path / "lock"))
    assert held is not None
    assert files.hold(str(tmp_path / "lock")) is None
    files.release(held)
    again = files.hold(str(tmp_path / "lock"))
    assert again is not None
    files.release(again)


def test_a_hash_is_of_a_plain_file_and_can_be_stopped(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"abc")
    told: list[None] = []
    digest = files.sha256_of(str(tmp_path / "a"), lambda: told.append(None))
    assert digest == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert len(told) == 1
    os.mkfifo(tmp_path / "pipe")
    for other in ("pipe", ".", "none"):
        with pytest.raises(OSError):
            files.sha256_of(str(tmp_path / other), lambda: None)

    def stop() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        files.sha256_of(str(tmp_path / "a"), stop)
