"""Checks of `policy`: hosts, networks, bounds, and what a plugin's keys say.

Each check yields faults that say what is allowed. Nothing is opened here: whether a plugin's file
is what it should be is orchd/policy's.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterator
from typing import Final

from orchd.config.policy import Fetch, Outbound, Plugin, Policy
from orchd.wire import address
from orchd.wire.codec import Fault

MAX_REQUESTS_PER_MIN: Final = 100_000
MAX_PLUGINS: Final = 8
"""Each is asked about each question, and is a value of a label (wire/metrics.py)."""
MAX_FUEL: Final = 100_000_000  # a second and a half, interpreted
MAX_MEMORY_MB: Final = 64  # four decide at once
MAX_DEADLINE_MS: Final = 1000  # a task waits for it before it is admitted
MAX_ARGS: Final = 64
MAX_ARG: Final = 256
"""Characters: with MAX_ARGS of them a question still has room in its 32 KiB (policy/abi.py)."""
MAX_FETCH_KB: Final = 16_384  # in memory, eight at once, and a third more as base64
MAX_FETCH_MS: Final = 60_000
_PROXY: Final = re.compile(r"http://(?:[A-Za-z0-9.-]+|\[[0-9A-Fa-f:]+\]):[1-9]\d{0,4}/?")
_NAME: Final = re.compile(r"[a-z0-9][a-z0-9-]{0,31}")
_SHA256: Final = re.compile(r"[0-9a-f]{64}")


def check_policy(policy: Policy) -> Iterator[Fault]:
    """Yield the faults below `$.policy`."""
    yield from _outbound(policy.outbound)
    if len(policy.plugins) > MAX_PLUGINS:
        must = f"must name at most {MAX_PLUGINS} plugins, not {len(policy.plugins)}"
        yield Fault("$.policy.plugins", must)
    for index, plugin in enumerate(policy.plugins):
        path = f"$.policy.plugins[{index}]"
        yield from _plugin(plugin, path)
        if plugin.name in [other.name for other in policy.plugins[:index]]:
            yield Fault(f"{path}.name", f"{plugin.name!r} is the name of a plugin before it")
    yield from _fetch(policy.fetch)


def _outbound(outbound: Outbound) -> Iterator[Fault]:
    path = "$.policy.outbound"
    yield from _hosts(outbound.allow, f"{path}.allow")
    yield from _hosts(outbound.deny, f"{path}.deny")
    if outbound.proxy is not None and not _PROXY.fullmatch(outbound.proxy):
        yield Fault(f"{path}.proxy", "must be http://host:port, without user and path")
    most = outbound.requests_per_min
    if most is not None:
        why = ": their times are kept"
        yield from _at_most(most, MAX_REQUESTS_PER_MIN, f"{path}.requests_per_min", why)


def _plugin(plugin: Plugin, path: str) -> Iterator[Fault]:
    if not _NAME.fullmatch(plugin.name):
        must = "must be of lower case, digits and dashes, at most 32, such as hosts"
        yield Fault(f"{path}.name", f"{must}, not {plugin.name[:40]!r}")
    if not plugin.path.startswith("/") or "\0" in plugin.path:
        yield Fault(f"{path}.path", "must begin with /: units and programs start elsewhere")
    if not _SHA256.fullmatch(plugin.sha256):
        yield Fault(f"{path}.sha256", "must be 64 hex digits in lower case: sha256sum FILE")
    if not plugin.decides:
        yield Fault(f"{path}.decides", "must name what it decides: outbound, admission or both")
    yield from _at_most(plugin.fuel, MAX_FUEL, f"{path}.fuel")
    yield from _at_most(plugin.memory_mb, MAX_MEMORY_MB, f"{path}.memory_mb")
    yield from _at_most(plugin.deadline_ms, MAX_DEADLINE_MS, f"{path}.deadline_ms")
    if len(plugin.args) > MAX_ARGS:
        yield Fault(f"{path}.args", f"must be at most {MAX_ARGS} words, not {len(plugin.args)}")
    for index, word in enumerate(plugin.args):
        if len(word) > MAX_ARG:
            yield Fault(f"{path}.args[{index}]", f"must have at most {MAX_ARG} characters")


def _fetch(fetch: Fetch) -> Iterator[Fault]:
    path = "$.policy.fetch"
    yield from _hosts(fetch.allow, f"{path}.allow")
    for index, network in enumerate(fetch.private):
        try:
            ipaddress.ip_network(network)
        except ValueError as exc:
            must = f"must be a network or an address, such as 192.168.1.0/24: {exc}"
            yield Fault(f"{path}.private[{index}]", must)
    if fetch.enabled and not fetch.allow:
        yield Fault(f"{path}.allow", 'must name the hosts that clients may ask; "*" is every host')
    yield from _at_most(fetch.max_kb, MAX_FETCH_KB, f"{path}.max_kb")
    yield from _at_most(fetch.requests_per_min, MAX_REQUESTS_PER_MIN, f"{path}.requests_per_min")
    yield from _at_most(fetch.timeout_ms, MAX_FETCH_MS, f"{path}.timeout_ms")


def _hosts(patterns: tuple[str, ...], path: str) -> Iterator[Fault]:
    for index, pattern in enumerate(patterns):
        wrong = address.pattern_fault(pattern)
        if wrong is not None:
            yield Fault(f"{path}[{index}]", wrong)


def _at_most(value: int, most: int, path: str, why: str = "") -> Iterator[Fault]:
    if value > most:
        yield Fault(path, f"must be at most {most}, not {value}{why}")
