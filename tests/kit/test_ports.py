"""TCP ports: what the kernel's tables say, and who has one."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from orchd.kit import ports
from orchd.kit.fds import bind_tcp
from orchd.kit.ports import listeners, on_loopback, who_has
from orchd.wire.errors import OrchError

HEADING = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid ...\n"
REST = "00000000:00000000 00:00000000 00000000"


def table(*rows: tuple[str, str, str, int, int]) -> str:
    """As /proc/net/tcp has it: local, remote, state, uid, inode."""
    return HEADING + "".join(
        f"{at:4}: {local} {remote} {state} {REST} {uid:5} 0 {inode} 1 00000000f6f7a9f2 100 0 0\n"
        for at, (local, remote, state, uid, inode) in enumerate(rows)
    )


TCP = table(
    ("00000000:07E8", "00000000:0000", "0A", 0, 1213),
    ("0100007F:1F90", "00000000:0000", "0A", 1000, 77),
    ("0200007F:1F91", "00000000:0000", "0A", 1000, 78),
    ("0100007F:1F92", "0100007F:C350", "01", 1000, 79),
)
TCP6 = table(("0" * 32 + ":1F93", "0" * 32 + ":0000", "0A", 33, 80))


def test_what_listens_is_told_and_what_is_connected_is_not() -> None:
    found = {one.port: one for one in listeners(TCP)}
    assert set(found) == {2024, 8080, 8081}
    assert (found[8080].uid, found[8080].inode) == (1000, "77")
    assert list(listeners("")) == list(listeners(HEADING)) == []


def test_a_port_of_loopback_is_taken_by_its_address_and_by_all_addresses() -> None:
    there = [*listeners(TCP), *listeners(TCP6)]
    assert [getattr(on_loopback(port, there), "inode", None) for port in (2024, 8080, 8083)] == [
        "1213", "77", "80",
    ]  # fmt: skip
    # 127.0.0.2 is another address, and a connection from 8082 is no listener
    assert on_loopback(8081, there) is None
    assert on_loopback(8082, there) is None


def test_who_has_a_port_is_named() -> None:
    with socket.create_server(("127.0.0.1", 0)) as one, socket.create_server(("", 0)) as every:
        numbers = [each.getsockname()[1] for each in (one, every)]
        name = Path("/proc/self/comm").read_text().strip()
        for number in numbers:
            assert who_has(number) == f"pid {os.getpid()} ({name})"
            with pytest.raises(OrchError, match=r"127\.0\.0\.1:\d+: pid \d+ \(.*\) does already"):
                bind_tcp("127.0.0.1", number)
    assert [who_has(number) for number in numbers] == [None, None]


def test_of_another_user_s_process_the_user_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whose open files only root may see."""
    monkeypatch.setattr(ports, "holders_of", lambda _inode: frozenset())
    with socket.create_server(("127.0.0.1", 0)) as one:
        assert who_has(one.getsockname()[1]) == f"a process of uid {os.geteuid()}"
