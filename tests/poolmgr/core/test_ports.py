"""TCP ports: what the kernel's tables say, and what is in the way of an engine."""

from __future__ import annotations

import pytest

from poolmgr.core.ports import Holder, in_the_way, listeners, on_loopback

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


@pytest.mark.req("ORCH-3804")
def test_what_is_in_the_way_of_an_engine_says_who_has_the_port() -> None:
    taken = {
        8080: Holder(port=8080, uid=1000, pid=4711, program="llama-server"),
        2024: Holder(port=2024, uid=0),
    }
    assert list(in_the_way((8080, 8080, 2024, 8081, 80), taken)) == [
        (8080, "port 8080 is taken by pid 4711 (llama-server) of uid 1000"),
        (2024, "port 2024 is taken by another user's process of uid 0"),
        (80, "port 80 is for root: an engine may listen from 1024 on"),
    ]
    assert list(in_the_way((80,), {}, first_free=80)) == []
