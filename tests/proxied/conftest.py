"""What these tests take from other rooms: orchctl in this process, a place to bring engines to."""

from __future__ import annotations

from tests.cli.conftest import folder, orchctl
from tests.poolmgr.provision.conftest import llama_repository, place

__all__ = ["folder", "llama_repository", "orchctl", "place"]
