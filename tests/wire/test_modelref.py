"""Model references: what each form names, what is refused, and the names they have in a cache."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchd.wire.ids import MODEL_ID
from orchd.wire.modelref import (
    MAX_SHARDS,
    HubRef,
    OciRef,
    RemoteRef,
    S3Ref,
    WebRef,
    entry_name,
    is_remote,
    model_ids,
    parse,
    safe_name,
    shards,
    shown,
)

HEX = "0" * 64


@pytest.mark.req("ORCH-3090")
@pytest.mark.parametrize(
    ("text", "ref"),
    [
        ("hf:org/repo/path/file.gguf", HubRef("org/repo", "path/file.gguf")),
        ("hf:org/repo", HubRef("org/repo")),
        ("hf://org/repo/x.gguf", HubRef("org/repo", "x.gguf")),
        ("hf:org/repo@v1.0/x.gguf", HubRef("org/repo", "x.gguf", "v1.0")),
        ("hf:org/repo@abc", HubRef("org/repo", "", "abc")),
        ("https://a.b/c/m.gguf?x=1", WebRef("https://a.b/c/m.gguf?x=1")),
        ("s3://bucket/deep/key.gguf", S3Ref("bucket", "deep/key.gguf")),
        ("s3://bucket/deep/", S3Ref("bucket", "deep/")),
        ("oci://r.example/a/b:v1", OciRef("r.example", "a/b", "v1")),
        ("oci://localhost:5000/b:v1", OciRef("localhost:5000", "b", "v1")),
        (f"oci://r.example/a/b@sha256:{HEX}", OciRef("r.example", "a/b", f"sha256:{HEX}")),
        (f"oci://r.example/b:v1@sha256:{HEX}", OciRef("r.example", "b", f"sha256:{HEX}")),
    ],
)
def test_the_forms(text: str, ref: RemoteRef) -> None:
    assert is_remote(text)
    assert parse(text) == ref


@pytest.mark.req("ORCH-3090")
@pytest.mark.parametrize("text", ["file:/a/m.gguf", "/a/m.gguf", "m.gguf", "mock:lorem", "hfx:a/b"])
def test_what_is_here(text: str) -> None:
    assert not is_remote(text)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("hf:repo", "hf:org/repo"),
        ("hf:org/repo/../x", "inside the repository"),
        ("hf:org/repo//x", "inside the repository"),
        ("https://a.b/", "https://host[:port]/path/file"),
        ("https://a.b/..", "https://host[:port]/path/file"),
        ("https:///m.gguf", "https://host[:port]/path/file"),
        ("https://a.b:99999/m.gguf", "https://host[:port]/path/file"),
        ("https://me:secret@a.b/m.gguf", "must hold no user or password"),
        ("http://a.b/m.gguf", "must be hf:, https:, s3: or oci:"),
        ("HF:org/repo", "in lower case"),
        ("s3://bucket", "s3://bucket/key"),
        ("s3://bucket/?x", "s3://bucket/key"),
        ("s3://B/k", "s3://bucket/key"),
        ("oci://r.example/b", "oci://registry/repository:tag"),
        ("oci://r.example/b@sha256:12", "oci://registry/repository:tag"),
    ],
)
def test_what_is_refused_says_the_form(text: str, said: str) -> None:
    with pytest.raises(ValueError) as caught:
        parse(text)
    assert said in str(caught.value)
    assert "secret" not in str(caught.value)


@given(st.text(max_size=80), st.sampled_from(["hf:", "https://", "s3://", "oci://", "hf:o/r"]))
def test_any_text_is_a_reference_or_a_value_error(text: str, scheme: str) -> None:
    try:
        parse(scheme + text)
    except ValueError:
        pass
    assert safe_name(entry_name(scheme + text))


def test_names_in_a_cache_are_readable_and_one_for_each() -> None:
    name = entry_name("hf:org/repo/sub/m.gguf")
    assert name.startswith("hf-org-repo-sub-m.gguf-")
    refs = ["hf:org/repo", "hf:org/repo/m", "https://a.b/m?x=1", "https://a.b/m?x=2", "s3://bbb/m"]
    assert len({entry_name(ref) for ref in refs}) == len(refs)
    assert "SECRET" not in entry_name("https://a.b/m.gguf?sig=SECRET")
    assert shown("https://a.b/m.gguf?sig=SECRET#x") == "https://a.b/m.gguf"


@pytest.mark.parametrize(
    ("name", "count"),
    [("m.gguf", 1), ("m-00002-of-00003.gguf", 3), ("d/m-00001-of-00002.safetensors", 2)],
)
def test_parts_of_a_model(name: str, count: int) -> None:
    found = shards(name)
    assert len(found) == count
    assert name in found


@pytest.mark.parametrize("name", ["m-00004-of-00003.gguf", "m-00000-of-00003.gguf",
                                  f"m-00001-of-{MAX_SHARDS + 1:05d}.gguf"])  # fmt: skip
def test_parts_that_cannot_be(name: str) -> None:
    with pytest.raises(ValueError):
        shards(name)


@pytest.mark.req("ORCH-3436")
@pytest.mark.parametrize(
    ("ref", "name"),
    [
        ("hf:org/repo/deep/Tiny-Q4_K.gguf", "Tiny-Q4_K"),
        ("hf:org/repo@v1/tiny.gguf", "tiny"),
        ("hf:org/tiny", "tiny"),
        ("https://a.test/x/tiny-00002-of-00003.gguf?sig=canary#x", "tiny"),
        ("https://a.test/t%20iny.bin", "t-iny.bin"),
        ("s3://bucket/deep/tiny/", "tiny"),
        ("s3://bucket/tiny.gguf", "tiny"),
        ("oci://a.test/org/tiny:v1.2", "tiny-v1.2"),
        (f"oci://a.test/tiny@sha256:{HEX}", "tiny"),
        ("https://a.test/.gguf", "model"),
        (f"https://a.test/{'x' * 200}.gguf", "x" * 80),
    ],
)
def test_what_a_fetched_model_is_called(ref: str, name: str) -> None:
    first, second = model_ids(ref, f"sha256:{'ab' * 32}")
    assert (first, second) == (name, f"{name}-abababab")
    assert MODEL_ID.fullmatch(first)
    assert MODEL_ID.fullmatch(second)


def test_a_file_is_called_nothing() -> None:
    with pytest.raises(ValueError, match="hf:, https:, s3: or oci:"):
        model_ids("file:/m.gguf", f"sha256:{HEX}")
