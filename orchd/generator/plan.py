"""Settings -> units: one instance of poolmgr@ for each replica, and a drop-in with what is its own.

A pure function. What all instances have in common is in units/poolmgr@.service.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from typing import Final

from orchd.config.devices import Backend
from orchd.config.pool import TGI, TRITON, VLLM, Mode, Pool
from orchd.config.schema import Settings
from orchd.generator import container, folders
from orchd.generator.store import Units
from orchd.wire import modelref
from orchd.wire.ids import DeviceMask, replica_id

DROP_IN: Final = "50-orchd.conf"
"""Before `override.conf`, which `systemctl edit` writes: the operator has the last word."""
HEAD: Final = """\
# Written by orchd-generator at every daemon-reload; `systemctl edit` adds to it.
"""
_MAJOR: Final = 195
"""NVIDIA's, for ever (Linux, Documentation/admin-guide/devices.txt). By number: the node may not be
there yet when the unit starts."""
_CONTROL: Final = 255
"""Minor of nvidiactl."""
_PLAIN: Final = re.compile(r"""[^\x00-\x1f\x7f"'\\:]+""")
"""What a path of a unit may hold between quotes without a second reading by systemd."""


def units(settings: Settings, minors: Sequence[int], *, user: bool) -> Units:
    """Return the units of all replicas.

    `minors` are those of the GPUs' nodes by index, as far as they are known. A `user`'s manager may
    not filter devices, and its pools are that user: they read what the user reads.
    """
    vendor = f"/usr/lib/systemd/{'user' if user else 'system'}"
    files, links, instances = {}, {}, []
    for pool in settings.pools:
        for mask in pool.replicas:
            name = replica_id(pool.id, mask)
            lines = [HEAD + "[Unit]", f"SourcePath={settings.source}"]
            lines += _drop_in(settings, pool, mask, minors, user=user)
            files[f"poolmgr@{name}.service.d/{DROP_IN}"] = "\n".join(lines) + "\n"
            for kind in ("service", "socket"):
                link = f"orchd.target.wants/poolmgr@{name}.{kind}"
                links[link] = f"{vendor}/poolmgr@.{kind}"
            instances.append(name)
    front = list(_front(settings))
    if front:
        head = [HEAD + "[Unit]", f"SourcePath={settings.source}", "[Service]"]
        files[f"orchd.service.d/{DROP_IN}"] = "\n".join([*head, *front]) + "\n"
    return Units(files, links, tuple(instances))


def _front(settings: Settings) -> Iterator[str]:
    """Open the network for orchd itself, where it fetches pages for clients."""
    if not (settings.policy.fetch.enabled and settings.policy.outbound.enabled):
        return
    yield "# It fetches pages for clients (policy.fetch)."
    yield "PrivateNetwork=no"
    yield "RestrictAddressFamilies=AF_INET AF_INET6"
    yield "IPAddressAllow=any"


def _drop_in(
    settings: Settings, pool: Pool, mask: DeviceMask, minors: Sequence[int], *, user: bool
) -> Iterator[str]:
    wanted = folders.of(settings, pool)
    plain = [path for path in wanted if _PLAIN.fullmatch(path)]
    for path in plain:
        yield f'WantsMountsFor="{_literal(path)}"'
    for path in wanted:
        if path not in plain:
            yield f"# No unit can name {json.dumps(path)}: only what all may read is read there."
    yield "[Service]"
    if pool.limits.memory_mb is not None:
        yield f"MemoryMax={pool.limits.memory_mb}M"
    if pool.limits.cpu_percent is not None:
        yield f"CPUQuota={pool.limits.cpu_percent}%"
    yield from _outside(settings, pool, user=user)
    yield from _torch(pool)
    if pool.mode is Mode.CONTAINER:  # after what is above: a user's takes filters away
        yield from container.settings(user=user)
    if user:
        return
    if settings.devices.backend is Backend.NVML:
        # m: nvidia-modprobe, which ExecStartPre= runs, makes nodes that are not there
        for index in mask.indices:
            minor = minors[index] if index < len(minors) else index
            yield f"DeviceAllow=/dev/char/{_MAJOR}:{minor} rwm"
        yield f"DeviceAllow=/dev/char/{_MAJOR}:{_CONTROL} rwm"
        # nvidia-uvm-tools has the same major; both majors are not fixed, so by class
        yield "DeviceAllow=char-nvidia-uvm rwm"
        yield "DeviceAllow=char-nvidia-caps rwm"
    yield from _fetching(settings, pool)
    homes = [path for path in plain if folders.in_a_home(path)]
    if homes:
        # Homes are closed to other users, whatever the mount says. With empty ones in their place
        # the folder is on a way that is open, and the rest of the home is not there at all.
        yield "ProtectHome=tmpfs"
        for path in homes:
            yield f'BindReadOnlyPaths="-{_literal(path)}"'


def _torch(pool: Pool) -> Iterator[str]:
    """Yield what engines need that are made with torch, where we start them."""
    if pool.mode is Mode.EXTERNAL or pool.engine.id not in (VLLM, TGI, TRITON):
        return
    yield "# gloo and NCCL list the interfaces (getifaddrs), and do not start where they cannot."
    yield "RestrictAddressFamilies=AF_NETLINK"
    if pool.engine.id in (VLLM, TGI) and pool.mode is not Mode.CONTAINER:
        yield "# It uses ports of its loopback: poolmgr/bridge.py gives it a network of its own."
        yield "RestrictNamespaces=user net"


def _outside(settings: Settings, pool: Pool, *, user: bool) -> Iterator[str]:
    """Yield what an engine of others needs: its key, and the way to another machine."""
    kind, _, name = (pool.engine.api_key or "").partition(":")
    if kind == "credential":
        yield f"ImportCredential=orchd.{name}:{name}"
    far = (pool.provisioning.url or "").startswith("https:")
    if not user and far and settings.policy.outbound.enabled:
        yield "IPAddressAllow=any"  # no unit knows the addresses of a name


def _fetching(settings: Settings, pool: Pool) -> Iterator[str]:
    """Open the network for a pool that may fetch its model, and the cache where that is not the
    unit's.

    The engine has the same unit, so it has the network too: `model.fetch = false` closes it.
    """
    if not (folders.fetches(pool) and settings.policy.outbound.enabled):
        return
    yield f"# It may fetch its model ({json.dumps(modelref.shown(pool.model.ref))})."
    yield "IPAddressAllow=any"
    cache = pool.model.cache_dir
    if cache is not None and not folders.in_a_home(cache):
        yield f'ReadWritePaths="-{_literal(cache)}"'


def _literal(path: str) -> str:
    return path.replace("%", "%%")
