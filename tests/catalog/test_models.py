"""What may be registered: bounds, trust, and what is warned of. And where a model is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from attrs import evolve

from orchd.catalog import models
from orchd.catalog.locate import exists, locate, path_of
from orchd.catalog.models import MAX_MODELS, Models
from orchd.wire import codec
from orchd.wire.catalog import ModelRegistration, ModelState
from orchd.wire.errors import Kind, OrchError

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


@pytest.mark.req("CAT-LOCATE", "CAT-EXISTS")
def test_locate_and_exists_look_and_write_nothing(tmp_path: Path) -> None:
    base = str(tmp_path)
    (tmp_path / "m.gguf").write_bytes(b"x")
    (tmp_path / "folder").mkdir()
    before = sorted(tmp_path.rglob("*"))
    assert locate("m.gguf", base) == f"{base}/m.gguf"
    assert locate(f"file:{base}/m.gguf", "/") == f"{base}/m.gguf"
    assert [locate(ref, base) for ref in ("none.gguf", "folder", "hf:m.gguf")] == [None] * 3
    table = Models()
    table.records["m"] = table.register(registration(), strict=False, now_ms=1)
    assert [exists(name, table, base) for name in ("m", DIGEST, "m.gguf")] == [True] * 3
    assert not any(exists(name, table, base) for name in ("n", DIGEST[:-1] + "0", "n.gguf"))
    assert sorted(tmp_path.rglob("*")) == before
