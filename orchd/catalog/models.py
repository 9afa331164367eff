"""The table of models: what may be registered, what is asked of it. Pure; the shelf keeps it.

Which tasks a model lets in is core/state/models.py's.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable
from typing import Final

from attrs import define, evolve, field

from orchd.wire import codec, modelref
from orchd.wire.cached import Cached
from orchd.wire.catalog import (
    CachedModel,
    CachedModels,
    CatalogModel,
    ModelRecord,
    ModelRegistration,
    ModelState,
    TrustMode,
    TrustPolicy,
    Verification,
    VerifyReason,
    VerifyResult,
)
from orchd.wire.errors import Kind, OrchError
from orchd.wire.ids import Count, Digest, ModelId, PoolId, Text

MAX_MODELS: Final = 1024
"""The metrics contract gives model_id so many values."""
MAX_MODEL_BYTES: Final = 64 << 10
"""Of a registration as JSON; all of them stay in memory."""


_FAILED: Final = VerifyResult.FAILED


def record_id(record: ModelRecord) -> str:
    """Return what names a record."""
    return record.model.id


@define
class Models:
    """All models that are known."""

    records: dict[str, ModelRecord] = field(factory=dict)

    def get(self, model_id: str) -> ModelRecord:
        """Raises OrchError(UNKNOWN_NAME)."""
        record = self.records.get(model_id)
        if record is None:
            raise OrchError(Kind.UNKNOWN_NAME, f"the catalog has no model {model_id[:128]!r}")
        return record

    def exists(self, name: str) -> bool:
        """Whether `name` is the id or the digest of a model here [CAT-EXISTS]."""
        return name in self.records or any(r.model.digest == name for r in self.records.values())

    def register(self, model: ModelRegistration, *, strict: bool, now_ms: int) -> ModelRecord:
        """Return the record of a new model; the same registration again gives the record it has.

        Raises OrchError: UNTRUSTED_ARTIFACT when its trust policy refuses it, MODEL_EXISTS for
        another model of this id, STORE_FULL past 1024 models.
        """
        check(model)
        refuse_untrusted(model, strict=strict)
        known = self.records.get(model.id)
        if known is not None:
            if known.model == model:
                return known
            raise OrchError(
                Kind.MODEL_EXISTS, f"$.id: the catalog has another model {model.id}", path="$.id"
            )
        if len(self.records) >= MAX_MODELS:
            raise OrchError(Kind.STORE_FULL, f"the catalog holds {MAX_MODELS} models already")
        return ModelRecord(model=model, created_ms=Count(now_ms))

    def adopted(self, ref: str, digest: Digest) -> ModelRegistration | None:
        """Return what to register of a fetched model; None: the catalog has this digest already,
        or the reference is none of a fetch."""
        if self.exists(digest):
            return None
        try:
            ids = modelref.model_ids(ref, digest)
        except ValueError:
            return None
        name = next((each for each in ids if each not in self.records), ids[-1])
        return ModelRegistration(
            id=ModelId(name), digest=digest, source_url=Text(modelref.shown(ref))
        )

    def others(self, ref: str, digest: str) -> list[str]:
        """Return the ids of models that name this source and another digest, and are not known to
        be wrong yet."""
        source = modelref.shown(ref)
        return [
            record.model.id
            for record in self.records.values()
            if record.model.source_url == source
            and record.model.digest != digest
            and (record.verification is None or record.verification.result is not _FAILED)
        ]

    def cached(self, found: Iterable[Cached]) -> CachedModels:
        """Return what is told of caches: their models, and the ids that those have here."""
        ids: dict[str, list[ModelId]] = {}
        for record in self.records.values():
            ids.setdefault(record.model.digest, []).append(record.model.id)
        return CachedModels(
            cached=tuple(
                CachedModel(
                    ref=each.ref,
                    path=each.path,
                    size_bytes=each.size_bytes,
                    digest=each.digest,
                    verified_ms=each.verified_ms,
                    models=tuple(ids.get(each.digest, ())),
                )
                for each in found
            )
        )

    def page(self, after: str, limit: int) -> tuple[list[ModelRecord], str | None]:
        """Return records by id behind `after` (empty: from the first), and the next cursor."""
        ids = sorted(self.records)
        start = bisect_right(ids, after)
        taken = ids[start : start + limit]
        more = start + limit < len(ids)
        return [self.records[each] for each in taken], taken[-1] if more else None


def check(model: ModelRegistration) -> None:
    """Raise OrchError: BODY_TOO_LARGE past 64 KiB, INVALID_PARAMS for a password in a URL."""
    size = len(codec.dumps(model))
    if size > MAX_MODEL_BYTES:
        why = f"the model has {size} bytes; at most {MAX_MODEL_BYTES} are kept"
        raise OrchError(Kind.BODY_TOO_LARGE, why, path="$")
    for path, text in (
        ("$.source_url", model.source_url),
        ("$.sbom", model.sbom),
        *((f"$.manifests[{at}]", text) for at, text in enumerate(model.manifests)),
        *((f"$.signatures[{at}]", text) for at, text in enumerate(model.signatures)),
    ):
        if text is not None and "@" in _authority(text):
            why = f"{path}: must not carry a user or a password; a record is no place for secrets"
            raise OrchError(Kind.INVALID_PARAMS, why, path=path)


def refuse_untrusted(model: ModelRegistration, *, strict: bool) -> None:
    """Raise OrchError(UNTRUSTED_ARTIFACT) where a policy wants more than the model has.

    `strict`: X-Trust-Policy said so, whatever the body says.
    """
    policy = model.trust_policy or TrustPolicy()
    strict = strict or policy.mode is TrustMode.STRICT
    wrong: tuple[str, str] | None = None
    if not model.signatures and (strict or policy.require_signature):
        wrong = "$.signatures", f"model {model.id} has no signature"
    elif model.sbom is None and policy.require_sbom:
        wrong = "$.sbom", f"model {model.id} has no SBOM"
    elif strict and not _allowed(model, policy):
        wrong = "$.source_url", f"{registry_of(model.source_url)} is not in allowed_registries"
    if wrong is not None:
        path, why = wrong
        raise OrchError(Kind.UNTRUSTED_ARTIFACT, f"{path}: {why}", path=path)


def warnings(model: ModelRegistration) -> tuple[str, ...]:
    """Return what is missing and did not refuse the model [ORCH-3037]."""
    policy = model.trust_policy or TrustPolicy()
    found = []
    if not model.signatures:
        found.append("it has no signature")
    if model.sbom is None:
        found.append("it has no SBOM")
    if not _allowed(model, policy):
        found.append(f"{registry_of(model.source_url)} is not in allowed_registries")
    return tuple(found)


def registry_of(source_url: str | None) -> str:
    """Return whom a source is fetched from: a host, a bucket, hf, file, or none."""
    if source_url is None:
        return "none"
    scheme, colon, _ = source_url.partition(":")
    return _authority(source_url) or (scheme if colon else "file")


def _authority(url: str) -> str:
    _, slashes, rest = url.partition("://")
    return rest.partition("/")[0] if slashes else ""


def _allowed(model: ModelRegistration, policy: TrustPolicy) -> bool:
    allowed = policy.allowed_registries
    return not allowed or registry_of(model.source_url) in allowed


def verified(record: ModelRecord, verification: Verification) -> ModelRecord:
    """Return the record with what came of hashing its file."""
    return evolve(record, verification=verification)


def fetched(record: ModelRecord, cached: Cached | None) -> ModelRecord:
    """Return the record with the word of the fetch that brought the model, if it did: its files
    were hashed as they came [ORCH-3436]."""
    if cached is None or cached.digest != record.model.digest:
        return record
    said = Verification(result=VerifyResult.OK, reason=VerifyReason.MATCH, at_ms=cached.verified_ms)
    return verified(record, said)


def in_state(
    record: ModelRecord, state: ModelState, deadline_ms: int | None, now_ms: int
) -> ModelRecord:
    """Return the record in another state. Raises OrchError for Active with a deadline."""
    if state is ModelState.RETIRED:
        return evolve(record, retires_at_ms=Count(now_ms + (deadline_ms or 0)))
    if deadline_ms is not None:
        why = "$.deadline_ms: is for Retired: until then tasks are taken"
        raise OrchError(Kind.INVALID_PARAMS, why, path="$.deadline_ms")
    return evolve(record, retires_at_ms=None)


def told(
    record: ModelRecord, pools: tuple[PoolId, ...] = (), *, verifying: bool, now_ms: int
) -> CatalogModel:
    """Return what a client is told of a model; `pools` serve it."""
    model = record.model
    return CatalogModel(
        id=ModelId(model.id),
        digest=model.digest,
        source_url=model.source_url,
        tags=model.tags,
        manifests=model.manifests,
        signatures=model.signatures,
        sbom=model.sbom,
        trust_policy=model.trust_policy,
        state=record.state(now_ms),
        retires_at_ms=record.retires_at_ms,
        created_ms=record.created_ms,
        verifying=verifying,
        verification=record.verification,
        warnings=warnings(model),
        pools=pools,
    )
