"""The suite under a real systemd: activated, ready when it is ready, and serving what it should.

Here: what works. Not here: what breaks (test_failures.py), the sandbox (test_sandbox.py).
"""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest

from tests.lab.cache import Cache
from tests.lab.machine import Machine
from tests.lab.rootfs import run_in_layer
from tests.system.house import (
    CONFIG,
    OTHER_ADDRESS,
    SIMULATED,
    TOKEN_FILE,
    House,
    mock_pool,
    names_of,
    pool,
    task,
    text_of,
)

pytest_plugins = ("tests.lab.fixtures",)
pytestmark = [pytest.mark.system, pytest.mark.slow]

TOKEN = "correct-horse-battery-staple"
LOAD_MS = 1500


@pytest.mark.req("HME-001", "SYSD-01")
@pytest.mark.parametrize("tcp", [False, True], ids=["unix", "tcp"])
def test_the_first_request_starts_orchd(house: House, tcp: bool) -> None:
    house.configure(SIMULATED, mock_pool())
    house.start()
    assert house.property("orchd.socket", "ActiveState") == "active"
    assert house.property("orchd.service", "ActiveState") == "inactive"
    answer = house.ask("GET", "/health", tcp=tcp)
    assert (answer.status, answer.json["status"]) == (200, "ok")
    assert house.property("orchd.service", "ActiveState") == "active"


@pytest.mark.req("HME-001", "OC-POOL-3001")
def test_a_task_goes_the_whole_way(house: House) -> None:
    house.configure(SIMULATED, mock_pool(replicas="[[0], [1]]"))
    house.start("demo:0", "demo:1")
    house.wait_ready()
    wish = task()
    events = house.complete(wish)
    assert names_of(events) == ["started", "token", "end"]
    end = json.loads(events[-1].data)
    assert (end["tokens_out"], end["finish_reason"]) == (wish["max_tokens"], "length")
    again = house.complete(wish | {"task_id": task()["task_id"]})
    assert text_of(again) == text_of(events) != ""


@pytest.mark.req("OC-POOL-3012")
def test_a_pool_in_its_sandbox_reaches_logind_and_says_a_refusal_once(house: House) -> None:
    """The real logind; without polkit, which is not in this machine, it lets root alone."""
    house.configure(SIMULATED, mock_pool())
    house.start("demo:0")
    house.wait_ready()
    (told,) = house.wait(lambda: house.journal(pool("demo:0"), "EVENT=sleep_unwatched"), "it asked")
    assert "logind does not let it be delayed" in told["MESSAGE"]
    assert "AccessDenied" in told["MESSAGE"]


@pytest.mark.req("ORCH-3002", "OC-POOL-3001", "OC-POOL-3003", "SYSD-04")
def test_a_pool_is_ready_once_its_model_is_loaded(house: House) -> None:
    """READY=1, the pool's health and what status shows are one fact, and it comes last."""
    house.configure(SIMULATED, mock_pool(engine=f"faults = {{ load_ms = {LOAD_MS} }}"))
    unit = pool("demo:0")
    house.start()
    began = time.monotonic()
    house.machine.systemctl("start", "--no-block", unit)
    house.wait(lambda: "Loading" in house.property(unit, "StatusText"), "status says: loading")
    assert house.property(unit, "ActiveState") == "activating"
    assert house.health()["ready"] is False
    refused = house.ask("POST", "/v1/tasks", task())
    assert (refused.status, refused.json["code"]) == (503, "POOL_UNREADY")
    house.wait_ready()
    assert time.monotonic() - began >= LOAD_MS / 1000
    assert house.property(unit, "ActiveState") == "active"
    shown = house.property(unit, "StatusText")
    assert shown.startswith("Ready: 0 of 1 slots busy")
    assert "Simulated 24 GB" in shown


@pytest.mark.req("OC-POOL-3003")
def test_status_and_journal_tell_people_and_programs(house: House) -> None:
    house.configure(SIMULATED, mock_pool())
    house.start("demo:0")
    house.wait_ready()
    wish = task()
    house.complete(wish)
    shown = house.machine.systemctl("status", "orchd.service", pool("demo:0")).stdout
    assert 'Status: "Serving 1 pool on ' in shown
    assert "unix:/run/orchd/orchd.sock" in shown
    assert 'Status: "Ready: ' in shown
    of_task = house.journal("orchd.service", f"JOB_ID={wish['task_id']}")
    assert all(entry["MESSAGE"] for entry in of_task)
    kinds = [entry["EVENT"] for entry in of_task]
    assert [kinds[0], kinds[-1]] == ["task_admitted", "task_ended"], kinds
    assert {entry.get("POOL_ID") for entry in of_task} >= {"demo"}
    assert all(entry["SYSLOG_IDENTIFIER"] == "orchd" for entry in of_task)
    of_pool = house.journal(pool("demo:0"), "POOL_ID=demo")
    assert any(entry["EVENT"] == "pool_ready" for entry in of_pool), of_pool
    everything = json.dumps(house.journal())
    assert str(wish["prompt"]) not in everything


@pytest.mark.req("AUTH-1001", "AUTH-1003", "SYSD-10")
def test_the_token_is_a_credential(house: House) -> None:
    """One file, readable by root alone, reaches both daemons and nobody else."""
    house.configure(SIMULATED, mock_pool())
    house.machine.put(TOKEN_FILE, TOKEN + "\n", 0o600)
    house.start("demo:0")
    house.wait(lambda: "Registered" in house.said(pool("demo:0")), "the pool registered")
    house.wait(lambda: house.ask("GET", "/readyz", tcp=True).status == 200, "it is ready")
    wish = task()
    missing = house.ask("POST", "/v1/tasks", wish, tcp=True)
    assert (missing.status, missing.json["auth_code"]) == (401, 40101)
    wrong = house.ask("POST", "/v1/tasks", wish, tcp=True, token="guess")
    assert (wrong.status, wrong.json["auth_code"]) == (401, 40102)
    assert house.ask("POST", "/v1/tasks", wish, tcp=True, token=TOKEN).status == 202
    worker = {
        "pool_id": "demo",
        "replica_id": "demo:0",
        "engine": "mock",
        "engine_version": "1",
        "sampler_profile_version": "v1",
        "slots_total": 1,
    }
    assert house.ask("GET", "/v1/pools").status == 401, "the unix socket is no way around it"
    assert house.ask("POST", "/v1/workers/register", worker).status == 401
    registered = house.ask("POST", "/v1/workers/register", worker, token=TOKEN)
    assert registered.status == 200
    for unit in ("orchd.service", pool("demo:0")):
        shown = house.machine.run(f"cat /proc/{house.main_pid(unit)}/environ").stdout
        assert TOKEN not in shown
    assert TOKEN not in json.dumps(house.journal())


@pytest.mark.req("AUTH-1001", "SYSD-10")
def test_an_encrypted_token_is_used_or_the_unit_fails(house: House) -> None:
    house.configure(SIMULATED)
    place = "/etc/orchd/auth_token.cred"
    drop_in = f"[Service]\nLoadCredentialEncrypted=auth_token:{place}\n"
    house.drop_in("orchd.service", drop_in + "RestartSec=10s\nRestartMaxDelaySec=20s\n")
    encrypt = f"printf {TOKEN} | systemd-creds encrypt --with-key=host --name=auth_token - {place}"
    house.machine.run(encrypt)
    house.start()
    assert house.ask("GET", "/v1/pools", tcp=True).status == 401
    assert house.ask("GET", "/v1/pools", tcp=True, token=TOKEN).status == 200
    house.machine.put(place, "not what it was", 0o600)
    failed = house.machine.systemctl("restart", "orchd.service", check=False)
    assert failed.returncode != 0
    assert house.property("orchd.service", "ActiveState") != "active"


@pytest.mark.req("AUTH-1001", "SYSD-10")
def test_without_a_token_file_the_units_start(house: House) -> None:
    house.configure(SIMULATED, mock_pool())
    house.start("demo:0")
    house.wait_ready()
    assert house.ask("POST", "/v1/tasks", task(), tcp=True).status == 202


@pytest.mark.req("SYSD-05")
@pytest.mark.parametrize("unit", ["orchd.service", pool("demo:0")])
def test_a_stop_lets_the_running_task_end(house: House, unit: str) -> None:
    house.configure(SIMULATED, mock_pool(engine="tokens_per_s = 20"))
    house.start("demo:0")
    house.wait_ready()
    wish = task(max_tokens=30)
    assert house.ask("POST", "/v1/tasks", wish).status == 202
    with house.stream(wish["task_id"]) as events:
        next(event for event in events if event.name == "token")
        house.machine.systemctl("stop", "--no-block", unit)
        rest = list(events)
    assert rest[-1].name == "end", rest[-1]
    assert json.loads(rest[-1].data)["tokens_out"] == 30
    house.wait(lambda: house.property(unit, "ActiveState") == "inactive", "it stopped", 5.0)
    assert house.property(unit, "Result") == "success"


@pytest.mark.req("SYSD-05")
def test_a_stopped_pool_stays_stopped(house: House) -> None:
    """orchd tries its socket again and again, and does not undo what the operator did."""
    house.configure(SIMULATED, mock_pool())
    house.start("demo:0")
    house.wait_ready()
    house.machine.systemctl("stop", pool("demo:0"))
    house.wait(lambda: "does not exist" in house.said("orchd.service"), "orchd has tried")
    assert house.property(pool("demo:0"), "ActiveState") == "inactive"
    assert house.property("poolmgr@demo:0.socket", "ActiveState") == "inactive"
    house.machine.systemctl("start", pool("demo:0"))
    house.wait_ready()


@pytest.mark.req("SYSD-05")
def test_a_stop_of_the_suite_is_clean_and_takes_the_pools_along(house: House) -> None:
    house.configure(SIMULATED, mock_pool())
    house.start("demo:0")
    house.wait_ready()
    engine = house.engine_pids("demo:0")
    assert len(engine) == 1
    began = time.monotonic()
    house.machine.systemctl("stop", "orchd.target")
    units = ["orchd.service", "orchd.socket", pool("demo:0"), "poolmgr@demo:0.socket"]
    house.wait(
        lambda: {house.property(unit, "ActiveState") for unit in units} == {"inactive"},
        "all units stopped",
    )
    assert time.monotonic() - began < 10.0
    assert not house.alive(engine[0])
    assert house.machine.run("ls /run/orchd /run/poolmgr").stdout.split() == [
        "/run/orchd:",
        "/run/poolmgr:",
        "podman",  # packaging/orchd.tmpfiles.conf: it is no unit's
    ]
    with pytest.raises(FileNotFoundError):
        house.connect()


def test_enabled_units_come_with_a_boot(
    house_layers: list[Path], lab_cache: Cache, tmp_path: Path
) -> None:
    """The two commands of the README, then a boot: the model is loaded before anybody asks."""
    layer = tmp_path / "enabled"
    enable = ["systemctl", "enable", "orchd.target", pool("demo:0")]
    run_in_layer(house_layers, layer, enable)
    layer.chmod(0o755)
    file = layer / CONFIG.lstrip("/")
    file.parent.mkdir(mode=0o755, parents=True)
    file.write_text(SIMULATED + mock_pool())
    with Machine([layer, *house_layers], cache=lab_cache) as machine:
        house = House(machine)
        # boot has ended, and the pool is part of it
        assert machine.systemctl("is-system-running").stdout == "running\n"
        assert house.property(pool("demo:0"), "ActiveState") == "active"
        house.wait_ready()
        assert "ordering cycle" not in "\n".join(machine.messages())
        machine.systemctl("disable", "orchd.target", "poolmgr@.service", "poolmgr@.socket")
        assert machine.run("find /etc/systemd -name 'poolmgr*'").stdout == ""


@pytest.mark.req("SYSD-02")
def test_only_the_group_reaches_the_sockets(house: House) -> None:
    house.configure(SIMULATED, mock_pool())
    house.start("demo:0")
    house.wait_ready()
    program = (
        "import socket, sys\n"
        "for path in sys.argv[1:]:\n"
        "    try: socket.socket(socket.AF_UNIX).connect(path)\n"
        "    except OSError as e: print(type(e).__name__)\n"
        "    else: print('connected')\n"
    )
    paths = ["/run/orchd/orchd.sock", "/run/poolmgr/demo:0.sock", "/run/poolmgr/demo:0.engine.sock"]

    def reach(user: str) -> list[str]:
        return house.machine.run(["python3", "-c", program, *paths], user=user).stdout.split()

    assert reach("nobody") == ["PermissionError"] * 3
    # orchd reaches a pool's socket and not the engine behind it
    assert reach("orchd") == ["connected", "connected", "PermissionError"]


@pytest.mark.req("SYSD-01")
def test_a_request_waits_for_a_restart(house: House) -> None:
    """systemd holds the listening sockets: nobody is refused while orchd is away."""
    house.configure(SIMULATED, mock_pool())
    house.start("demo:0")
    house.wait_ready()
    house.machine.systemctl("restart", "--no-block", "orchd.service")
    for _ in range(20):
        assert house.ask("GET", "/health").status == 200
    house.wait_ready()
    assert names_of(house.complete(task()))[-1] == "end"


@pytest.mark.req("HME-002", "AUTH-1002", "SYSD-03")
def test_a_wider_address_alone_exposes_nothing(house: House) -> None:
    """Exposure is opt-in three times: the address, the kernel's filter, and the token."""
    house.configure(SIMULATED)
    wider = "[Socket]\nListenStream=0.0.0.0:8485\n"

    def reach(token: str = "") -> list[str]:
        argv = ["python3", "-c", REACH, token, "127.0.0.1", OTHER_ADDRESS]
        return house.machine.run(argv).stdout.split()

    house.drop_in("orchd.socket", wider)
    house.start()
    house.add_address()
    assert reach() == ["200", "TimeoutError"]
    house.drop_in("orchd.socket", wider + "IPAddressAllow=10.0.0.0/8\n")
    house.machine.systemctl("restart", "orchd.socket")
    assert reach() == ["200", "403"]
    house.machine.put(TOKEN_FILE, TOKEN, 0o600)
    house.machine.systemctl("restart", "orchd.service")
    assert reach(TOKEN) == ["200", "200"]


REACH = """
import http.client, sys
headers = {"Authorization": f"Bearer {sys.argv[1]}"} if sys.argv[1] else {}
for host in sys.argv[2:]:
    connection = http.client.HTTPConnection(
        host, 8485, timeout=20.0 if host == "127.0.0.1" else 3.0
    )
    try:
        connection.request("GET", "/v1/capabilities", headers=headers)
        print(connection.getresponse().status)
    except OSError as e:
        print(type(e).__name__)
"""
