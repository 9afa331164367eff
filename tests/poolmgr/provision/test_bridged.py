"""An engine that listens on TCP only, in a container that a real podman runs: behind the bridge.

The image is a Debian with Python, and the stand-in for TGI in it; no image of TGI is to be had.
Not here: the bridge's own cases (tests/poolmgr/test_bridge.py).
"""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from orchd.wire.engines import PreparedEngine
from orchd.wire.ids import Text
from poolmgr.engines.base import Finished, Load
from poolmgr.engines.registry import adapter
from poolmgr.provision.models.models import Staged
from poolmgr.provision.starting.plan import plan
from tests.engines.servers import Running, job, until
from tests.lab.cache import Cache
from tests.lab.needs import CONTAINERS, MMDEBSTRAP, require
from tests.lab.nvml import uuid_of
from tests.lab.podman import Podman
from tests.lab.rootfs import Suite, rootfs
from tests.lab.tgi import install_tgi
from tests.lab.vllm import tiny_hf
from tests.poolmgr.provision.test_models import pool

pytestmark = [pytest.mark.slow, pytest.mark.engine, pytest.mark.timeout(120)]
START_S = 30.0
ENTRY = (
    "#!/bin/sh\necho the entry point is run\nPATH=/opt/tgi:$PATH exec text-generation-launcher $@\n"
)


@pytest.fixture
def folder() -> Iterator[Path]:
    """Short, as a socket is in it."""
    with TemporaryDirectory(prefix="lab-") as name:
        yield Path(name)


@pytest.mark.req("ORCH-3056", "ORCH-3801", "OC-ADAPT-5002")
def test_the_python_of_an_image_runs_the_bridge(folder: Path, lab_cache: Cache) -> None:
    require((*CONTAINERS, MMDEBSTRAP))
    podman = Podman(folder / "podman", 0, (uuid_of(0),))
    podman.prepare()
    install_tgi(folder / "tgi", "/usr/bin/python3")
    entry = folder / "entry.sh"
    entry.write_text(ENTRY)
    entry.chmod(0o755)
    socket = folder / "p:0.engine.sock"
    mine = pool(str(tiny_hf()), "tgi")
    image = PreparedEngine(
        name=mine.engine.id, version=Text("3"), build_ref=Text("r"), mode=Text("container"),
        entry=Text("an-image"), runtime=Text("/usr/bin/podman"), workdir=Text("/"),
        engine_catalog_id=Text("x"),
    )  # fmt: skip
    made = plan(mine, adapter(mine), Staged("m", tiny_hf(), 1), socket, (uuid_of(0),), image)
    assert made.argv is not None
    assert made.target.path is not None
    made.target.path.parent.mkdir()
    # a tree in the place of an image, with what an image of TGI has
    at = made.argv.index("an-image")
    more = [
        "--rootfs",
        f"--mount=type=bind,source={folder}/tgi,target=/opt/tgi,readonly",
        f"--mount=type=bind,source={entry},target=/tgi-entrypoint.sh,readonly",
        f"{rootfs(Suite.TRIXIE, lab_cache)}:O",
    ]
    argv = podman.inside([*made.argv[:at], *more, *made.argv[at + 1 :]])
    log = folder / "log"
    with log.open("wb") as output:
        child = subprocess.Popen(
            argv, env={**os.environ, **podman.env}, cwd="/", stdout=output, stderr=output
        )
    try:
        server = Running("tgi", adapter(mine), made.target.path, child.pid, mine.ctx)
        until(lambda: child.poll() is not None or server.load_state() is Load.SERVING, START_S)
        assert child.poll() is None, log.read_text()
        assert "the entry point is run" in log.read_text()
        asked = job("one two three", max_tokens=20, seed=5)
        outcome = server.run(asked)
        assert isinstance(outcome.end, Finished)
        assert (outcome.text, outcome.end.tokens_in, 20) == server.whole(asked)
        child.send_signal(signal.SIGTERM)
        assert child.wait(START_S) == 0
        assert podman.run("ps", "--all", "--quiet") == ""
    finally:
        subprocess.run(podman.inside(made.sweep), env={**os.environ, **podman.env}, check=False)
        child.kill()
        child.wait()
