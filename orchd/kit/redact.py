"""What must never reach a log, an error or a narration, and what stands there instead.

Known secrets are replaced wherever they occur; beside them whatever looks like a credential.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Final

SHOWN: Final = "[redacted]"
MIN_SECRET: Final = 4  # a shorter one would blank every third word and protects nothing

_secrets: list[str] = []

_LOOKS: Final = re.compile(
    r"""
    (?P<scheme>\b(?:bearer|basic)\s+)(?!(?:tokens?|auth)(?![\w~+/=-]|\.\w))[\w.~+/=-]{4,}
    | (?P<user>://[^/\s:@]*:)[^/\s@]+(?=@)                    # https://user:password@host
    | (?P<signed>[?&](?:[\w-]*-)?                              # what a signed URL carries
        (?:signature|sig|credential|(?:aws)?accesskey(?:id)?|key|policy|code)=)[^\s"'&\#]{4,}
    | (?P<option>--(?:[\w-]*-)?(?:token|secret|password|passwd|api-?key)\s+)[^\s"']{4,}
    | (?!token:[0-9a-f]{6}(?![\w~+/=-]))                      # a fingerprint [AUTH-1008]
      (?P<key>["']?(?:[\w-]*[_-])?(?:(?<!_per_)token|secret|password|passwd|api[_-]?key|authorization|cookie)
        ["']?\s*[=:]\s*["']?)(?!\[redacted)(?!bearer\s|basic\s)[^\s"'&,;]{4,}
    | \b(?:hf_[A-Za-z0-9]{16,}|sk-[\w-]{16,}|gh[pousr]_\w{16,}|AKIA[0-9A-Z]{16})
    """,
    re.VERBOSE | re.IGNORECASE,
)
_HINTS: Final = (
    *("bearer", "basic", "://", "token", "secret", "passw", "key", "authoriz", "cookie"),
    *("sig=", "signature=", "credential=", "policy=", "code="),
    *("hf_", "sk-", "ghp_", "gho_", "ghu_", "ghs_", "ghr_", "akia"),
)
"""One of these, case-folded, stands in whatever _LOOKS finds: ten times cheaper to look for."""
_NAMES: Final = re.compile(
    r"(?:.*[_-])?(?<!_per_)(?:token|secret|password|passwd|api_?key|authorization|cookie)",
    re.IGNORECASE,
)


def add_secret(secret: str) -> None:
    """Have `secret` replaced from now on, wherever it occurs. Under 4 characters: ignored."""
    if len(secret) >= MIN_SECRET and secret not in _secrets:
        _secrets.append(secret)
        _secrets.sort(key=len, reverse=True)  # one may hold another
        redact_short.cache_clear()


def redact(text: str) -> str:
    """Return `text` without the known secrets and without what looks like a credential."""
    for secret in _secrets:
        if secret in text:
            text = text.replace(secret, SHOWN)
    low = text.casefold()  # as IGNORECASE does: a long s is an s
    for hint in _HINTS:
        if hint in low:
            return _LOOKS.sub(_blank, text)
    return text


@lru_cache(4096)
def redact_short(text: str) -> str:
    """Return what a log may show, remembered: ids and names stand in every event of a task."""
    return encodable(redact(str(text)))


def encodable(text: str) -> str:
    """Return text that any encoder takes: a file name or a peer may bring a lone surrogate."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


@lru_cache(1024)
def is_secret_name(name: str) -> bool:
    """True for the name of a field whose value is a secret: auth_token, but not tokens_out, and not
    kv_bytes_per_token."""
    return _NAMES.fullmatch(name) is not None


def _blank(match: re.Match[str]) -> str:
    groups = match.groupdict()
    kept = (groups[name] for name in ("scheme", "user", "signed", "option", "key"))
    return next(filter(None, kept), "") + SHOWN
