"""The package in the hands of pacman 7 on the newest systemd: install, upgrade under load, remove.

Here: what a user does on Arch, on a machine of its own for each test. Not here: what the package
holds (test_package.py), what the units do in detail.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from tempfile import TemporaryDirectory

import h2.config
import h2.connection
import h2.events
import pytest
from attrs import define, field

import orchd
from orchd.daemon import DRAIN_S
from orchd.wire.sse import Event
from tests.lab.arch import arch_layers, pass_for_arch
from tests.lab.cache import Cache
from tests.lab.machine import Machine
from tests.lab.needs import MACHINE, require
from tests.lab.venv import REPOSITORY
from tests.system import archpkg
from tests.system.house import CONFIG, SIMULATED, House, mock_pool, names_of, pool, task

pytest_plugins = ("tests.lab.fixtures",)
pytestmark = [pytest.mark.system, pytest.mark.slow, pytest.mark.timeout(300)]

LATER = "0.1.99"
PRINT = "--printsrcinfo"
PACE = 20  # tokens a second
STREAMS = 2
# What may stay of a package that was removed: pacman's own, the system's own, and Arch's users.
NOT_OURS = (
    "/etc/.pwd.lock",
    "/etc/group",
    "/etc/gshadow",
    "/etc/passwd",
    "/etc/shadow",
    "/run/agetty.reload",
    "/run/log/",
    "/run/systemd/",
    "/tmp/",
    "/var/cache/pacman/",
    "/var/lib/pacman/",
    "/var/lib/systemd/",
    "/var/log/",
    "/var/tmp/",
)
LIST = """
find / /run -xdev -not -type d -printf '%p\\n' -o -xdev -type d -printf '%p/\\n' | sort -u
"""


@define
class Builder:
    """Packages by makepkg 7, each built once and only when a test wants it (12 s)."""

    layers: list[Path]
    scratch: Path
    _built: dict[str, Path] = field(factory=dict)

    @property
    def folder(self) -> Path:
        """Where they are; a machine has it as /packages."""
        return self.scratch / "packages"

    def build(self, name: str, version: str = "") -> Path:
        """The package of the tree, or of a later version; another `name` is another checkout."""
        if name not in self._built:
            made = archpkg.build_inside(self.layers, self.scratch / name, version)
            self._built[name] = self.folder / f"{name}.pkg.tar.zst"
            shutil.copy2(made, self._built[name])
        return self._built[name]


@pytest.fixture(scope="module")
def layers(lab_cache: Cache) -> list[Path]:
    """A machine with pacman."""
    require(MACHINE)
    return arch_layers(lab_cache)


@pytest.fixture(scope="module")
def builder(layers: list[Path]) -> Iterator[Builder]:
    """Builds packages; they are gone with the module."""
    # pytest's own folders are closed to the user that builds
    with TemporaryDirectory(prefix="makepkg-") as name:
        Path(name).chmod(0o755)
        Path(name, "packages").mkdir(mode=0o755)
        yield Builder(layers, Path(name))


@pytest.fixture
def arch(
    builder: Builder, layers: list[Path], lab_cache: Cache, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[House]:
    """A machine that passes for Arch, without the package."""
    builder.build("first")
    layer = tmp_path_factory.mktemp("arch") / "layer"
    layer.mkdir()
    layer.parent.chmod(0o755)
    whole = pass_for_arch(layers, layer)
    binds = {builder.folder: Path("/packages")}
    with Machine(whole, binds=binds, cache=lab_cache) as machine:
        machine.run("mkdir -p /var/lib/pacman")
        yield House(machine)


def install(house: House, name: str = "first") -> str:
    """What a user types; the dependencies are not packages here."""
    argv = ["pacman", "--noconfirm", "-U", "-dd", f"/packages/{name}.pkg.tar.zst"]
    return house.machine.run(argv, timeout_s=90).stdout


def remove(house: House) -> str:
    """The same for the end."""
    return house.machine.run(["pacman", "--noconfirm", "-R", "orchd"], timeout_s=90).stdout


def running(house: House) -> int:
    """How many tasks run."""
    replicas = house.health()["replicas"]
    return sum(each["snapshot"]["slots_active"] for each in replicas)


def version_of(house: House) -> str:
    """What the running orchd says of itself."""
    return str(house.ask("GET", "/health").json["version"])


def lost(events: list[Event], tokens: int) -> str:
    """What is missing of a stream of so many tokens; empty: nothing."""
    numbers = [json.loads(event.data)["i"] for event in events if event.name == "token"]
    if events[-1].name != "end":
        return f"ended {events[-1]!r}"
    return "" if numbers == list(range(tokens)) else f"tokens {numbers}"


def http2_status(house: House) -> str:
    """The status of GET /health over HTTP/2, which this orchd has not spoken yet."""
    speaker = h2.connection.H2Connection(h2.config.H2Configuration())
    with house.connect() as sock:
        speaker.initiate_connection()
        head = {":method": "GET", ":path": "/health", ":scheme": "http", ":authority": "orchd"}
        speaker.send_headers(1, list(head.items()), end_stream=True)
        sock.sendall(speaker.data_to_send())
        while True:
            data = sock.recv(65536)
            assert data, "closed"
            for event in speaker.receive_data(data):
                if isinstance(event, h2.events.ResponseReceived):
                    return dict(event.headers)[b":status"].decode()
            sock.sendall(speaker.data_to_send())


@pytest.mark.req("SYSD-24")
def test_the_same_source_gives_the_same_package(builder: Builder) -> None:
    """From another checkout and at another time, under the same name of the folder."""
    first, again = builder.build("first"), builder.build("again")
    assert first.read_bytes() == again.read_bytes()
    printed = archpkg.run_makepkg_inside(builder.layers, builder.scratch / "again", PRINT)
    assert printed == (REPOSITORY / ".SRCINFO").read_text()


@pytest.mark.req("SYSD-14")
def test_a_fresh_install_serves(arch: House) -> None:
    said = install(arch)
    assert "systemctl enable --now orchd.target" in said
    users = arch.machine.run(
        "id -nG poolmgr; id -nG orchd; stat -c '%U:%G %a' /run/orchd /var/cache/orchd"
    ).stdout
    assert users.split("\n")[2:4] == ["root:orchd 755", "poolmgr:poolmgr 750"]
    for groups in users.split("\n")[:2]:  # each is in the other's: sockets, and fetched models
        assert {"poolmgr", "orchd"} <= set(groups.split())
    arch.machine.systemctl("enable", "--now", "orchd.target")
    assert version_of(arch) == orchd.__version__
    arch.apply(SIMULATED, mock_pool())
    arch.machine.systemctl("reload", "orchd.service")
    arch.wait_ready()
    assert names_of(arch.complete(task())) == ["started", "token", "end"]
    checked = arch.machine.run("pacman -Qkk orchd 2>&1").stdout
    assert "0 altered files" in checked


@pytest.mark.req("SYSD-26")
def test_an_upgrade_under_load_loses_no_stream(arch: House, builder: Builder) -> None:
    builder.build("later", LATER)
    install(arch)
    arch.configure(SIMULATED, mock_pool(engine=f"tokens_per_s = {PACE}", more="slots = 4"))
    arch.machine.systemctl("daemon-reload")
    arch.machine.systemctl("enable", "--now", "orchd.target")
    arch.wait_ready()
    before = {unit: arch.main_pid(unit) for unit in ("orchd.service", pool("demo:0"))}
    # those that see the upgrade, and those that see the restart: longer than the drain of a stop
    short, long = 10 * PACE, int(PACE * (DRAIN_S + 5))
    with ThreadPoolExecutor(2 * STREAMS) as readers:

        def start(tokens: int) -> list[Future[list[Event]]]:
            wishes = [task(max_tokens=tokens) for _ in range(STREAMS)]
            begun = [readers.submit(arch.complete, wish) for wish in wishes]
            arch.wait(lambda: running(arch) >= STREAMS, "the streams run")
            return begun

        streams = start(short)

        said = install(arch, "later")
        assert f"orchd {LATER}-1 is there. What runs keeps {orchd.__version__}-1" in said
        assert {unit: arch.main_pid(unit) for unit in before} == before
        assert version_of(arch) == orchd.__version__
        assert http2_status(arch) == "200"
        assert arch.property("orchd.service", "NeedDaemonReload") == "no"
        fresh = arch.machine.run(f"tail -n 1 {CONFIG}.pacnew; tail -n 1 {CONFIG}").stdout
        assert fresh.startswith(f"# New in {LATER}.\n")
        assert fresh.count("New in") == 1

        assert [lost(each.result(), short) for each in streams] == [""] * STREAMS

        streams = start(long)
        arch.machine.systemctl("restart", "--no-block", "orchd.service")
        arch.wait(
            lambda: "Draining before a restart" in arch.property("orchd.service", "StatusText"),
            "orchd says what it waits for",
        )
        refused = arch.ask("POST", "/v1/tasks", task())
        assert (refused.status, "retry-after" in refused.headers) == (503, True)
        assert [lost(each.result(), long) for each in streams] == [""] * STREAMS
    arch.wait(lambda: version_of(arch) == LATER, "the new orchd is there")
    assert arch.property("orchd.service", "Result") == "success"
    arch.wait_ready()

    wish = task(max_tokens=2 * PACE)
    with ThreadPoolExecutor(1) as readers:
        stream = readers.submit(arch.complete, wish)
        arch.wait(lambda: running(arch) == 1, "it runs")
        change = "orchctl drain demo --deadline 600 && systemctl restart 'poolmgr@demo:*.service'"
        arch.machine.run(change, timeout_s=60)
        assert lost(stream.result(), 2 * PACE) == ""
    assert arch.main_pid(pool("demo:0")) != before[pool("demo:0")]
    arch.wait_ready()
    assert names_of(arch.complete(task(max_tokens=5)))[-1] == "end"


def files(house: House) -> set[str]:
    """Every file and folder that is there, less those that are not the package's affair."""
    names = house.machine.run(LIST).stdout.splitlines()
    return {name for name in names if not name.startswith(NOT_OURS)}


@pytest.mark.req("SYSD-27")
def test_a_removal_leaves_what_is_the_user_s_and_nothing_else(arch: House) -> None:
    machine = arch.machine
    before = files(arch)
    install(arch)
    arch.configure(SIMULATED, mock_pool())
    machine.systemctl("daemon-reload")
    machine.systemctl("enable", "--now", "orchd.target")
    arch.wait_ready()
    arch.complete(task())
    said = remove(arch)
    # its pool's self-test left a report, an artifact as those of agents
    assert "To remove it: rm -rf /var/lib/orchd\n" in said
    ours = ["orchd*", "poolmgr*", "pools*"]
    units = machine.systemctl("list-units", "--all", "--plain", "--no-legend", *ours)
    assert units.stdout == ""
    assert machine.run("pgrep -u poolmgr,orchd", check=False).stdout == ""
    backup = {"/etc/orchd/", f"{CONFIG}.pacsave"}
    left = files(arch) - before - backup
    assert left
    assert all(name.startswith("/var/lib/orchd/") for name in left)
    assert all("/artifacts/" in name for name in left if not name.endswith("/"))
    machine.run("rm -rf /var/lib/orchd")
    assert files(arch) - before == backup

    install(arch)
    machine.put("/var/lib/orchd/models/mine.gguf", "weights")
    machine.put("/var/cache/orchd/huggingface/model", "more")
    said = remove(arch)
    assert "rm -rf /var/lib/orchd /var/cache/orchd" in said
    kept = {
        "/var/lib/orchd/",
        "/var/lib/orchd/models/",
        "/var/lib/orchd/models/mine.gguf",
        "/var/cache/orchd/",
        "/var/cache/orchd/huggingface/",
        "/var/cache/orchd/huggingface/model",
    }
    assert files(arch) - before == backup | kept
