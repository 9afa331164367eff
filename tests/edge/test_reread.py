"""A configuration that is read again: what takes effect at once, and what waits for a start."""

from __future__ import annotations

from pathlib import Path

import pytest

from orchd.config.load import load
from orchd.config.schema import Settings
from orchd.edge.app import App
from orchd.edge.reread import compare
from orchd.wire.ids import PoolId

MOCK = """
[[pools]]
id = "{id}"
engine = {{ id = "mock" }}
model = {{ ref = "mock:{id}" }}
replicas = [[0]]
ctx = {ctx}
"""


@pytest.fixture
def settings(tmp_path: Path):
    def make(text: str, **environ: str) -> Settings:
        path = tmp_path / "orchd.toml"
        path.write_text(text)
        places = {"ORCHD_RUN_DIR": str(tmp_path), "ORCHD_STATE_DIR": str(tmp_path)}
        return load(path, environ=places | environ)

    return make


def mock(pool_id: str, ctx: int = 9) -> str:
    return MOCK.format(id=pool_id, ctx=ctx)


@pytest.mark.req("SYSD-23")
def test_nothing_changed_is_nothing_to_say(settings) -> None:
    old = settings(mock("a"), ORCHD_AUTH_TOKEN="x")
    change = compare(old, settings(mock("a"), ORCHD_AUTH_TOKEN="x"))
    assert (change.now, change.later, change.added) == ((), (), ())
    assert change.settings == old


@pytest.mark.req("SYSD-23")
def test_what_can_change_does_and_the_rest_is_named(settings) -> None:
    old = settings(mock("a") + mock("b") + mock("c"), ORCHD_AUTH_TOKEN="x")
    text = 'bind_addr = "127.0.0.1:9"\ncancel_on_disconnect = false\n'
    text += "sse = { heartbeat_ms = 99, microbatch_ms = 3 }\n"
    new = settings(text + mock("a") + mock("b", 8) + mock("d"), ORCHD_AUTH_TOKEN="s3cret")
    change = compare(old, new)
    assert change.now == ("cancel_on_disconnect", "sse.heartbeat_ms", "new pool d")
    assert set(change.later) == {
        "bind_addr", "auth_token", "sse.microbatch_ms", "pool b", "pool c, which is gone",
    }  # fmt: skip
    assert "s3cret" not in repr(change)
    there = change.settings
    assert [pool.id for pool in there.pools] == ["a", "b", "c", "d"]
    assert (there.pool(PoolId("b")).ctx, there.sse.heartbeat_ms, there.sse.microbatch_ms) == (
        9,
        99,
        0,
    )
    assert (there.bind_addr, there.cancel_on_disconnect) == (old.bind_addr, False)


@pytest.mark.req("SYSD-23")
async def test_a_new_pool_is_known_at_once_and_only_once(settings) -> None:
    app = App(settings(mock("b")))
    again = settings(mock("b") + mock("a"))
    assert app.reread(again).now == ("new pool a",)
    assert [pool.pool_id for pool in app.pools()] == ["a", "b"]
    assert app.pool_health(PoolId("a")).replicas[0].replica_id == "a:0"
    assert app.reread(again).now == ()
    app.tokenizers.close()
