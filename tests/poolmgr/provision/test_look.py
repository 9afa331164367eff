"""What is read of a machine by somebody to whom a part of it is closed."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from poolmgr.provision.machine.look import look
from tests.lab.needs import ROOT, require
from tests.poolmgr.provision.making import MODES, pool

NOBODY = 65534


@pytest.fixture
def closed() -> Iterator[Path]:
    """A folder with a cache in it that root alone may enter, as /var/cache/orchd is poolmgr's."""
    require((ROOT,))
    with TemporaryDirectory(prefix="lab-closed-") as name:
        folder = Path(name, "closed")
        (folder / "engines").mkdir(parents=True)
        Path(name).chmod(0o755)
        folder.chmod(0o700)
        yield folder


@pytest.mark.req("ORCH-3205")
@pytest.mark.parametrize("units", [False, True])
async def test_a_cache_that_is_closed_to_who_asks_is_in_the_way(
    closed: Path, tmp_path: Path, units: bool
) -> None:
    """A plan is for anybody to ask for."""
    wanted = pool(tmp_path, MODES["binary"])
    os.setresuid(NOBODY, NOBODY, 0)
    try:
        facts = await look(wanted, closed / "engines", (), None, units=units)
    finally:
        os.setresuid(0, 0, 0)
    assert facts.cache_problem is not None
    assert facts.cache_problem.endswith(f"may not write into {closed}")
    assert facts.free_bytes is not None
