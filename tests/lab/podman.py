"""podman for tests: storage of its own, an image of the real llama-server, a CDI specification.

Here: rootful, or rootless as a user whom only the test's mount namespace knows; no network but none
and host. Not here: what the product does with it.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections.abc import Sequence
from pathlib import Path

from attrs import field, frozen

from tests.lab.cache import Cache
from tests.lab.llama import LlamaBuild, build_llama, cpu_backend

UID = 20777
DEVICE = "/dev/kmsg"
"""Stands for a GPU: a node of every host that no container has by itself."""
SUBIDS = "lab:300000:65536\n"
IMAGE = "localhost/lab-llama"
CONF = """
[engine]
runtime = "runc"
cgroup_manager = "cgroupfs"
events_logger = "file"
[containers]
default_ulimits = ["nofile=16384:16384", "nproc=16384:16384"]
"""
STORAGE = """
[storage]
driver = "vfs"
graphroot = "{0}/graph"
runroot = "{0}/runroot"
"""
# In a mount namespace: who the user is, and the CDI specification, without touching the host's.
INSIDE = r"""
set -e
etc=$1; uid=$2; shift 2
for name in passwd group subuid subgid; do
    touch /etc/$name 2>/dev/null || true
    mount --bind "$etc/$name" "/etc/$name"
done
[ -d /etc/cdi ] || mkdir -p /etc/cdi
mount --bind "$etc/cdi" /etc/cdi
[ "$uid" = 0 ] && exec "$@"
# the capability stands for a checkout and a Python that this user cannot read
exec setpriv --reuid="$uid" --regid="$uid" --clear-groups --inh-caps=+dac_read_search \
    --ambient-caps=+dac_read_search "$@"
"""


@frozen
class Podman:
    """A podman of the test's own."""

    folder: Path
    uid: int = 0
    devices: tuple[str, ...] = ()
    """UUIDs that the CDI specification names."""
    env: dict[str, str] = field(factory=dict)

    def prepare(self) -> None:
        """Write the files that make it."""
        etc, home, run = self.folder / "etc", self.folder / "home", self.folder / "xdg"
        for made in (etc / "cdi", home, run, self.folder / "storage"):
            made.mkdir(parents=True)
        lab = f"lab:x:{UID}:{UID}::{home}:/bin/sh\n"
        (etc / "passwd").write_text(Path("/etc/passwd").read_text() + lab)
        (etc / "group").write_text(Path("/etc/group").read_text() + f"lab:x:{UID}:\n")
        for name in ("subuid", "subgid"):
            (etc / name).write_text(SUBIDS)
        nodes = [{"path": DEVICE}]
        spec = {
            "cdiVersion": "0.5.0",
            "kind": "nvidia.com/gpu",
            "devices": [
                {
                    "name": uuid,
                    "containerEdits": {"deviceNodes": nodes, "env": [f"LAB_GPU_{index}={uuid}"]},
                }
                for index, uuid in enumerate(self.devices)
            ],
        }
        (etc / "cdi/nvidia.json").write_text(json.dumps(spec))
        (self.folder / "containers.conf").write_text(CONF)
        (self.folder / "storage.conf").write_text(STORAGE.format(self.folder / "storage"))
        if self.uid:
            for owned in (home, run, self.folder / "storage"):
                os.chown(owned, self.uid, self.uid)
        run.chmod(0o700)
        self.env.update(
            HOME=str(home),
            XDG_RUNTIME_DIR=str(run),
            CONTAINERS_CONF=str(self.folder / "containers.conf"),
            CONTAINERS_STORAGE_CONF=str(self.folder / "storage.conf"),
        )

    def inside(self, argv: Sequence[str]) -> list[str]:
        """The command that runs `argv` as this podman's user, with its files in their places."""
        alone = ["unshare", "--mount", "--propagation", "private", "sh", "-c", INSIDE, "sh"]
        return [*alone, str(self.folder / "etc"), str(self.uid), *argv]

    def run(self, *argv: str) -> str:
        """Run podman; returns what it prints."""
        done = subprocess.run(
            self.inside(["podman", *argv]),
            env={**os.environ, **self.env},
            cwd="/",
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            raise RuntimeError(f"podman {' '.join(argv)}:\n{done.stdout}{done.stderr}")
        return done.stdout.strip()

    def end(self) -> None:
        """End the process that a rootless podman leaves behind to hold its namespaces."""
        try:
            pid = int((self.folder / "xdg/libpod/tmp/pause.pid").read_text())
            os.kill(pid, signal.SIGKILL)
        except (FileNotFoundError, ProcessLookupError):
            return  # root has none


def llama_tar(cache: Cache, folder: Path) -> Path:
    """An image's content: the real llama-server and what it needs, at the paths of the host."""
    build = build_llama(LlamaBuild.DEBIAN, cache)
    file = folder / "llama.tar"
    (folder / "wait.c").write_text(WAIT)
    compile_ = ["gcc", "-static", "-o", str(folder / "wait"), str(folder / "wait.c")]
    subprocess.run(compile_, check=True)
    shares = [f"{build}/root/usr/share", f"{build}/root/var", f"{build}/root/etc"]
    leave = [f"--exclude={share.lstrip('/')}" for share in shares]
    argv = ["tar", *leave, "-cf", str(file), "-C", "/", str(build).lstrip("/")]
    subprocess.run([*argv, "-C", str(folder), "wait"], check=True, capture_output=True)
    return file


WAIT = r"""
#include <unistd.h>
int main(int argc, char **argv) { usleep(2500000); execv(argv[1], argv + 1); return argc; }
"""
"""What the image begins with: time to put the engine on the list of a GPU that is none."""


def import_llama(podman: Podman, cache: Cache, tar: Path) -> str:
    """Have the image in this podman; returns its digest."""
    build = build_llama(LlamaBuild.DEBIAN, cache)
    entry = json.dumps(["/wait", str(build / "llama-server")])
    changes = [f"ENTRYPOINT {entry}", f"ENV GGML_BACKEND_PATH={cpu_backend(build)}"]
    podman.run("import", *(f"--change={one}" for one in changes), str(tar), f"{IMAGE}:b1")
    return podman.run("image", "inspect", "--format", "{{.Digest}}", f"{IMAGE}:b1")
