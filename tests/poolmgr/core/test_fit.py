"""Needs against free memory, and what the messages say."""

from __future__ import annotations

import pytest
from attrs import evolve

from orchd.wire.errors import Kind, OrchError
from poolmgr.core.fit import Need, beside, check, floors, shares, without
from poolmgr.core.gpus import Gpu, GpuProcess, gib

GIB = 1 << 30


def gpu(
    index: int, total: float, used: float = 0, name: str = "RTX", *processes: GpuProcess
) -> Gpu:
    return Gpu(
        index=index,
        uuid=f"GPU-{index}",
        name=name,
        total_bytes=int(total * GIB),
        used_bytes=int(used * GIB),
        processes=processes,
    )


def need(weights: float | None, kv: float | None = 0, overhead: float = 0, ram: float = 0) -> Need:
    return Need(
        weights_bytes=None if weights is None else int(weights * GIB),
        kv_bytes=None if kv is None else int(kv * GIB),
        gpu_overhead_bytes=int(overhead * GIB),
        ram_bytes=int(ram * GIB),
    )


def refused(kind: Kind, *arguments: object) -> str:
    with pytest.raises(OrchError) as caught:
        check("m.gguf", *arguments)  # type: ignore[arg-type]
    assert caught.value.kind is kind
    return caught.value.message


@pytest.mark.req("ORCH-3003", "OC-POOL-3002")
def test_a_model_that_does_not_fit_is_told_with_figures_and_holders() -> None:
    full = gpu(
        1, 11.0, 3.9, "RTX", GpuProcess(7, "Xorg", GIB // 4), GpuProcess(9, "firefox", 4 * GIB)
    )
    message = refused(Kind.VRAM_SHORT, need(9.3, overhead=0.5), (full,), None, 64 * GIB)
    assert message == (
        "m.gguf needs 9.8 GiB, GPU 1 has 7.1 GiB free: 4.0 GiB used by firefox (pid 9), "
        "256 MiB used by Xorg (pid 7)"
    )


def test_one_that_fits_says_by_how_much_and_what_was_not_counted() -> None:
    said = check("m.gguf", need(4, kv=None, overhead=0.5), (gpu(0, 24, 2),), None, 64 * GIB)
    assert said == "m.gguf needs 4.5 GiB of 22.0 GiB free on GPU 0, KV cache not counted"
    said = check("m", need(None, kv=None), (gpu(0, 24),), None, 64 * GIB)
    assert said.endswith(", weights not counted, KV cache not counted")


def test_exactly_what_is_free_fits_and_a_byte_more_does_not() -> None:
    free = gpu(0, 8, 0)
    exact = Need(weights_bytes=8 * GIB, kv_bytes=0, gpu_overhead_bytes=0, ram_bytes=0)
    check("m", exact, (free,), None, 0)
    over = Need(weights_bytes=8 * GIB + 1, kv_bytes=0, gpu_overhead_bytes=0, ram_bytes=0)
    refused(Kind.VRAM_SHORT, over, (free,), None, 0)


@pytest.mark.req("ORCH-3003", "OC-POOL-3002")
def test_host_memory_is_checked_too() -> None:
    message = refused(Kind.RAM_SHORT, need(1, ram=2), (gpu(0, 24),), None, GIB)
    assert message == "the engine of m.gguf needs 2.0 GiB of host memory, 1.0 GiB are available"


@pytest.mark.req("ORCH-3003", "OC-POOL-3002")
def test_what_is_reserved_is_not_for_engines() -> None:
    desktop = evolve(gpu(0, 24, 2), reserved_bytes=2 * GIB)
    assert "needs 20.0 GiB of 20.0 GiB free on GPU 0" in check("m", need(20), (desktop,), None, 0)
    assert refused(Kind.VRAM_SHORT, need(20.5), (desktop,), None, 0) == (
        "m.gguf needs 20.5 GiB, GPU 0 has 22.0 GiB free, 2.0 GiB of it reserved: 2.0 GiB used"
    )


@pytest.mark.req("OC-CORE-1014")
def test_what_is_not_counted_is_said_with_its_reason() -> None:
    dark = evolve(need(4, kv=None), kv_why="no formula for architecture mamba", more=("adapters",))
    said = check("m", dark, (gpu(0, 24),), None, 64 * GIB)
    assert said.endswith(
        "KV cache not counted (no formula for architecture mamba), adapters not counted"
    )


@pytest.mark.req("OC-POOL-3012")
def test_the_floor_is_split_only_where_a_split_was_said() -> None:
    pair, whole = (gpu(0, 24), gpu(1, 24)), evolve(need(10), floor_bytes=9 * GIB)
    assert floors(whole, pair[:1], None) == (9 * GIB,)
    assert floors(whole, pair, None) == (0, 0)
    assert floors(whole, pair, (2, 1)) == (3 * GIB, int(1.5 * GIB))
    assert floors(evolve(whole, split=(1.0, 2.0)), pair, (2, 1)) == (int(1.5 * GIB), 3 * GIB)
    assert floors(need(10), pair, (2, 1)) == (0, 0)


@pytest.mark.req("OC-POOL-3021", "ORCH-3052")
def test_a_split_over_unlike_gpus_has_to_be_said() -> None:
    unlike = (gpu(0, 24, name="RTX 4090"), gpu(1, 12, name="RTX 3060"))
    message = refused(Kind.CONFIG_INVALID, need(1), unlike, None, GIB)
    assert "GPU 0 RTX 4090 24.0 GiB, GPU 1 RTX 3060 12.0 GiB" in message
    assert "tensor_split = [24, 12]" in message
    assert shares(unlike, (24, 12)) == pytest.approx((2 / 3, 1 / 3))


@pytest.mark.req("OC-POOL-3021")
def test_a_split_is_capped_by_the_gpu_that_is_full_first() -> None:
    pair = (gpu(0, 24, name="A"), gpu(1, 12, name="B"))
    message = refused(Kind.VRAM_SHORT, need(30), pair, (1, 1), 64 * GIB)
    assert "GPU 1 has 12.0 GiB free" in message
    assert "GPU 0" not in message
    assert "holds at most 24.0 GiB of model" in message
    assert check("m", need(30), pair, (2, 1), 64 * GIB)


def test_like_gpus_share_evenly_and_a_share_of_0_needs_nothing() -> None:
    pair = (gpu(0, 24), gpu(1, 24))
    assert shares(pair, None) == (0.5, 0.5)
    said = check("m", need(20, overhead=0.5), pair, (1, 0), 64 * GIB)
    assert "0 MiB of 24.0 GiB free on GPU 1" in said
    with pytest.raises(OrchError):
        shares(pair, (1.0,))


@pytest.mark.parametrize(("size", "text"), [(0, "0 MiB"), (GIB - 1, "1024 MiB"), (GIB, "1.0 GiB")])
def test_sizes_are_told_as_nvidia_smi_does(size: int, text: str) -> None:
    assert gib(size) == text


@pytest.mark.req("OC-CTRL-2003")
def test_beside_an_engine_its_cache_and_buffers_are_counted_once_more() -> None:
    # 10 GiB held, 7 of them weights: the new model of 6 will hold 9
    both = beside(need(6, kv=None, overhead=0.5), 10 * GIB, 7 * GIB)
    fits = check("m", both, (gpu(0, 24, 10),), None, GIB)
    assert fits == "m needs 9.0 GiB of 14.0 GiB free on GPU 0"
    assert "needs 9.0 GiB, GPU 0 has 8.0 GiB free" in refused(
        Kind.VRAM_SHORT, both, (gpu(0, 18, 10),), None, GIB
    )
    assert beside(need(6), 2 * GIB, 7 * GIB).kv_bytes == 0  # not loaded whole yet
    assert beside(need(6), 2 * GIB, None).kv_bytes == 2 * GIB


@pytest.mark.req("OC-CTRL-2003")
def test_without_an_engine_its_memory_is_free_and_that_of_others_is_not() -> None:
    gpus = without((gpu(0, 24, 20), gpu(1, 12, 5)), (15 * GIB, 9 * GIB))
    assert [each.used_bytes // GIB for each in gpus] == [5, 0]
