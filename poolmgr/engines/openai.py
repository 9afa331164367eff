"""The adapter of any OpenAI-compatible server that somebody else runs. What it says is dialects'.

It is external always: what we start ourselves has an adapter of its own. Its version is what the
configuration pins, as such a server tells none.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from orchd.config.pool import Api
from orchd.wire.ids import EngineId
from poolmgr.dialects.openai_server import OpenAiServer
from poolmgr.engines.base import NotStarted

if TYPE_CHECKING:
    from orchd.config.pool import Pool

BASE = "/v1"
"""The path before each route where the URL has none."""


class OpenAi(NotStarted, OpenAiServer):
    """One such server. Has the methods of engines.base.Adapter."""

    engine_id = EngineId("openai")

    def __init__(self, pool: Pool) -> None:
        engine, url = pool.engine, pool.provisioning.url or ""
        path = "" if url.startswith("unix:") else url.partition("://")[2].partition("/")[2]
        base = path.strip("/")
        super().__init__(
            engine.served_name or pool.model.ref,
            base=f"/{base}" if base else BASE,
            form="chat" if engine.api is Api.CHAT else "completions",
            profile=engine.sampler_profile_version,
            version=engine.version or "unknown",
        )
