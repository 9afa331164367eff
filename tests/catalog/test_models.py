"""What may be registered: bounds, trust, and what is warned of. And where a model is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from attrs import evolve

from orchd.catalog import models
from orchd.catalog.locate import locate, located, path_of
from orchd.catalog.models import MAX_MODELS, Models
from orchd.kit.cached import entries
from orchd.wire import codec
from orchd.wire.cached import Shape
from orchd.wire.catalog import (
    ModelRegistration,
    ModelState,
    Verification,
    VerifyReason,
    VerifyResult,
)
from orchd.wire.errors import Kind, OrchError
from orchd.wire.ids import Count, Digest, ModelId, Text
from tests.fakes.cached import fetched
from tests.kit.test_cached import seen

DIGEST = "sha256:" + "ab" * 32


def registration(**more: Any) -> ModelRegistration:
    return codec.structure(ModelRegistration, {"id": "m", "digest": DIGEST, **more})


def refused(model: ModelRegistration, *, strict: bool = False) -> tuple[Kind, str | None]:
    with pytest.raises(OrchError) as raised:
        Models().register(model, strict=strict, now_ms=1)
    return raised.value.kind, raised.value.fields.path


SIGNED = {"signatures": ["c2ln"]}
WHOLE = {**SIGNED, "sbom": "sha256:x"}


@pytest.mark.req("ORCH-3037")
@pytest.mark.parametrize(
    ("said", "header", "path"),
    [
        ({}, True, "$.signatures"),
        ({"trust_policy": {"mode": "strict"}}, False, "$.signatures"),
        ({"trust_policy": {"require_signature": True}}, False, "$.signatures"),
        ({**SIGNED, "trust_policy": {"require_sbom": True}}, False, "$.sbom"),
        ({**WHOLE, "source_url": "https://a.test/m.gguf",
          "trust_policy": {"mode": "strict", "allowed_registries": ["b.test"]}},
         False, "$.source_url"),
        ({**WHOLE, "source_url": "https://a.test/m.gguf",
          "trust_policy": {"mode": "permissive", "allowed_registries": ["b.test"]}},
         True, "$.source_url"),
        ({**WHOLE, "trust_policy": {"mode": "strict", "allowed_registries": ["b.test"]}},
         False, "$.source_url"),
    ],
)  # fmt: skip
def test_a_policy_refuses_what_it_wants_and_does_not_get(
    said: dict[str, Any], header: bool, path: str
) -> None:
    assert refused(registration(**said), strict=header) == (Kind.UNTRUSTED_ARTIFACT, path)


@pytest.mark.req("ORCH-3037")
@pytest.mark.parametrize(
    ("said", "header", "warnings"),
    [
        ({}, False, ("it has no signature", "it has no SBOM")),
        (SIGNED, True, ("it has no SBOM",)),
        (WHOLE, True, ()),
        ({**WHOLE, "source_url": "oci://a.test/m:1", "trust_policy": {"mode": "strict",
          "allowed_registries": ["a.test"], "require_signature": True, "require_sbom": True}},
         True, ()),
        ({**WHOLE, "source_url": "hf:org/m", "trust_policy": {"allowed_registries": ["file"]}},
         False, ("hf is not in allowed_registries",)),
    ],
)  # fmt: skip
def test_what_is_missing_otherwise_is_a_warning(
    said: dict[str, Any], header: bool, warnings: tuple[str, ...]
) -> None:
    record = Models().register(registration(**said), strict=header, now_ms=7)
    told = models.told(record, verifying=False, now_ms=8)
    assert (told.warnings, told.state, told.created_ms) == (warnings, ModelState.ACTIVE, 7)


@pytest.mark.parametrize(
    ("url", "registry"),
    [
        ("https://a.test/x", "a.test"),
        ("s3://bucket/key", "bucket"),
        ("oci://a.test/m:tag", "a.test"),
        ("hf:org/repo/f.gguf", "hf"),
        ("file:/abs", "file"),
        ("m.gguf", "file"),
        (None, "none"),
    ],
)
def test_the_registry_of_a_source(url: str | None, registry: str) -> None:
    assert models.registry_of(url) == registry


@pytest.mark.req("ORCH-3037", "OC-CTRL-2041")
@pytest.mark.parametrize(
    ("said", "path"),
    [
        ({"source_url": "https://me:canary@a.test/m"}, "$.source_url"),
        ({"source_url": "https://canary@a.test/m"}, "$.source_url"),
        ({"sbom": "https://me:canary@a.test/m"}, "$.sbom"),
        ({"manifests": ["x", "https://me:canary@a.test/m"]}, "$.manifests[1]"),
        ({"signatures": ["https://me:canary@a.test/m"]}, "$.signatures[0]"),
    ],
)
def test_a_password_is_not_kept(said: dict[str, Any], path: str) -> None:
    with pytest.raises(OrchError) as raised:
        Models().register(registration(**said), strict=False, now_ms=1)
    assert (raised.value.kind, raised.value.fields.path) == (Kind.INVALID_PARAMS, path)
    assert "canary" not in raised.value.message


def test_the_same_again_is_the_same_and_another_of_the_id_is_refused() -> None:
    table = Models()
    first = table.register(registration(tags=["a"]), strict=False, now_ms=1)
    table.records["m"] = first
    assert table.register(registration(tags=["a"]), strict=False, now_ms=2) is first
    with pytest.raises(OrchError) as raised:
        table.register(registration(tags=["b"]), strict=False, now_ms=2)
    assert raised.value.kind is Kind.MODEL_EXISTS


def test_the_catalog_and_its_records_have_bounds() -> None:
    assert refused(registration(signatures=["x" * 4096] * 17))[0] is Kind.BODY_TOO_LARGE
    table = Models()
    first = table.register(registration(), strict=False, now_ms=1)
    table.records = {str(n): first for n in range(MAX_MODELS)}
    with pytest.raises(OrchError) as raised:
        table.register(registration(id="more"), strict=False, now_ms=1)
    assert raised.value.kind is Kind.STORE_FULL


def test_a_model_is_retired_when_its_time_has_come() -> None:
    record = Models().register(registration(), strict=False, now_ms=1)
    retired = models.in_state(record, ModelState.RETIRED, 50, 100)
    assert [retired.state(now) for now in (149, 150)] == ["Active", "Retired"]
    assert models.in_state(record, ModelState.RETIRED, None, 100).state(100) == "Retired"
    assert models.in_state(retired, ModelState.ACTIVE, None, 200) == record
    with pytest.raises(OrchError) as raised:
        models.in_state(record, ModelState.ACTIVE, 50, 100)
    assert raised.value.fields.path == "$.deadline_ms"


def test_pages_go_by_id_and_end() -> None:
    table = Models()
    one = table.register(registration(), strict=False, now_ms=1)
    for name in ("b", "a", "c"):
        table.records[name] = evolve(one, model=registration(id=name))

    def page(after: str, limit: int) -> tuple[list[str], str | None]:
        found, following = table.page(after, limit)
        return [each.model.id for each in found], following

    assert page("", 2) == (["a", "b"], "b")
    assert page("b", 2) == (["c"], None)
    assert page("bb", 1) == (["c"], None)
    assert page("", 3) == (["a", "b", "c"], None)
    assert page("z", 3) == ([], None)


@pytest.mark.req("CAT-LOCATE", "ORCH-3090")
@pytest.mark.parametrize(
    ("ref", "path"),
    [
        ("file:/abs/m.gguf", "/abs/m.gguf"),
        ("file:///abs/m.gguf", "/abs/m.gguf"),
        ("/abs/m.gguf", "/abs/m.gguf"),
        ("m.gguf", "/base/m.gguf"),
        ("file:sub/m.gguf", "/base/sub/m.gguf"),
        ("hf:org/repo/m.gguf", None),
        ("https://a.test/m", None),
        ("s3://b/k", None),
        ("oci://a.test/m:1", None),
        ("mock:lorem", None),
        ("file:", None),
        ("a\0b", None),
    ],
)
def test_only_files_are_local(ref: str, path: str | None) -> None:
    assert path_of(ref, "/base") == path


def known(*models: ModelRegistration) -> Models:
    table = Models()
    for model in models:
        table.records[model.id] = table.register(model, strict=False, now_ms=1)
    return table


FETCHED = "hf:org/repo/m0.gguf"


@pytest.mark.req("CAT-LOCATE", "CAT-EXISTS")
def test_locate_and_exists_look_and_write_nothing(tmp_path: Path) -> None:
    base = str(tmp_path)
    (tmp_path / "m.gguf").write_bytes(b"x")
    (tmp_path / "p-00001-of-00002.gguf").write_bytes(b"pp")
    (tmp_path / "p-00002-of-00002.gguf").write_bytes(b"q")
    (tmp_path / "folder").mkdir()
    done = fetched(tmp_path / "cache", FETCHED, b"model")
    cached = entries([tmp_path / "cache"])
    table = known(
        registration(source_url="file:m.gguf"),
        registration(id="f", digest=done.digest, source_url=FETCHED),
        registration(id="d", digest=done.digest),
        registration(id="e", digest="sha256:" + "cd" * 32, source_url="hf:org/other"),
    )
    records = tuple(table.records.values())
    before = seen(tmp_path)

    def asked(name: str) -> tuple[bool, tuple[str, ...], str | None, int | None, str | None]:
        said = located(name, records, base, cached)
        assert said.name == name
        return said.exists, said.models, said.path, said.size_bytes, said.digest

    mine, here = f"{base}/m.gguf", (done.path, 5, done.digest)
    assert asked("m") == (True, ("m",), mine, 1, None)
    assert asked("m.gguf") == asked(f"file:{mine}") == (True, ("m",), mine, 1, None)
    parts = f"{base}/p-00001-of-00002.gguf"
    assert asked("p-00001-of-00002.gguf") == (True, (), parts, 3, None)
    assert asked("f") == (True, ("f",), *here)
    assert asked("d") == (True, ("d",), *here)
    assert asked(FETCHED) == asked(f"{FETCHED}?x=1") == (True, ("f",), *here)
    assert asked(done.digest) == (True, ("f", "d"), *here)
    assert asked("e") == (True, ("e",), None, None, None)
    assert asked("hf:org/other") == (True, ("e",), None, None, None)
    for name in ("n", DIGEST[:-1] + "0", "n.gguf", "folder", "hf:org/none", "mock:lorem"):
        assert asked(name) == (False, (), None, None, None)
    assert seen(tmp_path) == before


@pytest.mark.req("CAT-LOCATE", "ORCH-3436")
def test_of_two_models_of_one_reference_the_one_with_the_digest_is_meant(tmp_path: Path) -> None:
    first = fetched(tmp_path, FETCHED, b"one")
    second = fetched(tmp_path, FETCHED, b"two", shape=Shape.WHOLE)
    cached = entries([tmp_path])
    for done in (first, second):
        found = locate(FETCHED, "/", cached, done.digest)
        assert found is not None
        assert found.path == done.path
    assert locate(FETCHED, "/", cached, DIGEST) == locate(FETCHED, "/", cached)


@pytest.mark.req("ORCH-3436")
def test_a_fetched_model_gets_a_name_of_its_own_once() -> None:
    table = known(registration(id="m0", source_url="file:/x"))
    other = Digest("sha256:" + "cd" * 32)
    model = table.adopted(f"{FETCHED}?sig=canary", other)
    assert model == ModelRegistration(
        id=ModelId("m0-cdcdcdcd"), digest=other, source_url=Text(FETCHED)
    )
    assert table.adopted(FETCHED, Digest(DIGEST)) is None  # known, whatever it is called
    assert table.adopted("mock:lorem", other) is None
    fresh = Models().adopted(FETCHED, other)
    assert fresh is not None
    assert fresh.id == "m0"


def test_models_of_one_source_with_another_digest_are_told_until_found_wrong() -> None:
    table = known(
        registration(source_url=FETCHED),
        registration(id="same", digest="sha256:" + "cd" * 32, source_url=FETCHED),
        registration(id="else", source_url="hf:org/else"),
    )
    assert table.others(f"{FETCHED}#x", "sha256:" + "cd" * 32) == ["m"]
    failed = Verification(result=VerifyResult.FAILED, reason=VerifyReason.MISMATCH, at_ms=Count(1))
    table.records["m"] = models.verified(table.records["m"], failed)
    assert table.others(FETCHED, "sha256:" + "cd" * 32) == []


def test_what_is_cached_is_told_with_its_ids(tmp_path: Path) -> None:
    done = fetched(tmp_path, FETCHED, b"model")
    fetched(tmp_path, "hf:org/stray/m.gguf", b"stray")
    table = known(registration(digest=done.digest), registration(id="n", digest=done.digest))
    told = table.cached(entries([tmp_path])).cached
    assert [(each.ref, each.models) for each in told] == [
        (FETCHED, ("m", "n")), ("hf:org/stray/m.gguf", ()),
    ]  # fmt: skip


@pytest.mark.req("ORCH-3436")
def test_the_word_of_a_fetch_counts_for_its_digest_only(tmp_path: Path) -> None:
    done = fetched(tmp_path, FETCHED, b"model")
    (cached,) = entries([tmp_path])
    record = known(registration(digest=done.digest)).records["m"]
    said = models.fetched(record, cached).verification
    assert said is not None
    assert (said.result, said.reason, said.at_ms) == ("ok", "match", cached.verified_ms)
    other = known(registration()).records["m"]
    assert models.fetched(other, cached) == other
    assert models.fetched(record, None) == record
