"""What running out of VRAM has taught: with so much free, this engine did not load. Pure.

A lesson holds for one model, engine, context and mask; any change of them begins anew. The file
that keeps lessons is provision/models/lessons.py's.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

from attrs import evolve, frozen

from orchd.wire.ids import Count, Positive, Text
from poolmgr.core.gpus import Gpu

STEP_BYTES: Final = 256 << 20
"""How much more has to be free before the same is tried again. How much was missing nobody says:
the allocation that failed may have been the last of many, or the first."""
MAX_LESSONS: Final = 64
"""Kept of one replica; the oldest goes."""
_DEVICE: Final = re.compile(r"on device (\d{1,3})\b")


@frozen(kw_only=True)
class Key:
    """What a lesson is about."""

    model: Text
    """Its digest, else its file's name, size and time of change."""
    engine: Text
    """Its program's path, size and time of change, and its arguments."""
    ctx: Positive
    slots: Positive
    mask: Text


@frozen(kw_only=True)
class Lesson:
    """One engine, one GPU."""

    key: Key
    gpu: Count
    at_least_bytes: Positive
    """With less than this it is not tried again."""


@frozen(kw_only=True)
class Lessons:
    """All of a replica, oldest first."""

    lessons: tuple[Lesson, ...] = ()

    def recall(self, key: Key) -> Mapping[int, int]:
        """Return, by GPU index, what must be free."""
        return {one.gpu: one.at_least_bytes for one in self.lessons if one.key == key}

    def learn(self, key: Key, gpu: Gpu, free_bytes: int) -> Lessons:
        """Return them with one more: with `free_bytes` of `gpu` free the engine ran out."""
        known = self.recall(key).get(gpu.index, 0)
        least = Positive(max(known, free_bytes + STEP_BYTES))
        rest = [one for one in self.lessons if (one.key, one.gpu) != (key, gpu.index)]
        new = Lesson(key=key, gpu=Count(gpu.index), at_least_bytes=least)
        return evolve(self, lessons=(*rest, new)[-MAX_LESSONS:])


def which(line: str, gpus: tuple[Gpu, ...]) -> Gpu:
    """Return the GPU whose memory ran out: the one that the engine names, else the fullest.

    CUDA numbers the GPUs in the order of CUDA_VISIBLE_DEVICES, which is the mask's.
    """
    said = _DEVICE.search(line)
    if said is not None and int(said[1]) < len(gpus):
        return gpus[int(said[1])]
    return min(gpus, key=lambda gpu: gpu.free_bytes)
