"""Where an engine runs, by NVML's lists."""

from __future__ import annotations

import pytest

from orchd.wire.errors import Kind, OrchError
from orchd.wire.ids import DeviceMask
from orchd.wire.snapshot import GpuProof
from poolmgr.core.gpus import Gpu, GpuProcess
from poolmgr.core.proof import prove

ENGINE = frozenset({100, 101})


def gpus(*pids_of_each: tuple[int, ...] | None) -> tuple[Gpu, ...]:
    return tuple(
        Gpu(
            index=index,
            uuid=f"GPU-{index}",
            name="RTX",
            total_bytes=1,
            used_bytes=0,
            processes=None if pids is None else tuple(GpuProcess(pid, "x", 1) for pid in pids),
        )
        for index, pids in enumerate(pids_of_each)
    )


def mask(*indices: int) -> DeviceMask:
    return DeviceMask(indices)


@pytest.mark.req("OC-POOL-3012", "ORCH-1102")
@pytest.mark.parametrize("listed", [((),), ((7, 8),)])
def test_an_engine_on_no_gpu_fell_back_to_the_cpu(listed: tuple[tuple[int, ...], ...]) -> None:
    with pytest.raises(OrchError) as caught:
        prove(gpus(*listed), ENGINE, mask(0), attested=False)
    assert caught.value.kind is Kind.CPU_FALLBACK
    assert "GPU 0" in caught.value.message


@pytest.mark.req("OC-POOL-3012")
def test_exactly_the_mask_is_verified_by_any_process_of_the_tree() -> None:
    seen = gpus((7, 101), (100,), (7,))
    assert prove(seen, ENGINE, mask(0, 1), attested=False) is GpuProof.VERIFIED
    assert prove(seen, ENGINE, mask(0, 1), attested=True) is GpuProof.VERIFIED


@pytest.mark.req("ORCH-3052", "OC-POOL-3020")
@pytest.mark.parametrize("attested", [True, False])
def test_an_engine_beside_its_mask_is_refused_whatever_was_attested(attested: bool) -> None:
    with pytest.raises(OrchError) as caught:
        prove(gpus((100,), (101,)), ENGINE, mask(0), attested=attested)
    assert caught.value.kind is Kind.GPU_MISMATCH
    assert caught.value.message == "the engine holds memory of GPU 1, and the mask is 0"


def holding(*sizes: int | None, used: int = 0) -> tuple[Gpu, ...]:
    """Each GPU with the engine on it, holding so many bytes, and another process with 7."""
    return tuple(
        Gpu(
            index=index, uuid=f"GPU-{index}", name="RTX", total_bytes=1000, used_bytes=used,
            processes=(GpuProcess(100, "x", size), GpuProcess(7, "y", 7)),
        )
        for index, size in enumerate(sizes)
    )  # fmt: skip


@pytest.mark.req("OC-POOL-3012", "ORCH-1102")
@pytest.mark.parametrize(
    ("seen", "floors", "floor", "kind"),
    [
        (holding(90), (90,), 90, None),
        (holding(89), (90,), 90, Kind.CPU_FALLBACK),
        (holding(60, 30), (), 90, None),  # by free memory: the sum counts
        (holding(60, 29), (), 90, Kind.CPU_FALLBACK),
        (holding(80, 10), (22, 22), 90, Kind.GPU_MISMATCH),
        (holding(None, used=97), (90,), 90, None),  # NVML names no size: what is in use
        (holding(None, used=96), (90,), 90, Kind.CPU_FALLBACK),
    ],
)
def test_the_memory_has_to_fit_the_weights(
    seen: tuple[Gpu, ...], floors: tuple[int, ...], floor: int, kind: Kind | None
) -> None:
    every = mask(*range(len(seen)))
    if kind is None:
        proof = prove(seen, ENGINE, every, attested=False, floors=floors, floor=floor)
        assert proof is GpuProof.VERIFIED
        return
    with pytest.raises(OrchError) as caught:
        prove(seen, ENGINE, every, attested=False, floors=floors, floor=floor, why="no CUDA")
    assert caught.value.kind is kind
    assert caught.value.message.endswith(": no CUDA") is (kind is Kind.CPU_FALLBACK)


@pytest.mark.req("OC-POOL-3021")
def test_a_gpu_of_the_mask_that_is_not_used_is_named() -> None:
    with pytest.raises(OrchError) as caught:
        prove(gpus((100,), ()), ENGINE, mask(0, 1), attested=False)
    assert caught.value.kind is Kind.GPU_MISMATCH
    assert "of GPU 0 and none of GPU 1" in caught.value.message


@pytest.mark.req("OC-POOL-3012", "ORCH-3052")
@pytest.mark.parametrize(
    ("listed", "pids"), [(((7,),), None), ((None,), ENGINE), (((100,), None), ENGINE)]
)
def test_what_cannot_be_seen_needs_the_operators_word(
    listed: tuple[tuple[int, ...] | None, ...], pids: frozenset[int] | None
) -> None:
    assert prove(gpus(*listed), pids, mask(0), attested=True) is GpuProof.ATTESTED
    with pytest.raises(OrchError) as caught:
        prove(gpus(*listed), pids, mask(0), attested=False)
    assert caught.value.kind is Kind.NOT_ATTESTED
