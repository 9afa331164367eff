"""hf: models from a Hub on this machine: listing, choosing, content on another host, tokens."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from orchd.kit import log
from orchd.wire.cached import Shape
from orchd.wire.errors import Kind
from tests.fakes.fileserver import Files
from tests.fakes.hubserver import COMMIT, Hub
from tests.fetch.making import below, bring, content, read, refused, sha256

TOKEN = "hf_abcdefghijklmnopqrstuvwxyz"


@pytest.fixture
def store() -> Iterator[Files]:
    """Where content is."""
    server = Files()
    yield server
    server.close()


@pytest.fixture
def hub(files: Files, store: Files, monkeypatch: pytest.MonkeyPatch) -> Hub:
    monkeypatch.setenv("HF_ENDPOINT", files.url)
    return Hub(files, store)


@pytest.fixture
def allowed(store: Files) -> dict[str, Any]:
    """As *.hf.co is for the real Hub."""
    return {"outbound": {"allow": (f"localhost:{store.port}",)}}


@pytest.mark.req("ORCH-3090", "ORCH-3080")
async def test_a_file_of_a_repository(hub: Hub, tmp_path: Path, allowed: dict[str, Any]) -> None:
    data = content(300_000)
    hub.add("README.md", b"# hello", lfs=False)
    hub.add("sub/tiny.Q4_K_M.gguf", data)
    with log.capture() as events:
        done = await bring("hf:org/repo/sub/tiny.Q4_K_M.gguf", tmp_path, **allowed)
    assert read(done.path) == data
    assert done.path.endswith("/files/sub/tiny.Q4_K_M.gguf")
    assert done.digest == f"sha256:{sha256(data)}"
    asked = hub.front.paths()
    assert asked[0] == "/api/models/org/repo/revision/main"
    assert all(COMMIT in path for path in asked[1:])  # whatever is pushed meanwhile
    # the audit: one line for each URL, none with its query
    urls = [event["url"] for event in events if event["event"] == "outbound_allowed"]
    assert len(urls) == len(set(urls)) >= 4
    assert "SIGNED" not in str(events)


async def test_a_revision_is_asked_for(hub: Hub, tmp_path: Path, allowed: dict[str, Any]) -> None:
    hub.add("m.gguf", b"x")
    await bring("hf:org/repo@v1/m.gguf", tmp_path, **allowed)
    assert hub.front.paths()[0] == "/api/models/org/repo/revision/v1"


@pytest.mark.req("ORCH-3090", "ORCH-3435")
async def test_a_repository_with_one_model_needs_no_file_name(
    hub: Hub, tmp_path: Path, allowed: dict[str, Any]
) -> None:
    for number in (1, 2):
        hub.add(f"big-0000{number}-of-00002.gguf", content(200_000, number))
    hub.add("mmproj-big.gguf", b"x")
    hub.add("README.md", b"x", lfs=False)
    done = await bring("hf:org/repo", tmp_path, **allowed)
    assert [Path(file).name for file in done.files] == [
        "big-00001-of-00002.gguf",
        "big-00002-of-00002.gguf",
    ]


async def test_a_repository_with_several_models_wants_one_named(hub: Hub, tmp_path: Path) -> None:
    for name in ("a.Q4_K_M.gguf", "a.Q8_0.gguf"):
        hub.add(name, b"x")
    error = await refused("hf:org/repo", tmp_path)
    assert "hf:org/repo: it holds 2 models: name one of a.Q4_K_M.gguf, a.Q8_0.gguf" in error.message


@pytest.mark.req("ORCH-3435")
async def test_a_whole_repository_without_what_no_engine_reads(
    hub: Hub, tmp_path: Path, allowed: dict[str, Any]
) -> None:
    weights = {
        f"model-0000{number}-of-00002.safetensors": content(9000, number) for number in (1, 2)
    }
    for name, data in weights.items():
        hub.add(name, data)
    hub.add("config.json", b"{}", lfs=False)
    hub.add("tokenizer.json", b"{}")
    for name in ("pytorch_model.bin", "original/consolidated.00.pth", "a.gguf", ".gitattributes"):
        hub.add(name, b"x")
    done = await bring("hf:org/repo", tmp_path, shape=Shape.WHOLE, **allowed)
    assert below(done.path) == {*weights, "config.json", "tokenizer.json"}
    whole = b"{}" + b"".join(weights.values()) + b"{}"  # as `cat` of all of them, by name
    assert done.digest == f"sha256:{sha256(whole)}"


@pytest.mark.req("ORCH-3206", "OC-CTRL-2041")
async def test_the_token_goes_to_the_hub_and_to_nobody_else(
    files: Files, store: Files, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    allowed: dict[str, Any],
) -> None:  # fmt: skip
    monkeypatch.setenv("HF_ENDPOINT", files.url)
    hub = Hub(files, store, secret=f"Bearer {TOKEN}")
    hub.add("m.gguf", b"x")
    error = await refused("hf:org/repo/m.gguf", tmp_path, **allowed)
    assert "private or gated: then set HF_TOKEN" in error.message
    (tmp_path / "hf_token").write_text(TOKEN + "\n")
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path))
    with log.capture() as events:
        await bring("hf:org/repo/m.gguf", tmp_path, **allowed)
    assert all("authorization" not in asked.headers for asked in store.asked)
    assert TOKEN not in str(events)


async def test_content_that_is_not_what_the_hub_says_is_refused(
    hub: Hub, store: Files, tmp_path: Path, allowed: dict[str, Any]
) -> None:
    data = content(300_000)
    hub.add("m.gguf", data)
    served = store.files[f"/blobs/{sha256(data)}"]
    served.data = data[:200_000] + b"?" + data[200_001:]
    error = await refused("hf:org/repo/m.gguf", tmp_path, **allowed)
    assert error.kind is Kind.DIGEST_MISMATCH
    served.data = data
    done = await bring("hf:org/repo/m.gguf", tmp_path, **allowed)
    assert done.fetched_bytes == len(data)  # nothing of the bad one was kept


async def test_a_mirror_without_ranges_will_do(
    hub: Hub, store: Files, tmp_path: Path, allowed: dict[str, Any]
) -> None:
    data = content(9_000_000)
    hub.add("m.gguf", data)
    store.files[f"/blobs/{sha256(data)}"].ranges = False
    done = await bring("hf:org/repo/m.gguf", tmp_path, **allowed)
    assert read(done.path) == data


@pytest.mark.req("ORCH-3206")
async def test_where_content_is_elsewhere_it_must_be_allowed(hub: Hub, tmp_path: Path) -> None:
    hub.add("m.gguf", b"x")
    error = await refused("hf:org/repo/m.gguf", tmp_path)
    assert error.kind is Kind.OUTBOUND_DENIED
    assert "SIGNED" not in error.message


@pytest.mark.parametrize(
    ("ref", "said"),
    [
        ("hf:org/none/m.gguf", "there is none, or it is private or gated"),
        ("hf:org/repo/none.gguf", "there is no file none.gguf in hf:org/repo"),
        ("hf:org/repo@none/m.gguf", "404"),
    ],
)
async def test_what_is_not_there_is_said(hub: Hub, tmp_path: Path, ref: str, said: str) -> None:
    hub.add("m.gguf", b"x")
    error = await refused(ref, tmp_path)
    assert (error.kind, said in error.message) == (Kind.FETCH_FAILED, True), error.message


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (b"no json", "answers no JSON"),
        (b'{"sha": "../../x"}', "names no commit"),
        (b"[]", "names no commit"),
    ],
)
async def test_a_hub_that_answers_nonsense_is_named(
    hub: Hub, files: Files, tmp_path: Path, body: bytes, said: str
) -> None:
    files.add("/api/models/org/repo/revision/main", body)
    assert said in (await refused("hf:org/repo", tmp_path)).message


@pytest.mark.parametrize("name", ["../../evil.gguf", "/etc/x.gguf", "a//b.gguf", "a/\x1b[m.gguf"])
async def test_a_name_that_leads_elsewhere_is_refused(hub: Hub, tmp_path: Path, name: str) -> None:
    hub.add(name, b"x")
    assert "has a name that leads elsewhere" in (await refused("hf:org/repo", tmp_path)).message
