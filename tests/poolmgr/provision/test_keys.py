"""Keys of engines: where they are read, and that they are shown nowhere."""

from __future__ import annotations

from pathlib import Path

import pytest
from attrs import evolve

from orchd.config.pool import Engine, Mode, Pool, Provisioning
from orchd.kit.redact import redact
from orchd.wire.errors import Kind, OrchError
from orchd.wire.ids import EngineId, Text
from poolmgr.engines.registry import adapter
from poolmgr.provision.models.models import Staged
from poolmgr.provision.starting.keys import read_key
from poolmgr.provision.starting.plan import plan
from tests.poolmgr.provision.test_models import pool


def keyed(said: str | None, url: str = "http://127.0.0.1:9") -> Pool:
    engine = Engine(id=EngineId("openai"), api_key=None if said is None else Text(said))
    how = Provisioning(mode=Mode.EXTERNAL, url=url, gpu_attested=True)
    return evolve(pool("m", provisioning=how), engine=engine)


@pytest.mark.req("ORCH-3278", "ORCH-3613", "OC-ADAPT-OAI-6020")
def test_a_key_is_read_where_configuration_says_and_redacted_from_then_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "k").write_text("  plain-key-one\n")
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path))
    monkeypatch.setenv("MY_KEY", "plain-key-two")
    assert read_key(keyed(None)) is None
    assert read_key(keyed("credential:k")) == "plain-key-one"
    assert read_key(keyed(f"file:{tmp_path}/k")) == "plain-key-one"
    assert read_key(keyed("env:MY_KEY")) == "plain-key-two"
    assert redact("a plain-key-one, a plain-key-two") == "a [redacted], a [redacted]"


@pytest.mark.parametrize(
    ("said", "words"),
    [
        ("env:NOT_THERE", "there is none"),
        ("file:/nonexistent/key", "No such file"),
        ("credential:k", "LoadCredential="),
        ("env:BAD", "no visible ASCII"),
    ],
)
def test_a_key_that_is_not_there_says_where_it_was_looked_for(
    said: str, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("CREDENTIALS_DIRECTORY", raising=False)
    monkeypatch.setenv("BAD", "two words\r\nInjected: header")
    with pytest.raises(OrchError) as caught:
        read_key(keyed(said))
    assert caught.value.kind is Kind.CONFIG_INVALID
    assert said in caught.value.message
    assert words in caught.value.message


def test_the_plan_has_the_key_and_does_not_show_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_KEY", "plain-key-three")
    mine = keyed("env:MY_KEY", "https://api.example.org/openai/v1")
    made = plan(mine, adapter(mine), Staged("m"), Path("/s"), ("GPU-1",))
    assert made.key == "plain-key-three"
    assert "plain-key-three" not in repr(made)
    assert str(made.target) == "https://api.example.org:443"
    assert made.target.tls
    assert adapter(mine).health().path == "/openai/v1/models"


def test_a_far_engine_is_reached_as_configured(tmp_path: Path) -> None:
    how = Provisioning(
        mode=Mode.EXTERNAL,
        url="https://api.example.org:8443/v1",
        gpu_attested=True,
        ca=Text(str(tmp_path / "ca.pem")),
        proxy="http://proxy.example.org:3128",
    )
    mine = evolve(keyed(None), provisioning=how)
    target = plan(mine, adapter(mine), Staged("m"), Path("/s"), ()).target
    assert (target.host, target.port, target.tls) == ("api.example.org", 8443, True)
    assert target.ca == tmp_path / "ca.pem"
    assert str(target.proxy) == "http://proxy.example.org:3128"
