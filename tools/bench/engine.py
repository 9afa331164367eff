"""The mock engine, but with a chunk and a send for each frame, as llama-server writes them.

`python -m tools.bench.engine` with the mock engine's own options. The mock engine gives the kernel
hundreds of frames in one chunk at a time when it is flat out, which spares its readers most of
their work; a real engine never does.
"""

from __future__ import annotations

from poolmgr.mockengine import frames
from poolmgr.mockengine.__main__ import main
from poolmgr.mockengine.loop import Wire

_END = b"\n\n\r\n"


def chunks(data: bytes) -> bytes:
    """Return each event of `data` as a chunk."""
    events = data.split(b"\n\n")
    return b"".join([b"%x\r\n%b\n\n\r\n" % (len(event) + 2, event) for event in events[:-1]])


class EachWire(Wire):
    """Sends each chunk by itself, until the kernel takes no more."""

    def _send(self, data: bytes) -> bool:
        at = 0
        while (end := data.find(_END, at) + len(_END)) >= len(_END):
            if not super()._send(data[at:end]):
                self._out += data[end:]
                return False
            at = end
        return super()._send(data[at:]) if at < len(data) else True


if __name__ == "__main__":
    from poolmgr.mockengine import server

    frames.chunk = chunks
    server.Wire = EachWire  # type: ignore[attr-defined]
    main()
