"""What the kernel lets the daemons touch: files, network, devices. Probes run as the units do.

Here: settings that are easily accepted and not enforced. Not here: that systemd understands them
(tests/units).
"""

from __future__ import annotations

import pytest

from tests.lab.nvml import FakeNvml
from tests.system.house import SIMULATED, House, mock_pool, pool

pytest_plugins = ("tests.lab.fixtures",)
pytestmark = [pytest.mark.system, pytest.mark.slow]

UNIT = pool("demo:0")
MASKED = pool("demo:0_1")

# Runs in place of the daemon, so with all that the unit says; one word for each attempt.
PROBE = """
import errno, os, socket, sys

def attempt(name, deed):
    try:
        deed()
    except OSError as e:
        said = errno.errorcode[e.errno]
    else:
        said = "done"
    print(f"PROBE {name} {said}", flush=True)

STATE = ("/var/lib/orchd", "/var/cache/orchd", "/run/poolmgr")
for path in ("/etc", "/usr", "/var/lib", "/run", *STATE):
    attempt(f"write:{path}", lambda: os.close(os.open(f"{path}/probe", os.O_CREAT | os.O_WRONLY)))
attempt("list:/var/cache/orchd", lambda: os.listdir("/var/cache/orchd"))
attempt("read:/var/cache/orchd/secret", lambda: open("/var/cache/orchd/secret").close())
attempt("read:/home/lab/model", lambda: open("/home/lab/model").close())
attempt("write:/home/lab", lambda: os.close(os.open("/home/lab/x", os.O_CREAT | os.O_WRONLY)))
attempt("inet", lambda: socket.create_server(("127.0.0.1", 0)).close())
far = ("10.9.8.7", 9)
attempt("far", lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b"x", far))
for device in ("nvidia0", "nvidia1", "nvidiactl", "lab-disk"):
    attempt(f"open:/dev/{device}", lambda: os.close(os.open(f"/dev/{device}", os.O_RDWR)))
attempt("processes", lambda: os.stat("/proc/1/status"))
attempt("setuid", lambda: os.setuid(0))
"""
# Device nodes that nothing drives: whom the device filter lets through gets ENXIO, others EPERM.
NODES = """
mkdir -p /home/lab && chmod 755 /home/lab && echo weights > /home/lab/model
mknod -m 666 /dev/nvidia0 c 195 0; mknod -m 666 /dev/nvidia1 c 195 1
mknod -m 666 /dev/nvidiactl c 195 255; mknod -m 666 /dev/lab-disk c 199 7
"""


def probed(house: House, unit: str, more: str = "") -> dict[str, str]:
    """What became of each attempt, made under the settings of `unit`."""
    house.machine.run(NODES, check=False)
    house.machine.run("rm -f /var/lib/orchd/probe /var/cache/orchd/probe /run/poolmgr/probe")
    secret = "/var/cache/orchd/secret"  # as a pool writes its files
    house.machine.run(f"install -m 600 -o poolmgr -g poolmgr /dev/null {secret}")
    house.add_address()
    house.machine.put("/usr/lib/orchd-probe.py", PROBE)
    run = "ExecStart=\nExecStart=/usr/bin/python3 /usr/lib/orchd-probe.py\n"
    # a probe ends, and is no failure that would be tried again
    house.drop_in(unit, f"[Service]\nType=oneshot\nRestart=no\nWatchdogSec=0\n{run}{more}")
    house.machine.systemctl("start", unit)
    lines = [line.split() for line in house.said(unit).splitlines() if line.startswith("PROBE")]
    return {name: result for _, name, result in lines}


@pytest.mark.req("SYSD-11")
def test_orchd_touches_its_own_state_and_nothing_else(house: House) -> None:
    found = probed(house, "orchd.service")
    assert found["write:/var/lib/orchd"] == "done"
    for path in ("/etc", "/usr", "/var/lib", "/run", "/run/poolmgr", "/var/cache/orchd"):
        assert found[f"write:{path}"] == "EROFS", found
    # of what is the pools' it may read what they show their group: models
    assert found["list:/var/cache/orchd"] == "done"
    assert found["read:/var/cache/orchd/secret"] == "EACCES"
    assert found["read:/home/lab/model"] in ("ENOENT", "EACCES")
    assert found["inet"] == "EAFNOSUPPORT"
    assert found["far"] == "EAFNOSUPPORT"
    assert {found[f"open:/dev/{name}"] for name in ("nvidia0", "lab-disk")} == {"ENOENT"}
    assert (found["processes"], found["setuid"]) == ("ENOENT", "EPERM")


@pytest.mark.req("HME-001", "SYSD-11")
def test_poolmgr_reads_models_and_touches_its_cache(house: House) -> None:
    found = probed(house, UNIT)
    assert found["write:/var/cache/orchd"] == found["write:/run/poolmgr"] == "done"
    assert found["read:/var/cache/orchd/secret"] == "done"
    for path in ("/etc", "/usr", "/var/lib", "/run", "/var/lib/orchd"):
        assert found[f"write:{path}"] == "EROFS", found
    assert found["read:/home/lab/model"] == "done"
    assert found["write:/home/lab"] == "EROFS"
    assert (found["inet"], found["far"]) == ("done", "EPERM")
    # the names of others' processes: who holds the VRAM that a model lacks is told by name
    assert (found["processes"], found["setuid"]) == ("done", "EPERM")


@pytest.mark.req("OC-POOL-3020", "SYSD-12")
def test_the_kernel_keeps_a_pool_on_its_mask(house: House) -> None:
    """With the generator's drop-in, GPU 0 and no other; without one, none."""
    names = ("nvidia0", "nvidia1", "nvidiactl", "lab-disk")

    def opened(more: str) -> list[str]:
        found = probed(house, UNIT, more)
        return [found[f"open:/dev/{name}"] for name in names]

    house.configure(mock_pool())
    assert opened("") == ["ENXIO", "EPERM", "ENXIO", "EPERM"]
    house.clear()
    assert opened("") == ["EPERM"] * 4
    house.clear()
    # the same nodes without any filter: the refusals above are the filter's
    assert opened("DevicePolicy=auto\nDeviceAllow=\n") == ["ENXIO"] * 4


@pytest.mark.req("OC-POOL-3020", "SYSD-12")
def test_the_driver_s_helper_makes_the_nodes_of_the_mask_first(house: House) -> None:
    helper = '#!/bin/sh\necho "HELPER $(id -u) $*"\n'
    house.machine.put("/usr/bin/nvidia-modprobe", helper, 0o755)
    try:
        probed(house, MASKED)
        said = [line for line in house.said(MASKED).splitlines() if "HELPER" in line]
    finally:
        house.machine.run("rm /usr/bin/nvidia-modprobe")
    assert said == ["HELPER 0 -c 0", "HELPER 0 -c 1", "HELPER 0 -c 0 -u"]


@pytest.mark.req("OC-POOL-3020", "SYSD-12")
def test_the_driver_s_helper_may_make_the_nodes_of_the_mask_and_no_others(house: House) -> None:
    helper = """#!/bin/sh
for gpu in 0 1; do
    rm -f /dev/lab-nvidia$gpu; mknod /dev/lab-nvidia$gpu c 195 $gpu && echo "MADE $gpu"
done
"""
    house.machine.put("/usr/bin/nvidia-modprobe", helper, 0o755)
    house.configure(mock_pool())
    try:
        probed(house, UNIT)
        made = {line for line in house.said(UNIT).splitlines() if line.startswith("MADE")}
    finally:
        house.machine.run("rm -f /usr/bin/nvidia-modprobe /dev/lab-nvidia*")
    assert made == {"MADE 0"}


@pytest.mark.req("OC-POOL-3003", "SYSD-04")
def test_a_model_that_poolmgr_may_not_read_is_named_with_the_user(
    house: House, gpus: FakeNvml
) -> None:
    assert len(gpus.gpus) == 2
    house.machine.put("/var/lib/orchd/models/secret.gguf", "weights", 0o600)
    house.configure(
        mock_pool()
        .replace('"mock", tokens_per_s = 0', '"llamacpp"')
        .replace("mock:lorem", "file:/var/lib/orchd/models/secret.gguf")
        + 'provisioning = { mode = "binary", command = ["/bin/true"] }\n'
    )
    house.start("demo:0", check=False)
    words = "user poolmgr cannot read /var/lib/orchd/models/secret.gguf"
    house.wait(lambda: words in house.property(UNIT, "StatusText"), "status names user and file")


def test_poolmgr_reads_a_model_where_the_package_says(house: House) -> None:
    house.configure(SIMULATED, mock_pool())
    house.machine.put("/var/lib/orchd/models/tiny.gguf", "weights")
    argv = ["cat", "/var/lib/orchd/models/tiny.gguf"]
    assert house.machine.run(argv, user="poolmgr").stdout == "weights"
