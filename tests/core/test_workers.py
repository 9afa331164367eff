"""A worker that registers: of the configuration, and like its set."""

from __future__ import annotations

from typing import Any

import pytest

from orchd.wire.control import WorkerRegistration
from orchd.wire.errors import Kind, OrchError
from tests.core.making import House, pool, snapshot

VERSION = "$.engine_version: demo:1 has 2.0, and its set has 1.0"


def worker(**more: Any) -> WorkerRegistration:
    said = {
        "pool_id": "demo",
        "replica_id": "demo:1",
        "engine": "mock",
        "engine_version": "1.0",
        "sampler_profile_version": "v1",
        "slots_total": 1,
    }
    return WorkerRegistration(**{**said, **more})


@pytest.fixture
def house() -> House:
    """demo:0 is ready with version 1.0, which pins the set."""
    made = House.of(pool(replicas=2))
    made.see(snapshot("demo:0"))
    return made


@pytest.mark.req("ORCH-3046", "OC-CORE-1031")
@pytest.mark.parametrize(
    ("more", "kind", "message"),
    [
        ({"engine_version": "2.0"}, Kind.PINS_DIFFER, VERSION),
        ({"engine": "llamacpp"}, Kind.PINS_DIFFER, "$.engine: demo:1 has llamacpp"),
        ({"sampler_profile_version": "v2"}, Kind.PINS_DIFFER, "$.sampler_profile_version"),
        ({"replica_id": "demo:2"}, Kind.UNKNOWN_ID, "demo:2 of pool demo is not in"),
        ({"pool_id": "other"}, Kind.UNKNOWN_ID, "demo:1 of pool other is not in"),
    ],
)
def test_one_unlike_its_set_is_refused(
    house: House, more: dict[str, Any], kind: Kind, message: str
) -> None:
    house.front.check_worker(worker())
    with pytest.raises(OrchError) as refused:
        house.front.check_worker(worker(**more))
    assert refused.value.kind is kind
    assert message in refused.value.message


def test_the_pin_goes_with_the_last_replica_that_has_it(house: House) -> None:
    house.front.check_worker(worker(replica_id="demo:0", engine_version="2.0"))  # it is the pin
    house.lose("demo:0")
    house.front.check_worker(worker(engine_version="2.0"))
