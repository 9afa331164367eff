"""A machine in which podman runs containers, as on a machine that is no container itself.

Here: its packages, a disk, a whole /proc, and GPUs for containers (CDI), which are none. Not here:
an image (image.py), booting (machine.py).
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from tests.lab.cache import Cache
from tests.lab.machine import Machine
from tests.lab.nvml import uuid_of
from tests.lab.rootfs import Suite, rootfs
from tests.lab.venv import dependency_layer

PACKAGES = ("podman", "crun", "uidmap", "docker-registry", "docker.io", "docker-cli")
SERVICES = ("containerd", "docker", "docker-registry", "netavark-dhcp-proxy")
"""That Debian starts at each boot; nothing here needs them."""
OPTIONS = ("--system-call-filter=@keyring", *(f"systemd.mask={name}.service" for name in SERVICES))
"""nspawn keeps its machines from keyrings; crun makes one for each container."""
DAEMON = (
    *("systemd-run", "--quiet", "--unit=dockerd", "--property=Type=notify"),
    # the bridge and the firewall would be this machine's own, and nobody here needs either
    *("dockerd", "--iptables=false", "--ip6tables=false", "--bridge=none", "--group=docker"),
)
DISKS = """
set -e
for path in /var/cache/orchd /var/tmp /var/lib/docker /home; do
    mkdir -p $path
    mount -t tmpfs -o size=64g,mode=1777 tmpfs $path
done
chmod 755 /home
systemd-tmpfiles --create --prefix=/var/cache/orchd
"""
"""podman's overlays cannot lie upon the overlay that is the machine's own root. The size is no more
than what is said: provisioning wants 30 GB for an image."""
DRIVER_LOG = "/srv/lab/gpus.txt"
"""What the driver's library shows; the hook below adds who is on a GPU."""
UNIT_SETTINGS = (
    f"[Service]\nEnvironment=FAKE_NVML={DRIVER_LOG}\nReadWritePaths={Path(DRIVER_LOG).parent}\n"
)
"""What a pool's unit needs for that."""
WHOLE_PROC = """
covered() { cut -d" " -f5 /proc/self/mountinfo | grep -m1 "^/proc/."; }
while path=$(covered); do umount --lazy "$path" || exit 1; done
"""
# As the driver's own: nodes, a library, hooks before and in the container. The driver sees who
# opens its nodes; here a hook says so, by the PID that the container has for those outside.
ON_THE_GPU = f"""#!/usr/bin/python3
import json, sys
with open("{DRIVER_LOG}", "a") as shown:
    shown.write("L %s %d 900\\n" % (sys.argv[1], json.load(sys.stdin)["pid"]))
"""
LINK = """#!/usr/bin/python3
import json, os, sys
with open(json.load(sys.stdin)["bundle"] + "/config.json") as file:
    root = json.load(file)["root"]["path"]
os.symlink("libcuda.so.1", root + "/usr/bin/libcuda.so")
"""


def box_layers(suite: Suite, cache: Cache | None = None) -> list[Path]:
    """The cached layers, top first: our dependencies, the system with podman."""
    root = rootfs(suite, cache, PACKAGES, "podman")
    return [dependency_layer(suite, cache, root), root]


def prepare(machine: Machine, shown: str, gpus: Sequence[int] = (0, 1)) -> None:
    """Give a running machine the /proc of a real one, and its containers these GPUs.

    `shown` is what the driver's library shows at first.
    """
    machine.run(DISKS)
    # nspawn covers parts of it; where any is covered no user namespace gets one of its own
    machine.run(WHOLE_PROC)
    for gpu in gpus:
        machine.run(f"mknod -m 666 /dev/nvidia{gpu} c 195 {gpu}")
    machine.put(DRIVER_LOG, shown, 0o666)
    machine.put("/opt/on-the-gpu", ON_THE_GPU, 0o755)
    machine.put("/opt/link", LINK, 0o755)
    machine.put("/opt/libcuda.so.1", "a library of the driver\n")
    machine.put("/etc/cdi/nvidia.json", json.dumps(specification(gpus)))


def start_docker(machine: Machine, *, cdi: bool) -> None:
    """Start docker's daemon, which takes devices by CDI when it is told to."""
    machine.systemctl("stop", "dockerd", check=False)
    machine.put("/etc/docker/daemon.json", json.dumps({"features": {"cdi": cdi}}))
    machine.run(DAEMON)


def specification(gpus: Sequence[int]) -> dict[str, object]:
    """What nvidia-ctk would have written."""
    library = {
        "hostPath": "/opt/libcuda.so.1",
        "containerPath": "/usr/bin/libcuda.so.1",
        "options": ["ro", "nosuid", "nodev", "bind"],
    }
    return {
        "cdiVersion": "0.5.0",
        "kind": "nvidia.com/gpu",
        "containerEdits": {
            "mounts": [library],
            "hooks": [{"hookName": "createContainer", "path": "/opt/link"}],
        },
        "devices": [
            {
                "name": uuid_of(gpu),
                "containerEdits": {
                    "deviceNodes": [{"path": f"/dev/nvidia{gpu}"}],
                    "env": [f"LAB_GPU_{gpu}={uuid_of(gpu)}"],
                    "hooks": [
                        {
                            "hookName": "createRuntime",
                            "path": "/opt/on-the-gpu",
                            "args": ["on-the-gpu", str(gpu)],
                        }
                    ],
                },
            }
            for gpu in gpus
        ],
    }
