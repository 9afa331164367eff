"""What redaction must leave: who asked, and sentences about tokens."""

import pytest

from orchd.edge.auth import fingerprint
from orchd.kit.redact import is_secret_name, redact


@pytest.mark.req("AUTH-1008")
def test_the_fingerprint_of_a_token_is_told():
    who = f"token:{fingerprint('swordfish')}"
    assert redact(who) == who
    assert redact(f"refused {who}.") == f"refused {who}."


@pytest.mark.parametrize(
    "secret", ["token:abcdef1", "token:abc", "auth_token:abcdef", "token: abcdef", "token=abcdef"]
)
def test_and_nothing_that_only_looks_like_one(secret):
    assert (redact(secret) == secret) == (secret == "token:abc")  # under 4 characters is no secret


@pytest.mark.parametrize("text", ["a bearer token is needed", "the bearer tokens", "Basic auth."])
def test_words_about_tokens_are_no_secrets(text):
    assert redact(text) == text


@pytest.mark.parametrize("secret", ["tokenish", "token-abc", "token.abc"])
def test_and_tokens_that_begin_like_a_word_are(secret):
    assert redact(f"bearer {secret}") == "bearer [redacted]"


@pytest.mark.req("OC-CTRL-2041", "ORCH-3302")
@pytest.mark.parametrize("option", ["--api-key", "--hf-token", "--password"])
def test_the_secret_behind_an_option_of_a_command_line(option):
    assert redact(f"server {option} abcdef123 --port 1") == f"server {option} [redacted] --port 1"


@pytest.mark.parametrize("option", ["--api-key-file /x/y/z", "--max-tokens 4096", "--token"])
def test_options_that_hold_no_secret(option):
    assert redact(f"server {option}") == f"server {option}"


@pytest.mark.req("OC-CTRL-2041", "ORCH-3302")
@pytest.mark.parametrize(
    "pair",
    [
        "X-Amz-Signature=0f1e2d3c4b5a",
        "X-Amz-Credential=AKIDEXAMPLE%2F20261120%2Fus-east-1",
        "X-Amz-Security-Token=IQoJb3JpZ2luX2VjE",
        "X-Goog-Signature=0f1e2d3c4b5a",
        "AWSAccessKeyId=AKIDEXAMPLE",
        "Signature=vjbyPxybdZaNmGa%3D",
        "sig=Zm9vYmFyYmF6%3D",
        "Policy=eyJTdGF0ZW1lbnQ",
        "Key-Pair-Id=K2JCJMDEHXQW5F&Signature=abcdef",
        "key=AIzaSyD-abcdef",
        "access_token=abcdef123",
        "token=abcdef123",
    ],
)
def test_what_a_signed_url_carries(pair):
    secret = pair.rpartition("=")[2] if "&" in pair else pair.partition("=")[2]
    for before, after in (("?", ""), ("?v=1&", "&n=2"), ("?", "#part")):
        told = redact(f"fetch https://bucket.host/m-Q4_K_M.gguf{before}{pair}{after} said 403")
        assert secret not in told
        assert "https://bucket.host/m-Q4_K_M.gguf?" in told
        assert told.endswith(" said 403")
        assert after != "&n=2" or "&n=2 " in told


@pytest.mark.parametrize("text", [
    "GET https://host/m.gguf?download=true&revision=main", "policy=reject", "code=INVALID_PARAMS",
    "full_policy=drop-lru&x=1", "the design=good",
])  # fmt: skip
def test_what_else_a_url_carries_stays(text):
    assert redact(text) == text


@pytest.mark.req("ORCH-3003")
def test_a_number_for_each_token_is_no_secret():
    assert redact("kv_bytes_per_token=131072") == "kv_bytes_per_token=131072"
    assert not is_secret_name("kv_bytes_per_token")
    for name in ("token", "auth_token", "super_token"):
        assert is_secret_name(name)
        assert "swordfish" not in redact(f"{name}=swordfish")
