"""A machine that sleeps: jobs end before, and after it everything is looked at before jobs come."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest
import trio
from jeepney import HeaderFields, new_signal
from jeepney.io.trio import open_dbus_connection

from orchd.wire import link
from orchd.wire.errors import TABLE, Kind
from tests.lab import needs
from tests.lab.cache import Cache
from tests.lab.logind import MANAGER, Logind, logind, system_bus
from tests.lab.nvml import FakeNvml
from tests.poolmgr.peer import last_of, linked
from tests.poolmgr.runs import Run, poolmgr
from tests.poolmgr.test_gpus import HEAD as NVML_HEAD
from tests.poolmgr.test_gpus import POOL as ON_GPU
from tests.poolmgr.test_gpus import while_loading

pytestmark = [pytest.mark.engine, pytest.mark.slow]

POOL = """
[[pools]]
id = "demo"
engine = { id = "mock", tokens_per_s = 20 }
model = { ref = "mock:lorem" }
devices = [0]
ctx = 8192
slots = 2
"""


@pytest.fixture(autouse=True)
def _bus() -> None:
    needs.require(needs.BUS)


async def until_phase(run: Run, phase: str) -> dict[str, object]:
    with trio.fail_after(10):
        while (state := (await run.get("/state"))[1])["phase"] != phase:
            await trio.sleep(0.01)
    return dict(state)


def env_of(address: str, fake: FakeNvml | None = None) -> dict[str, str]:
    return {"DBUS_SYSTEM_BUS_ADDRESS": address, **(fake.env if fake else {})}


def events(run: Run, name: str) -> list[str]:
    return [str(entry["human"]) for entry in run.log if entry["event"] == name]


async def sleeps(login: Logind, run: Run) -> None:
    """The machine sleeps as soon as nobody asks it to wait."""
    await login.tell(about_to=True)
    with trio.fail_after(6):
        await login.released()
    assert (await run.get("/state"))[1]["phase"] == "sleeping"


@pytest.mark.req("OC-POOL-3012", "ORCH-3038")
async def test_jobs_end_before_the_sleep_and_come_back_after_it(tmp_path: Path) -> None:
    async with system_bus(tmp_path) as address, logind(address) as login:
        async with poolmgr(tmp_path, "demo:0", POOL, env=env_of(address)) as run:
            await run.until(200)
            await login.asked_times(1)
            assert login.asked == [("sleep", "poolmgr", "demo:0: running jobs end first", "delay")]
            assert login.held()
            async with linked(run.socket) as peer:
                short = peer.open(max_tokens=10)  # half a second
                long = peer.open(max_tokens=2000)
                await peer.until(lambda: peer.jobs[long].tokens)
                began = trio.current_time()
                await login.tell(about_to=True)
                state = await until_phase(run, "sleeping")
                assert (state["ready"], state["draining"]) == (False, True)
                assert "The machine goes to sleep: 2 of 2 slots busy" in str(state["status"])
                refused = await peer.finished(peer.open())
                assert last_of(refused, link.Fail).kind is Kind.DRAINING
                assert last_of(await peer.finished(short), link.End).finish_reason == "length"
                assert login.held()
                assert last_of(await peer.finished(long), link.Fail).kind is Kind.DRAINING
                with trio.fail_after(1):
                    await login.released()
                assert trio.current_time() - began < 5.0  # InhibitDelayMaxSec=
                await login.tell(about_to=False)
                await until_phase(run, "ready")
                await login.asked_times(2)
                assert login.held()  # for the next time
                again = await peer.finished(peer.open(max_tokens=2))
                assert last_of(again, link.End).finish_reason == "length"
            assert len(events(run, "machine_sleeps")) == len(events(run, "machine_woke")) == 1


@pytest.mark.req("OC-POOL-3012", "OC-POOL-3010")
@pytest.mark.parametrize("broken", ["gpu", "memory", "engine"])
async def test_what_a_sleep_has_broken_is_named_before_a_job_comes(
    tmp_path: Path, broken: str
) -> None:
    fake = FakeNvml.create(Cache.default(), tmp_path / "nvml")
    async with system_bus(tmp_path) as address, logind(address) as login:
        env = env_of(address, fake)
        async with poolmgr(tmp_path, "gpu:0", ON_GPU, head=NVML_HEAD, env=env) as run:
            await while_loading(run, lambda pid: fake.follow_process(0, pid, 2048))
            pid = (await run.until(200))["engine_pid"]
            await login.asked_times(1)
            await sleeps(login, run)
            if broken == "gpu":
                fake.lose_gpu(0)
            elif broken == "memory":
                fake.remove_process(pid)
            else:
                os.kill(pid, signal.SIGSTOP)
            await login.tell(about_to=False)
            assert await run.exit_code(30) == TABLE[Kind.RESUME_FAILED].exit_code
            (failed,) = [entry for entry in run.log if entry["event"] == "failed"]
            assert failed["kind"] == Kind.RESUME_FAILED
            words = {
                "gpu": "driver_reset: GPU 0 does not answer",
                "memory": "cpu_fallback: the engine holds no memory of GPU 0",
                "engine": "engine_unhealthy: the engine does not serve",
            }
            assert f"after the machine's sleep {words[broken]}" in failed["human"]


@pytest.mark.req("OC-POOL-3012")
async def test_a_gpu_that_is_not_there_while_the_machine_sleeps_is_no_failure(
    tmp_path: Path,
) -> None:
    fake = FakeNvml.create(Cache.default(), tmp_path / "nvml")
    async with system_bus(tmp_path) as address, logind(address) as login:
        env = env_of(address, fake)
        async with poolmgr(tmp_path, "gpu:0", ON_GPU, head=NVML_HEAD, env=env) as run:
            await while_loading(run, lambda pid: fake.follow_process(0, pid, 2048))
            await run.until(200)
            await login.asked_times(1)
            await sleeps(login, run)
            fake.lose_gpu(0)
            await trio.sleep(2.5)  # two reads would have met it
            assert (await run.get("/state"))[1]["phase"] == "sleeping"
            fake.set_gpu(0, error=0)
            await login.tell(about_to=False)
            await until_phase(run, "ready")


async def test_only_logind_is_believed(tmp_path: Path) -> None:
    async with system_bus(tmp_path) as address, logind(address) as login:
        async with poolmgr(tmp_path, "demo:0", POOL, env=env_of(address)) as run:
            await run.until(200)
            await login.asked_times(1)
            stranger = await open_dbus_connection(address)
            async with stranger:
                for name in (f":1.{n}" for n in range(1, 9)):
                    signal_ = new_signal(MANAGER, "PrepareForSleep", "b", (True,))
                    signal_.header.fields[HeaderFields.destination] = name
                    await stranger.send(signal_)
                await trio.sleep(0.5)
            assert (await run.get("/state"))[1]["phase"] == "ready"
            await sleeps(login, run)


@pytest.mark.parametrize("there", ["no bus", "no logind", "a refusal"])
async def test_without_logind_a_pool_serves_and_says_it_once(tmp_path: Path, there: str) -> None:
    async def serves(address: str, words: str) -> Run:
        async with poolmgr(tmp_path, "demo:0", POOL, env=env_of(address)) as run:
            await run.until(200)
            with trio.fail_after(5):
                while not events(run, "sleep_unwatched"):
                    await trio.sleep(0.02)
            (human,) = events(run, "sleep_unwatched")
            assert words in human
            run.stop()
            assert await run.exit_code() == 0
        return run

    if there == "no bus":
        await serves(f"unix:path={tmp_path}/none", "there is no system bus")
        return
    async with system_bus(tmp_path) as address:
        if there == "no logind":
            await serves(address, "org.freedesktop.DBus.Error.ServiceUnknown")
            return
        async with logind(address, "org.freedesktop.DBus.Error.AccessDenied") as login:
            await serves(address, "AccessDenied")
            assert len(login.asked) == 1
