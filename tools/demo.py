"""`make demo`: three agents share two simulated GPUs, through the public HTTP API only.

Starts the suite as `orchctl up` does, on a configuration of its own in a temporary folder, tells
what happens, and asserts all that it tells: exit status 1 when anything is not as promised. The
agents' side of HTTP is in demo_client.py. Nothing that it starts outlives it.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from attrs import define, field

from tools.demo_client import Api, Event, RefusedError

READY_S = 20.0
STOP_S = 10.0
CONFIG = """\
[devices]
backend = "simulated"
simulated = [
  { name = "Simulated 24 GB", vram_mb = 24576 },
  { name = "Simulated 12 GB", vram_mb = 12288 },
]

[[pools]]
id = "demo"
engine = { id = "mock", tokens_per_s = 60, first_token_ms = 20 }
model = { ref = "mock:lorem" }
replicas = [[0], [1]]
ctx = 8192
slots = 1
queue = { interactive = 2, batch = 2 }
"""
COLOURS = {"planner": "36", "coder": "32", "reviewer": "35", "demo": "1"}
ON_A_GPU = """
On a machine with an NVIDIA GPU: install llama.cpp's llama-server built with CUDA, leave out
[devices], and let the pool say
    engine = { id = "llamacpp" }
    model = { ref = "file:/path/to/model.gguf" }
    replicas = [[0]]
    provisioning = { command = ["llama-server"] }
then `orchctl config check`, `orchctl up` and `orchctl run "Hello"`. README.md has the systemd way.
"""


class BrokenPromiseError(Exception):
    """Something was not as orchd promises."""


def promise(kept: bool, text: str) -> None:
    """Check one promise."""
    if not kept:
        raise BrokenPromiseError(text)


_printing = threading.Lock()
_began = time.monotonic()
_coloured = sys.stdout.isatty() and "NO_COLOR" not in os.environ


def say(who: str, text: str) -> None:
    """One whole line, also while several agents talk."""
    name = f"{who:>8}"
    if _coloured:
        name = f"\033[{COLOURS[who]}m{name}\033[0m"
    with _printing:
        print(f"{time.monotonic() - _began:6.2f} s {name} | {text}", flush=True)


@define
class Job:
    """One task of an agent, as the agent saw it."""

    agent: str
    name: str
    max_tokens: int
    task_id: str = ""
    position: int = 0
    predicted_ms: int = 0
    started_ms: int | None = None
    tokens: int = 0
    finish: str = ""
    replica: str = ""
    _sent: float = 0.0
    _words: list[str] = field(factory=list)

    def submit(self, api: Api) -> None:
        """Send it. Raises RefusedError."""
        self._sent = time.monotonic()
        accepted = api.submit(self.max_tokens, f"{self.agent}: {self.name}")
        self.task_id = accepted["task_id"]
        self.position, self.predicted_ms = (
            accepted["queue_position"],
            accepted["predicted_start_ms"],
        )
        when = f"starts in about {self.predicted_ms} ms" if self.predicted_ms else "starts now"
        say(self.agent, f"{self.name}: accepted at position {self.position}, {when}")

    def take(self, event: Event, last_id: int) -> int:
        """Follow one event; check ids, order and indices. Returns the last durable id."""
        promise(not self.finish, f"nothing follows `end`, but {event.name} did")
        expected = last_id if event.name == "metrics" else last_id + 1
        promise(event.id == expected, f"id {expected} was due, not {event.id} ({event.name})")
        promise((event.name == "started") == (last_id == 0), "`started` is the first, and only it")
        self._show(event)
        return event.id

    def _show(self, event: Event) -> None:
        data = event.data
        match event.name:
            case "token":
                promise(data["i"] == self.tokens, f"token {self.tokens} was due, not {data['i']}")
                if self.tokens == 0:
                    self.started_ms = round(1000 * (time.monotonic() - self._sent))
                self.tokens += 1
                self._words.append(data["t"])
                if len(self._words) >= 14:
                    self._flush()
            case "metrics" if self.tokens == 0 and "queue_position" in data:
                say(
                    self.agent,
                    f"{self.name}: now at position {data['queue_position']}, "
                    f"starts in about {data.get('predicted_start_ms', 0)} ms",
                )
            case "end":
                self._flush()
                self.finish = data["finish_reason"]
                say(self.agent, f"{self.name}: {self.finish} after {data['tokens_out']} tokens")
            case "error":
                raise BrokenPromiseError(f"{self.name} failed: {data['code']} {data['message']}")

    def _flush(self) -> None:
        if self._words:
            say(self.agent, "  " + " ".join("".join(self._words).split()))
            self._words.clear()

    def read(self, api: Api, until_tokens: int | None = None) -> None:
        """Read the stream to its end; or cancel it after `until_tokens` tokens."""
        last = 0
        with api.stream(self.task_id) as stream:
            for event in stream:
                last = self.take(event, last)
                if until_tokens is not None and self.tokens >= until_tokens and not self.finish:
                    until_tokens = None
                    api.cancel(self.task_id)
                    # What the kernel holds now left before the 204; all else is after it.
                    here = stream.already_here()
                    say(self.agent, f"{self.name}: cancel answered 204; no token may follow")
                    for before in here:
                        last = self.take(before, last)
                    for after in stream:
                        promise(after.name != "token", "no token follows the 204")
                        last = self.take(after, last)
        promise(bool(self.finish), f"{self.name}: the stream broke off")


def planner(api: Api, turn: Turns) -> list[Job]:
    """One long answer, read to its end, while a second waits in the queue."""
    plan, note = Job("planner", "plan", 75), Job("planner", "note", 15)
    plan.submit(api)
    turn.done("planner")
    turn.wait("reviewer")
    note.submit(api)
    turn.done("queue full")
    with ThreadPoolExecutor(2) as both:
        for done in [both.submit(job.read, api) for job in (plan, note)]:
            done.result()
    return [plan, note]


def coder(api: Api, turn: Turns) -> list[Job]:
    """Changes its mind: cancels in the middle, and the slot is free for the next one."""
    patch = Job("coder", "patch", 400)
    turn.wait("planner")
    patch.submit(api)
    turn.done("coder")
    turn.wait("refused")
    patch.read(api, until_tokens=patch.tokens + 25)
    promise(patch.finish == "canceled", f"a canceled task ends as canceled, not {patch.finish}")
    with api.stream(patch.task_id) as again:
        names = [event.name for event in again]
    promise("token" not in names and names[0] == "started" and names[-1] == "end", "replay")
    say("coder", f"patch: read again from the first frame: {', '.join(names)}; no token")
    return [patch]


def reviewer(api: Api, turn: Turns) -> list[Job]:
    """Comes when all slots are taken: waits its turn, is refused once, and comes back in time."""
    review, check = Job("reviewer", "review", 30), Job("reviewer", "check", 10)
    turn.wait("coder")
    review.submit(api)
    promise(review.predicted_ms > 0, "a task that waits is told when it starts")
    turn.done("reviewer")
    turn.wait("queue full")
    refusal = refused(lambda: check.submit(api))
    say(
        "reviewer",
        f"check: 429 {refusal.code}, policy {refusal.policy}: the queue is full, "
        f"Retry-After {refusal.retry_after_s} s, X-Backoff-Ms {refusal.backoff_ms}",
    )
    turn.done("refused")
    review.read(api)
    tries = 1
    while True:
        time.sleep(min(refusal.backoff_ms, 1000 * refusal.retry_after_s) / 1000)
        try:
            check.submit(api)
            break
        except RefusedError as again:
            refusal, tries = again, tries + 1
            promise(tries < 10, "a refused task is taken when it comes back in time")
    check.read(api)
    return [review, check]


def refused(submit: Callable[[], None]) -> RefusedError:
    """Return the refusal that was promised."""
    try:
        submit()
    except RefusedError as refusal:
        promise(refusal.status == 429, f"a full queue is 429, not {refusal.status}")
        promise(refusal.policy == "reject" and refusal.code == "ADMISSION_REJECT", "the policy")
        promise(refusal.retry_after_s >= 1 and refusal.backoff_ms >= 1, "a time to come back")
        promise(refusal.retry_after_s * 1000 >= refusal.backoff_ms, "Retry-After is rounded up")
        return refusal
    raise BrokenPromiseError("a full queue refuses")


class Turns:
    """What has happened, so that the agents tell one story on any machine."""

    def __init__(self) -> None:
        self._happened: set[str] = set()
        self._changed = threading.Condition()

    def done(self, what: str) -> None:
        """Something has happened."""
        with self._changed:
            self._happened.add(what)
            self._changed.notify_all()

    def wait(self, what: str) -> None:
        """Wait until it has happened."""
        with self._changed:
            there = self._changed.wait_for(lambda: what in self._happened, timeout=READY_S)
            promise(there, f"{what!r} happens")


@contextmanager
def suite(folder: Path, configuration: str) -> Iterator[Api]:
    """`orchctl up` in the background, until pool demo is ready; ended, with all it started."""
    config, log = folder / "orchd.toml", folder / "up.log"
    config.write_text(configuration)
    # A demo must not meet the configuration, the sockets or the token of a suite that is in use.
    inherited = {key: value for key, value in os.environ.items() if not key.startswith("ORCHD_")}
    environ = inherited | {
        "ORCHD_RUN_DIR": str(folder),
        "ORCHD_STATE_DIR": str(folder / "state"),
        "ORCHD_ADDR": "127.0.0.1:0",
    }
    argv = [str(Path(sys.executable).with_name("orchctl")), "up", "--config", str(config)]
    with log.open("wb") as sink:
        up = subprocess.Popen(
            argv, env=environ, stdin=subprocess.DEVNULL, stdout=sink, stderr=sink,
            start_new_session=True,
        )  # fmt: skip
    api = Api(folder / "orchd" / "orchd.sock")
    pids: list[int] = []
    try:
        pids = wait_ready(api, up)
        yield api
    except BaseException:
        sys.stderr.write(log.read_text(errors="replace")[-4000:])
        raise
    finally:
        stop(up)
    left = [pid for pid in pids if Path(f"/proc/{pid}").exists()]
    promise(up.returncode == 130, f"orchctl up ends as by Ctrl-C, not with {up.returncode}")
    promise(not left, f"no engine outlives the suite, but {left} did")


def wait_ready(api: Api, up: subprocess.Popen[bytes]) -> list[int]:
    """Wait until every replica of pool demo is Ready. Returns the engines' process ids."""
    deadline = time.monotonic() + READY_S
    while True:
        promise(up.poll() is None, f"orchctl up runs, but it ended with status {up.returncode}")
        replicas = api.replicas("demo")
        if replicas and all(replica.get("ready") for replica in replicas):
            break
        promise(time.monotonic() < deadline, f"all replicas are Ready within {READY_S:.0f} s")
        time.sleep(0.02)
    for replica in replicas:
        device = replica["devices"][0]
        say("demo", f"{replica['replica_id']} is ready on {device['name']} (no real GPU)")
    return [int(replica["engine_pid"]) for replica in replicas if replica.get("engine_pid")]


def stop(up: subprocess.Popen[bytes]) -> None:
    """Ctrl-C, as in a terminal; what does not heed it is killed, its whole session with it."""
    if up.poll() is None:
        up.send_signal(signal.SIGINT)
    try:
        up.wait(STOP_S)
    except subprocess.TimeoutExpired:
        os.killpg(up.pid, signal.SIGKILL)
        up.wait()


def tell(jobs: list[Job], api: Api) -> None:
    """The final table; check what it says of placement."""
    print(f"\n{'agent':10}{'task':9}{'position':>9}{'predicted':>11}{'first token':>13}"
          f"{'tokens':>8}  {'end':10}replica")  # fmt: skip
    for job in jobs:
        status: dict[str, Any] = api.task(job.task_id)
        job.replica = status.get("replica_id", "")
        print(f"{job.agent:10}{job.name:9}{job.position:>9}{job.predicted_ms:>8} ms"
              f"{job.started_ms if job.started_ms is not None else '-':>10} ms"
              f"{job.tokens:>8}  {job.finish:10}{job.replica}")  # fmt: skip
        wanted = "canceled" if job.name == "patch" else "length"
        promise(job.finish == wanted, f"{job.name} ends as {wanted}, not {job.finish}")
        promise(job.name == "patch" or job.tokens == job.max_tokens, f"{job.name} is whole")
    promise({job.replica for job in jobs} == {"demo:0", "demo:1"}, "both GPUs work")


def main() -> int:
    """Exit status 0 when everything was as promised."""
    say("demo", "two simulated GPUs, 24 GB and 12 GB, one mock engine each: nothing here is real")
    try:
        with tempfile.TemporaryDirectory(prefix="orchd-") as name, suite(Path(name), CONFIG) as api:
            turn = Turns()
            with ThreadPoolExecutor(3) as agents:
                running = [agents.submit(agent, api, turn) for agent in (planner, coder, reviewer)]
                jobs = [job for done in running for job in done.result()]
            tell(jobs, api)
    except BrokenPromiseError as broken:
        print(f"\nNOT AS PROMISED: {broken}", file=sys.stderr)
        return 1
    print(f"\nAll of it was checked: frames, ids, order, cancel, refusal, both replicas "
          f"({time.monotonic() - _began:.1f} s).")  # fmt: skip
    print(ON_A_GPU, end="")
    return 0


if __name__ == "__main__":
    sys.exit(main())
