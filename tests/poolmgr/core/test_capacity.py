"""What running out of memory teaches, and what each end of an engine is called."""

from __future__ import annotations

import pytest
from attrs import evolve

from orchd.wire.errors import Kind
from orchd.wire.ids import Positive, Text
from poolmgr.core.capacity import MAX_LESSONS, STEP_BYTES, Key, Lessons, which
from poolmgr.core.ending import Ending, judge
from poolmgr.core.fit import Need, check
from tests.poolmgr.core.test_fit import GIB, gpu, refused

KEY = Key(
    model=Text("sha256:1"), engine=Text("llamacpp b1"), ctx=Positive(4096), slots=Positive(1),
    mask=Text("0"),
)  # fmt: skip
NEED = Need(weights_bytes=4 * GIB, kv_bytes=0, gpu_overhead_bytes=0, ram_bytes=0)


@pytest.mark.req("ORCH-3039")
def test_what_ran_out_is_not_tried_with_as_little_again() -> None:
    eight = gpu(1, 8)
    check("m", NEED, (eight,), None, 0)
    known = Lessons().learn(KEY, eight, eight.free_bytes)
    taught = evolve(NEED, at_least=known.recall(KEY))
    message = refused(Kind.VRAM_SHORT, taught, (eight,), None, 0)
    assert message.startswith(
        "m.gguf needs 8.2 GiB (it ran out of memory with less), GPU 1 has 8.0 GiB free"
    )
    check("m", taught, (gpu(1, 12),), None, 0)  # with more free it is
    assert STEP_BYTES == 256 << 20


@pytest.mark.req("ORCH-3039")
def test_a_lesson_grows_and_is_about_one_engine_alone() -> None:
    one = gpu(0, 8)
    known = Lessons().learn(KEY, one, 5 * GIB).learn(KEY, one, 4 * GIB)
    assert known.recall(KEY) == {0: 5 * GIB + STEP_BYTES}
    assert known.learn(KEY, one, 6 * GIB).recall(KEY) == {0: 6 * GIB + STEP_BYTES}
    others = (
        {"ctx": Positive(2048)}, {"slots": Positive(2)}, {"mask": Text("1")}, {"model": Text("m")},
        {"engine": Text("llamacpp b2")},
    )  # fmt: skip
    for changes in others:
        assert known.recall(evolve(KEY, **changes)) == {}


def test_lessons_have_a_bound_and_the_oldest_goes() -> None:
    known = Lessons()
    for ctx in range(1, MAX_LESSONS + 3):
        known = known.learn(evolve(KEY, ctx=Positive(ctx)), gpu(0, 8), GIB)
    assert len(known.lessons) == MAX_LESSONS
    assert known.recall(evolve(KEY, ctx=Positive(2))) == {}
    assert known.recall(evolve(KEY, ctx=Positive(3)))


def test_the_gpu_that_ran_out_is_the_one_that_the_engine_names() -> None:
    pair = (gpu(2, 8, 7), gpu(5, 8, 1))
    line = "ggml_backend_cuda_buffer_type_alloc_buffer: allocating 1 MiB on device 1: cudaMalloc"
    assert which(line, pair).index == 5
    assert which("CUDA error: out of memory", pair).index == 2
    assert which("on device 9", pair).index == 2


@pytest.mark.req("ORCH-3039")
@pytest.mark.parametrize(
    ("facts", "kind", "words"),
    [
        ({"oom_line": "cudaMalloc failed"}, Kind.VRAM_SHORT, "ran out of VRAM while it loaded"),
        (
            {"oom_line": "CUDA error", "was_ready": True, "own_oom_kills": 1},
            Kind.VRAM_SHORT,
            "ran out of VRAM while it served",
        ),
        ({"code": -9, "own_oom_kills": 1}, Kind.RAM_SHORT, "memory.events"),
        ({"code": 1, "own_oom_kills": 1}, Kind.RAM_SHORT, "host memory ran out"),
        ({"code": -9, "machine_oom_kills": 2}, Kind.RAM_SHORT, "/proc/vmstat"),
        (
            {"code": -9, "own_oom_kills": 0, "machine_oom_kills": 2},
            Kind.ENGINE_START_FAILED,
            "counted no kill for memory",
        ),
        ({"code": -9, "was_ready": True}, Kind.ENGINE_DIED, "by a person, or by a program"),
        ({"code": 1, "machine_oom_kills": 2}, Kind.ENGINE_START_FAILED, "before it served"),
        ({"code": 0, "was_ready": True}, Kind.ENGINE_EXITED, "nobody here asked it to"),
        ({"code": -6, "cuda_line": "CUDA error: unknown error"}, Kind.CUDA_ERROR, "unknown error"),
    ],
)
def test_an_end_is_told_by_its_cause(facts: dict[str, object], kind: Kind, words: str) -> None:
    ending = Ending(**({"words": "ended", "code": 1, "was_ready": False} | facts))  # type: ignore[arg-type]
    got, said = judge(ending)
    assert got is kind
    assert words in said
