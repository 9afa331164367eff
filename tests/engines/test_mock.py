"""The mock engine as a program: pace, slots, faults. Its dialect is in test_conformance.py."""

from __future__ import annotations

import http.client
import os
import signal
import socket
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import orjson
import pytest

from orchd.wire.errors import Kind
from orchd.wire.shapes import FinishReason
from poolmgr.engines.base import Broken, Finished
from tests.engines import servers
from tests.engines.servers import Running, job, read, running

pytestmark = pytest.mark.req("ORCH-3058")


def mock(folder: Path, *options: str, **more: Any) -> Any:
    return running("mock", folder, args=options, **more)


def raw(server: Running) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX)
    sock.settimeout(10)
    sock.connect(str(server.socket))
    return sock


def request(server: Running, **more: Any) -> bytes:
    body = server.adapter.submit(job(**more)).body
    return b"POST /completion HTTP/1.1\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body)


def answer(sock: socket.socket) -> bytes:
    data = b""
    while not data.endswith(b"0\r\n\r\n"):
        piece = sock.recv(65536)
        assert piece, "closed in the middle of an answer"
        data += piece
    return data


def test_tokens_come_at_their_pace(tmp_path):
    with mock(tmp_path, tokens_per_s=100.0, first_token_ms=50.0) as server:
        began, arrivals = time.monotonic(), []
        connection, stream = server.open(server.adapter.submit(job(max_tokens=20)).body)
        while piece := stream.read1(65536):
            arrivals += [time.monotonic() - began] * piece.count(b'"stop":false')
        connection.close()
        assert len(arrivals) == 20
        ideal = [0.05 + number / 100 for number in range(20)]
        late = sorted(at - wanted for at, wanted in zip(arrivals, ideal, strict=True))
        assert late[0] > 0, "never early"
        assert late[10] < 0.05, "no drift"


def test_a_shorter_answer_is_a_prefix_and_short_models_end_by_themselves(tmp_path):
    with mock(tmp_path) as server:
        long, short = server.run(job(max_tokens=2000)), server.run(job(max_tokens=7))
        assert len(long.texts) == 2000
        assert long.texts[:7] == short.texts
        assert isinstance(short.end, Finished)
        assert (short.end.tokens_in, short.end.tokens_out) == (2, 7)
    with mock(tmp_path, ref="mock:short") as server:
        ended = server.run(job(max_tokens=3000))
        assert isinstance(ended.end, Finished)
        assert ended.end.finish_reason is FinishReason.STOP
        assert ended.end.tokens_out == len(ended.texts) + 1


def test_never_more_jobs_than_slots_and_who_waits_gets_the_first_free_one(tmp_path):
    with mock(tmp_path, slots=2, tokens_per_s=100.0) as server:
        running_, waiting = [raw(server) for _ in "ab"], [raw(server) for _ in "cde"]
        for sock in (*running_, *waiting):
            sock.sendall(request(server, max_tokens=1500))
            time.sleep(0.01)
        for sock in running_:
            assert sock.recv(65536)
        for sock in waiting:
            sock.settimeout(0.02)
            with pytest.raises(TimeoutError):
                sock.recv(1)
            sock.settimeout(10)
        waiting.pop(0).close()  # whoever leaves the queue takes no slot
        running_[0].close()
        assert waiting[0].recv(65536)
        waiting[1].settimeout(0.05)
        with pytest.raises(TimeoutError):
            waiting[1].recv(1)
        for sock in (*running_, *waiting):
            sock.close()
        servers.until(lambda: not server.busy(), within_s=5)


def test_one_connection_carries_many_requests_even_sent_ahead(tmp_path):
    with mock(tmp_path) as server, raw(server) as sock:
        one = request(server, max_tokens=3)
        sock.sendall(one)
        first = answer(sock)
        sock.sendall(one + b"GET /health HTTP/1.1\r\n\r\n" + one)
        data = b""
        while data.count(b"0\r\n\r\n") < 2:
            data += sock.recv(65536)
        assert data.count(b"200 OK") == 3
        tokens = [line for line in first.split(b"\n") if b'"stop":false' in line]
        assert len(tokens) == 3
        assert [line for line in data.split(b"\n") if b'"stop":false' in line] == tokens * 2


def test_a_slow_reader_gets_every_byte(tmp_path):
    with mock(tmp_path, ctx=200_000) as server, raw(server) as sock:
        sock.sendall(request(server, max_tokens=20_000))
        time.sleep(0.1)  # the kernel's buffer is full by now
        assert answer(sock).count(b'"stop":false') == 20_000


def test_it_ends_at_once_on_sigterm_also_in_the_middle_of_streams(tmp_path):
    with mock(tmp_path, tokens_per_s=50.0) as server, raw(server) as sock:
        sock.sendall(request(server))
        assert sock.recv(65536)
        os.kill(server.pid, signal.SIGTERM)
        began = time.monotonic()
        while sock.recv(65536):
            pass
        assert time.monotonic() - began < 0.5


def test_refuse_load_exits_with_its_reason(tmp_path):
    command = [sys.executable, "-m", "poolmgr.mockengine", "--refuse-load", "--load-ms", "1"]
    done = subprocess.run(
        [*command, "--socket", str(tmp_path / "e.sock")],
        check=False,
        capture_output=True,
        text=True,
        timeout=10,
    )
    assert done.returncode == 1
    assert "refused to load" in done.stderr


def test_die_after_load_exits_0_while_serving(tmp_path):
    command = [sys.executable, "-m", "poolmgr.mockengine", "--die-after-load-ms", "20"]
    done = subprocess.run([*command, "--socket", str(tmp_path / "e.sock")], check=False, timeout=10)
    assert done.returncode == 0


def test_die_after_tokens_kills_itself_and_only_a_job_that_long(tmp_path):
    with mock(tmp_path, "--die-after-tokens", "5") as server:
        assert isinstance(server.run(job(max_tokens=5)).end, Finished)
        connection, stream = server.open(server.adapter.submit(asked := job(max_tokens=50)).body)
        data = b""
        with suppress(ConnectionError, http.client.HTTPException):
            while piece := stream.read1(65536):
                data += piece
        outcome = read(server.adapter, asked, 200, data)
        assert len(outcome.texts) == 5
        assert isinstance(outcome.end, Broken)
        assert outcome.end.error.kind is Kind.ENGINE_DIED
        connection.close()


def test_hang_after_tokens_says_nothing_more_and_frees_the_slot_when_left(tmp_path):
    with mock(tmp_path, "--hang-after-tokens", "4") as server, raw(server) as sock:
        sock.sendall(request(server, max_tokens=50))
        data = b""
        while data.count(b'"stop":false') < 4:
            data += sock.recv(65536)
        sock.settimeout(0.1)
        with pytest.raises(TimeoutError):
            sock.recv(1)
        assert server.busy()
        sock.close()
        servers.until(lambda: not server.busy(), within_s=5)


def test_garbage_after_tokens_is_noticed_by_the_reader(tmp_path):
    with mock(tmp_path, "--garbage-after-tokens", "4") as server:
        asked = job(max_tokens=50)
        connection, stream = server.open(server.adapter.submit(asked).body)
        reader = server.adapter.reader(asked, 200)
        last = None
        while not isinstance(last, Broken):
            last = (reader.feed(stream.read1(65536)) or [None])[-1]
        assert last.error.kind is Kind.ENGINE_PROTOCOL
        connection.close()


def test_split_utf8_cuts_inside_characters_and_frames_and_loses_nothing(tmp_path):
    with mock(tmp_path) as server:
        asked = job(max_tokens=40)
        whole = server.run(asked)
    with mock(tmp_path, "--split-utf8") as server, raw(server) as sock:
        sock.sendall(request(server, max_tokens=40))
        pieces: list[bytes] = []
        while not (pieces and b"".join(pieces).endswith(b"0\r\n\r\n")):
            pieces.append(sock.recv(65536))
        assert any(piece[-1] >= 0xC2 for piece in pieces), "a cut behind a lead byte"
        assert server.run(asked) == whole


def test_a_seed_that_means_draw_one_draws_one(tmp_path):
    with mock(tmp_path) as server:
        body = orjson.loads(server.adapter.submit(job(max_tokens=20)).body)
        texts = {
            orjson.loads(server.ask("POST", "/completion", orjson.dumps(value))[1])["content"]
            for value in [body | {"seed": seed, "stream": False} for seed in (-1, -1, 4294967295)]
        }
        assert len(texts) == 3


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (b"GET /v1/chat/completions HTTP/1.1\r\n\r\n", b"404"),
        (b"POST /completion HTTP/1.1\r\nContent-Length: 1\r\n\r\n{", b"400"),
        (b"POST /completion HTTP/1.1\r\nContent-Length: 2\r\n\r\n[]", b"400"),
        (b"POST /completion HTTP/1.1\r\nContent-Length: 2\r\n\r\n{}", b"400"),
        (
            b'POST /completion HTTP/1.1\r\nContent-Length: 25\r\n\r\n{"prompt":"x","seed":"y"}',
            b"400",
        ),
        (b"POST /completion HTTP/1.1\r\nContent-Length: x\r\n\r\n", b"411"),
        (b"GET /health HTTP/1.1\r\nContent-Length: " + b"9" * 5000 + b"\r\n\r\n", b"411"),
        (b"POST /completion HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n", b"411"),
    ],
)
def test_wrong_requests_are_told_so(tmp_path, sent, status):
    with mock(tmp_path) as server, raw(server) as sock:
        sock.sendall(sent)
        assert sock.recv(65536).startswith(b"HTTP/1.1 " + status)
