"""Runs of orchctl about sessions, control of pools, the catalog and artifacts."""

from __future__ import annotations

from typing import Any, Final

from attrs import evolve
from pact import match

from orchd.catalog import artifacts as stored
from orchd.wire import artifacts, catalog, codec, control, shapes
from orchd.wire.errors import TABLE, Kind
from tools.pactfile.asks import (
    ARTIFACT,
    MODEL,
    NO_ARTIFACT,
    NO_MODEL,
    READY,
    SESSION,
    UNKNOWN,
    Ask,
    Run,
)
from tools.pactfile.matchers import golden, needed, refusal

SPARE: Final = "spare"
"""A pool that may be drained and reloaded: no other interaction needs it."""
TURNED: Final = "7c9e6679-7425-40de-944b-e07fc1f90ae7"
LLAMA: Final[dict[str, Any]] = {
    "id": "llama-8b",
    "digest": "sha256:" + "5a" * 32,
    "source_url": "hf:org/repo/llama-8b.gguf",
    "tags": ["coding"],
}
TOLD: Final = LLAMA | {
    "manifests": [],
    "signatures": [],
    "state": "Active",
    "created_ms": 1_795_000_000_000,
    "verifying": False,
    "warnings": ["it has no signature", "it has no SBOM"],
    "pools": [],
}
FOUND: Final = {"name": LLAMA["id"], "exists": True, "models": [LLAMA["id"]]}
PLAN: Final[dict[str, Any]] = {"kind": "plan", "content": "First this.\n", "tags": ["demo"]}
PLAN_ID: Final = stored.name(stored.plain(codec.structure(artifacts.ArtifactUpload, PLAN)), 0).id
RECORD: Final = {
    "id": PLAN_ID,
    "kind": "plan",
    "digest": "sha256:" + "5a" * 32,
    "created_ms": 1_795_000_000_000,
    "tags": ["demo"],
    "content_bytes": 12,
}


def _ask(words: str, state: str, path: str, **more: Any) -> Ask:
    return Ask(words=words, state=state, path=path, **more)


def _post(words: str, state: str, path: str, body: Any = None, **more: Any) -> Ask:
    return Ask(words=words, state=state, method="POST", path=path, body=body, **more)


def _run(*arguments: str, ask: Ask, out: str = "", stdin: str = "") -> Run:
    """One run that sends one request and can use the answer."""
    return Run(arguments=arguments, asks=(ask,), out=out, stdin=stdin)


def _unknown(*arguments: str, ask: Ask) -> Run:
    refused = evolve(ask, status=404, answer=refusal(Kind.UNKNOWN_ID))
    return Run(arguments=arguments, asks=(refused,), exit_code=TABLE[Kind.UNKNOWN_ID].exit_code)


def _begun(status: str) -> Any:
    said = needed(control.PoolControl, {"pool_id": SPARE, "status": status})
    return said | {"pool_id": SPARE, "status": status}


def _model(path: str = "") -> str:
    return f"/v1/catalog/models/{LLAMA['id']}{path}"


_KNOWN: Final[dict[str, Any]] = {"about": {"session_id": TURNED}}
_SESSIONS: Final = (
    _run(
        "sessions", TURNED, "--json",
        ask=_ask(
            "a session", SESSION, f"/v1/sessions/{TURNED}",
            answer=needed(shapes.SessionStatus, golden("SessionStatus")), **_KNOWN,
        ),
        out='"turns"',
    ),
    _unknown(
        "sessions", UNKNOWN,
        ask=_ask("a session that is unknown", READY, f"/v1/sessions/{UNKNOWN}"),
    ),
    _run(
        "sessions", TURNED, "--end", "--json",
        ask=_ask(
            "the end of a session", SESSION, f"/v1/sessions/{TURNED}",
            method="DELETE", status=204, **_KNOWN,
        ),
        out='"ended":true',
    ),
)  # fmt: skip
_POOLS: Final = (
    _run(
        "drain", SPARE, "--deadline", "5", "--no-wait", "--json",
        ask=_post(
            "to drain a pool", READY, f"/v1/pools/{SPARE}/drain", {"deadline_ms": 5000},
            status=202, answer=_begun("draining"),
        ),
        out='"draining"',
    ),
    _unknown(
        "drain", "none", "--no-wait",
        ask=_post(
            "to drain a pool that is unknown", READY, "/v1/pools/none/drain",
            {"deadline_ms": 60_000},
        ),
    ),
    _run(
        "reload", SPARE, "mock:spare", "--no-wait", "--json",
        ask=_post(
            "to reload a pool", READY, f"/v1/pools/{SPARE}/reload",
            {"new_model_ref": "mock:spare"}, status=202, answer=_begun("reloading"),
        ),
        out='"reloading"',
    ),
    _unknown(
        "reload", "none", "mock:spare", "--no-wait",
        ask=_post(
            "to reload a pool that is unknown", READY, "/v1/pools/none/reload",
            {"new_model_ref": "mock:spare"},
        ),
    ),
)  # fmt: skip
_MODELS: Final = (
    Run(
        arguments=("models", "list", "--json"),
        asks=(
            _ask(
                "every model", MODEL, "/v1/catalog/models",
                answer={"models": match.each_like(needed(catalog.CatalogModel, TOLD), min=1)},
            ),
            _ask(
                "what was fetched", MODEL, "/v1/catalog/cache",
                answer=needed(catalog.CachedModels, {"cached": []}),
            ),
        ),
        out=LLAMA["id"],
    ),
    _run(
        "models", "exists", LLAMA["id"], "--json",
        ask=_ask(
            "whether a model exists", MODEL, "/v1/catalog/locate", query={"name": LLAMA["id"]},
            answer=needed(catalog.Located, FOUND) | {"exists": True},
        ),
        out='"exists":true',
    ),
    Run(
        arguments=("models", "locate", "hf:org/none"),
        asks=(
            _ask(
                "where a model is that is not here", NO_MODEL, "/v1/catalog/locate",
                query={"name": "hf:org/none"},
                answer=needed(catalog.Located, FOUND | {"name": "hf:org/none", "models": []})
                | {"exists": False},
            ),
        ),
        exit_code=TABLE[Kind.UNKNOWN_NAME].exit_code,
    ),
    _run(
        "models", "show", LLAMA["id"], "--json",
        ask=_ask(
            "a model", MODEL, _model(),
            answer=needed(catalog.CatalogModel, TOLD) | {"id": LLAMA["id"], "state": "Active"},
        ),
        out=LLAMA["id"],
    ),
    _unknown(
        "models", "show", LLAMA["id"],
        ask=_ask("a model that is unknown", NO_MODEL, _model()),
    ),
    _run(
        "models", "add", LLAMA["id"], LLAMA["source_url"], "--digest", LLAMA["digest"],
        "--tag", "coding", "--json",
        ask=_post(
            "to register a model", NO_MODEL, "/v1/catalog/models", LLAMA | {"signatures": []},
            status=201, answer=needed(catalog.CatalogModel, TOLD) | {"id": LLAMA["id"]},
        ),
        out='"warnings"',
    ),
    Run(
        arguments=(
            *("models", "add", LLAMA["id"], LLAMA["source_url"], "--digest", LLAMA["digest"]),
            *("--tag", "coding", "--strict"),
        ),
        asks=(
            _post(
                "to register a model that has to be signed", NO_MODEL, "/v1/catalog/models",
                LLAMA | {"signatures": [], "trust_policy": {"mode": "strict"}},
                status=TABLE[Kind.UNTRUSTED_ARTIFACT].status,
                answer=refusal(Kind.UNTRUSTED_ARTIFACT),
            ),
        ),
        exit_code=TABLE[Kind.UNTRUSTED_ARTIFACT].exit_code,
    ),
    _run(
        "models", "verify", LLAMA["id"], "--json",
        ask=_post(
            "to verify a model", MODEL, _model("/verify"),
            status=202, answer={"status": "started"},
        ),
        out='"started"',
    ),
    _run(
        "models", "retire", LLAMA["id"], "--after", "60", "--json",
        ask=_post(
            "to retire a model", MODEL, _model("/state"),
            {"state": "Retired", "deadline_ms": 60_000},
            status=202, answer={"status": "accepted"},
        ),
        out='"accepted"',
    ),
    _run(
        "models", "activate", LLAMA["id"], "--json",
        ask=_post(
            "to take tasks for a model again", MODEL, _model("/state"), {"state": "Active"},
            status=202, answer={"status": "accepted"},
        ),
        out='"accepted"',
    ),
    _run(
        "models", "remove", LLAMA["id"], "--json",
        ask=_ask("to remove a model", MODEL, _model(), method="DELETE", status=204),
        out='"removed":true',
    ),
)  # fmt: skip
_ARTIFACTS: Final = (
    _run(
        "artifacts", "list", "--tag", "demo", "--json",
        ask=Ask(
            words="every artifact of a tag", state=ARTIFACT, path="/v1/artifacts",
            query={"tag": "demo"},
            answer={"artifacts": match.each_like(needed(artifacts.ArtifactRecord, RECORD), min=1)},
        ),
        out=PLAN_ID,
    ),
    _run(
        "artifacts", "show", PLAN_ID,
        ask=_ask(
            "an artifact", ARTIFACT, f"/v1/artifacts/{PLAN_ID}",
            answer=needed(artifacts.Artifact, RECORD | {"content": PLAN["content"]})
            | {"content": PLAN["content"]},
        ),
        out=PLAN["content"],
    ),
    _unknown(
        "artifacts", "show", PLAN_ID,
        ask=_ask("an artifact that is unknown", NO_ARTIFACT, f"/v1/artifacts/{PLAN_ID}"),
    ),
    _run(
        "artifacts", "add", "plan", "-", "--tag", "demo", stdin=PLAN["content"],
        ask=_post(
            "to store an artifact", NO_ARTIFACT, "/v1/artifacts", PLAN,
            status=201, answer=needed(artifacts.ArtifactStored, RECORD) | {"id": PLAN_ID},
        ),
        out=PLAN_ID,
    ),
    _run(
        "artifacts", "remove", PLAN_ID, "--json",
        ask=_ask(
            "to delete an artifact", ARTIFACT, f"/v1/artifacts/{PLAN_ID}",
            method="DELETE", status=204,
        ),
        out='"removed":true',
    ),
)  # fmt: skip
RUNS: Final = (*_SESSIONS, *_POOLS, *_MODELS, *_ARTIFACTS)
