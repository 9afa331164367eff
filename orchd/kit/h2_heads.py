"""HTTP/2 header lists -> Head, and answers -> header lists, sans-IO.

h2 has checked names, values and pseudo-headers against RFC 9113, 8.2 and 8.3; here is what this
server asks beyond it, with the words and errors of heads.py.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Final

from hpack import HeaderTuple, NeverIndexedHeaderTuple

from orchd.kit import heads
from orchd.kit.heads import Head
from orchd.kit.message import Headers, Limits
from orchd.wire.errors import Kind, OrchError

Fields = list[HeaderTuple]
_METHOD: Final = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_TARGET: Final = re.compile(r"[\x21-\x7e]+")
_AUTHORITY: Final = re.compile(r"[\x21-\x3f\x41-\x7e]+")  # no @: RFC 9113, 8.3.1
_NUMBER: Final = re.compile(r"[0-9]{1,18}")
_FIELD_BYTES: Final = 32  # what RFC 9113, 6.5.2 counts for each field beside its bytes
CONTINUE: Final[Fields] = [HeaderTuple(b":status", b"100")]


def sketch(fields: Iterable[tuple[bytes, bytes]]) -> tuple[bool, str]:
    """Return what every answer needs: whether the request is a HEAD, and the correlation id."""
    head_only, given = False, ""
    for name, value in fields:
        if name == b":method":
            head_only = value == b"HEAD"
        elif name == b"x-correlation-id":
            given = value.decode("latin-1")
    return head_only, heads.correlation_of(given)


def understood(fields: Iterable[tuple[bytes, bytes]], correlation_id: str, limits: Limits) -> Head:
    """Return the head of a request. Raises OrchError."""
    pseudo: dict[str, str] = {}
    headers: dict[str, str] = {}
    size = count = 0
    for raw_name, raw_value in fields:
        name, value = raw_name.decode("latin-1"), raw_value.decode("latin-1")
        size += len(name) + len(value) + _FIELD_BYTES
        if name[0] == ":":
            pseudo[name] = value
            continue
        count += 1
        if name in headers:
            headers[name] += ("; " if name == "cookie" else ", ") + value
        else:
            headers[name] = value
    if size > limits.head_bytes:
        raise OrchError(Kind.HEADERS_TOO_LARGE, f"over {limits.head_bytes} bytes of headers")
    if count > limits.header_count:
        raise OrchError(Kind.HEADERS_TOO_LARGE, f"over {limits.header_count} header lines")
    _check(pseudo, headers)
    return Head(
        method=pseudo[":method"],
        target=pseudo[":path"],
        headers=headers,
        keep_alive=True,
        http10=False,
        length=int(headers.get("content-length", 0)),
        chunked=False,
        expects_continue=headers.get("expect", "").lower() == "100-continue",
        correlation_id=correlation_id,
    )


def _check(pseudo: dict[str, str], headers: dict[str, str]) -> None:
    """Raise OrchError(MALFORMED_HTTP); `headers` gets the host that HTTP/1.1 would have."""
    method, path = pseudo[":method"], pseudo.get(":path", "")
    if not _METHOD.fullmatch(method):
        raise OrchError(Kind.MALFORMED_HTTP, "the method is none")
    if not (path.startswith("/") or (method == "OPTIONS" and path == "*")):
        raise OrchError(Kind.MALFORMED_HTTP, "the request target must begin with /")
    if not _TARGET.fullmatch(path):
        raise OrchError(Kind.MALFORMED_HTTP, "the request target has a character that none has")
    if pseudo[":scheme"].lower() not in {"http", "https"}:
        raise OrchError(Kind.MALFORMED_HTTP, "the scheme is neither http nor https")
    host = headers.setdefault("host", pseudo.get(":authority", ""))
    if not _AUTHORITY.fullmatch(host):
        raise OrchError(Kind.MALFORMED_HTTP, "no host is named, or it is none")
    if not _NUMBER.fullmatch(headers.get("content-length", "0")):
        raise OrchError(Kind.MALFORMED_HTTP, "Content-Length is no number")


def answer_fields(
    status: int,
    correlation_id: str,
    *,
    content_type: str = "",
    headers: Headers = (),
    length: int | None = None,
) -> Fields:
    """Return the header list of an answer. Raises ValueError for a header that would break it.

    What differs each time is never indexed: it would only push out what comes again.
    """
    fields = [
        HeaderTuple(b":status", b"%d" % status),
        NeverIndexedHeaderTuple(b"date", heads.today().encode()),
        NeverIndexedHeaderTuple(b"x-correlation-id", correlation_id.encode("latin-1")),
    ]
    if content_type and status not in heads.BODILESS:
        fields.append(HeaderTuple(b"content-type", content_type.encode("latin-1")))
    for name, value in headers:
        heads.check_field(name, value)
        fields.append(
            NeverIndexedHeaderTuple(name.lower().encode("latin-1"), value.encode("latin-1"))
        )
    if length is not None and status not in heads.BODILESS:
        fields.append(NeverIndexedHeaderTuple(b"content-length", b"%d" % length))
    return fields
