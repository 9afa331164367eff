"""The adapter of a Text Generation Inference of others. What it says is dialects/tgi.py.

It is external always: it listens on TCP only, and poolmgr starts nothing that others could reach.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from orchd.wire.ids import EngineId
from poolmgr.dialects.tgi import TgiServer
from poolmgr.engines.base import NotStarted

if TYPE_CHECKING:
    from orchd.config.pool import Pool


class Tgi(NotStarted, TgiServer):
    """One such server. Has the methods of engines.base.Adapter."""

    engine_id = EngineId("tgi")

    def __init__(self, pool: Pool) -> None:
        super().__init__(profile=pool.engine.sampler_profile_version)
