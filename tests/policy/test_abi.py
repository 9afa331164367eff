"""The ABI: the header, the page of the specs and the code that packs say the same."""

from __future__ import annotations

import re
import struct
from pathlib import Path

import pytest

from orchd.policy import abi
from orchd.wire.policy import What
from tests.policy.modules import question

ROOT = Path(__file__).resolve().parents[2]
HEADER = (ROOT / "packaging" / "sdk" / "orchd_policy.h").read_text()
SIZES = {"orchd_u32": 4, "orchd_u64": 8, "orchd_str": 8, "const orchd_str *": 4}
pytestmark = pytest.mark.req("POLICY-SDK-4101", "POLICY-SDK-4102", "POLICY-4020")


def fields() -> dict[str, tuple[int, int]]:
    """Name -> offset and size of the question's fields, as wasm32 lays the header's struct out."""
    found = re.search(r"typedef struct \{((?:[^}])*)\} orchd_question;", HEADER)
    assert found is not None
    text = re.sub(r"/\*.*?\*/", "", found[1], flags=re.DOTALL)
    at, offsets = 0, {}
    for line in filter(None, (part.strip() for part in text.split(";"))):
        kind = next(k for k in SIZES if line.startswith(k))
        align = 8 if kind == "orchd_u64" else 4
        for name in line.removeprefix(kind).split(","):
            at += -at % align
            offsets[name.strip()] = (at, SIZES[kind])
            at += SIZES[kind]
    assert at + -at % 8 == abi.HEAD
    return offsets


def test_the_header_is_the_layout_that_is_packed() -> None:
    offsets = fields()
    asked = question(
        what=What.ADMISSION,
        size_bytes=2**40,
        port=443,
        max_tokens=7,
        ctx=2**40,
        **{name: f"<{name}>" for name in abi.STRINGS},
    )
    base = 4096
    data = abi.packed(asked, ("one", "zwölf"), base)
    assert len(data) == abi.size_of(asked, ("one", "zwölf"))

    def number(name: str) -> int:
        at, size = offsets[name]
        return int(
            struct.unpack_from("<Q" if size == 8 and name not in abi.STRINGS else "<I", data, at)[0]
        )

    def text(at: int) -> str:
        where, length = struct.unpack_from("<II", data, at)
        return data[where - base : where - base + length].decode()

    wanted = {
        "abi": 1, "what": 2, "size_bytes": 2**40, "time_unix_s": 1_780_000_000,
        "minute_of_day": 600, "weekday": 2, "port": 443, "max_tokens": 7, "ctx": 2**32 - 1,
        "args_count": 2, "args": base + abi.HEAD, "reserved": 0,
    }  # fmt: skip
    assert {name: number(name) for name in wanted} == wanted
    assert set(offsets) == {*wanted, *abi.STRINGS}
    assert {name: text(offsets[name][0]) for name in abi.STRINGS} == {
        name: f"<{name}>" for name in abi.STRINGS
    }
    assert [text(abi.HEAD + 8 * index) for index in range(2)] == ["one", "zwölf"]


def test_the_specs_have_the_same_offsets() -> None:
    page = (ROOT / "specs" / "18-policy.md").read_text()
    offsets = {name: at for name, (at, _) in fields().items()}
    for row, names in (
        ("| 0 | u32 |", ["abi"]), ("| 4 | u32 |", ["what"]), ("| 8 | u64 |", ["size_bytes"]),
        ("| 16 | u64 |", ["time_unix_s"]), ("| 24, 28 | u32 |", ["minute_of_day", "weekday"]),
        ("| 32 | u32 |", ["port"]), ("| 36, 40 | u32 |", ["max_tokens", "ctx"]),
        ("| 44, 48 | u32 |", ["args_count", "args"]), ("| 52 | u32 |", ["reserved"]),
        ("| 56 ... 128 | string |", ["identity", "priority"]),
    ):  # fmt: skip
        assert row in page
        assert [
            int(n) for n in re.findall(r"\d+", row.partition(" | u")[0].partition(" | s")[0])
        ] == [offsets[name] for name in names]


def test_a_size_that_is_not_known_is_all_ones() -> None:
    data = abi.packed(question(size_bytes=None), (), 0)
    assert data[8:16] == b"\xff" * 8


def test_what_no_bytes_can_hold_becomes_a_question_mark() -> None:
    asked = question(host="a\ud800b")
    assert b"a?b" in abi.packed(asked, (), 0)
    assert len(abi.packed(asked, (), 0)) == abi.size_of(asked, ())
