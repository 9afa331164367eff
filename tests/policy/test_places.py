"""Which addresses a fetch for a client may reach."""

from __future__ import annotations

import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchd.policy.places import may_be_asked

pytestmark = pytest.mark.req("POLICY-4031")
OWN = (
    *(
        "127.0.0.1",
        "127.8.9.1",
        "0.0.0.0",
        "10.0.0.1",
        "172.16.0.1",
        "192.168.1.1",
        "169.254.169.254",
    ),
    *("100.64.0.1", "192.0.2.1", "198.18.0.1", "224.0.0.1", "240.0.0.1", "255.255.255.255"),
    *("::", "::1", "fe80::1", "fe80::1%eth0", "fc00::1", "fd12:3456::1", "fec0::1", "ff02::1"),
    *("2001:db8::1", "::ffff:127.0.0.1", "::ffff:10.0.0.1", "::127.0.0.1", "::10.0.0.1"),
    *("64:ff9b::7f00:1", "64:ff9b::a00:1", "64:ff9b:1::808:808", "2002:7f00:1::", "2002:a00:1::1"),
    "2001:0:4136:e378:8000:63bf:f5ff:fffe",  # Teredo of 10.0.0.1
    *("", "localhost", "1.2.3", "0x7f.1", "2130706433", "1.1.1.1/32"),
)
PUBLIC = (
    "1.1.1.1",
    "8.8.8.8",
    "93.184.215.14",
    "2606:4700:4700::1111",
    "::ffff:8.8.8.8",
    "64:ff9b::808:808",
)


@pytest.mark.parametrize("address", OWN)
def test_what_is_not_of_the_internet_may_not(address: str) -> None:
    assert not may_be_asked(address, ())


@pytest.mark.parametrize("address", PUBLIC)
def test_what_is_may(address: str) -> None:
    assert may_be_asked(address, ())


def test_a_network_that_was_named_may_and_no_other() -> None:
    named = (ipaddress.ip_network("192.168.1.0/24"), ipaddress.ip_network("::1"))
    assert may_be_asked("192.168.1.9", named)
    assert may_be_asked("::ffff:192.168.1.9", named)
    assert may_be_asked("::1", named)
    assert not may_be_asked("192.168.2.9", named)
    assert not may_be_asked("127.0.0.1", named)
    assert may_be_asked("64:ff9b::c0a8:109", named)
    assert not may_be_asked("64:ff9b::c0a8:209", named)


@given(st.ip_addresses(v=4))
def test_no_spelling_of_an_address_says_more_than_the_address(ip: ipaddress.IPv4Address) -> None:
    plain = may_be_asked(str(ip), ())
    assert may_be_asked(f"::ffff:{ip}", ()) == plain
    number = int(ip)
    assert may_be_asked(f"64:ff9b::{number >> 16:x}:{number & 0xFFFF:x}", ()) == plain
    if not plain:
        assert not may_be_asked(f"2002:{number >> 16:x}:{number & 0xFFFF:x}::1", ())
