"""The sandbox: what a module may not do, and that nobody else notices when it tries."""

from __future__ import annotations

import subprocess
import sys
import threading
import time

import pytest
import wasmtime
from hypothesis import given, settings
from hypothesis import strategies as st

from orchd.policy import abi
from orchd.policy.question import Decision, PluginError, Question
from orchd.policy.sandbox import MAX_FILE, Plugin, check_same, read
from orchd.wire.ids import Count
from orchd.wire.policy import What
from tests.policy.modules import ROOM_AT, answer, bounds, module, plugin, question

RELAXED = (  # what differs between processors
    "(drop (i8x16.relaxed_swizzle (v128.const i64x2 0 0) (v128.const i64x2 0 0)))" + answer(1)
)
LOOP = "(loop br 0) (unreachable)"
COUNTER = (
    "(global.set $n (i32.add (global.get $n) (i32.const 1)))"
    "(i32.store (i32.const 0) (i32.add (i32.load (i32.const 0)) (i32.const 1)))"
    "(if (i32.gt_s (i32.add (global.get $n) (i32.load (i32.const 0))) (i32.const 2))"
    f" (then (return {answer(2)})))" + answer(1)
)


def fails(code: bytes, **limits: object) -> PluginError:
    with pytest.raises(PluginError) as caught:
        plugin(code, **limits).decide(question())
    return caught.value


def test_an_honest_one_answers() -> None:
    assert plugin().decide(question()) == Decision(True, "ok", plugin().decide(question()).fuel)
    assert not plugin(module(answer(2))).decide(question()).allowed
    assert plugin(module(answer(1, length=0))).decide(question()).reason == ""


@pytest.mark.req("POLICY-4010")
@pytest.mark.parametrize(
    ("imported", "name"),
    [
        (
            '(import "wasi_snapshot_preview1" "fd_write" (func (param i32 i32 i32) (result i32)))',
            "wasi_snapshot_preview1.fd_write",
        ),
        (
            '(import "wasi_snapshot_preview1" "clock_time_get" (func (param i64) (result i32)))',
            "clock_time_get",
        ),
        ('(import "env" "memory" (memory 1))', "env.memory"),
        ('(import "orchd" "fetch" (func))', "orchd.fetch"),
    ],
)
def test_what_imports_anything_is_refused_by_name(imported: str, name: str) -> None:
    with pytest.raises(PluginError, match=name):
        plugin(
            module(more=imported, memory="" if "memory" in name else '(memory (export "memory") 1)')
        )


@pytest.mark.req("POLICY-4012")
@pytest.mark.parametrize("where", ["decide", "alloc"])
def test_a_loop_without_end_ends_with_its_fuel(where: str) -> None:
    began = time.monotonic()
    error = fails(module(**{where: LOOP}), fuel=100_000)
    assert str(error) == "took more than its 100000 fuel"
    assert error.fuel == 100_000
    assert time.monotonic() - began < 5


@pytest.mark.req("POLICY-4012")
def test_a_loop_at_the_start_of_the_module_is_refused_when_it_is_loaded() -> None:
    with pytest.raises(PluginError, match="fuel"):
        plugin(module(more="(func $go (loop br 0)) (start $go)"))
    with pytest.raises(PluginError, match="fuel"):
        plugin(module(version=LOOP))


@pytest.mark.req("POLICY-4012")
def test_one_instruction_that_moves_much_costs_much() -> None:
    fill = "(loop (memory.fill (i32.const 0) (i32.const 1) (i32.const 60000)) br 0) (unreachable)"
    began = time.monotonic()
    assert "fuel" in str(fails(module(fill), fuel=10_000_000))
    assert time.monotonic() - began < 5


@pytest.mark.req("POLICY-4014")
def test_the_wall_clock_ends_what_has_fuel_for_minutes() -> None:
    began = time.monotonic()
    error = fails(module(LOOP), fuel=10**12, deadline_s=0.05)
    assert str(error) == "took longer than 50 ms"
    assert time.monotonic() - began < 5
    assert not any(
        thread.name == "plugins" and not thread.daemon for thread in threading.enumerate()
    )


@pytest.mark.req("POLICY-4013")
def test_memory_grows_to_its_bound_and_no_further() -> None:
    """It asks for a page until it is refused, and answers how many it has."""
    grow = (
        "(loop (br_if 0 (i32.ne (memory.grow (i32.const 1)) (i32.const -1))))"
        "(if (i32.ne (memory.size) (i32.const 16)) (then (unreachable)))" + answer(1)
    )
    assert plugin(module(grow), memory_bytes=1 << 20).decide(question()).allowed
    with pytest.raises(PluginError, match="memory"):
        plugin(module(memory='(memory (export "memory") 17)'), memory_bytes=1 << 20)


@pytest.mark.req("POLICY-4014")
@pytest.mark.parametrize(
    ("code", "said"),
    [
        (module("(unreachable)"), "trapped: unreachable"),
        (module("(i32.div_s (i32.const 1) (i32.const 0))"), "trapped: integer division by zero"),
        (module("(i32.load (i32.const -1))"), "trapped: memory out of bounds"),
        (module("(call 2 (local.get $at))"), "trapped: stack overflow"),
        (module("(i32.const -8)"), "lies: its answer at 4294967288 (12 bytes) is outside"),
        (module("(i32.const 131061)"), "lies: its answer at 131061"),
        (module(answer(1, at=131072)), "lies: its answer at 131072 (2 bytes)"),
        (module(answer(1, at=-1, length=256)), "lies: its answer at 4294967295"),
        (module(answer(1, length=-1)), "its reason has 4294967295 bytes"),
        (module(answer(1, length=257)), "its reason has 257 bytes; at most 256"),
        (module(answer(0)), "its verdict is 0"),
        (module(answer(3)), "its verdict is 3"),
        (module(reason="\\ff\\fe"), "its reason is not UTF-8"),
        (module(reason="a\\0a"), "its reason holds control characters"),
        (module(alloc="(i32.const 0)"), "has no room for a question of"),
        (module(alloc="(i32.const 131071)"), "lies: its buffer for the question at 131071"),
        (module(alloc="(i32.const -1)"), "lies: its buffer for the question at 4294967295"),
    ],
)  # fmt: skip
def test_traps_lies_and_garbage_are_errors_in_words(code: bytes, said: str) -> None:
    assert said in str(fails(code))


@pytest.mark.req("POLICY-4020", "POLICY-4021")
@pytest.mark.parametrize(
    ("code", "said"),
    [
        (b"", "is not core WebAssembly"),
        (b"(module)", "is not core WebAssembly"),
        (b"\0asm\x0d\0\1\0", "is not core WebAssembly"),
        (b"\0asm\1\0\0\0\xff\xff", "cannot be compiled"),
        (module(version="(i32.const 2)"), "speaks version 2 of the ABI, and orchd 1"),
        (module(memory='(memory (export "m") 1)'), "exports no memory"),
        (module(memory='(memory (export "memory") i64 1)'), "cannot be compiled"),
        (module(memory='(memory (export "memory") 1 1 shared)'), "cannot be compiled"),
        (module(RELAXED), "cannot be compiled"),
        (bytes(wasmtime.wat2wasm('(module (memory (export "memory") 1))')),
         "exports no function orchd_abi_version"),
        (bytes(wasmtime.wat2wasm(
            '(module (memory (export "memory") 1) (func (export "orchd_abi_version"))'
            '(func (export "orchd_alloc")) (func (export "orchd_decide")))')),
         "exports orchd_abi_version that is not () -> i32"),
    ],
)  # fmt: skip
def test_what_is_no_plugin_is_refused_when_it_is_loaded(code: bytes, said: str) -> None:
    with pytest.raises(PluginError) as caught:
        plugin(code)
    assert said in str(caught.value)


@pytest.mark.req("POLICY-4021")
def test_a_file_is_the_one_that_was_meant(tmp_path) -> None:
    with pytest.raises(PluginError, match="cannot be read from"):
        read(tmp_path / "none.wasm")
    (tmp_path / "big.wasm").write_bytes(b"\0" * (MAX_FILE + 1))
    with pytest.raises(PluginError, match="larger than 4 MiB"):
        read(tmp_path / "big.wasm")
    with pytest.raises(PluginError, match="another file: its sha256 is e3b0c442"):
        check_same(b"", "0" * 64)


@pytest.mark.req("POLICY-4003")
def test_what_counts_its_calls_counts_to_one() -> None:
    """In a global and in memory: both are new for each decision."""
    it = plugin(module(COUNTER, more="(global $n (mut i32) (i32.const 0))"))
    assert [it.decide(question()).allowed for _ in range(5)] == [True] * 5


@pytest.mark.req("POLICY-4003")
@pytest.mark.parametrize(
    ("made", "one_form"),
    [
        ("(i64.reinterpret_f64 (f64.div (f64.const 0) (f64.const 0)))", "0x7ff8000000000000"),
        ("(i64.reinterpret_f64 (f64.sqrt (f64.const -1)))", "0x7ff8000000000000"),
        ("(i64.reinterpret_f64 (f64.add (f64.const 1) (f64.const -nan:0x8000000000123)))",
         "0x7ff8000000000000"),
        ("(i64.extend_i32_u (i32.reinterpret_f32 (f32.mul (f32.const inf) (f32.const 0))))",
         "0x7fc00000"),
        ("(i64.extend_i32_u (i32.reinterpret_f32 (f32.min (f32.const nan:0x400123)"
         " (f32.const 1))))", "0x7fc00000"),
    ],
)  # fmt: skip
def test_a_nan_has_one_form_however_it_was_made(made: str, one_form: str) -> None:
    """Processors differ in its sign and payload, and a module can look at both."""
    code = f"(if (i64.ne {made} (i64.const {one_form})) (then (return {answer(2)}))) {answer(1)}"
    assert plugin(module(code)).decide(question()).allowed


TEXTS = st.text(st.characters(codec="utf-8"), max_size=40)
QUESTIONS = st.builds(
    Question,
    what=st.sampled_from(What),
    time_unix_s=st.integers(0, 2**40).map(Count),
    minute_of_day=st.integers(0, 1439).map(Count),
    weekday=st.integers(0, 6).map(Count),
    size_bytes=st.none() | st.integers(0, 2**53).map(Count),
    port=st.integers(0, 65535).map(Count),
    max_tokens=st.integers(0, 2**53).map(Count),
    ctx=st.integers(0, 2**53).map(Count),
    **dict.fromkeys(abi.STRINGS, TEXTS),
)
HASH = (  # FNV over every byte of the room: any byte that differs may change the verdict
    "(local $i i32) (local $h i32) (local.set $h (i32.const 5381))"
    "(loop (local.set $h (i32.xor (i32.mul (local.get $h) (i32.const 33))"
    f" (i32.load8_u (i32.add (local.get $i) (i32.const {ROOM_AT})))))"
    "(br_if 0 (i32.lt_u (local.tee $i (i32.add (local.get $i) (i32.const 1))) (i32.const 4000))))"
    f"(if (i32.and (local.get $h) (i32.const 1)) (then (return {answer(2)})))" + answer(1)
)
HASHING = plugin(module(HASH, more="(global $n (mut i32) (i32.const 0))"), "word")


@pytest.mark.req("POLICY-4003")
@settings(max_examples=40, deadline=None)
@given(QUESTIONS, QUESTIONS)
def test_the_same_question_has_the_same_answer_whatever_was_asked_between(
    one: Question, other: Question
) -> None:
    first = HASHING.decide(one)
    HASHING.decide(other)
    assert HASHING.decide(one) == first  # its fuel too
    assert (
        plugin(module(HASH, more="(global $n (mut i32) (i32.const 0))"), "word").decide(one)
        == first
    )


def test_threads_decide_beside_each_other() -> None:
    found: list[Decision] = []
    several = [
        threading.Thread(target=lambda: found.extend(HASHING.decide(question()) for _ in range(20)))
        for _ in range(4)
    ]
    for thread in several:
        thread.start()
    for thread in several:
        thread.join(30)
    assert len(found) == 80
    assert set(found) == {HASHING.decide(question())}


@pytest.mark.req("POLICY-4014")
def test_a_question_past_its_bound_is_not_asked() -> None:
    with pytest.raises(PluginError, match="was not asked"):
        plugin().decide(question(path="x" * abi.MAX_QUESTION))


@pytest.mark.req("POLICY-4011")
def test_it_runs_where_nothing_may_become_executable() -> None:
    """As in orchd.service: MemoryDenyWriteExecute=. The kernel's own form of it, prctl(2)."""
    code = (
        "import ctypes, sys\n"
        "if ctypes.CDLL(None).prctl(65, 1, 0, 0, 0): sys.exit(9)\n"  # PR_SET_MDWE, Linux 6.3
        "from tests.policy.modules import plugin, question\n"
        "assert plugin().decide(question()).allowed\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], check=False, capture_output=True, text=True, timeout=60
    )
    if done.returncode == 9:
        pytest.skip("this kernel has no PR_SET_MDWE (Linux 6.3)")
    assert done.returncode == 0, done.stderr


def test_bounds_are_of_one_decision_and_not_of_all() -> None:
    it = Plugin(module(), bounds(fuel=200))
    assert all(it.decide(question()).allowed for _ in range(100))
