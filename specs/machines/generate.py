"""Draw the state tables as Mermaid: `PYTHONPATH=. python specs/machines/generate.py`.

tests/core/test_machines.py holds the pages against this: a second run changes nothing.
"""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path

from orchd.core.state import task
from orchd.wire.snapshot import Phase
from poolmgr.core import life

HEAD = """# A task's life

Generated from `orchd/core/state/task.py` by `specs/machines/generate.py`; do not edit.

```mermaid
stateDiagram-v2
"""

FOOT = """```

Clients see `starting` and `streaming` as `running`, `releasing` as `canceled` and `stopping` as
`failed`. A slot is leased in: {leased}.
A step that is not drawn is refused and changes nothing.
"""


def draw_task() -> str:
    """Return specs/machines/task.md."""
    arrows: dict[tuple[task.Life, task.Life], list[str]] = defaultdict(list)
    for (state, step), after in task.TABLE.items():
        arrows[state, after].append(step)
    lines = [f"    [*] --> {task.Life.QUEUED}"]
    lines += [f"    {a} --> {b}: {', '.join(steps)}" for (a, b), steps in arrows.items()]
    lines += [f"    {state} --> [*]" for state in task.Life if state in task.FINAL]
    leased = ", ".join(f"`{state}`" for state in task.Life if state in task.LEASED)
    return HEAD + "\n".join(lines) + "\n" + FOOT.format(leased=leased)


REPLICA_HEAD = """# A replica's life

Generated from `poolmgr/core/life.py` by `specs/machines/generate.py`; do not edit.

```mermaid
stateDiagram-v2
"""

REPLICA_FOOT = """```

Only `ready` takes jobs, and `reloading`: there a new engine loads beside the one that serves. After
`DrainAsked` neither does, and what leads to `ready` leads to `drained`, until a `NewPassed`. Events
that begin with New are of the engine that a reload prepares. `HealthLost` is for external engines;
every other engine that stops serving ends its poolmgr (`Broke`), and systemd starts both anew. An
event that is not drawn either changes no phase or is refused.
"""


def draw_replica() -> str:
    """Return specs/machines/replica.md."""
    arrows: dict[tuple[Phase, Phase], list[str]] = defaultdict(list)
    for (phase, event), after in life.TABLE.items():
        if after is not phase:
            arrows[phase, after].append(event.__name__)
    lines = [f"    [*] --> {Phase.DEVICES}"]
    lines += [f"    {a} --> {b}: {', '.join(events)}" for (a, b), events in arrows.items()]
    lines += [f"    {phase} --> [*]: EngineStopped" for phase in (Phase.STOPPING, Phase.FAILED)]
    return REPLICA_HEAD + "\n".join(lines) + "\n" + REPLICA_FOOT


PAGES = {"task.md": draw_task, "replica.md": draw_replica}

if __name__ == "__main__":
    for name, draw in PAGES.items():
        (Path(__file__).parent / name).write_text(draw())
