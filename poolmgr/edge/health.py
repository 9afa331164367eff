"""Whether an engine serves: asked until it does, then asked for as long as it should.

What the answers mean for the replica is core/life.py's; the questions are edge/engine.py's.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Final

import trio

from orchd.kit.client import PeerError
from orchd.wire.errors import Kind, OrchError
from poolmgr.core import lifewords as lw
from poolmgr.edge.board import Facts
from poolmgr.edge.engine import Engine
from poolmgr.engines.base import Load

LOAD_S: Final = 25 * 60.0
"""140 GB at the 100 MB/s of a hard disk; below TimeoutStartSec= of units/poolmgr@.service, so that
the cause is told by us."""
PROBE_FIRST_S: Final = 0.01
PROBE_MAX_S: Final = 1.0
HEALTH_S: Final = 2.0
HEALTH_FAR_S: Final = 30.0
"""Between probes of an engine on another machine: others may count our requests."""
IDENTITY_S: Final = 60.0
"""How long what an engine said of itself is taken for so. One of others may be replaced behind our
back, between two probes."""
HEALTH_DOUBT_S: Final = 0.5
"""Until the next probe of an engine that did not answer the last one."""
HEALTH_LOST: Final = 3
"""Probes in a row without an answer before an engine is given up: one may meet a full queue."""

Say = Callable[[lw.Event], None]


async def loaded(engine: Engine, say: Say, *, external: bool) -> None:
    """Probe until the engine serves. An external one may take for ever.

    Raises OrchError(ENGINE_UNHEALTHY) for ours.
    """
    give_up_at = trio.current_time() + LOAD_S
    pause = PROBE_FIRST_S
    while True:
        error: OrchError | None = None
        try:
            state, words = await engine.probe()
        except PeerError as exc:
            state, words = Load.LOADING, "it does not answer yet"
            if external:
                words = f"it does not answer at {engine.target}"
                error = OrchError(Kind.ENGINE_UNHEALTHY, f"{words}: {exc}")
        if state is Load.SERVING:
            say(lw.Serving())
            return
        if state is Load.BROKEN:
            error = OrchError(Kind.ENGINE_UNHEALTHY, words)
            if not external:
                raise error
        if trio.current_time() > give_up_at and not external:
            raise OrchError(
                Kind.ENGINE_UNHEALTHY,
                f"the engine does not serve after {LOAD_S:.0f} s: {words}",
            )
        say(lw.StillLoading(words, error))
        await trio.sleep(pause)
        pause = min(pause * 1.5, PROBE_MAX_S)


async def lost(
    engine: Engine, facts: Facts, external_end: Callable[[], Awaitable[str]]
) -> OrchError:
    """Probe an engine that serves; return why it does not any more.

    `external_end` returns, in words, when the process of an engine that is not ours has ended, so
    that one which comes back before the next probe is noticed. How full the engine is goes into
    `facts`.
    """
    missed = 0
    hangs = False
    pause = HEALTH_S if engine.target.local else HEALTH_FAR_S
    told_at = trio.current_time()
    while True:
        with trio.move_on_after(HEALTH_DOUBT_S if missed else pause):
            return OrchError(Kind.ENGINE_UNHEALTHY, await external_end())
        try:
            state, words = await engine.probe()
            hangs = False
        except PeerError as exc:
            state, words = Load.BROKEN, f"it does not answer: {exc}"
            hangs = exc.phase == "deadline"
            if exc.phase == "connect":
                missed = HEALTH_LOST  # nobody listens any more
        missed = 0 if state is Load.SERVING else missed + 1
        if missed < HEALTH_LOST:
            facts.kv_ratio = await engine.kv_ratio() if not missed else None
            if not missed and trio.current_time() - told_at >= IDENTITY_S:
                told_at = trio.current_time()
                changed = await engine.changed(facts.props)
                if changed is not None:
                    return OrchError(Kind.ENGINE_UNHEALTHY, changed)
            continue
        kind = Kind.ENGINE_HUNG if hangs else Kind.ENGINE_UNHEALTHY
        return OrchError(kind, f"the engine stopped serving: {words}")


async def answers(engine: Engine) -> None:
    """Return when an engine that served says that it serves. Raises OrchError(ENGINE_UNHEALTHY)."""
    words = "no answer"
    for _ in range(HEALTH_LOST):
        try:
            state, words = await engine.probe()
        except PeerError as exc:
            state, words = Load.BROKEN, str(exc)
        if state is Load.SERVING:
            return
        await trio.sleep(HEALTH_DOUBT_S)
    raise OrchError(Kind.ENGINE_UNHEALTHY, f"the engine does not serve: {words}")
