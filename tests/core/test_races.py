"""Cancel against everything else that happens to a running job, in 200 orders."""

import random
from collections.abc import Callable
from functools import partial

import pytest

from orchd.core.effects import CancelJob, Dispatch, Effect, Finish, Moved, Seal
from orchd.core.state.task import LEASED, Life
from orchd.wire.shapes import FinishReason
from tests.core.making import House, of, only, pool, snapshot, uid

Step = Callable[[], list[Effect]]


@pytest.mark.req("ORCH-3026", "OC-CTRL-2012", "OC-CORE-1005")
@pytest.mark.parametrize("seed", range(200))
def test_a_cancel_ends_the_stream_once_whatever_crosses_it(seed: int) -> None:
    chance = random.Random(seed)
    house = House.of(pool(queue_interactive=8))
    house.see()
    for number in (1, 2, 3):
        house.admit(number)
    target = chance.choice([1, 2])
    task = house.front.world.tasks[uid(target)]
    # the link's words about job 1 keep their order; the cancels fall anywhere among them
    steps: list[Step] = [partial(house.progress, 1, n) for n in range(1, chance.randint(1, 6))]
    endings: list[Step] = [house.finish, house.fail, house.free, house.lose]
    steps.append(chance.choice(endings))
    lives: list[Life] = []

    def cancel() -> list[Effect]:
        lives.append(task.life)
        return house.cancel(target, "client", tokens=2)

    for _ in range(chance.randint(1, 3)):
        steps.insert(chance.randint(0, len(steps)), cancel)
    effects: list[Effect] = []
    for step in steps:
        house.now += chance.choice([0, 0.01])
        effects += step()

    mine = [e for e in effects if getattr(e, "task_id", None) == uid(target)]
    effective = lives[0] is Life.QUEUED or lives[0] in LEASED
    assert len(of(mine, Seal)) == effective
    assert len(of(mine, CancelJob)) == (lives[0] in LEASED)
    if effective:
        after = mine[mine.index(of(mine, Seal)[0]) :]
        assert only(after, Finish).ended.finish_reason is FinishReason.CANCELED
        assert not of(after, Moved) + of(after, Dispatch)

    # however it went, the slot comes back and what waits gets it
    house.see(snapshot(seq=99))
    if task.life is Life.RELEASING:
        house.free(target)
    leases = house.front.world.replica(snapshot().replica_id).leases
    assert len(leases) == 1
    assert uid(target) not in leases or not effective
