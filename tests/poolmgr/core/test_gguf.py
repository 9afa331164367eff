"""The heads of model files: what they say, and what hostile ones cost."""

from __future__ import annotations

import json
import struct
import tracemalloc
from pathlib import Path

import pytest

from poolmgr.core import safetensors
from poolmgr.core.gguf import Malformed, Short, parse
from poolmgr.provision.models import heads
from poolmgr.provision.models.heads import read_head
from tests.lab.tiny_gguf import PLAIN, string, write_tiny_gguf


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("gguf") / "tiny.gguf"
    write_tiny_gguf(path)
    return path


def head(n_tensors: int, n_keys: int, rest: bytes = b"", version: int = 3) -> bytes:
    return struct.pack("<4sIQQ", b"GGUF", version, n_tensors, n_keys) + rest


def key(name: str, kind: int, value: bytes) -> bytes:
    return string(name) + struct.pack("<I", kind) + value


def listed(kind: int, count: int, rest: bytes = b"") -> bytes:
    return struct.pack("<IQ", kind, count) + rest


@pytest.mark.req("OC-CORE-1014", "OC-POOL-3002")
def test_a_real_file_tells_its_shape_and_every_tensors_bytes(tiny: Path) -> None:
    said = read_head([tiny])
    assert said.why is None
    assert said.layers == PLAIN.layers
    assert said.keys["general.architecture"] == "llama"
    assert said.keys["llama.attention.head_count_kv"] == PLAIN.kv_heads
    assert "tokenizer.ggml.tokens" not in said.keys  # strings in lists are passed over
    assert said.tensors is not None
    assert said.tensors["blk.0.attn_q.weight"] == PLAIN.dim * PLAIN.dim * 4
    assert said.weights_bytes == sum(said.tensors.values()) < tiny.stat().st_size


def test_any_cut_of_it_asks_for_more_and_never_ends_otherwise(tiny: Path) -> None:
    whole = tiny.read_bytes()
    size = len(whole)
    until = next(end for end in range(0, size, 97) if not _short(whole[:end], size))
    assert until > 1000
    for end in range(0, until - 97, 61):
        assert _short(whole[:end], size)


def _short(data: bytes, size: int) -> bool:
    try:
        parse(data, size)
    except Short:
        return True
    return False


HUGE = 1 << 60
BOGUS = [
    (b"", "cut short"),
    (b"MZ\x90\0 a program", "no GGUF"),
    (head(0, 0, version=1), "version is 1"),
    (head(0, 0, version=3 << 24), "version is"),
    (head(HUGE, 0), f"claims {HUGE} tensors"),
    (head(0, HUGE), f"claims {HUGE} keys"),
    (head(0, 1, string("k")[:4]), "cut short"),
    (head(0, 1, struct.pack("<Q", HUGE) + b"x"), "cut short"),
    (head(0, 1, key("k", 8, struct.pack("<Q", HUGE))), "cut short"),
    (head(0, 1, key("k", 9, listed(8, HUGE))), "cut short"),
    (head(0, 1, key("k", 9, listed(8, 2, struct.pack("<QQ", HUGE, 1)))), "cut short"),
    (head(0, 1, key("k", 9, listed(8, 2, struct.pack("<QQ", 2**64 - 1, 1)))), "cut short"),
    (head(0, 1, key("k", 9, listed(4, HUGE))), "cut short"),
    (head(0, 1, key("k", 9, listed(9, 1))), "type 9"),
    (head(0, 1, key("k", 99, b"")), "type 99"),
    (head(0, 1, key("general.alignment", 4, struct.pack("<I", 0))), "alignment is 0"),
    (head(1, 0, string("t") + struct.pack("<I", 1 << 30)), "dimensions"),
    (head(1, 0, string("t") + struct.pack("<IQIQ", 1, 4, 0, HUGE)), "cut short"),
    (head(1, 0, string("t") + struct.pack("<IQIQ", 1, 4, 0, 0)), "cut short"),  # no data
]


@pytest.mark.parametrize(("data", "what"), BOGUS)
def test_a_bogus_head_is_told_and_costs_no_memory(tmp_path: Path, data: bytes, what: str) -> None:
    path = tmp_path / "m.gguf"
    path.write_bytes(data)
    tracemalloc.start()
    said = read_head([path])
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert said.why is not None
    assert said.why.startswith("m.gguf cannot be read: ")
    assert what in said.why
    assert said.tensors is None
    assert peak < 2 * heads.FIRST_BYTES


def test_a_head_larger_than_the_bound_is_not_read_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(heads, "FIRST_BYTES", 1 << 10)
    monkeypatch.setattr(heads, "MAX_BYTES", 1 << 12)
    path = tmp_path / "m.gguf"
    path.write_bytes(head(0, 1, key("k", 9, listed(0, 1 << 20))) + bytes(1 << 20))
    why = read_head([path]).why
    assert why is not None
    assert "header is larger than" in why
    path.write_bytes(head(0, 1, key("k", 9, listed(0, 3000))) + bytes(1 << 14))
    assert read_head([path]).why is None  # within it, more is read as needed


def test_the_heads_of_all_parts_count_together(tmp_path: Path, tiny: Path) -> None:
    second = head(1, 0, string("blk.9.more") + struct.pack("<IQIQ", 1, 8, 0, 0))
    path = tmp_path / "b.gguf"
    path.write_bytes(second + bytes(-len(second) % 32) + bytes(32))
    both, one = read_head([tiny, path]), read_head([tiny])
    assert both.keys == one.keys
    assert both.weights_bytes == (one.weights_bytes or 0) + 32


def tensors(**offsets: object) -> bytes:
    said = {name: {"dtype": "F16", "data_offsets": each} for name, each in offsets.items()}
    raw = json.dumps({"__metadata__": {"format": "pt"}, **said}).encode()
    return struct.pack("<Q", len(raw)) + raw


@pytest.mark.req("OC-CORE-1014")
def test_safetensors_tell_the_bytes_of_their_tensors(tmp_path: Path) -> None:
    path = tmp_path / "m.safetensors"
    path.write_bytes(tensors(a=[0, 100], b=[100, 160]) + bytes(160))
    assert read_head([path]).weights_bytes == 160


@pytest.mark.parametrize(
    "data",
    [
        b"",
        struct.pack("<Q", HUGE) + b"{}",
        struct.pack("<Q", 2) + b"[]",
        struct.pack("<Q", 2) + b"{x",
        struct.pack("<Q", 90_000) + b"[" * 90_000,
        tensors(a=[0, HUGE]),
        tensors(a=[5, 1]) + bytes(9),
        tensors(a=[True, "x"]),
        tensors(a=None),
    ],
)
def test_bogus_safetensors_are_told(data: bytes) -> None:
    with pytest.raises(Malformed):
        safetensors.weights_bytes(data, len(data))
