"""Images with a real podman, rootful and rootless: pinned, and run as a pool's engine.

The image has the real llama-server, imported from a tarball; the GPU is a CDI device that is none,
and the stub of the driver's library.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from orchd.wire.errors import TABLE, Kind
from tests.lab.cache import Cache
from tests.lab.llama import LlamaBuild, needs_of, tiny_model
from tests.lab.needs import CONTAINERS, FAKE_NVML, require
from tests.lab.nvml import FakeNvml, uuid_of
from tests.lab.podman import DEVICE, IMAGE, UID, Podman, import_llama, llama_tar
from tests.poolmgr.provision.bringing import Done, Place, finished

pytestmark = [pytest.mark.slow, pytest.mark.engine, pytest.mark.timeout(300)]


@pytest.fixture(scope="module")
def tar(lab_cache: Cache) -> Iterator[Path]:
    """The image's content, where every user may read it."""
    require((*CONTAINERS, *FAKE_NVML, *needs_of(LlamaBuild.DEBIAN)))
    with TemporaryDirectory(prefix="lab-image-") as folder:
        Path(folder).chmod(0o755)
        yield llama_tar(lab_cache, Path(folder))


class Contained:
    """A place whose podman has the image."""

    def __init__(self, folder: Path, uid: int, fake: FakeNvml, cache: Cache, tar: Path) -> None:
        self.fake = fake
        self.podman = Podman(folder, uid, (uuid_of(0), uuid_of(1)))
        self.podman.prepare()
        self.digest = import_llama(self.podman, cache, tar)
        self.place = Place(folder, {**fake.env, **self.podman.env})
        for name in ("cache", "run", "state"):
            (folder / name).mkdir()
            os.chown(folder / name, uid, uid)
        self.model = folder / "model.gguf"
        self.model.write_bytes(tiny_model(cache=cache).read_bytes())

    def configure(self, container: str) -> None:
        path = self.place.write(f'mode = "container"\ncontainer = {{ {container} }}')
        text = path.read_text().replace("/models/m.gguf", str(self.model))
        path.write_text(text.replace("ctx = 4096", "ctx = 2048"))

    def start(self, *argv: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            self.podman.inside(argv),
            env=self.place.environment() | {"ORCHD_LOG": "json"},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=Path(__file__).parents[3],
        )

    def provision(self, *more: str) -> Done:
        return finished(self.start(*self.place.argv("provision", *more)))


@pytest.fixture(params=[0, UID], ids=["rootful", "rootless"])
def contained(request, tar, lab_cache) -> Iterator[Contained]:
    with TemporaryDirectory(prefix="lab-podman-") as name:
        folder = Path(name)
        folder.chmod(0o755)
        fake = FakeNvml.create(lab_cache, folder / "nvml")
        one = Contained(folder, request.param, fake, lab_cache, tar)
        try:
            yield one
        finally:
            one.podman.run("rm", "--all", "--force", "--time", "0")
            subprocess.run(
                one.podman.inside(["podman", "unshare", "rm", "-rf", str(folder / "storage")]),
                env={**os.environ, **one.podman.env}, cwd="/", capture_output=True, check=False,
            )  # fmt: skip
            one.podman.end()


def wait_for(what, condition, wait_s=15.0):
    until = time.monotonic() + wait_s
    while time.monotonic() < until:
        if found := condition():
            return found
        time.sleep(0.05)
    raise AssertionError(f"no {what} within {wait_s} s")


def health(socket: Path) -> dict[str, object]:
    done = subprocess.run(
        ["curl", "-s", "--max-time", "3", "--unix-socket", str(socket), "http://pool/health"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    return json.loads(done.stdout) if done.stdout else {}


@pytest.mark.req("ORCH-3801", "ORCH-3802", "ORCH-3440", "ORCH-3805", "ORCH-3803", "ORCH-3420")
def test_an_image_is_pinned_and_runs_as_the_engine_of_its_pool(contained: Contained) -> None:
    place, podman = contained.place, contained.podman
    # a tag alone: a warning, and the digest that it has
    contained.configure(f'image = "{IMAGE}", tag = "b1"')
    done = contained.provision()
    assert done.code == 0, done.events
    assert "image_not_pinned" in done.names()
    assert "engine_pull" not in done.names()  # it is here: nobody is asked
    (by_tag,) = place.entries().values()
    assert by_tag.image is not None
    assert (by_tag.image.tag, by_tag.image.digest) == ("b1", contained.digest)
    assert by_tag.artifacts == (f"{IMAGE}@{contained.digest}",)
    contained.configure(f'image = "{IMAGE}", digest = "{contained.digest}"')
    assert "image_not_pinned" not in contained.provision().names()

    replica = contained.start(sys.executable, "-m", "poolmgr", "llama:0", "--config",
                              str(place.folder / "orchd.toml"), "--log", "json")  # fmt: skip
    try:
        name = wait_for("container", lambda: podman.run("ps", "--format", "{{.Names}}"))
        pid = int(podman.run("inspect", "--format", "{{.State.Pid}}", name))
        contained.fake.follow_process(0, pid, 600)
        socket = place.folder / "run/poolmgr/llama:0.sock"
        ready = wait_for("ready pool", lambda: (h := health(socket)).get("ready") and h)
        assert ready["gpu_proof"] == "verified"
        assert ready["engine_digest"] == contained.digest
        seen = Path(f"/proc/{pid}/environ").read_text().split("\0")
        assert f"CUDA_VISIBLE_DEVICES={uuid_of(0)}" in seen
        # its device by CDI, and no other
        assert f"LAB_GPU_0={uuid_of(0)}" in seen
        assert not [word for word in seen if word.startswith("LAB_GPU_1")]
        assert Path(f"/proc/{pid}/root{DEVICE}").is_char_device()
        status = Path(f"/proc/{pid}/status").read_text()
        assert f"Uid:\t{podman.uid}\t" in status
        assert "CapEff:\t0000000000000000" in status
        assert "NoNewPrivs:\t1" in status
        mounts = Path(f"/proc/{pid}/mountinfo").read_text().splitlines()
        (models,) = [line for line in mounts if f" {place.folder} " in line]
        assert models.split()[5].startswith("ro")
        assert "eth0" not in Path(f"/proc/{pid}/net/dev").read_text()
        # killed: the guard outlives it, and ends the container
        replica.kill()
        wait_for("end of the engine", lambda: not Path(f"/proc/{pid}").exists())
        wait_for("end of the container", lambda: not podman.run("ps", "--all", "--quiet"))
    finally:
        replica.kill()
        print(replica.communicate()[1][-4000:])


@pytest.mark.req("ORCH-3803")
def test_a_gpu_without_a_cdi_device_is_told_before_anything(contained: Contained) -> None:
    (contained.podman.folder / "etc/cdi/nvidia.json").write_text("{}")
    contained.configure(f'image = "{IMAGE}", digest = "{contained.digest}"')
    done = contained.provision()
    assert done.code == TABLE[Kind.PROVISION_FAILED].exit_code
    assert f"no CDI specification names nvidia.com/gpu={uuid_of(0)}" in done.last()
    assert "sudo nvidia-ctk cdi generate" in done.last()


def test_in_a_closed_unit_rootless_podman_is_refused_with_the_way_out(contained: Contained) -> None:
    if not contained.podman.uid:
        pytest.skip("root needs no setuid program")
    contained.configure(f'image = "{IMAGE}", digest = "{contained.digest}"')
    assert contained.provision().code == 0
    done = finished(contained.start("setpriv", "--no-new-privs", sys.executable, "-m", "poolmgr",
                    "llama:0", "--config", str(contained.place.folder / "orchd.toml")))  # fmt: skip
    assert done.code == TABLE[Kind.ENGINE_START_FAILED].exit_code
    assert "its image is in a user's own storage" in done.last()
    assert "sudo orchctl provision llama" in done.last()
    assert "orchctl up" in done.last()
