"""What can be configured of one pool: its engine, model, replicas, queue and limits.

Checks across keys are in checks.py.
"""

from __future__ import annotations

import enum
from typing import Final

from attrs import evolve, frozen

from orchd.config.canary import Canary
from orchd.config.provisioning import Binary, Container, Package, Source
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

MOCK: Final = EngineId("mock")
LLAMACPP: Final = EngineId("llamacpp")
VLLM: Final = EngineId("vllm")
TGI: Final = EngineId("tgi")
TRITON: Final = EngineId("triton")
OPENAI: Final = EngineId("openai")
ENGINES: Final = (MOCK, LLAMACPP, VLLM, TGI, TRITON, OPENAI)
_PROGRAMS: Final = {
    LLAMACPP: ("llama-server",),
    VLLM: ("vllm", "serve"),
    TGI: ("text-generation-launcher",),
    TRITON: ("tritonserver",),
}
"""What `provisioning.command` is without being said."""


class Mode(enum.StrEnum):
    """How an engine comes to run."""

    EXTERNAL = "external"
    SOURCE = "source"
    CONTAINER = "container"
    PACKAGE = "package"
    BINARY = "binary"


_MODES: Final = {
    LLAMACPP: Mode.SOURCE,
    VLLM: Mode.CONTAINER,
    TGI: Mode.CONTAINER,
    TRITON: Mode.CONTAINER,
    OPENAI: Mode.EXTERNAL,
}


class SelfTestFault(enum.StrEnum):
    """How engine mock fails a self-test."""

    DIE = "die"
    HANG = "hang"
    GARBAGE = "garbage"
    KEEP_SLOT = "keep_slot"
    """Go on with a job that was cancelled."""


class Api(enum.StrEnum):
    """How an engine that can be asked in several ways is asked."""

    COMPLETIONS = "completions"
    CHAT = "chat"
    HTTP = "http"
    GRPC = "grpc"


@frozen(kw_only=True)
class Faults:
    """Faults that engine mock injects on purpose."""

    only_model: Text | None = None
    """The faults below are of the model of this name alone, for reloads; without it, of all."""
    refuse_load: bool = False
    """Fail while loading the model."""
    refuse_model: Text | None = None
    """Fail while loading the model of this name, whatever only_model says."""
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
    self_test: SelfTestFault | None = None
    """Fail poolmgr's self-test, which the faults by tokens spare: die, hang, garbage, keep_slot."""
    slower: Positive | None = None
    """Generate so many times slower than tokens_per_s."""
    vram_mb: Count = Count(0)
    """Hold so many MiB of VRAM more than was said."""

    def of(self, model_ref: str) -> Faults:
        """Return what of them an engine with this model has."""
        if self.only_model in (None, model_ref):
            return evolve(self, only_model=None)
        return Faults(refuse_model=self.refuse_model)


@frozen(kw_only=True)
class Engine:
    """The engine of a pool."""

    id: EngineId
    """mock, llamacpp, vllm, tgi, triton, or openai for any server that is compatible with it."""
    version: Text | None = None
    """Pin: a replica whose engine says another version does not become Ready."""
    sampler_profile_version: Text = Text("v1")
    """Name of the sampling defaults; every replica of a pool has the same."""
    args: tuple[str, ...] = ()
    """Further arguments for the engine's command line, after ours."""
    api: Api | None = None
    """How it is asked. vllm, openai: completions (the prompt as it is; default) or chat (as the one
    message of a chat, in the server's template). triton: http (default) or grpc."""
    served_name: Text | None = None
    """vllm, triton, openai: the name by which the engine knows the model; without it, model.ref."""
    api_key: Text | None = None
    """external: where the key is that the engine asks for: credential:NAME (of LoadCredential=),
    file:/path or env:NAME."""
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
    """file:/path/to/model.gguf, a path (relative: to this file), or for engine mock any name. vllm,
    tgi: a folder as Hugging Face has them; triton: a model repository; external: what tasks name.
    To be fetched: hf:org/repo[/file.gguf], https://..., s3://bucket/key, oci://registry/repo:tag."""
    digest: Text | None = None
    """sha256:<64 hex digits> that the model file must have; of several files, all in order."""
    fetch: bool = True
    """Fetch a model that is not here yet. false: only orchctl models fetch does; then the pool's
    unit needs and has no network."""
    cache_dir: Text | None = None
    """Where fetched models are kept: an absolute path. Without it, orchd/models in
    $XDG_CACHE_HOME, or /var/cache/orchd/models for the system's units."""


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
class Slo:
    """What the pool promises: while it does not hold it, load is shed (429) until it does."""

    first_token_ms: Count = Count(0)
    """Milliseconds from admission to the first token; 0: nothing is promised, and nothing shed."""
    breach_ms: Positive = Positive(30_000)
    """So long most first tokens must come later before load is shed."""
    shed_ms: Positive = Positive(10_000)
    """So long it is shed before a few tasks are let in as a test; twice as long after each test
    that fails, up to five minutes."""


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

    mode: Mode | None = None
    """external: it runs already. source, container, package, binary: `orchctl provision` brings it,
    and poolmgr starts it. Without it: binary where there is a command; llamacpp source; vllm, tgi
    and triton container; openai external."""
    url: str | None = None
    """external: unix:/path/to.sock or http://127.0.0.1:PORT of the running engine. openai also
    https://HOST[:PORT][/v1] of another machine, which then has to be attested."""
    grpc_url: str | None = None
    """external, triton with api = "grpc": the same of its gRPC service; url is that of HTTP."""
    metrics_url: str | None = None
    """external, triton: the same of its metrics, where its load is to be seen."""
    ca: Text | None = None
    """external, https: PEM file of who is trusted; without it, the system's CAs."""
    proxy: str | None = None
    """external, https: http://HOST:PORT of the proxy to go through; none is taken from the
    environment."""
    gpu_attested: bool = False
    """external: the operator's word that it runs on the GPU where NVML cannot show it."""
    command: tuple[str, ...] | None = None
    """The program and its first arguments. package, binary: here, or in what was brought; without
    it: llamacpp ["llama-server"], vllm ["vllm", "serve"], tgi ["text-generation-launcher"], triton
    ["tritonserver"]. container: in the image, in the place of what it would run by itself."""
    source: Source = Source()
    container: Container = Container()
    package: Package = Package()
    binary: Binary = Binary()
    allow_package_installs: bool = False
    """Let `orchctl provision` install packages (pacman, an AUR helper). Else it says the command to
    run."""
    allow_binary_downloads: bool = False
    """Let `orchctl provision` download binary.url."""


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
    """What tasks may ask of it: completion, embedding, rerank. llamacpp, vllm: one of them, for
    which the engine is started; tgi, triton: completion."""
    ctx: Positive
    """Tokens of context that one slot has."""
    slots: Positive = Positive(1)
    """Tasks that one replica runs at the same time."""
    max_tokens_out: Positive | None = None
    """Most tokens that a task may ask for; without it, ctx."""
    queue: Queue = Queue()
    watchdog: Watchdog = Watchdog()
    slo: Slo = Slo()
    full_policy: FullPolicy = FullPolicy.REJECT
    """A task that finds no place: reject answers 429 with the time to wait. drop-lru drops the
    oldest waiting batch task for it; shed-low-priority drops the newest for an interactive one."""
    provisioning: Provisioning = Provisioning()
    price: Price = Price()
    """For sessions.budget.cost."""
    tensor_split: tuple[NonNegative, ...] | None = None
    """Share of the model on each GPU of a mask, in the mask's order."""
    limits: PoolLimits = PoolLimits()
    canary: Canary = Canary()
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
    def mode(self) -> Mode:
        """Return how its engine comes to run: as said, or the engine's own way [ORCH-3800]."""
        how = self.provisioning
        if how.mode is not None:
            return how.mode
        return Mode.BINARY if how.command is not None else _MODES.get(self.engine.id, Mode.BINARY)

    @property
    def command(self) -> tuple[str, ...]:
        """Return the engine's program; empty for mock (our own) and for external (it runs)."""
        if self.mode is Mode.EXTERNAL:
            return ()
        return self.provisioning.command or _PROGRAMS.get(self.engine.id, ())


def is_file_ref(pool: Pool) -> bool:
    """Whether `model.ref` has to be a file here: an engine that we start reads it."""
    return pool.engine.id != MOCK and pool.mode is not Mode.EXTERNAL
