"""The fetching program as a process: killed at any instant, stopped, out of space, left alone."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import trio

from orchd.fetch.child import fetched
from orchd.fetch.entry import Entry, Journal
from orchd.fetch.orders import Order, Progress
from orchd.kit import log
from orchd.wire import codec
from orchd.wire.cached import Shape
from orchd.wire.errors import Kind, OrchError
from orchd.wire.ids import Text
from tests.fakes.fileserver import Files
from tests.fakes.hubserver import Hub
from tests.fetch.making import content, order, sha256
from tests.lab.venv import REPOSITORY
from tests.policy.modules import configured

pytestmark = pytest.mark.slow
ARGV = [sys.executable, "-m", "orchd.fetch", "--log", "json"]
WAIT_S = 20.0


def start(wanted: Order) -> subprocess.Popen[bytes]:
    process = subprocess.Popen(
        ARGV, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert process.stdin is not None
    process.stdin.write(codec.dumps(wanted) + b"\n")
    process.stdin.flush()
    return process


def until(true: Callable[[], Any], what: str) -> None:
    deadline = time.monotonic() + WAIT_S
    while not true():
        assert time.monotonic() < deadline, what
        time.sleep(0.01)


def written(journal: Path) -> int:
    """Return how many bytes a journal says are there."""
    if not journal.exists():
        return 0
    said = codec.loads(Journal, journal.read_bytes())
    return sum(partial.done_bytes for partial in said.files.values())


def at_least(journal: Path, count: int) -> bool:
    return written(journal) >= count


def ended(process: subprocess.Popen[bytes]) -> tuple[int, list[dict[str, Any]], str]:
    """Return exit code, what it said, and its log."""
    held, process.stdin = process.stdin, None  # closing it would end the program
    out, err = process.communicate(timeout=WAIT_S)
    if held is not None:
        held.close()
    return process.returncode, [json.loads(line) for line in out.splitlines()], err.decode()


@pytest.mark.req("ORCH-3436", "ORCH-3090")
def test_killed_at_any_instant_it_goes_on_where_it_was(secure: Files, tmp_path: Path) -> None:
    data = content(40_000_000)
    served = secure.add("/m.gguf", data, bytes_per_s=2_000_000)
    wanted = order(f"{secure.url}/m.gguf", tmp_path)
    entry = Entry(tmp_path / "cache", wanted.ref, Shape.GGUF)
    journal = entry.part / "journal.json"
    kept = 0
    for more in (1, 5_000_000):
        process = start(wanted)
        until(partial(at_least, journal, kept + more), "nothing was written down")
        process.kill()
        process.communicate()
        kept = written(journal)
        assert entry.locate() is None
    served.bytes_per_s = None
    code, said, _ = ended(start(wanted))
    done = said[-1]["done"]
    assert (code, done["digest"]) == (0, f"sha256:{sha256(data)}")
    assert Path(done["path"]).read_bytes() == data
    assert done["fetched_bytes"] == len(data) - kept
    assert not entry.part.exists()


def test_a_stop_keeps_what_has_come(secure: Files, tmp_path: Path) -> None:
    secure.add("/m.gguf", content(60_000_000), bytes_per_s=1_000_000)
    wanted = order(f"{secure.url}/m.gguf", tmp_path)
    process = start(wanted)
    until(lambda: secure.at_once > 1, "nothing is fetched")
    process.send_signal(signal.SIGTERM)
    code, said, _ = ended(process)
    assert code == 0
    assert all("done" not in one for one in said)
    assert Entry(tmp_path / "cache", wanted.ref, Shape.GGUF).part.is_dir()


def test_it_ends_with_whoever_started_it(secure: Files, tmp_path: Path) -> None:
    secure.add("/m.gguf", content(60_000_000), bytes_per_s=1_000_000)
    process = start(order(f"{secure.url}/m.gguf", tmp_path))
    until(lambda: secure.at_once > 1, "nothing is fetched")
    assert process.stdin is not None
    process.stdin.close()
    process.stdin = None
    assert ended(process)[0] == 0


@pytest.mark.req("OC-CTRL-2041")
def test_a_presigned_url_is_in_no_log_and_no_file(secure: Files, tmp_path: Path) -> None:
    secure.add("/m.gguf", b"", statuses=[403] * 9)
    ref = f"{secure.url}/m.gguf?X-Amz-Signature=abcdef0123456789&token=hidehidehide"
    code, said, logged = ended(start(order(ref, tmp_path)))
    assert code == 75
    assert said[-1]["failed"]["kind"] == "fetch_failed"
    secure.files["/m.gguf"].statuses.clear()
    code, more, _ = ended(start(order(ref, tmp_path)))
    assert code == 0
    seen = str(said) + logged + str(more)
    seen += "".join(str(path) + _text(path) for path in (tmp_path / "cache").rglob("*"))
    assert "abcdef012" not in seen
    assert "hidehide" not in seen


def _text(path: Path) -> str:
    return path.read_text(errors="replace") if path.is_file() else ""


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 80 MiB. Needs root."""
    folder = tmp_path / "cache"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=80m", "tmpfs", str(folder)],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    if mounted.returncode != 0:
        pytest.skip(f"needs root that may mount a tmpfs: {mounted.stderr.strip()}")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def test_a_disk_without_room_is_told_before(
    secure: Files, small_disk: Path, tmp_path: Path
) -> None:
    secure.add("/m.gguf", content(30_000_000))
    code, said, _ = ended(start(order(f"{secure.url}/m.gguf", tmp_path)))
    failed = said[-1]["failed"]
    assert (code, failed["kind"]) == (71, "disk_short")
    assert f"{small_disk} has 8" in failed["message"]
    assert "30.0 MB of 30.0 MB are still to come" in failed["message"]
    assert {asked.headers["range"] for asked in secure.asked} == {"bytes=0-0"}


def test_a_disk_that_fills_up_meanwhile_is_told(
    secure: Files, small_disk: Path, tmp_path: Path
) -> None:
    secure.add("/m.gguf", content(90_000_000), ranges=False, length=False)
    code, said, _ = ended(start(order(f"{secure.url}/m.gguf", tmp_path)))
    assert (code, said[-1]["failed"]["kind"]) == (71, "disk_short")
    assert f"{small_disk} is full" in said[-1]["failed"]["message"]


# as poolmgr and orchctl start it


@pytest.mark.req("ORCH-3490")
async def test_progress_has_rate_and_remaining_time(secure: Files, tmp_path: Path) -> None:
    secure.add("/m.gguf", content(20_000_000), bytes_per_s=2_000_000)
    said: list[Progress] = []
    done = await fetched(order(f"{secure.url}/m.gguf", tmp_path), said.append, log="json")
    assert done.size_bytes == 20_000_000
    last = [one for one in said if one.left_s is not None][-1]
    assert last.total_bytes == 20_000_000
    assert 1e5 < (last.bytes_per_s or 0) < 4e7


@pytest.mark.req("ORCH-3206")
async def test_what_it_refuses_is_the_caller_s_error(
    files: Files, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_ENDPOINT", files.url)
    Hub(files, files).add("m.gguf", b"x")
    wanted = order("hf:org/repo/m.gguf", tmp_path, outbound={"deny": ("localhost",)})
    with pytest.raises(OrchError) as caught:
        await fetched(wanted, lambda _: None, log="json")
    assert caught.value.kind is Kind.OUTBOUND_DENIED
    assert "denied by 'localhost' in policy.outbound.deny" in caught.value.message
    assert files.asked == []


@pytest.mark.req("POLICY-4001", "POLICY-4002")
async def test_the_program_asks_the_plugins_too(secure: Files, tmp_path: Path) -> None:
    """The example denies the host that the reference names; with its suffix it is fetched."""
    data = content(1000)
    secure.add("/m.gguf", data)
    code = (REPOSITORY / "packaging/examples/plugins/hosts.wasm").read_bytes()
    for suffix, allowed in ((".example.org", False), ("localhost", True)):
        plugin = configured(tmp_path, "hosts", code, args=(Text(f"suffix={suffix}"),))
        wanted = order(f"{secure.url}/m.gguf", tmp_path, plugins=(plugin,))
        if allowed:
            assert (await fetched(wanted, lambda _: None, log="json")).size_bytes == len(data)
            continue
        with pytest.raises(OrchError) as caught:
            await fetched(wanted, lambda _: None, log="json")
        assert caught.value.kind is Kind.OUTBOUND_DENIED
        assert "denied by the policy plugin hosts: the host is below none" in caught.value.message
        assert secure.asked == []


async def test_cancelled_it_leaves_no_process(secure: Files, tmp_path: Path) -> None:
    secure.add("/m.gguf", content(60_000_000), bytes_per_s=1_000_000)
    with trio.move_on_after(1.5):
        await fetched(order(f"{secure.url}/m.gguf", tmp_path), lambda _: None, log="json")
    assert left_over() == []


def left_over() -> list[str]:
    """Return the fetching programs that are ours."""
    return [
        _command(path)
        for path in Path("/proc").glob("[0-9]*/stat")
        if _parent(path) == os.getpid() and "orchd.fetch" in _command(path)
    ]


def _parent(stat: Path) -> int:
    try:
        return int(stat.read_text().rpartition(")")[2].split()[1])
    except (OSError, ValueError):
        return 0


def _command(stat: Path) -> str:
    try:
        return stat.with_name("cmdline").read_text()
    except OSError:
        return ""


def test_the_log_is_the_audit(secure: Files, tmp_path: Path) -> None:
    secure.add("/m.gguf", b"x")
    with log.capture():
        _, _, logged = ended(start(order(f"{secure.url}/m.gguf", tmp_path)))
    (line,) = [json.loads(line) for line in logged.splitlines()]
    assert line["event"] == "outbound_allowed"
    assert line["rule"] == "pools[0].model.ref"
    assert line["url"] == f"{secure.url}/m.gguf"
