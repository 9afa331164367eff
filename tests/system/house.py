"""The suite inside a booted machine, driven from outside as its users and its operator drive it.

Here: laying units, users and configuration over the lab's layers; HTTP and streams over the
machine's own sockets; units, processes and the journal. Not here: any assertion about them.
"""

from __future__ import annotations

import http.client
import json
import socket
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from attrs import define, field, frozen

from orchd.wire.sse import Decoder, Event
from tests.lab.machine import Machine
from tests.lab.rootfs import Suite
from tests.lab.venv import PREFIX, REPOSITORY, project_layer

T = TypeVar("T")
FRONT = Path("/run/orchd/orchd.sock")
CONFIG = "/etc/orchd/orchd.toml"
TOKEN_FILE = "/etc/credstore/orchd.auth_token"
GENERATOR = Path("/usr/lib/systemd/system-generators/orchd-generator")
PORT = 8484
STARTING = "7d4958e842da4a758f6c1cdc7b36dcc5"  # sd-messages.h: SD_MESSAGE_UNIT_STARTING
ANSWER_S = 20.0  # eight suites on two cores
READY_S = 30.0

OTHER_ADDRESS = "10.9.8.7"
# ioctl SIOCSIFADDR on lo:1; the machine has no tool for it
ADD_ADDRESS = """
import fcntl, socket, struct, sys
request = struct.pack("16sH2s4s8s", b"lo:1", 2, b"", socket.inet_aton(sys.argv[1]), b"")
fcntl.ioctl(socket.socket(socket.AF_INET, socket.SOCK_DGRAM), 0x8916, request)
"""

SIMULATED = """
[devices]
backend = "simulated"
simulated = [
    { name = "Simulated 24 GB", vram_mb = 24576 },
    { name = "Simulated 12 GB", vram_mb = 12288 },
]
"""


def mock_pool(
    pool_id: str = "demo", replicas: str = "[[0]]", engine: str = "tokens_per_s = 0", more: str = ""
) -> str:
    """One pool of the mock engine; `engine` are further keys of its table."""
    return f"""
[[pools]]
id = "{pool_id}"
engine = {{ id = "mock", {engine} }}
model = {{ ref = "mock:lorem" }}
replicas = {replicas}
ctx = 8192
{more}
"""


def task(pool_engine: str = "mock", **changes: object) -> dict[str, object]:
    """A task that the mock pool serves, with a fresh id."""
    return {
        "task_id": str(uuid.uuid4()),
        "session_id": str(uuid.uuid4()),
        "workload": "completion",
        "model_ref": "mock:lorem",
        "engine": pool_engine,
        "ctx": 2048,
        "priority": "interactive",
        "max_tokens": 16,
        "deadline_ms": 60_000,
        "seed": 7,
        "prompt": "Tell me of the house.",
    } | changes


def installed(suite: Suite, layer: Path) -> list[Path]:
    """Fill `layer` with the suite as a package would install it; returns all layers, top first."""
    layers = project_layer(suite, layer)
    places = {
        "usr/lib/systemd/system": sorted((REPOSITORY / "units").glob("*.*")),
        "usr/lib/systemd/user": sorted((REPOSITORY / "units/user").iterdir()),
        "usr/lib/sysusers.d": [REPOSITORY / "packaging/orchd.sysusers.conf"],
        "usr/lib/tmpfiles.d": [REPOSITORY / "packaging/orchd.tmpfiles.conf"],
    }
    for place, sources in places.items():
        (layer / place).mkdir(parents=True)
        for source in sources:
            target = layer / place / source.name
            target.write_bytes(source.read_bytes())
            target.chmod(0o644)
    program = (REPOSITORY / "packaging/orchd-generator").read_text()
    generator = layer / GENERATOR.relative_to("/")
    generator.parent.mkdir()
    generator.write_text(program.replace("/usr/bin/python ", f"{PREFIX}/bin/python ", 1))
    generator.chmod(0o755)
    for_users = generator.parents[1] / "user-generators" / generator.name
    for_users.parent.mkdir()
    for_users.symlink_to(f"../{generator.parent.name}/{generator.name}")
    return layers


@frozen
class Answer:
    """What an HTTP server said."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        """The body, read."""
        return json.loads(self.body)


class _Connection(http.client.HTTPConnection):
    """http.client over a connection that is made elsewhere."""

    def __init__(self, connect: Callable[[], socket.socket]) -> None:
        super().__init__("localhost", timeout=ANSWER_S)
        self._connect = connect

    def connect(self) -> None:
        self.sock = self._connect()
        self.sock.settimeout(ANSWER_S)


@define
class House:
    """A running machine with the suite in it."""

    machine: Machine
    _since: float = field(default=0.0)

    # the operator's side

    def configure(self, *parts: str) -> None:
        """Write the configuration file."""
        self.machine.put(CONFIG, "\n".join(parts))

    def apply(self, *parts: str) -> None:
        """Change the configuration and apply it, as specs/12-systemd.md says."""
        self.configure(*parts)
        self.machine.systemctl("daemon-reload")
        self.machine.systemctl("start", "orchd.target")

    def drop_in(self, unit: str, text: str) -> None:
        """Add to a unit, as `systemctl edit` would."""
        self.machine.put(f"/etc/systemd/system/{unit}.d/test.conf", text)
        self.machine.systemctl("daemon-reload")

    def start(self, *replicas: str, check: bool = True) -> None:
        """Start the suite and these pools, and wait until systemd says that they have started."""
        units = [pool(replica) for replica in replicas]  # in one call: a second one starts it again
        self.machine.systemctl("start", "orchd.target", *units, check=check)

    def clear(self) -> None:
        """Stop everything and forget what the test before has set up, its journal included."""
        units = ["orchd.target", "orchd.service", "orchd.socket", "poolmgr@*"]
        self.machine.systemctl("stop", *units, check=False)
        left = "/etc/orchd/* /etc/credstore /etc/systemd/system/*.d"
        self.machine.run(f"systemctl reset-failed; rm -rf {left}; systemctl daemon-reload")
        self.forget()

    def forget(self) -> None:
        """From now on the journal is what is said from now on."""
        self._since = time.time()

    def add_address(self) -> None:
        """Give the machine an address that is not a loopback one."""
        self.machine.run(["python3", "-c", ADD_ADDRESS, OTHER_ADDRESS])

    def property(self, unit: str, name: str) -> str:
        """One property of a unit."""
        return self.machine.show(unit, name).get(name, "")

    def main_pid(self, unit: str) -> int:
        """The PID of a unit's daemon, inside."""
        return int(self.property(unit, "MainPID"))

    def alive(self, pid: int) -> bool:
        """Whether a process is there (a zombie is not)."""
        try:
            stat = self.machine.path(f"/proc/{pid}/stat").read_text()
        except (FileNotFoundError, ProcessLookupError):
            return False
        return stat.rpartition(")")[2].split()[0] != "Z"

    def engine_pids(self, replica: str) -> list[int]:
        """PIDs, as the machine counts, of what runs in the engine's cgroup of a replica."""
        path = f"/sys/fs/cgroup/pools.slice/{pool(replica)}/engine/cgroup.procs"
        return [int(line) for line in self.machine.run(f"cat {path}", check=False).stdout.split()]

    def kill(self, pid: int, signal: str = "KILL") -> None:
        """Send a signal, as root."""
        self.machine.run(f"kill -{signal} {pid}")  # sh's own: the machine has no other

    def journal(self, unit: str | None = None, *matches: str) -> list[dict[str, Any]]:
        """The journal since the last clear() or forget()."""
        entries = self.machine.journal(unit, *matches)
        return [e for e in entries if int(e["__REALTIME_TIMESTAMP"]) >= self._since * 1e6]

    def said(self, unit: str) -> str:
        """All that a unit, and systemd about it, said since the last clear() or forget()."""
        return "\n".join(str(entry.get("MESSAGE", "")) for entry in self.journal(unit))

    def starts_of(self, unit: str) -> list[float]:
        """When systemd began each start of a unit, in seconds."""
        entries = self.journal(None, f"UNIT={unit}", f"MESSAGE_ID={STARTING}")
        return [int(entry["__MONOTONIC_TIMESTAMP"]) / 1e6 for entry in entries]

    def wait(self, predicate: Callable[[], T], what: str, deadline_s: float = READY_S) -> T:
        """Ask until the answer is true."""
        return self.machine.wait_for(predicate, deadline_s, what)

    # the client's side

    def connect(self, *, tcp: bool = False) -> socket.socket:
        """Connect to orchd as a local program does."""
        if tcp:
            return self.machine.connect_tcp(PORT)
        return connect_unix(self.machine.path(FRONT))

    def ask(
        self,
        method: str,
        route: str,
        body: object = None,
        *,
        token: str | None = None,
        tcp: bool = False,
        socket_path: Path | None = None,
    ) -> Answer:
        """One request, by default to orchd's unix socket."""

        def connect() -> socket.socket:
            if socket_path is not None:
                return connect_unix(self.machine.path(socket_path))
            return self.connect(tcp=tcp)

        connection = _Connection(connect)
        try:
            connection.request(method, route, *_encoded(body, token))
            answer = connection.getresponse()
            headers = {name.lower(): value for name, value in answer.getheaders()}
            return Answer(answer.status, headers, answer.read())
        finally:
            connection.close()

    @contextmanager
    def stream(self, task_id: object, *, token: str | None = None) -> Iterator[Iterator[Event]]:
        """The events of a task, as they come."""
        connection = _Connection(self.connect)
        try:
            connection.request("GET", f"/v1/tasks/{task_id}/stream", *_encoded(None, token))
            answer = connection.getresponse()
            if answer.status != http.client.OK:
                raise AssertionError(f"{answer.status} {answer.read()!r}")
            yield _events(answer)
        finally:
            connection.close()

    def complete(self, wish: Mapping[str, object], *, token: str | None = None) -> list[Event]:
        """Send a task and read its whole stream."""
        accepted = self.ask("POST", "/v1/tasks", wish, token=token)
        if accepted.status != http.client.ACCEPTED:
            raise AssertionError(f"{accepted.status} {accepted.body!r}")
        with self.stream(wish["task_id"], token=token) as events:
            return list(events)

    def health(self, pool_id: str = "demo") -> Any:
        """The health of a pool, as orchd tells it."""
        return self.ask("GET", f"/v1/pools/{pool_id}/health").json

    def wait_ready(self, pool_id: str = "demo") -> None:
        """Until orchd would place tasks on the pool."""
        self.wait(lambda: self.health(pool_id).get("ready"), f"pool {pool_id} is ready")


def pool(replica: str) -> str:
    """The service of a replica."""
    return f"poolmgr@{replica}.service"


def text_of(events: Sequence[Event]) -> str:
    """What the tokens of a stream say together."""
    return "".join(json.loads(event.data)["t"] for event in events if event.name == "token")


def names_of(events: Sequence[Event]) -> list[str]:
    """Kinds of events in their order, metrics left out (they come when they come)."""
    kinds = [event.name for event in events if event.name not in ("metrics", "narration")]
    return [kind for i, kind in enumerate(kinds) if i == 0 or kinds[i - 1] != kind]


def connect_unix(path: Path) -> socket.socket:
    """A connection to a unix socket."""
    sock = socket.socket(socket.AF_UNIX)
    sock.settimeout(ANSWER_S)
    try:
        sock.connect(str(path))
    except BaseException:
        sock.close()
        raise
    return sock


def _encoded(body: object, token: str | None) -> tuple[bytes | None, dict[str, str]]:
    headers = {} if token is None else {"Authorization": f"Bearer {token}"}
    if body is None:
        return None, headers
    return json.dumps(body).encode(), {**headers, "Content-Type": "application/json"}


def _events(answer: http.client.HTTPResponse) -> Iterator[Event]:
    decoder = Decoder()
    while data := answer.read1(65536):
        yield from decoder.feed(data)
