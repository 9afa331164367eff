"""The one table of errors: kind -> code, HTTP status, exit code, retriable, whose fault, what next.

Everything that can go wrong for a client, an operator or a pool is a `Kind`; where it is raised,
how it travels (envelope, SSE frame, link frame, exit code, STATUS= line) follows from its row.
No other module invents a status or an exit code.
"""

from __future__ import annotations

import enum
from typing import Any, Literal

from attrs import evolve, frozen

Fault = Literal["client", "operator", "pool", "suite"]


class Kind(enum.StrEnum):
    """What went wrong. The value is what logs, metrics (`reason`) and the link carry."""

    # a request that cannot be served as it is
    INVALID_PARAMS = "invalid_params"
    UNKNOWN_ID = "unknown_id"
    UNKNOWN_NAME = "unknown_name"
    UNKNOWN_REPLICA = "unknown_replica"
    UNKNOWN_ROUTE = "unknown_route"
    METHOD_NOT_ALLOWED = "method_not_allowed"
    MALFORMED_HTTP = "malformed_http"
    REQUEST_TIMEOUT = "request_timeout"
    BODY_TOO_LARGE = "body_too_large"
    HEADERS_TOO_LARGE = "headers_too_large"
    UNSUPPORTED_MEDIA = "unsupported_media"
    TASK_ID_REUSED = "task_id_reused"
    PINS_DIFFER = "pins_differ"
    MODEL_EXISTS = "model_exists"
    MODEL_DEPRECATED = "model_deprecated"
    UNTRUSTED_ARTIFACT = "untrusted_artifact"
    STORE_FULL = "store_full"
    SESSION_OVER = "session_over"
    BUDGET_SHORT = "budget_short"
    DEADLINE_UNMET = "deadline_unmet"
    POLICY_DENIED = "policy_denied"
    FETCH_DENIED = "fetch_denied"
    MISSING_TOKEN = "missing_token"
    BAD_TOKEN = "bad_token"
    NON_LOOPBACK_WITHOUT_TOKEN = "non_loopback_without_token"
    # a request that may be served later
    QUEUE_FULL = "queue_full"
    QUEUE_FULL_DROP_LRU = "queue_full_drop_lru"
    DROPPED = "dropped"
    SHED = "shed"
    SLO_BREACHED = "slo_breached"
    THROTTLED = "throttled"
    POOL_UNREADY = "pool_unready"
    POOL_UNAVAILABLE = "pool_unavailable"
    REPLICA_EXHAUSTED = "replica_exhausted"
    PINNED_POOL_INFEASIBLE = "pinned_pool_infeasible"
    NO_PREFERRED_FEASIBLE = "no_preferred_feasible"
    DRAINING = "draining"
    RELOAD_UNDER_WAY = "reload_under_way"
    TOO_MANY_CONNECTIONS = "too_many_connections"
    PAGE_FAILED = "page_failed"
    # a task that broke
    DECODE_TIMEOUT = "decode_timeout"
    DEADLINE_PASSED = "deadline_passed"
    WORKER_RESET = "worker_reset"
    INTERNAL = "internal"
    # a pool that cannot become Ready, or stopped being it
    CONFIG_INVALID = "config_invalid"
    DRIVER_UNAVAILABLE = "driver_unavailable"
    DEVICE_MISSING = "device_missing"
    MODEL_MISSING = "model_missing"
    OUTBOUND_DENIED = "outbound_denied"
    FETCH_FAILED = "fetch_failed"
    DIGEST_MISMATCH = "digest_mismatch"
    DISK_SHORT = "disk_short"
    VRAM_SHORT = "vram_short"
    RAM_SHORT = "ram_short"
    ENGINE_MISSING = "engine_missing"
    PROVISION_FAILED = "provision_failed"
    ENGINE_START_FAILED = "engine_start_failed"
    ENGINE_UNHEALTHY = "engine_unhealthy"
    ENGINE_DIED = "engine_died"
    ENGINE_EXITED = "engine_exited"
    ENGINE_HUNG = "engine_hung"
    CUDA_ERROR = "cuda_error"
    DRIVER_RESET = "driver_reset"
    GPU_XID = "gpu_xid"
    GPU_ECC = "gpu_ecc"
    RESUME_FAILED = "resume_failed"
    BREAKER_OPEN = "breaker_open"
    ENGINE_PROTOCOL = "engine_protocol"
    SELF_TEST_FAILED = "self_test_failed"
    CANARY_FAILED = "canary_failed"
    CPU_FALLBACK = "cpu_fallback"
    GPU_MISMATCH = "gpu_mismatch"
    NOT_ATTESTED = "not_attested"
    SOCKET_REMOVED = "socket_removed"
    # the operator's tool
    DAEMON_UNREACHABLE = "daemon_unreachable"
    CANCELED = "canceled"


@frozen
class Row:
    """One row of the table."""

    code: str
    """The symbolic code of the envelope (contract.md, Errors)."""
    status: int
    """HTTP status while none has been sent yet."""
    exit_code: int
    """What orchctl and the daemons exit with (sysexits.h, where it has a word for it)."""
    retriable: bool
    fault: Fault
    advice: str
    """What to do next: one imperative sentence."""
    auth_code: int | None = None


# sysexits.h
_DATAERR, _NOINPUT, _UNAVAILABLE, _SOFTWARE, _OSERR = 65, 66, 69, 70, 71
_TEMPFAIL, _PROTOCOL, _NOPERM, _CONFIG = 75, 76, 77, 78
_SIGINT = 130  # what a shell reports for Ctrl-C


def _bad(status: int, advice: str, exit_code: int = _DATAERR) -> Row:
    return Row("INVALID_PARAMS", status, exit_code, False, "client", advice)


def _later(code: str, status: int, advice: str, exit_code: int = _TEMPFAIL) -> Row:
    return Row(code, status, exit_code, True, "pool", advice)


def _pool(advice: str, exit_code: int = _UNAVAILABLE, fault: Fault = "operator") -> Row:
    return Row("POOL_UNREADY", 503, exit_code, True, fault, advice)


TABLE: dict[Kind, Row] = {
    Kind.INVALID_PARAMS: _bad(400, "Correct the named field and send the request again."),
    Kind.UNKNOWN_ID: _bad(404, "Check the id; what has ended is forgotten after a while."),
    Kind.UNKNOWN_NAME: _bad(
        404, "Check the name; orchctl pools, models list and artifacts list show what there is."
    ),
    Kind.UNKNOWN_REPLICA: _bad(
        404, "Let orchd read its configuration again: systemctl reload orchd.", _CONFIG
    ),
    Kind.UNKNOWN_ROUTE: _bad(404, "See GET /v1/capabilities and the README for what is served."),
    Kind.METHOD_NOT_ALLOWED: _bad(405, "Use a method that the Allow header names."),
    Kind.MALFORMED_HTTP: _bad(400, "Send well-formed HTTP/1.1 or HTTP/2.", _PROTOCOL),
    Kind.REQUEST_TIMEOUT: _bad(408, "Send the whole request without pausing.", _PROTOCOL),
    Kind.BODY_TOO_LARGE: _bad(413, "Send a smaller body."),
    Kind.HEADERS_TOO_LARGE: _bad(431, "Send fewer or shorter headers."),
    Kind.UNSUPPORTED_MEDIA: _bad(415, "Send the body with Content-Type: application/json."),
    Kind.TASK_ID_REUSED: _bad(409, "Choose a new task_id for a task with another body."),
    Kind.PINS_DIFFER: _bad(
        409,
        "Give all replicas of the pool the same model file, engine and version, sampler profile, "
        "ubatch and flash attention.",
    ),
    Kind.MODEL_EXISTS: _bad(409, "Choose another id, or delete the model that has it."),
    Kind.MODEL_DEPRECATED: Row(
        "MODEL_DEPRECATED", 400, _DATAERR, False, "client",
        "Name an Active model; GET /v1/catalog/models and GET /v1/capabilities list them.",
    ),
    Kind.UNTRUSTED_ARTIFACT: Row(
        "UNTRUSTED_ARTIFACT", 400, _DATAERR, False, "client",
        "Bring what the trust policy asks for, or a file that has the digest; then verify it.",
    ),
    Kind.STORE_FULL: Row(
        "REPLICA_EXHAUSTED", 507, _TEMPFAIL, False, "operator",
        "Delete what is not needed any more, or raise the bound in the configuration.",
    ),
    Kind.SESSION_OVER: Row(
        "INVALID_PARAMS", 409, _TEMPFAIL, True, "client",
        "Send it again to begin a new session of this id, with no turns and nothing in its cache.",
    ),
    Kind.BUDGET_SHORT: _bad(
        400, "Ask for fewer tokens, wait for tasks of the session to end, or begin a new session."
    ),
    Kind.DEADLINE_UNMET: Row(
        "DEADLINE_UNMET", 400, _TEMPFAIL, True, "client", "Allow a later deadline_ms or ask later."
    ),
    Kind.POLICY_DENIED: Row(
        "INVALID_PARAMS", 403, _NOPERM, False, "operator",
        "Ask for what the policy allows, or change the plugin that the message names.",
    ),
    Kind.FETCH_DENIED: Row(
        "INVALID_PARAMS", 403, _NOPERM, False, "operator",
        "Change the named key of the configuration, or ask for another page.",
    ),
    Kind.MISSING_TOKEN: Row(
        "MISSING_TOKEN", 401, _NOPERM, False, "client",
        "Send Authorization: Bearer with the configured token.", 40101,
    ),
    Kind.BAD_TOKEN: Row(
        "BAD_TOKEN", 401, _NOPERM, False, "client", "Send the token that orchd runs with.", 40102
    ),
    Kind.NON_LOOPBACK_WITHOUT_TOKEN: Row(
        "NON_LOOPBACK_WITHOUT_TOKEN", 403, _CONFIG, False, "operator",
        "Configure auth_token and send it, or ask over loopback, as a program of this machine.",
        40301,
    ),
    Kind.QUEUE_FULL: _later(
        "ADMISSION_REJECT", 429, "Wait for the time that Retry-After gives, then send it again."
    ),
    Kind.QUEUE_FULL_DROP_LRU: _later(
        "QUEUE_FULL_DROP_LRU", 429,
        "Wait for the time that Retry-After gives, then send it again.",
    ),
    Kind.DROPPED: _later(
        "QUEUE_FULL_DROP_LRU", 429,
        "Wait for retry_after_ms, then send it again as a new task; interactive is never dropped.",
    ),
    Kind.SHED: _later(
        "ADMISSION_REJECT", 429,
        "Wait for retry_after_ms, then send it again as a new task; interactive is never shed.",
    ),
    Kind.SLO_BREACHED: _later(
        "ADMISSION_REJECT", 429,
        "Wait for the time that Retry-After gives, or name another pool; this one is too slow now.",
    ),
    Kind.THROTTLED: _later(
        "ADMISSION_REJECT", 429,
        "Wait for the time that Retry-After gives; rate_limits in capabilities shows the limits.",
    ),
    Kind.POOL_UNREADY: _later(
        "POOL_UNREADY", 503, "See orchctl pools for the cause; ask again when the pool is ready."
    ),
    Kind.POOL_UNAVAILABLE: _later(
        "POOL_UNAVAILABLE", 503, "See orchctl pools: no pool serves this engine and model now.",
        _UNAVAILABLE,
    ),
    Kind.REPLICA_EXHAUSTED: _later(
        "REPLICA_EXHAUSTED", 503, "Ask again when a slot is free, or configure more slots."
    ),
    Kind.PINNED_POOL_INFEASIBLE: _later(
        "POOL_UNAVAILABLE", 503, "Pin another pool, or send placement.mode auto or prefer.",
        _UNAVAILABLE,
    ),
    Kind.NO_PREFERRED_FEASIBLE: _later(
        "POOL_UNAVAILABLE", 503, "Prefer another pool, or set placement.allow_fallback.",
        _UNAVAILABLE,
    ),
    Kind.DRAINING: _later(
        "POOL_UNREADY", 503, "The daemon stops or its pool was drained; ask again in a moment."
    ),
    Kind.RELOAD_UNDER_WAY: Row(
        "INVALID_PARAMS", 409, _TEMPFAIL, True, "operator",
        "Wait until the reload has ended; orchctl pools shows it.",
    ),
    Kind.TOO_MANY_CONNECTIONS: _later(
        "REPLICA_EXHAUSTED", 503, "Close connections that are not used, or use one with keep-alive."
    ),
    Kind.PAGE_FAILED: Row(
        "INVALID_PARAMS", 502, _TEMPFAIL, True, "client",
        "Check the URL and ask again: the other server did not answer as it should.",
    ),
    Kind.DECODE_TIMEOUT: Row(
        "DECODE_TIMEOUT", 500, _TEMPFAIL, True, "pool", "Send the task again as a new task."
    ),
    Kind.DEADLINE_PASSED: Row(
        "DECODE_TIMEOUT", 500, _TEMPFAIL, True, "client",
        "Send it as a new task with a later deadline_ms or a smaller max_tokens.",
    ),
    Kind.WORKER_RESET: Row(
        "WORKER_RESET", 500, _TEMPFAIL, True, "pool", "Send the task again as a new task."
    ),
    Kind.INTERNAL: Row(
        "INTERNAL", 500, _SOFTWARE, False, "suite",
        "Report this with the correlation id and the journal of orchd.",
    ),
    Kind.CONFIG_INVALID: _pool("Correct the named keys; orchctl config check shows all.", _CONFIG),
    Kind.DRIVER_UNAVAILABLE: _pool(
        "Load the NVIDIA driver (modprobe nvidia; nvidia-smi must answer), then restart the pool.",
        _OSERR,
    ),
    Kind.DEVICE_MISSING: _pool("Correct the pool's device mask; nvidia-smi -L lists the GPUs."),
    Kind.MODEL_MISSING: _pool(
        "Put the model where model.ref points, readable by poolmgr, or fetch it: orchctl models "
        "fetch REF.",
        _NOINPUT,
    ),
    Kind.OUTBOUND_DENIED: _pool(
        "Change the named key of the configuration, or bring the file here by hand.", _NOPERM
    ),
    Kind.FETCH_FAILED: _pool(
        "Check the reference, the network and the credentials; what has come is kept, and the next "
        "try goes on there.",
        _TEMPFAIL,
    ),
    Kind.DIGEST_MISMATCH: _pool(
        "Fetch the model's file again, or correct model.digest if the file is the right one.",
        _DATAERR,
    ),
    Kind.DISK_SHORT: _pool(
        "Free space there, or name a folder with room that may be written in model.cache_dir.",
        _OSERR,
    ),
    Kind.VRAM_SHORT: _pool(
        "Free VRAM, lower ctx or slots, or choose a smaller model or quantisation."
    ),
    Kind.RAM_SHORT: _pool("Free host memory, or choose a smaller model."),
    Kind.ENGINE_MISSING: _pool(
        "Run orchctl provision with the pool's id, or correct its provisioning."
    ),
    Kind.PROVISION_FAILED: _pool(
        "Mend what it names, or read its log; then run orchctl provision again."
    ),
    Kind.ENGINE_START_FAILED: _pool("Read the engine's last lines in the pool's journal."),
    Kind.ENGINE_UNHEALTHY: _pool(
        "Read the engine's last lines in the pool's journal; see that an external one runs where "
        "provisioning.url says.",
        fault="pool",
    ),
    Kind.ENGINE_DIED: _pool(
        "systemd restarts the pool; read the engine's last lines in its journal.", fault="pool"
    ),
    Kind.ENGINE_EXITED: _pool(
        "systemd restarts the pool; see in its journal who told the engine to end.", fault="pool"
    ),
    Kind.ENGINE_HUNG: _pool(
        "systemd restarts the pool; look for a GPU at 0 or 100 % and for Xid in journalctl -k.",
        fault="pool",
    ),
    Kind.CUDA_ERROR: _pool(
        "systemd restarts the pool; if it comes again, journalctl -k -g Xid tells more.",
        fault="pool",
    ),
    Kind.DRIVER_RESET: _pool(
        "If it stays away: nvidia-smi --gpu-reset -i N, or reboot; journalctl -k -g Xid tells why.",
        _OSERR,
    ),
    Kind.GPU_XID: _pool(
        "systemd restarts the pool; journalctl -k -g Xid has the driver's whole line.", _OSERR
    ),
    Kind.GPU_ECC: _pool(
        "nvidia-smi -q -d ECC,ROW_REMAPPER has the counts; if they grow, replace the GPU.", _OSERR
    ),
    Kind.RESUME_FAILED: _pool(
        "systemd restarts the pool; if that fails too, reload nvidia_uvm, or see "
        "NVreg_PreserveVideoMemoryAllocations.",
        _OSERR,
    ),
    Kind.BREAKER_OPEN: _pool("Mend the cause, then orchctl pools reset POOL."),
    Kind.ENGINE_PROTOCOL: _pool(
        "Check that the configured engine id and version match what runs there.", _PROTOCOL
    ),
    Kind.SELF_TEST_FAILED: _pool("Run the engine by hand with this model and read its answer."),
    Kind.CANARY_FAILED: _pool(
        "Compare the figures: correct the pool's canary keys, or reload with another model."
    ),
    Kind.CPU_FALLBACK: _pool(
        "Install an engine built with CUDA that matches the driver; nothing runs on the CPU."
    ),
    Kind.GPU_MISMATCH: _pool(
        "Correct the device mask or tensor_split; the engine must use exactly the GPUs it names."
    ),
    Kind.NOT_ATTESTED: _pool(
        "Use mode external with gpu_attested = true, if the engine does run on a GPU."
    ),
    Kind.SOCKET_REMOVED: _pool(
        "systemd restarts the pool and makes it again; see what removes files in /run."
    ),
    Kind.DAEMON_UNREACHABLE: Row(
        "POOL_UNAVAILABLE", 503, _UNAVAILABLE, True, "operator",
        "Start it: systemctl start orchd.socket, or orchctl up in a terminal.",
    ),
    Kind.CANCELED: Row(
        "INVALID_PARAMS", 400, _SIGINT, False, "client", "Nothing: it was canceled on request."
    ),
}  # fmt: skip


@frozen
class Envelope:
    """The body of every error answer, and the data of an `error` frame."""

    code: str
    message: str
    hint: str | None = None
    engine: str | None = None
    pool_id: str | None = None
    retriable: bool | None = None
    retry_after_ms: int | None = None
    policy_label: str | None = None
    auth_code: int | None = None


@frozen
class Fields:
    """What an error may say beside its kind and message."""

    path: str | None = None
    """The field at fault, as `$.max_tokens`."""
    engine: str | None = None
    pool_id: str | None = None
    retry_after_ms: int | None = None
    policy_label: str | None = None
    allow: str | None = None
    """For METHOD_NOT_ALLOWED: the Allow header."""


class OrchError(Exception):
    """Anything that a client or an operator is told; raised where it is known."""

    def __init__(self, kind: Kind, message: str, **fields: Any) -> None:
        super().__init__(message)
        self.kind = kind
        self.message = message
        self.fields = Fields(**fields)

    @property
    def row(self) -> Row:
        """The row of the table that this error belongs to."""
        return TABLE[self.kind]

    def where(self, **fields: Any) -> OrchError:
        """Return the same error with more said (pool, engine, ...)."""
        error = OrchError(self.kind, self.message)
        error.fields = evolve(self.fields, **fields)
        return error

    def envelope(self) -> Envelope:
        """Return what the client reads."""
        row, fields = self.row, self.fields
        return Envelope(
            code=row.code,
            message=self.message,
            hint=row.advice,
            engine=fields.engine,
            pool_id=fields.pool_id,
            retriable=row.retriable,
            retry_after_ms=fields.retry_after_ms,
            policy_label=fields.policy_label,
            auth_code=row.auth_code,
        )
