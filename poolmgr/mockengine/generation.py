"""One completion of the mock engine: when which token goes out, and every way to break meanwhile.

It is given a slot by server.py and gives it back when it ends or its client is gone.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable

from attrs import frozen

from poolmgr.mockengine import frames
from poolmgr.mockengine.loop import Loop, Wire
from poolmgr.mockengine.options import Options
from poolmgr.mockengine.text import Voice

BLOCK = 400  # frames of one send when as fast as possible: about 48 KiB
GARBAGE = b"\x00\xff\xfe garbage, no frame {]\n\n"


@frozen(kw_only=True)
class Order:
    """What is to be generated."""

    voice: Voice
    tokens_in: int
    limit: int
    """Tokens at most."""
    truncated: bool
    """The limit is the end of the context, not the client's wish."""
    stream: bool


class Generation:
    """Writes one answer to its wire, then calls `on_end`."""

    def __init__(
        self, loop: Loop, options: Options, wire: Wire, order: Order, on_end: Callable[[], None]
    ) -> None:
        self._loop, self._options, self._wire, self._order = loop, options, wire, order
        self._on_end = on_end
        ends_at = order.voice.words_until_end
        self._stops = ends_at is not None and ends_at < order.limit
        self._words = ends_at if ends_at is not None and self._stops else order.limit
        """Tokens with text; one more token, the end of the sequence, if it stops by itself."""
        self._sent = 0
        self._began = 0.0
        self._slot = 0
        self._over = False

    def start(self, slot: int) -> None:
        """Begin, in this slot."""
        self._slot, self._began = slot, self._loop.now
        options = self._options
        self._wire.on_drained = self._more
        head = frames.HEAD_SSE if self._order.stream else b""
        if options.first_token_ms:
            if head:
                self._wire.write(head)
            self._loop.at(self._due(0), self._paced if options.tokens_per_s else self._more)
        elif options.tokens_per_s:
            self._paced(head)
        else:
            self._fast(1, head)

    @property
    def tokens_held(self) -> int:
        """The tokens of prompt and answer so far."""
        return self._order.tokens_in + self._sent

    def cancel(self) -> None:
        """Stop: the client is gone."""
        self._over = True

    def _due(self, token: int) -> float:
        rate = self._options.tokens_per_s
        pace = token / rate if rate else 0.0
        return self._began + self._options.first_token_ms / 1e3 + pace

    def _paced(self, head: bytes = b"") -> None:
        """Send every token that is due by now, and come back when the next one is."""
        if self._over:
            return
        sent, now = self._sent, self._loop.now
        last = sent
        ceiling = min(self._words, sent + BLOCK)
        while last < ceiling and self._due(last) <= now:
            last += 1
        done = self._advance(last, head)
        if not done:
            self._loop.at(self._due(self._sent), self._paced)

    def _more(self) -> None:
        if not self._over and not self._options.tokens_per_s:
            self._fast(BLOCK)

    def _fast(self, size: int, head: bytes = b"") -> None:
        """Send a block, and come back as soon as the kernel has taken it."""
        if self._over or self._advance(min(self._sent + size, self._words), head):
            return
        if self._taken:
            self._loop.soon(self._more)

    def _advance(self, last: int, head: bytes) -> bool:
        """Send the tokens up to `last`, and the end behind the last one. True when it is over."""
        order, first = self._order, self._sent
        fault_at = self._options.fault_at
        breaks = fault_at is not None and last >= fault_at and (fault_at < self._words)
        if breaks and fault_at is not None:
            last = fault_at
        body = b""
        if order.stream and last > first:
            body = frames.token_frames(order.voice, first, last, order.tokens_in)
        self._sent = last
        if breaks:
            self._break(head, body)
            return True
        if last < self._words:
            self._taken = self._wire.write(head + frames.chunk(body)) if body else True
            return False
        self._end(head, body)
        return True

    def _end(self, head: bytes, body: bytes) -> None:
        order = self._order
        tokens_out = self._sent + (1 if self._stops else 0)
        content = "" if order.stream else frames.text_of(order.voice, self._sent)
        last = frames.final(
            content=content,
            model=self._options.model,
            tokens_in=order.tokens_in,
            tokens_out=tokens_out,
            stop_type="eos" if self._stops else "limit",
            truncated=order.truncated and not self._stops,
            slot=self._slot,
            seconds=time.monotonic() - self._began,
        )
        if order.stream:
            if self._stops:
                body += frames.end_frame(tokens_out, order.tokens_in)
            body += frames.data_frame(last)
            out = head + frames.chunk(body) + frames.LAST_CHUNK
        else:
            out = frames.answer(200, last)
        self._over = True
        self._wire.on_drained = None
        self._wire.write(out)
        self._on_end()

    def _break(self, head: bytes, body: bytes) -> None:
        """Do what the options ask for at this token: die, hang for ever, or talk nonsense."""
        options = self._options
        self._over = True
        if options.garbage_after_tokens == self._sent:
            body += GARBAGE
        if body:
            self._wire.write(head + frames.chunk(body))
        if options.die_after_tokens == self._sent:
            os.kill(os.getpid(), signal.SIGKILL)

    _taken = True
