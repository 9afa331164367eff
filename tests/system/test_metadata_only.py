"""Under systemd: a canary is in no journal, no folder and no core dump, however the daemons end."""

from __future__ import annotations

import json

import pytest

from tests.system.house import SIMULATED, House, mock_pool, pool, task, text_of

pytest_plugins = ("tests.lab.fixtures",)
pytestmark = [pytest.mark.system, pytest.mark.slow]

CANARY = "a canary that nobody may keep"
UNIT = pool("demo:0")
FOLDERS = "/etc/orchd /run /tmp /var/lib /var/cache /var/tmp /var/log /root /home /core*"


def core_limits(house: House, pid: int) -> list[str]:
    """Soft and hard limit of a process's core dumps."""
    lines = house.machine.path(f"/proc/{pid}/limits").read_text().splitlines()
    return next(line for line in lines if line.startswith("Max core file size")).split()[4:6]


def killed_at_work(house: House, unit: str, signal: str) -> None:
    """Kill a daemon while a prompt is in it and tokens leave it."""
    pid = house.main_pid(unit)
    wish = task(prompt=CANARY, max_tokens=2000)
    assert house.ask("POST", "/v1/tasks", wish).status == 202
    with house.stream(wish["task_id"]) as events:
        assert any(event.name == "token" for event in events)
        house.kill(pid, signal)
        house.wait(lambda: house.main_pid(unit) not in (0, pid), f"{unit} has come back")
        house.wait(lambda: house.property(unit, "ActiveState") == "active", f"{unit} is active")
    house.wait_ready()


@pytest.mark.req("ORCH-3021", "SYSD-11")
def test_a_canary_is_in_no_journal_no_folder_and_no_core_dump(house: House) -> None:
    house.configure(SIMULATED, mock_pool().replace("tokens_per_s = 0", "tokens_per_s = 100"))
    house.start("demo:0")
    house.wait_ready()
    ended = house.complete(task(prompt=CANARY, max_tokens=40))
    output = text_of(ended).strip()
    assert len(output) > 100
    pids = [house.main_pid("orchd.service"), house.main_pid(UNIT), *house.engine_pids("demo:0")]
    assert len(pids) > 2
    for pid in pids:
        assert core_limits(house, pid) == ["1", "1"]
    killed_at_work(house, UNIT, "SEGV")
    killed_at_work(house, "orchd.service", "ABRT")
    journal = json.dumps(house.journal())
    assert "task_ended" in journal
    assert "dumped core" not in journal
    for canary in (CANARY, output[20:80]):
        assert canary not in journal
        found = house.machine.run(
            ["sh", "-c", f'grep -rlF "$1" {FOLDERS}', "sh", canary], check=False
        )
        assert found.stdout == ""
