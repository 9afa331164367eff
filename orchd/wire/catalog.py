"""Models of the catalog: what is sent to register one, what is told of it, what is kept of it.

Where the records are kept is orchd/catalog's; which tasks a model's state lets in is orchd/core's.
"""

from __future__ import annotations

import enum

from attrs import frozen

from orchd.wire.ids import Count, Digest, ModelId, PoolId, Positive, Tag, Text


class ModelState(enum.StrEnum):
    """Whether a model takes new tasks [ORCH-3031]."""

    ACTIVE = "Active"
    RETIRED = "Retired"


class TrustMode(enum.StrEnum):
    """Whether what is missing refuses a model, or only warns."""

    STRICT = "strict"
    PERMISSIVE = "permissive"


class VerifyResult(enum.StrEnum):
    """How a verification came out."""

    OK = "ok"
    FAILED = "failed"
    UNKNOWN = "unknown"


class VerifyReason(enum.StrEnum):
    """Why: match and mismatch are of the file's digest; the others found nothing to hash."""

    MATCH = "match"
    MISMATCH = "mismatch"
    NOT_LOCAL = "not_local"
    NOT_FOUND = "not_found"
    UNREADABLE = "unreadable"


@frozen(kw_only=True)
class TrustPolicy:
    """What a model must bring along to be registered."""

    mode: TrustMode = TrustMode.PERMISSIVE
    """strict refuses a model without a signature, or from elsewhere than allowed_registries;
    permissive only warns of both."""
    allowed_registries: tuple[Text, ...] = ()
    """Hosts (or hf, s3 buckets, file) that source_url may name; none listed: any."""
    require_signature: bool = False
    """Refuse without a signature, whatever the mode."""
    require_sbom: bool = False
    """Refuse without an SBOM, whatever the mode."""
    ca_roots: tuple[Text, ...] = ()
    """Kept for whoever fetches the model; orchd itself fetches nothing."""


@frozen(kw_only=True)
class ModelRegistration:
    """The body of `POST /v1/catalog/models`."""

    id: ModelId
    digest: Digest
    """Of the model's file; of a model in several that of all of them, one after the other, as
    `cat` gives them: parts by number, a repository's files in the order of their names."""
    source_url: Text | None = None
    """Where the model is, as a pool's model.ref names it: file:/abs, hf:org/repo/file, https://..."""
    tags: tuple[Tag, ...] = ()
    manifests: tuple[Text, ...] = ()
    """Each a URL, a digest, or the thing itself; kept as given."""
    signatures: tuple[Text, ...] = ()
    """Each a URL or the signature itself; kept as given."""
    sbom: Text | None = None
    """A URL or a digest of the bill of materials; kept as given."""
    trust_policy: TrustPolicy | None = None


@frozen(kw_only=True)
class Verification:
    """What came of hashing the model's file."""

    result: VerifyResult
    reason: VerifyReason
    at_ms: Count
    """Unix time in milliseconds, when it ended."""


@frozen(kw_only=True)
class ModelRecord:
    """What is kept of a model, as it stands in its file."""

    model: ModelRegistration
    created_ms: Count
    retires_at_ms: Count | None = None
    """Retired from this Unix time in milliseconds on; None: Active."""
    verification: Verification | None = None

    def state(self, now_ms: int) -> ModelState:
        """Return the state at this Unix time in milliseconds."""
        retired = self.retires_at_ms is not None and self.retires_at_ms <= now_ms
        return ModelState.RETIRED if retired else ModelState.ACTIVE


@frozen(kw_only=True)
class CatalogModel:
    """One model of the catalog."""

    id: ModelId
    digest: Digest
    source_url: Text | None = None
    tags: tuple[Tag, ...]
    manifests: tuple[Text, ...]
    signatures: tuple[Text, ...]
    sbom: Text | None = None
    trust_policy: TrustPolicy | None = None
    state: ModelState
    retires_at_ms: Count | None = None
    """When it is or was Retired, as Unix time in milliseconds."""
    created_ms: Count
    verifying: bool
    """Its file is being hashed now."""
    verification: Verification | None = None
    """Of the last time; None: never."""
    warnings: tuple[str, ...]
    """What its trust policy would like to see [ORCH-3037]."""
    pools: tuple[PoolId, ...] = ()
    """Those that serve it, by their configuration or since a reload."""


@frozen(kw_only=True)
class CatalogModels:
    """The body of `GET /v1/catalog/models`: by id. `next_cursor`: there are more."""

    models: tuple[CatalogModel, ...]
    next_cursor: str | None = None


@frozen(kw_only=True)
class Located:
    """The answer to `GET /v1/catalog/locate`: what is known here of a name."""

    name: str
    """An id, a digest or a reference, as it was asked for."""
    exists: bool
    """It names a model of the catalog, or files that are here [CAT-EXISTS]."""
    models: tuple[ModelId, ...] = ()
    """The models of the catalog that it names."""
    path: str | None = None
    """Of the model's file here, or its folder [CAT-LOCATE]; None: it is not here, or orchd may not
    see it."""
    size_bytes: Count | None = None
    digest: Digest | None = None
    """That a fetch found it to have; None: it is a file that no fetch brought."""


@frozen(kw_only=True)
class CachedModel:
    """One model that is in a cache, whole."""

    ref: str
    """What it was fetched as, without a query."""
    path: str
    size_bytes: Count
    digest: Digest
    verified_ms: Count
    """When it was hashed as it came, as Unix time in milliseconds."""
    models: tuple[ModelId, ...] = ()
    """The models of the catalog that have this digest."""


@frozen(kw_only=True)
class CachedModels:
    """The body of `GET /v1/catalog/cache`: by reference, 1,024 of each cache at most."""

    cached: tuple[CachedModel, ...]


@frozen(kw_only=True)
class ModelStateChange:
    """The body of `POST /v1/catalog/models/{id}/state`."""

    state: ModelState
    deadline_ms: Positive | None = None
    """For Retired: takes tasks for so long still."""


@frozen(kw_only=True)
class VerifyStarted:
    """The answer to a verify: its result will stand in the model."""

    status: str = "started"


@frozen(kw_only=True)
class StateAccepted:
    """The answer to a change of state."""

    status: str = "accepted"
