"""Which addresses are of the internet, and which are somebody's own network. Pure.

For fetches that clients ask for: what is reachable from this machine and not from theirs is none of
their business, unless the operator says so (server-side request forgery).
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator, Sequence
from typing import Final

Ip = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network

_COMPATIBLE: Final = ipaddress.IPv6Network("::/96")  # RFC 4291, 2.5.5.1: deprecated
_NAT64: Final = ipaddress.IPv6Network("64:ff9b::/96")  # RFC 6052
_NAT64_OWN: Final = ipaddress.IPv6Network("64:ff9b:1::/48")  # RFC 8215: a network's own
_SITE: Final = ipaddress.IPv6Network("fec0::/10")  # RFC 3879: deprecated, and still local


def may_be_asked(address: str, private: Sequence[Network]) -> bool:
    """Return whether a connection may go to this address.

    `private`: networks that may, though they are not of the internet. What leads to another address
    (mapped, NAT64, 6to4, Teredo) may go where both may.
    """
    try:
        ip = ipaddress.ip_address(address)
    except ValueError:
        return False
    return all(_global(each) or any(each in network for network in private) for each in _led_to(ip))


def _led_to(ip: Ip) -> Iterator[Ip]:
    """Yield the address, and those that packets to it may reach in the end."""
    if isinstance(ip, ipaddress.IPv4Address):
        yield ip
        return
    if ip.ipv4_mapped is not None:  # the same thing in another spelling
        yield ip.ipv4_mapped
        return
    yield ip
    if ip.sixtofour is not None:
        yield ip.sixtofour
    if ip.teredo is not None:
        yield from ip.teredo
    if ip in _NAT64 or (ip in _COMPATIBLE and int(ip) > 1):
        yield ipaddress.IPv4Address(int(ip) & 0xFFFFFFFF)


def _global(ip: Ip) -> bool:
    if ip.is_multicast or not ip.is_global:
        return False
    return not isinstance(ip, ipaddress.IPv6Address) or not (ip in _NAT64_OWN or ip in _SITE)
