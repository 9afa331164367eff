"""Fetching inside the sandbox: what the kernel lets a pool reach, its cache, systemd's patience.

Here: pools as units of a booted machine. Not here: what is fetched how (tests/fetch).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.lab.nvml import FakeNvml
from tests.lab.venv import PREFIX, REPOSITORY
from tests.system.house import House, pool, task
from tests.system.test_sandbox import probed

pytest_plugins = ("tests.lab.fixtures",)
pytestmark = [pytest.mark.system, pytest.mark.slow]

UNIT = pool("llama:0")
LLAMA = """
[[pools]]
id = "llama"
engine = {{ id = "llamacpp" }}
provisioning = {{ mode = "package" }}
model = {{ ref = "{ref}"{more} }}
devices = [0]
ctx = 8192
"""
MODELS = "/v1/catalog/models"
HUB = "hf:org/repo/m.gguf"
PORT = 9123
SIZE = 4_000_000
SERVER = f"""
import sys, threading
sys.path.insert(0, "/srv/hub")
from tests.fakes import fileserver
from tests.fakes.hubserver import Hub
files = fileserver.Files(host="127.0.0.1", port={PORT})
Hub(files, files).add("m.gguf", b"w" * {SIZE})
for served in files.files.values():
    if len(served.data) == {SIZE}:
        served.bytes_per_s = int(sys.argv[1])
threading.Event().wait()
"""


@pytest.fixture
def hub(house: House, gpus: FakeNvml) -> Iterator[House]:
    """A Hub on the machine's loopback, slow enough that a fetch takes some ten seconds."""
    assert len(gpus.gpus) == 2
    for name in ("__init__", "fakes/__init__", "fakes/fileserver", "fakes/hubserver"):
        text = (REPOSITORY / f"tests/{name}.py").read_text()
        house.machine.put(f"/srv/hub/tests/{name}.py", text)
    house.machine.put("/srv/hub/server.py", SERVER)
    house.machine.run(
        f"systemd-run --quiet --unit=hub {PREFIX}/bin/python /srv/hub/server.py {SIZE // 10}"
    )
    house.wait(lambda: connects(house), "the Hub listens")
    yield house
    house.machine.systemctl("stop", "hub.service", check=False)
    house.machine.systemctl("stop", "orchd.service", check=False)
    house.machine.run("rm -rf /var/cache/orchd/models /var/lib/orchd/catalog")


def connects(house: House) -> bool:
    try:
        house.machine.connect_tcp(PORT).close()
    except OSError:
        return False
    return True


def configure(house: House, more: str = "", service: str = "") -> None:
    house.configure(LLAMA.format(ref=HUB, more=more))
    endpoint = f"[Service]\nEnvironment=HF_ENDPOINT=http://127.0.0.1:{PORT}\n"
    house.drop_in(UNIT, f"{endpoint}{service}")


@pytest.mark.req("SYSD-24", "ORCH-3080")
def test_the_kernel_opens_the_network_for_a_pool_that_may_fetch(house: House) -> None:
    house.configure(LLAMA.format(ref=HUB, more=""))
    assert probed(house, UNIT)["far"] == "done"
    house.clear()
    house.configure(LLAMA.format(ref=HUB, more=", fetch = false"))
    assert probed(house, UNIT)["far"] == "EPERM"


@pytest.mark.req("ORCH-3091", "ORCH-3205", "ORCH-3490")
def test_a_pool_fetches_in_its_sandbox_and_systemd_waits(hub: House) -> None:
    """Longer than TimeoutStartSec=, which a fetch that goes on extends."""
    configure(hub, service="TimeoutStartSec=4s\n")
    hub.machine.systemctl("start", "--no-block", UNIT)
    hub.wait(lambda: "% of 4.0 MB" in hub.property(UNIT, "StatusText"), "the status tells")
    hub.wait(lambda: hub.journal(UNIT, "EVENT=model_fetched"), "it is fetched")
    (fetched,) = hub.journal(UNIT, "EVENT=model_fetched")
    assert float(fetched["SECONDS"]) > 5
    allowed = hub.journal(UNIT, "EVENT=outbound_allowed")
    assert {entry["RULE"] for entry in allowed} == {"model.ref of pool llama"}
    assert "SIGNED" not in json.dumps(allowed)
    owners = hub.machine.run("find /var/cache/orchd/models -printf '%U %m %p\\n'").stdout
    uid = hub.machine.run("id -u poolmgr").stdout.strip()
    assert {line.split()[0] for line in owners.splitlines()} == {uid}
    # nothing else is in the way of the pool than that the machine has no engine
    hub.wait(lambda: "llama-server" in hub.property(UNIT, "StatusText"), "it went on")


@pytest.mark.req("SYSD-05")
def test_a_stop_ends_a_fetch_and_the_next_start_goes_on(hub: House) -> None:
    configure(hub)
    hub.machine.systemctl("start", "--no-block", UNIT)
    part = "cat /var/cache/orchd/models/*.part/journal.json"
    hub.wait(lambda: hub.machine.run(part, check=False).returncode == 0, "something has come")
    hub.machine.systemctl("stop", UNIT)
    assert hub.property(UNIT, "ActiveState") == "inactive"
    assert hub.machine.run("ls -d /var/cache/orchd/models/*.part").stdout.count("\n") == 1
    assert hub.machine.run("ls -d /var/cache/orchd/models/*[0-9a-f]", check=False).returncode != 0
    hub.machine.systemctl("start", "--no-block", UNIT)
    hub.wait(lambda: hub.journal(UNIT, "EVENT=model_fetched"), "it is fetched")
    (fetched,) = hub.journal(UNIT, "EVENT=model_fetched")
    assert int(fetched["FETCHED_BYTES"]) < SIZE


@pytest.mark.req("ORCH-3090", "ORCH-3091")
def test_what_root_fetches_beforehand_is_the_pools_and_needs_no_network(hub: House) -> None:
    configure(hub, more=", fetch = false")
    hub.machine.systemctl("start", "--no-block", UNIT)
    absent = "model.fetch of pool llama is false"
    hub.wait(lambda: absent in hub.property(UNIT, "StatusText"), "it says what to do")
    assert "orchctl models fetch" in hub.property(UNIT, "StatusText")
    hub.machine.systemctl("stop", UNIT)
    fetch = f"HF_ENDPOINT=http://127.0.0.1:{PORT} orchctl models fetch --json"
    done = json.loads(hub.machine.run(fetch, timeout_s=60).stdout)
    assert done["size_bytes"] == SIZE
    uid = hub.machine.run("id -u poolmgr").stdout.strip()
    assert hub.machine.run(f"stat -c %u {Path(done['path'])}").stdout.strip() == uid
    hub.machine.systemctl("stop", "hub.service")
    hub.machine.systemctl("start", "--no-block", UNIT)
    hub.wait(lambda: "llama-server" in hub.property(UNIT, "StatusText"), "it has its model")


@pytest.mark.req("ORCH-3436", "ORCH-3037", "ORCH-3031", "CAT-LOCATE", "SYSD-11")
def test_orchd_registers_and_verifies_what_a_pool_fetched_and_may_not_change_it(hub: House) -> None:
    """The model is in the cache of another user, to which orchd has no other way than its group."""
    configure(hub)
    hub.machine.systemctl("start", "orchd.service")
    hub.machine.systemctl("start", "--no-block", UNIT)
    where = f"{MODELS}/m"
    hub.wait(lambda: hub.ask("GET", where).status == 200, "orchd has registered it")
    model = hub.ask("GET", where).json
    assert (model["source_url"], model["pools"], model["state"]) == (HUB, ["llama"], "Active")
    assert model["digest"] == f"sha256:{hashlib.sha256(b'w' * SIZE).hexdigest()}"
    hub.machine.systemctl("stop", UNIT)
    assert verified(hub) == ("ok", "match")
    located = hub.ask("GET", f"/v1/catalog/locate?name={HUB}").json
    assert (located["models"], located["size_bytes"]) == (["m"], SIZE)
    told = hub.machine.run("orchctl models locate m").stdout.strip()
    assert told == located["path"]
    modes = hub.machine.run(f"stat -c '%U:%G %a' /var/cache/orchd {told}").stdout.split("\n")
    assert modes[:2] == ["poolmgr:poolmgr 750", "poolmgr:poolmgr 640"]
    pid = hub.main_pid("orchd.service")
    inside = f"nsenter -t {pid} -m setpriv --reuid=orchd --regid=orchd --init-groups"
    assert hub.machine.run(f"{inside} head -c 1 {told}").stdout == "w"
    assert hub.machine.run(f"{inside} touch {told}", check=False).returncode != 0
    # changed behind everybody's back: what serves it is refused
    hub.machine.run(f"printf x | dd of={told} conv=notrunc status=none")
    assert verified(hub) == ("failed", "mismatch")
    answer = hub.ask("POST", "/v1/tasks", task("llamacpp", model_ref="m"))
    assert (answer.status, answer.json["code"]) == (400, "UNTRUSTED_ARTIFACT")
    hub.machine.run(f"printf w | dd of={told} conv=notrunc status=none")
    assert verified(hub) == ("ok", "match")
    hub.machine.run("orchctl models retire m")
    for name in ("m", HUB):
        answer = hub.ask("POST", "/v1/tasks", task("llamacpp", model_ref=name))
        assert (answer.status, answer.json["code"]) == (400, "MODEL_DEPRECATED")
    fetch = f"HF_ENDPOINT=http://127.0.0.1:{PORT} orchctl models fetch --json"
    done = json.loads(hub.machine.run(fetch, timeout_s=60).stdout)
    assert (done["model_id"], done["fetched_bytes"]) == ("m", 0)
    assert hub.ask("GET", where).json["state"] == "Retired"


def verified(house: House) -> tuple[str, str]:
    """Have orchd verify the model, and return what came of it."""
    assert house.ask("POST", f"{MODELS}/m/verify").status == 202
    house.wait(lambda: not house.ask("GET", f"{MODELS}/m").json["verifying"], "it is hashed")
    said = house.ask("GET", f"{MODELS}/m").json["verification"]
    return said["result"], said["reason"]
