"""What may leave the machine: the decision, address by address and key by key."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchd.policy.rules import Allowed, Denied, Named, Request, Rules, decide
from orchd.wire.address import Address, parse, pattern_fault

HUB = Named(pattern="huggingface.co", by="pools[0].model.ref")


def said(url: str, size_bytes: int | None = None, recent: int = 0, **rules: Any) -> str:
    """Return the rule that decides, with `no: ` before one that forbids."""
    request = Request(address=parse(url), size_bytes=size_bytes, recent=recent)
    match decide(request, Rules(**rules)):
        case Allowed(rule):
            return rule
        case Denied(rule, reason, wait):
            assert reason
            return f"{'later' if wait else 'no'}: {rule}"


@pytest.mark.req("ORCH-3206", "ORCH-3080")
@pytest.mark.parametrize(
    ("url", "rules", "rule"),
    [
        # by default nothing but what the configuration names
        ("https://huggingface.co/x", {}, "no: policy.outbound.allow"),
        ("https://huggingface.co/x", {"named": (HUB,)}, "pools[0].model.ref"),
        ("https://HuggingFace.co./x", {"named": (HUB,)}, "pools[0].model.ref"),
        ("https://huggingface.co:8443/x", {"named": (HUB,)}, "no: policy.outbound.allow"),
        ("https://evil-huggingface.co/x", {"named": (HUB,)}, "no: policy.outbound.allow"),
        ("https://huggingface.co.evil.example/x", {"named": (HUB,)}, "no: policy.outbound.allow"),
        ("https://a.b/x", {"allow": ("a.b",)}, "policy.outbound.allow: a.b"),
        ("https://a.b:444/x", {"allow": ("a.b:444",)}, "policy.outbound.allow: a.b:444"),
        ("https://c.hf.co/x", {"allow": ("*.hf.co",)}, "policy.outbound.allow: *.hf.co"),
        ("https://d.c.hf.co/x", {"allow": ("*.hf.co",)}, "policy.outbound.allow: *.hf.co"),
        ("https://hf.co/x", {"allow": ("*.hf.co",)}, "no: policy.outbound.allow"),
        ("https://ahf.co/x", {"allow": ("*.hf.co",)}, "no: policy.outbound.allow"),
        ("https://any.example/x", {"allow": ("*",)}, "policy.outbound.allow: *"),
        ("https://[::1]:9/x", {"allow": ("[::1]:9",)}, "policy.outbound.allow: [::1]:9"),
        # deny goes first, on any port
        ("https://a.b/x", {"allow": ("*",), "deny": ("a.b",)}, "no: policy.outbound.deny: a.b"),
        ("https://a.b:9/x", {"allow": ("*:9",), "deny": ("a.b",)}, "no: policy.outbound.deny: a.b"),
        ("https://a.b/x", {"allow": ("a.b",), "deny": ("a.b:9",)}, "policy.outbound.allow: a.b"),
        # the off switch goes before all
        ("https://a.b/", {"allow": ("*",), "enabled": False}, "no: policy.outbound.enabled"),
        ("http://127.0.0.1/", {"allow": ("*",), "enabled": False}, "no: policy.outbound.enabled"),
        # not in the clear, but to this machine
        ("http://a.b/x", {"allow": ("*",)}, "no: scheme"),
        ("http://127.0.0.1:8/x", {"allow": ("127.0.0.1:8",)}, "policy.outbound.allow: 127.0.0.1:8"),
        ("http://[::1]/x", {"allow": ("[::1]",)}, "policy.outbound.allow: [::1]"),
        ("http://127.0.0.1.evil.example/x", {"allow": ("*",)}, "no: scheme"),
        ("http://localhost/x", {}, "no: policy.outbound.allow"),
    ],
)
def test_rules_by_host_and_scheme(url: str, rules: dict[str, Any], rule: str) -> None:
    assert said(url, **rules) == rule


@pytest.mark.req("ORCH-3206")
def test_rules_by_size_and_rate() -> None:
    rules = {"allow": ("a.b",), "max_bytes": 1 << 20, "per_minute": 3}
    assert said("https://a.b/", 1 << 20, 2, **rules) == "policy.outbound.allow: a.b"
    assert said("https://a.b/", None, 2, **rules) == "policy.outbound.allow: a.b"
    assert said("https://a.b/", (1 << 20) + 1, 0, **rules) == "no: policy.outbound.max_mb"
    assert said("https://a.b/", 1, 3, **rules) == "later: policy.outbound.requests_per_min"
    # what may not leave at all need not wait for that
    assert said("https://b.c/", 1, 3, **rules) == "no: policy.outbound.allow"


@pytest.mark.req("ORCH-3206", "ORCH-3080")
def test_tools_are_asked_about_too() -> None:
    clone = Request(address=parse("https://git.example/x.git"), via="git")
    assert isinstance(decide(clone, Rules()), Denied)
    assert isinstance(decide(clone, Rules(allow=("git.example",))), Allowed)
    pacman = Request(address=None, via="pacman")
    assert isinstance(decide(pacman, Rules()), Allowed)
    off = decide(pacman, Rules(enabled=False))
    assert isinstance(off, Denied)
    assert "policy.outbound.enabled is false" in off.reason


def test_a_reason_says_what_to_add() -> None:
    verdict = decide(Request(address=parse("https://a.b:9/x?sig=SECRET")), Rules())
    assert isinstance(verdict, Denied)
    assert "policy.outbound.allow (add 'a.b:9')" in verdict.reason
    assert "SECRET" not in verdict.reason


HOSTS = st.sampled_from(["a.b", "x.a.b", "c.d", "127.0.0.1", "localhost"])
PATTERNS = st.lists(st.sampled_from(["*", "a.b", "*.a.b", "c.d", "a.b:8", "localhost"]), max_size=3)


@given(HOSTS, st.sampled_from(["https", "http"]), PATTERNS, PATTERNS, st.booleans())
def test_what_is_denied_no_allow_brings_back(
    host: str, scheme: str, allow: list[str], deny: list[str], enabled: bool
) -> None:
    request = Request(address=Address(scheme, host, 443 if scheme == "https" else 80, "/"))
    base = Rules(allow=tuple(allow), deny=tuple(deny), enabled=enabled)
    verdict = decide(request, base)
    if not enabled or "*" in deny or host in deny:
        assert isinstance(verdict, Denied)
    if isinstance(verdict, Allowed):
        assert scheme == "https" or host in ("127.0.0.1", "localhost")
        more = Rules(allow=("*", *allow), deny=tuple(deny), enabled=enabled)
        assert isinstance(decide(request, more), Allowed)
    else:
        fewer = Rules(allow=tuple(allow[:1]), deny=tuple(deny), enabled=enabled)
        assert isinstance(decide(request, fewer), Denied)


@pytest.mark.parametrize(
    ("url", "origin", "target"),
    [
        ("https://A.B", "https://a.b", "/"),
        ("https://a.b:443/x y?q=1 2#f", "https://a.b", "/x%20y?q=1%202"),
        ("https://a.b/x%20y%2Fz", "https://a.b", "/x%20y%2Fz"),
        ("https://[::1]:8/é", "https://[::1]:8", "/%C3%A9"),
        ("https://bücher.example/", "https://xn--bcher-kva.example", "/"),
    ],
)
def test_a_url_taken_apart(url: str, origin: str, target: str) -> None:
    found = parse(url)
    assert (found.origin, found.target) == (origin, target)


@pytest.mark.parametrize(
    "url",
    ["ftp://a.b/", "https:///x", "https://u:p@a.b/", "https://a.b:99999/", "https://a b/", "a", "",
     "https://[::1/", "file:///etc/passwd", "https://a.b:0/", "https://u@a.b/"],
)  # fmt: skip
def test_a_url_that_cannot_be_asked(url: str) -> None:
    with pytest.raises(ValueError, match=r"it |is not spoken"):
        parse(url)


@given(st.text(max_size=60))
def test_any_text_is_a_url_or_a_value_error(text: str) -> None:
    try:
        found = parse(f"https://{text}")
    except ValueError:
        return
    assert found.target.isascii()
    assert not any(c.isspace() for c in found.target + found.host)
    assert "?" not in found.shown


@pytest.mark.parametrize("pattern", ["a.b", "*.a.b", "*", "a.b:8", "[::1]", "[::1]:8", "127.0.0.1"])
def test_patterns(pattern: str) -> None:
    assert pattern_fault(pattern) is None


@pytest.mark.parametrize(
    "pattern", ["", "https://a.b", "a.b/", "A.b", "*a.b", "a.*", "a.b:0", "a.b:99999", "a b", ".a"]
)
def test_what_is_no_pattern(pattern: str) -> None:
    assert "must be host, *.domain or host:port" in (pattern_fault(pattern) or "")
