"""A worker that registers: of the configuration, and like its set."""

from __future__ import annotations

from typing import Any

import pytest

from orchd.wire.control import WorkerRegistration
from orchd.wire.errors import Kind, OrchError
from tests.core.making import House, dispatched, pool, snapshot, uid

VERSION = "$.engine_version: demo:1 has 2.0, and its set has 1.0"


TUNED = {"model_digest": "sha256:0", "ubatch": 512, "flash_attention": "auto"}


def worker(**more: Any) -> WorkerRegistration:
    said = {
        "pool_id": "demo",
        "replica_id": "demo:1",
        "engine": "mock",
        "engine_version": "1.0",
        "sampler_profile_version": "v1",
        "slots_total": 1,
        **TUNED,
    }
    return WorkerRegistration(**{**said, **more})


@pytest.fixture
def house() -> House:
    """demo:0 is ready with version 1.0, which pins the set."""
    made = House.of(pool(replicas=2))
    made.see(snapshot("demo:0", **TUNED))
    return made


@pytest.mark.req("ORCH-3046", "OC-CORE-1031", "OC-CORE-1032")
@pytest.mark.parametrize(
    ("more", "kind", "message"),
    [
        ({"engine_version": "2.0"}, Kind.PINS_DIFFER, VERSION),
        ({"engine": "llamacpp"}, Kind.PINS_DIFFER, "$.engine: demo:1 has llamacpp"),
        ({"sampler_profile_version": "v2"}, Kind.PINS_DIFFER, "$.sampler_profile_version"),
        ({"model_ref": "mock:other"}, Kind.PINS_DIFFER, "$.model_ref: demo:1 has mock:other"),
        ({"model_digest": "sha256:1"}, Kind.PINS_DIFFER, "and its set has sha256:0"),
        ({"model_digest": None}, Kind.PINS_DIFFER, "$.model_digest: demo:1 has none that it tells"),
        ({"ubatch": 256}, Kind.PINS_DIFFER, "$.ubatch: demo:1 has 256, and its set has 512"),
        ({"flash_attention": "off"}, Kind.PINS_DIFFER, "$.flash_attention: demo:1 has off"),
        ({"replica_id": "demo:2"}, Kind.UNKNOWN_REPLICA, "demo:2 of pool demo is not in"),
        ({"pool_id": "other"}, Kind.UNKNOWN_REPLICA, "demo:1 of pool other is not in"),
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


@pytest.mark.req("ORCH-3046", "OC-CORE-1031", "OC-CORE-1032")
@pytest.mark.parametrize(
    "unlike",
    [
        {"engine_version": "2.0"},
        {"sampler_profile_version": "v2"},
        {"model_ref": "mock:other"},
        {"model_digest": "sha256:1"},
        {"ubatch": 256},
        {"flash_attention": None},
    ],
)
def test_one_unlike_its_set_gets_no_job_until_the_set_is_like_it(
    house: House, unlike: dict[str, Any]
) -> None:
    house.see(snapshot("demo:1", **{**TUNED, **unlike}))
    assert dispatched(house.submit(1)) == [(uid(1), "demo:0")]
    assert dispatched(house.submit(2)) == []
    log = house.front.task_status(uid(2), house.now).decision
    assert log is not None
    assert log.considered[1].excluded is not None
    house.see(snapshot("demo:1", seq=2, **TUNED))
    assert house.front.task_status(uid(2), house.now).replica_id == "demo:1"
