"""What redaction must leave: who asked, and sentences about tokens."""

import pytest

from orchd.edge.auth import fingerprint
from orchd.kit.redact import redact


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
