"""What the catalog means for tasks: names that lead to a pool, and models that take no more."""

from __future__ import annotations

from typing import Any

import pytest
from attrs import evolve

from orchd.core.effects import Dispatch
from orchd.core.events import CatalogChanged
from orchd.core.given.cards import ModelCard, Models
from orchd.wire.errors import Kind
from orchd.wire.ids import PoolId
from tests.core.making import GONE, House, only, pool, request, snapshot, uid

DIGEST = "sha256:" + "ab" * 32
OTHER = "sha256:" + "cd" * 32


def card(model_id: str = "lorem", **more: Any) -> ModelCard:
    said: dict[str, Any] = {"digest": DIGEST, "source": "mock:lorem", **more}
    return ModelCard(model_id=model_id, **said)


def house(*cards: ModelCard, **spec: Any) -> House:
    made = House.of(pool(**{"model_names": ("mock:lorem",), **spec}))
    made.see()
    assert made.send(CatalogChanged(cards)) == []
    return made


@pytest.mark.req("ORCH-3090")
@pytest.mark.parametrize("name", ["lorem", DIGEST, "mock:lorem"])
def test_an_id_and_a_digest_lead_to_the_pool_of_the_model(name: str) -> None:
    it = house(card())
    effects = it.submit(model_ref=name)
    assert only(effects, Dispatch).request.model_ref == "mock:lorem"
    assert it.front.task_status(uid(1), it.now).model_ref == "mock:lorem"
    assert it.front.tokenized_by(name, it.now) == "demo:0"


def test_an_explanation_knows_the_catalog_too() -> None:
    it = house(card())
    told = it.front.explain(request(model_ref="lorem"), it.now)
    assert (told.outcome, told.replica_id, told.refusal) == ("assigned", "demo:0", None)
    it.send(CatalogChanged((card(closes_at=it.now),)))
    refusal = it.front.explain(request(model_ref="lorem"), it.now).refusal
    assert refusal is not None
    assert "Retired" in refusal.message


def test_the_same_task_is_the_same_whatever_became_of_its_model() -> None:
    it = house(card())
    first = it.admit(model_ref="lorem")
    it.send(CatalogChanged(()))
    again = it.admit(model_ref="lorem")
    assert (again.accepted, again.fresh) == (first.accepted, False)


@pytest.mark.parametrize(
    "name", ["none", OTHER, "sha256:ab", DIGEST.upper(), ""]
)  # fmt: skip
def test_a_name_that_the_catalog_does_not_have_is_refused_as_before(name: str) -> None:
    assert house(card()).refuse(model_ref=name).kind is Kind.POOL_UNAVAILABLE


def test_a_model_that_no_pool_serves_is_refused_as_one_that_none_has() -> None:
    it = house(card(source="hf:org/other"))
    assert it.refuse(model_ref="lorem").kind is Kind.POOL_UNAVAILABLE
    assert it.refuse(2, model_ref=DIGEST).kind is Kind.POOL_UNAVAILABLE
    assert it.front.served_by("lorem") == ()


def test_the_engine_of_the_task_has_to_serve_it() -> None:
    it = house(card())
    assert it.refuse(model_ref="lorem", engine="vllm").kind is Kind.POOL_UNAVAILABLE
    assert [spec.engine for spec in it.front.served_by("lorem")] == ["mock"]
    assert it.front.served_by("none") == ()


def test_a_pool_with_a_digest_is_found_by_it_wherever_the_source_is() -> None:
    it = house(card(source=None), model_digest=DIGEST)
    it.admit(model_ref="lorem")
    it.admit(2, model_ref=DIGEST)


@pytest.mark.req("ORCH-3031")
@pytest.mark.parametrize("name", ["lorem", DIGEST, "mock:lorem"])
def test_a_retired_model_takes_no_new_task_whatever_it_is_called(name: str) -> None:
    it = house(card())
    it.admit(1, model_ref=name)
    it.send(CatalogChanged((card(closes_at=it.now + 4.0),)))
    it.admit(2, model_ref=name)
    it.now += 4.0
    error = it.refuse(3, model_ref=name)
    assert (error.kind, error.fields.path) == (Kind.MODEL_DEPRECATED, "$.model_ref")
    counts = it.front.counters()["tasks_rejected_total"]
    assert counts == {("mock", "model_deprecated"): 1}
    it.finish(1)
    it.finish(2)  # what was admitted goes on
    it.send(CatalogChanged((card(),)))
    it.admit(4, model_ref=name)


@pytest.mark.req("ORCH-3031")
def test_a_change_of_state_changes_readiness_capabilities_and_metrics() -> None:
    it = house(card())

    def seen() -> tuple[Any, ...]:
        front, now = it.front, it.now
        gauges = front.gauges(now)
        return (
            front.unready_reasons(now),
            front.pool_health(PoolId("demo"), now).ready,
            len(front.capabilities(now).engines),
            gauges["pool_ready"][("mock", "1.0", "demo")],
            gauges["model_state"],
        )

    assert seen() == ((), True, 1, 1.0, {("lorem", "Active"): 1.0})
    it.send(CatalogChanged((card(closes_at=it.now),)))
    why = ("pool demo: its model mock:lorem is Retired",)
    assert seen() == (why, False, 0, 0.0, {("lorem", "Retired"): 1.0})
    it.send(CatalogChanged(()))
    assert seen() == ((), True, 1, 1.0, {})
    it.lose(cause=GONE)
    assert it.front.unready_reasons(it.now) == (f"pool demo: {GONE.message}",)


@pytest.mark.req("ORCH-3031")
def test_one_of_two_models_that_is_retired_leaves_the_other() -> None:
    it = House.of(
        pool("demo", model_names=("mock:lorem",)),
        pool("other", model_ref="mock:ipsum", model_names=("mock:ipsum",)),
    )
    it.see(snapshot("demo:0"), snapshot("other:0", model_ref="mock:ipsum"))
    it.send(CatalogChanged((card(closes_at=it.now), card("ipsum", source="mock:ipsum",
                                                         digest=OTHER))))  # fmt: skip
    assert it.refuse(model_ref="mock:lorem").kind is Kind.MODEL_DEPRECATED
    assert it.admit(2, model_ref="ipsum").accepted.pool_id == "other"
    assert it.front.unready_reasons(it.now) == ()
    assert [each.model_ref for each in it.front.capabilities(it.now).engines] == ["mock:ipsum"]


def test_a_model_of_two_ids_is_retired_when_both_are() -> None:
    it = house(card(closes_at=0.0), card("again"))
    it.admit(1, model_ref=DIGEST)
    it.admit(2, model_ref="mock:lorem")
    assert it.refuse(3, model_ref="lorem").kind is Kind.MODEL_DEPRECATED
    it.send(CatalogChanged((card(closes_at=0.0), card("again", closes_at=0.0))))
    for number, name in enumerate((DIGEST, "mock:lorem", "again"), 4):
        assert it.refuse(number, model_ref=name).kind is Kind.MODEL_DEPRECATED


@pytest.mark.req("ORCH-3097")
def test_a_model_whose_file_has_another_digest_is_refused_before_it_is_queued() -> None:
    it = house(card(untrusted="its file is another"))
    for number, name in enumerate(("lorem", DIGEST)):
        error = it.refuse(number, model_ref=name)
        assert (error.kind, error.fields.path) == (Kind.UNTRUSTED_ARTIFACT, "$.model_ref")
        assert "its file is another" in error.message
    it.admit(3)  # whoever names the pool's own model asked for no digest
    it.send(CatalogChanged((card(untrusted="no"), card("good"))))
    it.admit(4, model_ref=DIGEST)


def test_a_pool_that_was_reloaded_serves_another_model_of_the_catalog() -> None:
    """Neither the names nor the digest of its configuration are of the model that it has now."""
    models = Models((card(), card("other", source="file:/other", digest=OTHER)))
    spec = pool(model_names=("mock:lorem",), model_digest=DIGEST)
    assert [each.model_id for each in models.of(spec)] == ["lorem"]
    assert [each.model_id for each in models.of(evolve(spec, model_ref="file:/other"))] == ["other"]


@pytest.mark.req("ORCH-3097")
def test_a_pool_that_is_configured_with_another_digest_does_not_serve_the_model() -> None:
    it = house(card(), model_digest=OTHER)
    for number, name in enumerate(("lorem", DIGEST)):
        error = it.refuse(number, model_ref=name)
        assert error.kind is Kind.UNTRUSTED_ARTIFACT
        assert OTHER in error.message
    it.admit(3)
