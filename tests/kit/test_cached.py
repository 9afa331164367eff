"""Looking into a cache of models: what counts as one, and that nothing changes by it."""

from __future__ import annotations

import os
from pathlib import Path

import orjson
import pytest

from orchd.kit.cached import entries, entry
from orchd.wire.cached import Shape
from tests.fakes.cached import fetched, hexdigest

REF = "https://a.test/m0.gguf"


def seen(folder: Path) -> list[tuple[str, int, int, int]]:
    """Every file and folder with what would change if somebody wrote to it."""
    found = sorted([folder, *folder.rglob("*")])
    stats = [(path, path.lstat()) for path in found]
    return [(str(path), said.st_ino, said.st_mtime_ns, said.st_ctime_ns) for path, said in stats]


@pytest.mark.req("CAT-LOCATE", "CAT-EXISTS")
def test_what_a_fetch_left_is_found_and_nothing_is_written(tmp_path: Path) -> None:
    one = fetched(tmp_path / "a", f"{REF}?sig=canary", b"model")
    several = fetched(tmp_path / "b", "hf:org/repo", b"x", b"yz", shape=Shape.WHOLE)
    before = seen(tmp_path)
    folders = [tmp_path / "a", tmp_path / "none", tmp_path / "b"]
    whole, single = entries(folders)
    assert (single.ref, single.path, single.files) == (REF, one.path, (one.path,))
    assert (single.digest, single.size_bytes) == (f"sha256:{hexdigest(b'model')}", 5)
    assert (whole.ref, whole.path, whole.size_bytes) == ("hf:org/repo", several.path, 3)
    assert [Path(file).name for file in whole.files] == ["m0.gguf", "m1.gguf"]
    record = Path(one.path).parents[1] / "model.json"
    assert single.verified_ms == record.stat().st_mtime_ns // 1_000_000
    assert seen(tmp_path) == before


@pytest.mark.parametrize(
    "change",
    [
        {"path": "../../x"},
        {"model": ["/etc/passwd"]},
        {"model": ["../x"]},
        {"digest": "sha256:x"},
        {"files": [{"name": "m0.gguf", "size": 6, "sha256": "0"}]},
        {"files": [{"name": "gone", "size": 6, "sha256": "0"}]},
        {"more": 1},
    ],
)
def test_a_record_that_leads_elsewhere_or_lies_is_no_model(
    tmp_path: Path, change: dict[str, object]
) -> None:
    path = Path(fetched(tmp_path, REF, b"model").path).parents[1]
    assert entry(path) is not None
    record = path / "model.json"
    record.write_bytes(orjson.dumps(orjson.loads(record.read_bytes()) | change))
    assert entry(path) is None
    assert entries([tmp_path]) == ()


def test_what_is_on_its_way_or_no_plain_file_is_no_model(tmp_path: Path) -> None:
    path = Path(fetched(tmp_path, REF, b"model").path).parents[1]
    path.rename(path.with_name(f"{path.name}.part"))
    assert entries([tmp_path]) == ()
    (tmp_path / "x").mkdir()
    (tmp_path / "y").write_bytes(b"")
    (tmp_path / "x" / "files").mkdir()
    os.mkfifo(tmp_path / "x" / "model.json")  # opening it would wait for a writer
    assert entries([tmp_path]) == ()
    (tmp_path / "x" / "model.json").unlink()
    (tmp_path / "x" / "model.json").symlink_to(f"{path}.part/model.json")
    assert entries([tmp_path]) == ()
