"""Checks across keys: what one value alone cannot show to be wrong.

Each check yields faults that say what is allowed. Reading and merging is load.py's.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from orchd.config.devices import Backend
from orchd.config.engines import MAX_SOCKET_PATH, check_engine
from orchd.config.modes import check_mode
from orchd.config.policies import check_policy
from orchd.config.pool import ENGINES, MOCK, Engine, Pool, is_file_ref
from orchd.config.schema import File, parse_bind
from orchd.config.serving import Sse
from orchd.wire import ids, modelref
from orchd.wire.codec import Fault
from orchd.wire.errors import TABLE, Kind
from orchd.wire.results import MAX_NUMBERS
from orchd.wire.shapes import Workload

_FIXED: Final = ("channel_cap",)
"""Keys of the contract that have one value yet: what has no effect is not accepted."""
MAX_MICROBATCH_MS: Final = 50  # 20 writes a second: slower is seen as stutter
MIN_NARRATION_MS: Final = 250  # how often streams are looked at (edge/streams.py, PULSE_S)
MAX_NARRATION_MS: Final = 3_600_000
_ORIGIN: Final = re.compile(r"https?://(?:localhost|127(?:\.\d{1,3}){3}|\[::1\])(?::[1-9]\d{0,4})?")
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
_TOKEN = re.compile(r"[\x21-\x7e]+")
_UNIT_PATH: Final = re.compile(r"""/[^\x00-\x1f\x7f"'\\:]*""")
MIN_IDLE_MS: Final = 1000


def check(file: File, *, has_token: bool, run_dir: Path) -> Iterator[Fault]:
    """Yield every fault that spans keys. `has_token`: from whatever source."""
    yield from _bind(file.bind_addr, has_token)
    for name in _FIXED:
        if getattr(file.sse, name) != getattr(Sse(), name):
            must = f"must be {getattr(Sse(), name)}: others come with a later version"
            yield Fault(f"$.sse.{name}", must)
    yield from _sse(file.sse)
    yield from _origins(file.cors_origins)
    yield from _budgets(file)
    yield from check_policy(file.policy)
    yield from _devices(file)
    first: dict[str, int] = {}
    for index, pool in enumerate(file.pools):
        path = f"$.pools[{index}]"
        if pool.id in first:
            yield Fault(f"{path}.id", f"{pool.id!r} is the id of $.pools[{first[pool.id]}] too")
        first.setdefault(pool.id, index)
        yield from _engine(pool.engine, f"{path}.engine")
        yield from _replicas(file, pool, path)
        yield from _limits(pool, path)
        yield from _embedding(pool, path)
        yield from check_engine(pool, path)
        yield from check_mode(pool, f"{path}.provisioning")
        yield from _model(pool, f"{path}.model")
        yield from _sockets(pool, path, run_dir)
        yield from _read_paths(pool, path)
        yield from _canary(pool, f"{path}.canary")


def _canary(pool: Pool, path: str) -> Iterator[Fault]:
    if Workload.COMPLETION in pool.workloads:
        return
    for name in ("prompt", "expect", "expect_sha256"):
        if getattr(pool.canary, name) is not None:
            yield Fault(f"{path}.{name}", "needs a pool with workload completion")


def token_fault(token: str) -> str | None:
    """Return what is wrong with a token, without showing it."""
    if _TOKEN.fullmatch(token):
        return None
    return "must be visible ASCII without spaces, as an Authorization header carries it"


def _bind(text: str, has_token: bool) -> Iterator[Fault]:
    try:
        host, _ = parse_bind(text)
    except ValueError as exc:
        yield Fault("$.bind_addr", str(exc))
        return
    if not ipaddress.ip_address(host).is_loopback and not has_token:
        row = TABLE[Kind.NON_LOOPBACK_WITHOUT_TOKEN]
        yield Fault(
            "$.bind_addr",
            f"{row.code} ({row.auth_code}): {text} is reachable from other machines and there is "
            f"no token. {row.advice}",
        )


def _sse(sse: Sse) -> Iterator[Fault]:
    if sse.microbatch_ms > MAX_MICROBATCH_MS:
        must = (
            f"must be at most {MAX_MICROBATCH_MS}, not {sse.microbatch_ms}: a reader would see it"
        )
        yield Fault("$.sse.microbatch_ms", must)
    period = sse.narration_period_ms
    if period and not MIN_NARRATION_MS <= period <= MAX_NARRATION_MS:
        must = f"must be 0 or from {MIN_NARRATION_MS} to {MAX_NARRATION_MS}, not {period}"
        yield Fault("$.sse.narration_period_ms", must)


def _origins(origins: tuple[str, ...]) -> Iterator[Fault]:
    for index, origin in enumerate(origins):
        if not _ORIGIN.fullmatch(origin):
            yield Fault(
                f"$.cors_origins[{index}]",
                "must be an origin of this machine as browsers write it, such as "
                f"http://localhost:5173 (no path, no *), not {origin!r}",
            )


def _budgets(file: File) -> Iterator[Fault]:
    if file.sessions.budget.cost is not None and all(
        not pool.price.tokens_in and not pool.price.tokens_out for pool in file.pools
    ):
        must = "needs a pool with a price, such as price = { tokens_out = 0.5 }: nothing costs"
        yield Fault("$.sessions.budget.cost", must)


def _devices(file: File) -> Iterator[Fault]:
    devices = file.devices
    named = [one.gpu for one in devices.reserve]
    for index, gpu in enumerate(named):
        if gpu in named[:index]:
            yield Fault(f"$.devices.reserve[{index}].gpu", f"{gpu} has a reserve already")
    if devices.backend is Backend.NVML:
        if devices.simulated:
            yield Fault("$.devices.simulated", 'needs backend = "simulated"')
        return
    if not devices.simulated:
        yield Fault("$.devices.simulated", "must name at least one device for backend simulated")
    for index, pool in enumerate(file.pools):
        if pool.engine.id in ENGINES and pool.engine.id != MOCK:
            yield Fault(
                f"$.pools[{index}].engine.id",
                f"must be mock while devices.backend is simulated, not {pool.engine.id!r}: "
                "a real engine needs real GPUs",
            )


def _engine(engine: Engine, path: str) -> Iterator[Fault]:
    if engine.id not in ENGINES:
        yield Fault(
            f"{path}.id",
            f"must be one of {', '.join(ENGINES)}, not {engine.id!r}; others come with a later "
            "version",
        )


def _replicas(file: File, pool: Pool, path: str) -> Iterator[Fault]:
    if pool.devices is not None and pool.replicas:
        yield Fault(f"{path}.devices", "is short for one replica: give it or replicas, not both")
        return
    name = "replicas" if pool.devices is None else "devices"
    masks = pool.replicas if pool.devices is None else (pool.devices,)
    if not masks:
        yield Fault(
            f"{path}.replicas",
            "must name at least one device mask, such as replicas = [[0]] or devices = [0]",
        )
    first: dict[ids.DeviceMask, int] = {}
    devices = file.devices
    for index, mask in enumerate(masks):
        at = f"{path}.replicas[{index}]" if name == "replicas" else f"{path}.devices"
        if mask in first:
            yield Fault(
                at,
                f"{list(mask.indices)} is the mask of replicas[{first[mask]}] too: one poolmgr "
                "serves a pool on a mask; use slots for more tasks at a time",
            )
        first.setdefault(mask, index)
        if devices.backend is Backend.SIMULATED and devices.simulated:
            last = len(devices.simulated) - 1
            if mask.indices[-1] > last:
                yield Fault(at, f"GPU {mask.indices[-1]} is not simulated: indices are 0 to {last}")
        if pool.tensor_split is not None and len(pool.tensor_split) != len(mask.indices):
            yield Fault(
                f"{path}.tensor_split",
                f"must have one share for each GPU of the mask {list(mask.indices)}, "
                f"not {len(pool.tensor_split)}",
            )
    if pool.tensor_split is not None and not sum(pool.tensor_split):
        yield Fault(f"{path}.tensor_split", "must have a share above 0")


def _limits(pool: Pool, path: str) -> Iterator[Fault]:
    if pool.watchdog.idle_ms < MIN_IDLE_MS:
        must = f"must be at least {MIN_IDLE_MS}: tokens are counted four times a second"
        yield Fault(f"{path}.watchdog.idle_ms", must)
    if pool.max_tokens_out is not None and pool.max_tokens_out > pool.ctx:
        yield Fault(
            f"{path}.max_tokens_out", f"must be at most ctx ({pool.ctx}), not {pool.max_tokens_out}"
        )


def _embedding(pool: Pool, path: str) -> Iterator[Fault]:
    if pool.engine.id == MOCK and pool.engine.embedding_dim > MAX_NUMBERS:
        yield Fault(f"{path}.engine.embedding_dim", f"must be at most {MAX_NUMBERS}")


def _model(pool: Pool, path: str) -> Iterator[Fault]:
    model = pool.model
    if model.digest is not None and not _DIGEST.fullmatch(model.digest):
        yield Fault(f"{path}.digest", f"must be sha256:<64 hex digits>, not {model.digest!r}")
    if model.cache_dir is not None and not _UNIT_PATH.fullmatch(model.cache_dir):
        must = "must begin with / and hold no quote, backslash, colon or control character"
        yield Fault(f"{path}.cache_dir", f"{must}: a unit names it")
    if not is_file_ref(pool):
        return
    if modelref.is_remote(model.ref):
        try:
            modelref.parse(model.ref)
        except ValueError as exc:
            yield Fault(f"{path}.ref", str(exc))
    elif not model.ref.removeprefix("file:"):
        yield Fault(f"{path}.ref", "must have a path after file:")


def _sockets(pool: Pool, path: str, run_dir: Path) -> Iterator[Fault]:
    masks = pool.replicas or ((pool.devices,) if pool.devices else ())
    for mask in masks:
        longest = run_dir / "poolmgr" / f"{ids.replica_id(pool.id, mask)}.engine1.sock"
        over = len(str(longest).encode()) - MAX_SOCKET_PATH
        if over > 0:
            yield Fault(
                f"{path}.id",
                f"makes the socket path {longest} {over} bytes too long: shorten it or run_dir",
            )
            return


def _read_paths(pool: Pool, path: str) -> Iterator[Fault]:
    for index, folder in enumerate(pool.read_paths):
        if not _UNIT_PATH.fullmatch(folder):
            must = "must begin with / and hold no quote, backslash, colon or control character"
            yield Fault(f"{path}.read_paths[{index}]", f"{must}: a unit names it")
