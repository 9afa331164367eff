"""`orchctl models` and `orchctl artifacts`: what they send, and what they show."""

from __future__ import annotations

import hashlib
from typing import Any

import orjson
import pytest

from orchd.kit.http import Response, json_response
from orchd.wire.errors import Kind, OrchError

MODELS = "/v1/catalog/models"
CACHE = "/v1/catalog/cache"
LOCATE = "/v1/catalog/locate"
ARTIFACT = "6a1f0c2d3e4b5a69786a1f0c2d3e4b5a"
DIGEST = "sha256:" + "ab" * 32


def model(model_id: str = "m", **more: Any) -> dict[str, Any]:
    return {
        "id": model_id, "digest": DIGEST, "source_url": "file:/m.gguf", "tags": ["a", "b"],
        "manifests": [], "signatures": [], "state": "Active", "created_ms": 1,
        "verifying": False, "warnings": ["it has no signature"], **more,
    }  # fmt: skip


def cached(**more: Any) -> dict[str, Any]:
    return {
        "ref": "hf:o/r/m.gguf", "path": "/c/m.gguf", "size_bytes": 4_100_000_000, "digest": DIGEST,
        "verified_ms": 1, **more,
    }  # fmt: skip


def stored(**more: Any) -> dict[str, Any]:
    return {
        "id": ARTIFACT, "kind": "plan", "digest": DIGEST, "created_ms": 1, "tags": ["a"], **more,
    }  # fmt: skip


def test_models_lists_every_page(peer, orchctl):
    verification = {"result": "failed", "reason": "mismatch", "at_ms": 5}
    first = [
        model(pools=["big", "small"]),
        model("n", state="Retired", retires_at_ms=1, verification=verification, pools=[]),
    ]
    other = "sha256:" + "cd" * 32
    third = model("o", verifying=True, digest=other, pools=[])
    pages = [{"models": first, "next_cursor": "n"}, {"models": [third]}]
    peer.say("GET", MODELS, *(json_response(page) for page in pages))
    peer.say("GET", CACHE, json_response({"cached": [cached(models=["m", "n"])]}))
    ran = orchctl("models", "list", "--url", peer.url)
    rows = [line.split() for line in ran.out.splitlines()[1:]]
    assert rows[0][:8] == ["m", "Active", "not", "verified", "4.1", "GB", "big", "small"]
    assert rows[1][:5] == ["n", "Retired", "mismatch", "4.1", "GB"]
    assert rows[2][:7] == ["o", "Active", "is", "being", "hashed", "-", "-"]
    assert "not registered" not in ran.out + ran.err
    assert peer.asked(MODELS)[1].query == {"cursor": "n"}
    peer.say("GET", MODELS, json_response({"models": first}))
    whole = orjson.loads(orchctl("models", "list", "--json", "--url", peer.url).out)
    assert whole == {"models": first, "cached": [cached(models=["m", "n"])]}
    peer.say("GET", MODELS, json_response({"models": []}))
    peer.say("GET", CACHE, json_response({"cached": [cached(models=[])]}))
    ran = orchctl("models", "list", "--url", peer.url)
    (row,) = [line.split() for line in ran.out.splitlines()[1:]]
    assert row == [
        "-", "not", "registered", "-", "4.1", "GB", "-", f"{DIGEST[:19]}...", "hf:o/r/m.gguf", "-",
    ]  # fmt: skip
    assert "orchctl models fetch SOURCE" in ran.err
    peer.say("GET", CACHE, json_response({"cached": []}))
    assert "The catalog is empty" in orchctl("models", "list", "--url", peer.url).err


@pytest.mark.req("CAT-EXISTS", "CAT-LOCATE")
def test_models_are_located_and_said_to_exist(peer, orchctl):
    said = {"name": "a/b?c", "exists": True, "models": ["m"], "path": "/m.gguf", "size_bytes": 1}
    peer.say("GET", LOCATE, json_response(said))
    ran = orchctl("models", "locate", "--url", peer.url, "a/b?c")
    assert (ran.code, ran.out) == (0, "/m.gguf\n")
    assert peer.asked(LOCATE)[0].query == {"name": "a/b?c"}
    assert orjson.loads(orchctl("models", "locate", "--json", "--url", peer.url, "m").out) == said
    ran = orchctl("models", "exists", "--url", peer.url, "m")
    assert (ran.code, ran.out) == (0, "")
    assert ran.err == "It is in the catalog as m and on this machine.\n"
    nowhere = {"name": "m", "exists": True, "models": ["m"]}
    peer.say("GET", LOCATE, json_response(nowhere))
    ran = orchctl("models", "locate", "--url", peer.url, "m")
    assert (ran.code, ran.out, "m is not on this machine" in ran.err) == (65, "", True)
    assert orchctl("models", "exists", "--url", peer.url, "m").err == "It is in the catalog as m.\n"
    peer.say("GET", LOCATE, json_response({"name": "m", "exists": False, "models": []}))
    for json in ((), ("--json",)):
        ran = orchctl("models", "exists", "--url", peer.url, *json, "m")
        assert (ran.code, "is neither in the catalog nor" in ran.err) == (65, True)


def test_models_shows_one_with_its_warnings(peer, orchctl):
    peer.say("GET", f"{MODELS}/m", json_response(model(retires_at_ms=4_000_000_000_000)))
    ran = orchctl("models", "show", "--url", peer.url, "m")
    assert "m: Active until 2096-" in ran.out
    assert DIGEST in ran.out
    assert "Note: it has no signature." in ran.err


def test_models_adds_a_file_by_its_hash_and_a_reference_by_its_digest(peer, orchctl, folder):
    (folder / "m.gguf").write_bytes(b"model")
    peer.say("POST", MODELS, json_response(model(), 201))
    ran = orchctl("models", "add", "--url", peer.url, "m", str(folder / "m.gguf"))
    assert ran.code == 0
    sent = orjson.loads(peer.asked(MODELS)[0].body)
    digest = f"sha256:{hashlib.sha256(b'model').hexdigest()}"
    assert sent == {"id": "m", "digest": digest, "source_url": f"file:{folder}/m.gguf",
                    "tags": [], "signatures": []}  # fmt: skip
    ran = orchctl("models", "add", "--url", peer.url, "--digest", DIGEST, "--tag", "a", "--strict",
                  "--signature", "s", "--sbom", "b", "--json", "m", "hf:o/r/m.gguf")  # fmt: skip
    assert orjson.loads(ran.out)["id"] == "m"
    sent = orjson.loads(peer.asked(MODELS)[1].body)
    assert sent == {"id": "m", "digest": DIGEST, "source_url": "hf:o/r/m.gguf", "tags": ["a"],
                    "signatures": ["s"], "sbom": "b",
                    "trust_policy": {"mode": "strict"}}  # fmt: skip
    here = {"name": "hf:o/r/m.gguf", "exists": True, "models": [], "digest": DIGEST}
    peer.say("GET", LOCATE, json_response(here))
    assert orchctl("models", "add", "--url", peer.url, "m", "hf:o/r/m.gguf").code == 0
    sent = orjson.loads(peer.asked(MODELS)[-1].body)
    assert (sent["digest"], sent["source_url"]) == (DIGEST, "hf:o/r/m.gguf")
    presigned = "https://a.test/m.gguf?X-Amz-Signature=secret"
    assert orchctl("models", "add", "--url", peer.url, "m", presigned).code == 0
    assert b"secret" not in b"".join(each.body for each in peer.asked(MODELS))
    asked = [each.query["name"] for each in peer.asked(LOCATE)]
    assert asked == ["hf:o/r/m.gguf", "https://a.test/m.gguf"]
    peer.say("GET", LOCATE, json_response({"name": "x", "exists": False, "models": []}))
    ran = orchctl("models", "add", "--url", peer.url, "m", "hf:o/r/m.gguf")
    assert (ran.code, "was not fetched: --digest is needed" in ran.err) == (2, True)
    for number in (1, 2):
        (folder / f"p-0000{number}-of-00002.gguf").write_bytes(b"part %d" % number)
    part = str(folder / "p-00001-of-00002.gguf")
    assert orchctl("models", "add", "--url", peer.url, "m", part).code == 0
    sent = orjson.loads(peer.asked(MODELS)[-1].body)
    assert sent["digest"] == f"sha256:{hashlib.sha256(b'part 1part 2').hexdigest()}"
    (folder / "p-00002-of-00002.gguf").unlink()
    ran = orchctl("models", "add", "--url", peer.url, "m", part)
    assert (ran.code, "--digest is needed" in ran.err) == (2, True)
    refusal = OrchError(Kind.UNTRUSTED_ARTIFACT, "$.signatures: model m has no signature")
    peer.say("POST", MODELS, refusal)
    ran = orchctl("models", "add", "--url", peer.url, "--digest", DIGEST, "m", "x")
    assert (ran.code, "has no signature" in ran.err) == (65, True)


@pytest.mark.req("ORCH-3031")
@pytest.mark.parametrize(
    ("arguments", "path", "body", "said"),
    [
        (("retire",), "state", {"state": "Retired"}, "m is Retired from now on."),
        (("retire", "--after", "1.5"), "state", {"state": "Retired", "deadline_ms": 1500},
         "for 1500 ms still"),
        (("activate",), "state", {"state": "Active"}, "m is Active from now on."),
        (("verify",), "verify", None, "orchctl models show m"),
    ],
)  # fmt: skip
def test_models_changes_one(peer, orchctl, arguments, path, body, said):
    status = "started" if path == "verify" else "accepted"
    peer.say("POST", f"{MODELS}/m/{path}", json_response({"status": status}, 202))
    ran = orchctl("models", *arguments, "--url", peer.url, "m")
    assert (ran.code, said in ran.err) == (0, True)
    (request,) = peer.asked(path)
    assert (orjson.loads(request.body) if request.body else None) == body
    ran = orchctl("models", *arguments, "--json", "--url", peer.url, "m")
    assert orjson.loads(ran.out) == {"status": status}


def test_models_and_artifacts_remove(peer, orchctl):
    for words, path in (("models", f"{MODELS}/m"), ("artifacts", f"/v1/artifacts/{ARTIFACT}")):
        name = path.rpartition("/")[2]
        peer.say("DELETE", path, Response(204))
        assert orchctl(words, "remove", "--url", peer.url, name).code == 0
        ran = orchctl(words, "remove", "--json", "--url", peer.url, name)
        assert orjson.loads(ran.out) == {"id": name, "removed": True}
        for wrong in ("../x", "a/b"):
            assert orchctl(words, "remove", "--url", peer.url, wrong).code == 2


def test_artifacts_are_listed_added_and_shown_as_they_are(peer, orchctl, folder):
    listed = {"artifacts": [stored(content_bytes=9)], "next_cursor": f"1.{ARTIFACT}"}
    peer.say("GET", "/v1/artifacts", json_response(listed))
    ran = orchctl("artifacts", "list", "--tag", "a b", "--url", peer.url)
    assert ran.out.splitlines()[1].split()[:2] == [ARTIFACT, "plan"]
    assert f"--cursor 1.{ARTIFACT}" in ran.err
    assert peer.asked("/v1/artifacts")[0].query == {"tag": "a b"}
    ran = orchctl("artifacts", "list", "--job", "1-2", "--url", peer.url)
    assert ran.code == 0
    assert peer.asked("/v1/artifacts")[1].query == {"tag": "job:1-2"}
    ran = orchctl("artifacts", "list", "--job", "1-2", "--tag", "a", "--url", peer.url)
    assert (ran.code, "give it or --tag" in ran.err) == (2, True)
    text = "1. R\u00e9ad.\r\n\x1b[2J"
    (folder / "plan").write_bytes(text.encode())
    peer.say("POST", "/v1/artifacts", json_response(stored(), 201))
    ran = orchctl("artifacts", "add", "--tag", "a", "--parent", "0" * 32, "--url", peer.url,
                  "plan", str(folder / "plan"))  # fmt: skip
    assert ran.out == f"{ARTIFACT}\n"
    sent = orjson.loads(peer.asked("/v1/artifacts")[2].body)
    assert sent == {"kind": "plan", "content": text, "tags": ["a"], "parent": "0" * 32}
    whole = stored(content_bytes=9, content=text)
    peer.say("GET", f"/v1/artifacts/{ARTIFACT}", json_response(whole))
    done = orchctl("artifacts", "show", "--json", "--url", peer.url, ARTIFACT)
    assert orjson.loads(done.out) == whole
    (folder / "binary").write_bytes(b"\xff")
    ran = orchctl("artifacts", "add", "--url", peer.url, "plan", str(folder / "binary"))
    assert (ran.code, "is no UTF-8 text" in ran.err) == (2, True)


def test_a_file_without_an_end_is_not_read(orchctl):
    ran = orchctl("artifacts", "add", "plan", "/dev/zero")
    assert (ran.code, "which orchd does not take" in ran.err) == (2, True)
    ran = orchctl("models", "add", "zero", "/dev/zero")
    assert (ran.code, "it is no file" in ran.err) == (2, True)
