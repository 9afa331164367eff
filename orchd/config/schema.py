"""What can be configured: frozen classes, their defaults and what follows directly from a value.

`File` is what the TOML file may say; `Settings` is what is in force once flags, environment, file
and defaults have been put together (load.py). Checks across keys are in checks.py. The docstring
under a field is its description in contracts/config.schema.json.
"""

from __future__ import annotations

import enum
import ipaddress
from pathlib import Path
from typing import Final

from attrs import field, frozen

from orchd.wire import ids
from orchd.wire.ids import (
    Count,
    DeviceMask,
    EngineId,
    NonNegative,
    PoolId,
    Positive,
    ReplicaId,
    Text,
)
from orchd.wire.policy import FullPolicy
from orchd.wire.shapes import Workload

DEFAULT_BIND: Final = "127.0.0.1:8484"
MOCK: Final = EngineId("mock")
LLAMACPP: Final = EngineId("llamacpp")
ENGINES: Final = (MOCK, LLAMACPP)


class Backend(enum.StrEnum):
    """Where the facts about GPUs come from."""

    NVML = "nvml"
    SIMULATED = "simulated"


class Mode(enum.StrEnum):
    """How an engine comes to run."""

    EXTERNAL = "external"
    BINARY = "binary"
    PACKAGE = "package"


@frozen(repr=False)
class Secret:
    """A string that no repr, log line or error shows."""

    _value: str

    def reveal(self) -> str:
        """Return the string itself, to be compared or sent."""
        return self._value

    def __repr__(self) -> str:
        return "Secret(...)"

    __str__ = __repr__


@frozen(kw_only=True)
class SimulatedDevice:
    """One GPU that does not exist."""

    name: Text
    """What it is called; say that it is simulated."""
    vram_mb: Positive
    """Its memory in MiB."""


@frozen(kw_only=True)
class Reserve:
    """What engines leave free of one GPU."""

    gpu: Count
    """Its index, as nvidia-smi counts."""
    mb: Count
    """MiB that stay free when an engine is loaded there."""


@frozen(kw_only=True)
class Devices:
    """The GPUs of this machine."""

    backend: Backend = Backend.NVML
    """nvml asks the NVIDIA driver; simulated is for demos and only with engine mock."""
    simulated: tuple[SimulatedDevice, ...] = ()
    """The GPUs of backend simulated; the first has index 0."""
    reserve_mb: Count = Count(0)
    """MiB of each GPU that stay free when an engine is loaded: for a desktop, a game, a browser."""
    reserve: tuple[Reserve, ...] = ()
    """The same for single GPUs, in the place of reserve_mb: { gpu = 0, mb = 2048 }."""

    def reserved_bytes(self, gpu: int) -> int:
        """Return what stays free of the GPU with this index."""
        said = [one.mb for one in self.reserve if one.gpu == gpu]
        return (said[0] if said else self.reserve_mb) << 20


@frozen(kw_only=True)
class Faults:
    """Faults that engine mock injects on purpose."""

    refuse_load: bool = False
    """Fail while loading the model."""
    refuse_model: Text | None = None
    """Fail while loading the model of this name."""
    die_after_tokens: Positive | None = None
    """End the process after so many tokens of a task."""
    hang_after_tokens: Positive | None = None
    """Say nothing more after so many tokens of a task."""
    garbage_after_tokens: Positive | None = None
    """Send a frame that is no frame after so many tokens of a task."""
    split_utf8: bool = False
    """Cut characters in the middle, as real sockets do."""
    load_ms: Count = Count(0)
    """Milliseconds that loading takes."""
    die_after_load_ms: Positive | None = None
    """End the process so many milliseconds after it became ready."""


@frozen(kw_only=True)
class Engine:
    """The engine of a pool."""

    id: EngineId
    """mock or llamacpp."""
    version: Text | None = None
    """Pin: a replica whose engine says another version does not become Ready."""
    sampler_profile_version: Text = Text("v1")
    """Name of the sampling defaults; every replica of a pool has the same."""
    args: tuple[str, ...] = ()
    """Further arguments for the engine's command line, after ours."""
    tokens_per_s: NonNegative = NonNegative(50.0)
    """mock: pace of one slot; 0 is as fast as possible."""
    first_token_ms: NonNegative = NonNegative(0.0)
    """mock: milliseconds before the first token."""
    embedding_dim: Positive = Positive(64)
    """mock: numbers of the vector of a text."""
    vram_mb: Count = Count(1024)
    """mock: MiB of VRAM that the model is said to need."""
    kv_bytes_per_token: Count | None = None
    """mock: bytes of VRAM that a task is said to take for each token of its ctx. Real engines take
    theirs when they load the model."""
    faults: Faults = Faults()
    """mock: faults to inject."""


@frozen(kw_only=True)
class Model:
    """The model of a pool."""

    ref: Text
    """file:/path/to/model.gguf, a path (relative: to this file), or for engine mock any name."""
    digest: Text | None = None
    """sha256:<64 hex digits> that the model file must have."""
    cache_dir: str | None = None
    """Not in this version, which fetches none: where fetched models are kept."""


@frozen(kw_only=True)
class Queue:
    """How many tasks may wait in a pool, by priority."""

    interactive: Positive = Positive(64)
    """Places of interactive tasks; what one more meets is full_policy's."""
    batch: Positive = Positive(256)
    """Places of batch tasks; what one more meets is full_policy's."""
    batch_after: Positive = Positive(16)
    """After so many interactive starts while batch waits, the oldest batch task is next."""


@frozen(kw_only=True)
class Watchdog:
    """When a running task is taken for stuck: it is stopped and its stream ends DECODE_TIMEOUT."""

    first_token_ms: Positive = Positive(600_000)
    """Milliseconds from its start to its first token: long enough to read a long prompt."""
    idle_ms: Positive = Positive(60_000)
    """Milliseconds from one token to the next."""
    wall_ms: Positive = Positive(86_400_000)
    """Milliseconds from its start to its end."""
    enforce_deadline: bool = True
    """Stop it when its deadline_ms passes; false lets it go on, late."""


@frozen(kw_only=True)
class Provisioning:
    """How the engine comes to run."""

    mode: Mode = Mode.BINARY
    """external: it runs already. binary, package: poolmgr starts `command` as its child."""
    url: str | None = None
    """external: unix:/path/to.sock or http://127.0.0.1:PORT of the running engine."""
    gpu_attested: bool = False
    """external: the operator's word that it runs on the GPU where NVML cannot show it."""
    command: tuple[str, ...] | None = None
    """binary, package: the program and its first arguments; llamacpp: ["llama-server"]."""


@frozen(kw_only=True)
class Price:
    """What a pool's tokens cost, in a unit of the operator's own."""

    tokens_in: NonNegative = NonNegative(0.0)
    """Of 1,000 tokens of prompt."""
    tokens_out: NonNegative = NonNegative(0.0)
    """Of 1,000 tokens that are generated."""


@frozen(kw_only=True)
class PoolLimits:
    """What systemd lets each replica use; a pool that `orchctl up` runs has no such bound."""

    memory_mb: Positive | None = None
    """MiB of host memory, page cache of the model included; the kernel kills what takes more."""
    cpu_percent: Positive | None = None
    """Of one core: 400 is four cores."""


@frozen(kw_only=True)
class Pool:
    """One model on one or more device masks."""

    id: PoolId
    """a-z, 0-9 and -, at most 63."""
    engine: Engine
    model: Model
    replicas: tuple[DeviceMask, ...] = ()
    """One device mask each: [[0], [1]] is two replicas, [[0, 1]] one over two GPUs."""
    devices: DeviceMask | None = None
    """Short for one replica: devices = [0] is replicas = [[0]]. None once loaded."""
    workloads: tuple[Workload, ...] = (Workload.COMPLETION,)
    """What tasks may ask of it: completion, embedding, rerank. llamacpp: one of them, for which the
    engine is started."""
    ctx: Positive
    """Tokens of context that one slot has."""
    slots: Positive = Positive(1)
    """Tasks that one replica runs at the same time."""
    max_tokens_out: Positive | None = None
    """Most tokens that a task may ask for; without it, ctx."""
    queue: Queue = Queue()
    watchdog: Watchdog = Watchdog()
    full_policy: FullPolicy = FullPolicy.REJECT
    """A task that finds no place: reject answers 429 with the time to wait. drop-lru drops the
    oldest waiting batch task for it; shed-low-priority drops the newest for an interactive one."""
    provisioning: Provisioning = Provisioning()
    price: Price = Price()
    """For sessions.budget.cost."""
    tensor_split: tuple[NonNegative, ...] | None = None
    """Share of the model on each GPU of a mask, in the mask's order."""
    limits: PoolLimits = PoolLimits()
    read_paths: tuple[Text, ...] = ()
    """Folders that the pool may read beside those of its model and engine: where links lead, or
    models for a reload. Of a home nothing else is shown to the pool's unit."""

    @property
    def max_tokens(self) -> Positive:
        """Return the most tokens that a task may ask for."""
        return self.max_tokens_out or self.ctx

    @property
    def replica_ids(self) -> tuple[ReplicaId, ...]:
        """Return `POOL:MASK` of each replica, in the file's order."""
        return tuple(ids.replica_id(self.id, mask) for mask in self.replicas)

    @property
    def command(self) -> tuple[str, ...]:
        """Return the engine's program; empty for mock (our own) and for external (it runs)."""
        if self.provisioning.mode is Mode.EXTERNAL:
            return ()
        default = ("llama-server",) if self.engine.id == LLAMACPP else ()
        return self.provisioning.command or default


@frozen(kw_only=True)
class Sse:
    """Streams to clients."""

    channel_cap: Positive = Positive(32)
    """Only 32 in this version: a slow reader is caught up from its task's log, by no channel."""
    microbatch_ms: Count = Count(0)
    """Milliseconds that a token may wait for the next, 0 to 50, so that both leave in one write; 0:
    none does. The first of a stream never waits."""
    heartbeat_ms: Positive = Positive(15_000)
    """Milliseconds of silence after which a comment keeps a stream alive."""
    narration_period_ms: Count = Count(0)
    """Milliseconds between sentences on how a running task stands, in steps of 250 up to an hour;
    0: narration comes at start, cancel and end only."""
    metrics_period_ms: Positive = Positive(1000)
    """Milliseconds between metrics frames of a running task, in steps of 250; a waiting one is told
    when its place or its time has changed."""


@frozen(kw_only=True)
class ArtifactBounds:
    """What agents may store with POST /v1/artifacts, in state_dir."""

    max_mb: Positive = Positive(1024)
    """MiB that all of them together may take; what does not fit is refused (507)."""
    max_count: Positive = Positive(10_000)
    """How many there may be; one more is refused (507). Each takes up to 8 KiB of memory."""


@frozen(kw_only=True)
class Throttle:
    """How fast one identity (the token, a user of the socket, loopback) may send tasks."""

    requests_per_s: NonNegative = NonNegative(0.0)
    """Tasks a second that are let in; 0: no limit."""
    burst: Positive = Positive(10)
    """Tasks that may come at once after a while of silence."""
    tokens_per_min: Count = Count(0)
    """Tokens a minute, of prompts and max_tokens together; 0: no limit."""


@frozen(kw_only=True)
class Budget:
    """What one session may use in its life; without a key there is no bound."""

    tokens: Positive | None = None
    """Tokens of prompts and of answers together."""
    time_ms: Positive | None = None
    """Milliseconds on a GPU."""
    cost: NonNegative | None = None
    """In the unit of the pools' prices."""


@frozen(kw_only=True)
class Sessions:
    """Sessions: tasks with the same session_id."""

    ttl_ms: Positive = Positive(600_000)
    """Milliseconds without a task after which a session is forgotten."""
    max_turns: Positive = Positive(8)
    """Tasks of a session; the next one ends it and is refused."""
    max_idle: Positive = Positive(10_000)
    """Sessions without a task that are kept; the one idle longest makes room."""
    budget: Budget = Budget()


@frozen(kw_only=True)
class Tls:
    """TLS on the TCP address: HTTP/2 by ALPN, and HTTP/1.1. Unix sockets stay plain."""

    cert: Text
    """PEM file with the certificate chain, the server's own first."""
    key: Text
    """PEM file with its private key, without a passphrase; readable by the user of orchd."""


@frozen(kw_only=True)
class Common:
    """The keys that mean the same in the file and in force."""

    bind_addr: str = DEFAULT_BIND
    """IP:PORT or localhost:PORT. Beyond loopback only with an auth_token. Env: ORCHD_ADDR."""
    auth_optional: bool = False
    """With a token configured, let callers over loopback and the unix socket come without it."""
    throttle: Throttle = Throttle()
    queued_prompts_mb: Positive = Positive(256)
    """MiB of memory for the prompts of all waiting tasks; a task over it is answered 429."""
    trust_proxy_auth: bool = False
    """Believe a reverse proxy on this machine that names, in X-Forwarded-User, a user whom it let
    in. Any program of this machine can say so too: the proxy must be the only one that reaches
    orchd, and must remove the header from what clients send."""
    cors_origins: tuple[Text, ...] = ()
    """Web pages of this machine that may ask from a browser, such as "http://localhost:5173"."""
    cancel_on_disconnect: bool = True
    """Cancel a task when its last reader leaves before the end."""
    devices: Devices = Devices()
    sse: Sse = Sse()
    artifacts: ArtifactBounds = ArtifactBounds()
    sessions: Sessions = Sessions()
    tls: Tls | None = None
    """Without it the TCP address speaks plain HTTP/1.1 and HTTP/2."""
    pools: tuple[Pool, ...] = ()


@frozen(kw_only=True)
class File(Common):
    """orchd's configuration file (TOML)."""

    state_dir: Text | None = None
    """Where the catalog and artifacts are kept. Env: ORCHD_STATE_DIR."""
    run_dir: Text | None = None
    """Where sockets are: orchd/orchd.sock and poolmgr/ below it. Env: ORCHD_RUN_DIR."""
    auth_token: Text | None = None
    """The bearer token, or file:/path of a file that holds it; LoadCredential= hides it better."""


@frozen(kw_only=True)
class Settings(Common):
    """What is in force."""

    state_dir: Path
    run_dir: Path
    auth_token: Secret | None = None
    source: Path | None = field(default=None)
    """The file that was read; None: there was none."""

    @property
    def bind(self) -> tuple[str, int]:
        """Return host and port of `bind_addr`."""
        return parse_bind(self.bind_addr)

    @property
    def front_socket(self) -> Path:
        """Return orchd's unix socket."""
        return self.run_dir / "orchd" / "orchd.sock"

    def pool_socket(self, replica_id: ReplicaId) -> Path:
        """Return the unix socket of the poolmgr of this replica."""
        return self.run_dir / "poolmgr" / f"{replica_id}.sock"

    def engine_socket(self, replica_id: ReplicaId, seat: int = 0) -> Path:
        """Return the unix socket of the engine that this replica's poolmgr starts.

        `seat` is 0 or 1: during a reload two engines may run.
        """
        return self.run_dir / "poolmgr" / f"{replica_id}.engine{seat or ''}.sock"

    def reloaded_file(self, replica_id: ReplicaId) -> Path:
        """Return where this replica's poolmgr keeps which model it was reloaded with."""
        return self.run_dir / "poolmgr" / f"{replica_id}.model"

    def pool(self, pool_id: PoolId) -> Pool:
        """Return the pool of this id. Raises KeyError."""
        for pool in self.pools:
            if pool.id == pool_id:
                return pool
        raise KeyError(pool_id)

    def model_path(self, pool: Pool) -> Path | None:
        """Return the model's file; None where `model.ref` names no file (mock, external)."""
        if not is_file_ref(pool):
            return None
        return self._beside(pool.model.ref.removeprefix("file:"))

    @property
    def tls_files(self) -> tuple[Path, Path] | None:
        """Return certificate and key; None: no TLS. Relative paths begin at the file's folder."""
        return (
            None if self.tls is None else (self._beside(self.tls.cert), self._beside(self.tls.key))
        )

    @property
    def base(self) -> Path:
        """Return the folder where relative paths begin: the file's."""
        return self.source.parent if self.source else Path.cwd()

    def _beside(self, name: str) -> Path:
        return self.base / name


def is_file_ref(pool: Pool) -> bool:
    """Whether `model.ref` has to be a file here: an engine that we start reads it."""
    return pool.engine.id != MOCK and pool.provisioning.mode is not Mode.EXTERNAL


def parse_bind(text: str) -> tuple[str, int]:
    """Split IP:PORT, [IP]:PORT or localhost:PORT. Raises ValueError that says the form."""
    host, colon, port = text.rpartition(":")
    host = host.removeprefix("[").removesuffix("]") if host.startswith("[") else host
    if host == "localhost":
        host = "127.0.0.1"
    wrong = ValueError(f"must be IP:PORT, [IPV6]:PORT or localhost:PORT, not {text!r}")
    if not colon or not port.isascii() or not port.isdigit() or int(port) > 65535:
        raise wrong
    try:
        ipaddress.ip_address(host)
    except ValueError:
        raise wrong from None
    return host, int(port)
