"""Heads of requests and answers, sans-IO: h11 reads them, ours are written by hand.

h11 checks the grammar of a request; what this server asks beyond it (sizes, one framing, a path
that decodes, query keys once) is checked here. Bodies are read by receiver.py.
"""

from __future__ import annotations

import email.utils
import http
import re
import time
import urllib.parse
import uuid
from collections.abc import Iterable
from typing import Final

import h11
from attrs import frozen

from orchd.kit.message import Headers, Limits
from orchd.wire.errors import Kind, OrchError

_BAD_ESCAPE: Final = re.compile(r"%(?![0-9A-Fa-f]{2})")
_CONTROL: Final = re.compile(r"[\x00-\x1f\x7f]")
_TARGET: Final = re.compile(r"[\x21-\x7e]+")
_CORRELATION: Final = re.compile(r"[\x21-\x7e]{1,128}")
_STATUS: Final = {
    status.value: f"HTTP/1.1 {status.value} {status.phrase}\r\n" for status in http.HTTPStatus
}
CONTINUE: Final = b"HTTP/1.1 100 Continue\r\n\r\n"
BODILESS: Final = frozenset({204, 304})


@frozen
class Head:
    """The head of one request, understood."""

    method: str
    target: str
    headers: dict[str, str]
    keep_alive: bool
    http10: bool
    length: int
    """Content-Length; 0 without one."""
    chunked: bool
    expects_continue: bool
    correlation_id: str


class HeadReader:
    """Bytes in any pieces -> one Head, or an OrchError. A new one for every request."""

    __slots__ = ("_fed", "_h11", "_limits")

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._fed = 0
        # only ever told what the client sent; so there is no cycle to bring to its end
        self._h11 = h11.Connection(h11.SERVER, max_incomplete_event_size=limits.head_bytes)

    @property
    def begun(self) -> bool:
        """True once a first byte of the request has come."""
        return self._fed > 0

    @property
    def rest(self) -> bytes:
        """What was fed and not used yet."""
        return self._h11.trailing_data[0]

    def feed(self, data: bytes) -> Head | None:
        """Return the head once it is whole. Raises OrchError."""
        if not self._fed:
            data = data.lstrip(b"\r\n")  # RFC 9112, 2.2: an old client's extra line end
        if not data:
            return None
        self._fed += len(data)
        try:
            self._h11.receive_data(data)
            event = self._h11.next_event()
        except h11.RemoteProtocolError as exc:
            raise malformed(exc) from None
        if event is h11.NEED_DATA:
            return None
        assert isinstance(event, h11.Request)
        if self._fed - len(self.rest) > self._limits.head_bytes:
            raise OrchError(Kind.HEADERS_TOO_LARGE, f"over {self._limits.head_bytes} bytes of head")
        if len(event.headers) > self._limits.header_count:
            raise OrchError(
                Kind.HEADERS_TOO_LARGE, f"over {self._limits.header_count} header lines"
            )
        return _understood(event)


def malformed(exc: h11.RemoteProtocolError) -> OrchError:
    """Return what h11 found as our error."""
    if exc.error_status_hint == 431:
        return OrchError(Kind.HEADERS_TOO_LARGE, "the head of the request is too large")
    what = str(exc).partition(": bytearray(")[0]  # the line itself may hold a secret
    return OrchError(Kind.MALFORMED_HTTP, f"not well-formed HTTP/1.1: {what}")


def _understood(event: h11.Request) -> Head:
    headers: dict[str, str] = {}
    for raw_name, raw_value in event.headers:
        name, value = raw_name.decode("ascii"), raw_value.decode("latin-1")
        headers[name] = f"{headers[name]}, {value}" if name in headers else value
    chunked = "transfer-encoding" in headers
    if not event.http_version.startswith(b"1."):
        raise OrchError(Kind.MALFORMED_HTTP, "HTTP/1.1 is spoken here, and no other version")
    http10 = event.http_version < b"1.1"
    if chunked and ("content-length" in headers or http10):
        # RFC 9112, 6.1: what a smuggled request looks like
        raise OrchError(Kind.MALFORMED_HTTP, "Transfer-Encoding beside another framing")
    length = int(headers.get("content-length", 0))  # h11 saw that it is one number
    correlation_id = correlation_of(headers.get("x-correlation-id", ""))
    connection = headers.get("connection", "").lower()
    return Head(
        method=event.method.decode("ascii"),
        target=event.target.decode("ascii"),
        headers=headers,
        keep_alive=not http10 and "close" not in connection,
        http10=http10,
        length=length,
        chunked=chunked,
        expects_continue=not http10 and headers.get("expect", "").lower() == "100-continue",
        correlation_id=correlation_id,
    )


def correlation_of(given: str) -> str:
    """Return the client's correlation id if it can be echoed, else a new one."""
    return given if _CORRELATION.fullmatch(given) else new_correlation_id()


def new_correlation_id() -> str:
    """Return a UUID4."""
    return str(uuid.uuid4())


def split_target(method: str, target: str) -> tuple[str, dict[str, str]]:
    """Return path and query, decoded. Raises OrchError(MALFORMED_HTTP or INVALID_PARAMS)."""
    if target[0] != "/":
        target = _origin_form(method, target)
    path, _, query = target.partition("?")
    if "#" in target:
        raise OrchError(Kind.MALFORMED_HTTP, "a request target has no fragment")
    if "%" in path:
        path = _decoded(path)
    return path, _pairs(query) if query else {}


def _origin_form(method: str, target: str) -> str:
    """Turn http://host/path (RFC 9112, 3.2.2) into /path."""
    if method == "OPTIONS" and target == "*":
        return target
    scheme, mark, after = target.partition("://")
    if not mark or scheme.lower() not in {"http", "https"}:
        raise OrchError(Kind.MALFORMED_HTTP, "the request target must begin with /")
    at = min((i for i in (after.find("/"), after.find("?")) if i >= 0), default=len(after))
    origin = after[at:]
    return origin if origin.startswith("/") else f"/{origin}"


def _pairs(query: str) -> dict[str, str]:
    found: dict[str, str] = {}
    for part in query.split("&"):
        if part:
            name, _, value = part.replace("+", " ").partition("=")
            name = _decoded(name)
            if name in found:
                raise OrchError(Kind.INVALID_PARAMS, f"the query names {name[:40]!r} twice")
            found[name] = _decoded(value)
    return found


def _decoded(text: str) -> str:
    if "%" not in text:
        return text
    if _BAD_ESCAPE.search(text):
        raise OrchError(Kind.MALFORMED_HTTP, "a % in the request target is no escape")
    try:
        text = urllib.parse.unquote(text, errors="strict")
    except UnicodeDecodeError:
        raise OrchError(Kind.MALFORMED_HTTP, "an escape in the target is not UTF-8") from None
    if _CONTROL.search(text):
        raise OrchError(Kind.MALFORMED_HTTP, "the request target has a control character")
    return text


_date_at = 0
_date = ""


def today() -> str:
    """Return the value of the Date header, made once a second."""
    global _date_at, _date
    now = int(time.time())
    if now != _date_at:
        _date_at, _date = now, email.utils.formatdate(now, usegmt=True)
    return _date


def check_field(name: str, value: str) -> None:
    """Raise ValueError for a header that would break an answer."""
    if _CONTROL.search(value) or _CONTROL.search(name) or ":" in name:
        raise ValueError(f"the header {name!r} would break the answer")


def answer_head(
    status: int,
    correlation_id: str,
    *,
    content_type: str = "",
    headers: Headers = (),
    length: int | None = None,
    chunked: bool = False,
    close: bool = False,
) -> bytes:
    """Return the head of an answer. Raises ValueError for a header that would break it."""
    text = f"{_STATUS[status]}Date: {today()}\r\nX-Correlation-Id: {correlation_id}\r\n"
    if content_type and status not in BODILESS:
        text += f"Content-Type: {content_type}\r\n"
    for name, value in headers:
        check_field(name, value)
        text += f"{name}: {value}\r\n"
    if chunked:
        text += "Transfer-Encoding: chunked\r\n"
    elif length is not None and status not in BODILESS:
        text += f"Content-Length: {length}\r\n"
    if close:
        text += "Connection: close\r\n"
    return f"{text}\r\n".encode("latin-1")


def request_head(method: str, target: str, headers: Iterable[tuple[str, str]]) -> bytes:
    """Return the head of a request. Raises ValueError for what would break it.

    The caller frames the body: its length is among `headers`.
    """
    if _TARGET.fullmatch(target) is None:
        raise ValueError(f"the target {target[:80]!r} would break the request")
    text = f"{method} {target} HTTP/1.1\r\n"
    for name, value in headers:
        check_field(name, value)
        text += f"{name}: {value}\r\n"
    return f"{text}\r\n".encode("latin-1")


def switching_head(protocol: str, correlation_id: str) -> bytes:
    """Return the head of a 101."""
    upgrade = (("Upgrade", protocol), ("Connection", "Upgrade"))
    return answer_head(101, correlation_id, headers=upgrade)
