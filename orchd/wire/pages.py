"""Fetches for clients: what `POST /v1/fetch` takes and answers. The rules are orchd/policy's."""

from __future__ import annotations

import enum

from attrs import field, frozen

from orchd.wire.ids import Count, Positive, Text


class Encoding(enum.StrEnum):
    """How a page's bytes stand in JSON."""

    UTF_8 = "utf-8"
    BASE64 = "base64"


@frozen(kw_only=True)
class FetchRequest:
    """The body of `POST /v1/fetch`."""

    url: Text = field(repr=False)
    """https; what is in its query goes to that server and into no log."""
    accept: Text | None = None
    """The Accept header: 1 to 256 visible ASCII characters and spaces."""


@frozen(kw_only=True)
class Page:
    """What the other server answered, whatever its status."""

    status: Positive
    url: str
    """After redirects, without the query."""
    content_type: str | None = None
    content_encoding: str | None = None
    """Set where the server packed the body although it was asked not to."""
    size_bytes: Count
    """Of the body as it came."""
    encoding: Encoding
    """base64 for what is no UTF-8."""
    body: str = field(repr=False)
