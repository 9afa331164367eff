"""Identifiers and quantities: what a string or a number means once it has been checked.

The checks themselves (ranges, UUID form) are in codec.py; here are the names, and the device mask.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import NewType, TypeVar

from attrs import field, frozen

TaskId = NewType("TaskId", str)
SessionId = NewType("SessionId", str)
PoolId = NewType("PoolId", str)
EngineId = NewType("EngineId", str)
ReplicaId = NewType("ReplicaId", str)
"""`POOL:MASK`, for example `demo:0` or `big:0_1`: also the systemd instance name of its poolmgr."""
JobNo = NewType("JobNo", int)
"""A job's number on one link, 1..2**32-1, never used twice on a link (wire/link.py)."""

Count = NewType("Count", int)
"""An integer >= 0."""
Positive = NewType("Positive", int)
"""An integer > 0."""
Int64 = NewType("Int64", int)
"""A signed 64-bit integer."""
NonNegative = NewType("NonNegative", float)
"""A finite number >= 0 (JSON numbers with or without a point)."""
Text = NewType("Text", str)
"""A string of 1 to 4096 characters."""
ModelId = NewType("ModelId", str)
"""The name of a model in the catalog; its file is called so, and it leads nowhere else."""
Digest = NewType("Digest", str)
"""`sha256:` and 64 hex digits in lower case."""
ArtifactId = NewType("ArtifactId", str)
"""32 hex digits, made from what was stored (wire/artifacts.py)."""
Tag = NewType("Tag", str)
"""A short word without spaces, for finding things again."""

_Plain = TypeVar("_Plain", int, float, str)
_Checked = TypeVar("_Checked")


def known(unit: Callable[[_Plain], _Checked], value: _Plain | None) -> _Checked | None:
    """Return a value under its name (`known(Count, pid)`); None stays None: it is not known."""
    return None if value is None else unit(value)


MODEL_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
ARTIFACT_ID = re.compile(r"[0-9a-f]{32}")
TAG = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:/@=+-]{0,127}")

POOL_ID = re.compile(r"[a-z0-9][a-z0-9-]{0,62}")
"""Lower case, digits and dashes: what a systemd instance name holds without escaping."""

MASK = re.compile(r"(0|[1-9][0-9]?)(_[1-9][0-9]?)*")
"""Plain digits without a zero before them: one mask has one name, and so one socket."""

MAX_DEVICES = 64  # NVML itself enumerates far fewer on a workstation


@frozen(order=True)
class DeviceMask:
    """The GPUs one replica may touch: ascending NVML indices, at least one, no repeats."""

    indices: tuple[int, ...] = field()

    @indices.validator
    def _check(self, _attribute: object, value: tuple[int, ...]) -> None:
        if not value:
            raise ValueError("a device mask names at least one GPU")
        if list(value) != sorted(set(value)):
            raise ValueError("a device mask lists each GPU once, in ascending order")
        if value[0] < 0 or value[-1] >= MAX_DEVICES:
            raise ValueError(f"GPU indices run from 0 to {MAX_DEVICES - 1}")

    def __str__(self) -> str:
        """Return `0` or `0_2`: `_` because systemd would escape a comma in an instance name."""
        return "_".join(str(i) for i in self.indices)

    @classmethod
    def parse(cls, text: str) -> DeviceMask:
        """Read what `str()` wrote. Raises ValueError."""
        if not MASK.fullmatch(text):
            raise ValueError(f"{text!r} is not a device mask such as 0 or 0_1")
        return cls(tuple(int(part) for part in text.split("_")))


def replica_id(pool: PoolId, mask: DeviceMask) -> ReplicaId:
    """Return the name of the replica of `pool` on `mask`."""
    return ReplicaId(f"{pool}:{mask}")


def parse_replica_id(text: str) -> tuple[PoolId, DeviceMask]:
    """Split `POOL:MASK`. Raises ValueError that says what the form is."""
    pool, colon, mask = text.partition(":")
    if not colon or not POOL_ID.fullmatch(pool):
        raise ValueError(f"{text!r} is not POOL:MASK, such as demo:0 or big:0_1")
    return PoolId(pool), DeviceMask.parse(mask)
