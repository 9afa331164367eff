"""What a reload gave a replica, over a restart: the model, and the digest that it must have."""

from __future__ import annotations

from pathlib import Path

import pytest
from attrs import evolve

from orchd.config.pool import Engine, Model, Pool
from orchd.wire.ids import DeviceMask, EngineId, PoolId, Positive, Text
from poolmgr.provision.models.reloaded import in_force, remember, with_model

OLD, NEW = "file:/old.gguf", "hf:org/new"
DIGEST, OTHER = (Text("sha256:" + two * 32) for two in ("ab", "cd"))
CONFIGURED = Pool(
    id=PoolId("p"),
    engine=Engine(id=EngineId("llamacpp")),
    model=Model(ref=Text(OLD), digest=OTHER, cache_dir=Text("/cache")),
    replicas=(DeviceMask((0,)),),
    ctx=Positive(512),
)


def model_of(pool: Pool) -> tuple[str, str | None]:
    assert pool.model.cache_dir == "/cache"
    return pool.model.ref, pool.model.digest


@pytest.mark.req("ORCH-3436")
def test_another_model_has_the_digest_of_its_reload_and_not_the_configured_one() -> None:
    assert model_of(with_model(CONFIGURED, NEW, None, CONFIGURED)) == (NEW, None)
    changed = with_model(CONFIGURED, NEW, DIGEST, CONFIGURED)
    assert model_of(changed) == (NEW, DIGEST)
    assert model_of(with_model(changed, "hf:org/third", None, CONFIGURED)) == ("hf:org/third", None)
    assert model_of(with_model(changed, OLD, None, CONFIGURED)) == (OLD, OTHER)
    assert model_of(with_model(changed, OLD, DIGEST, CONFIGURED)) == (OLD, DIGEST)


@pytest.mark.req("ORCH-3436", "OC-CTRL-2003")
def test_a_restart_asks_for_the_digest_again(tmp_path: Path) -> None:
    path = tmp_path / "p:0.model"
    changed = with_model(CONFIGURED, NEW, DIGEST, CONFIGURED)
    remember(path, CONFIGURED, changed.model)
    assert model_of(in_force(CONFIGURED, path)) == (NEW, DIGEST)
    edited = evolve(CONFIGURED, model=evolve(CONFIGURED.model, ref=Text("file:/edited")))
    assert model_of(in_force(edited, path)) == ("file:/edited", OTHER)
    assert not path.exists()
    remember(path, CONFIGURED, changed.model)
    remember(path, CONFIGURED, CONFIGURED.model)  # reloaded back: the configuration holds
    assert not path.exists()
