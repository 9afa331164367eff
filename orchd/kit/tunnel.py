"""A connection through an HTTP proxy that the operator named: CONNECT (RFC 9110, 9.3.6).

What the environment says of proxies (http_proxy and its like) is never looked at: who speaks
through whom is configuration. TLS inside the tunnel is target.py's.
"""

from __future__ import annotations

import errno

import h11

from orchd.kit import heads
from orchd.kit.pipe import Pipe, PipeClosed

MAX_HEAD = 16 << 10
PASSWORD = 407
"""Proxy Authentication Required (RFC 9110, 15.5.8)."""


async def through(pipe: Pipe, authority: str) -> None:
    """Ask the proxy at the other end of `pipe` for `authority` (host:port).

    The deadline is the caller's. Raises OSError that says what the proxy answered.
    """
    conn = h11.Connection(h11.CLIENT, max_incomplete_event_size=MAX_HEAD)
    conn.send(h11.Request(method="CONNECT", target=authority, headers=[("Host", authority)]))
    conn.send(h11.EndOfMessage())
    try:
        if not pipe.send_nowait(heads.request_head("CONNECT", authority, [("Host", authority)])):
            await pipe.flush()
        while True:
            event = conn.next_event()
            if event is h11.NEED_DATA:
                data = await pipe.recv()
                if not data:
                    raise PipeClosed("no answer")
                conn.receive_data(data)
            elif isinstance(event, h11.Response):
                if 200 <= event.status_code < 300:
                    return
                why = f"the proxy answered {event.status_code}"
                if event.status_code == PASSWORD:
                    why += ": it wants a user and a password, and orchd gives none to a proxy"
                raise OSError(errno.ECONNREFUSED, why)
    except PipeClosed as exc:
        raise OSError(errno.EPROTO, f"the proxy closed the connection: {exc}") from exc
    except h11.RemoteProtocolError as exc:
        raise OSError(errno.EPROTO, f"the proxy does not speak HTTP/1.1: {exc}") from exc
