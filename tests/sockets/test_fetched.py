"""Fetched models in the catalog: real daemons, a real source, the command line of a user.

In the first test there is no engine, so the pool ends after its model has come: what was fetched is
registered all the same.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
import trio

from orchd.wire.errors import TABLE, Kind
from tests.fakes.certs import make_certificate
from tests.fakes.fileserver import Files
from tests.fakes.tasks import task_body
from tests.fetch.making import content, sha256
from tests.kit.test_cached import seen
from tests.lab.llama import Command
from tests.lab.nvml import FakeNvml
from tests.sockets.suite import Suite
from tests.sockets.talk import events_of, get, last, post, submit
from tests.sockets.test_llama import llama_pool, ready_llama

pytestmark = pytest.mark.slow
MODELS = "/v1/catalog/models"
POOL = """
[[pools]]
id = "llama"
engine = {{ id = "llamacpp" }}
provisioning = {{ mode = "package", command = ["/nowhere/llama-server"] }}
model = {{ ref = "{ref}" }}
replicas = [[0]]
ctx = 2048
"""


@pytest.fixture
def source(tmp_path: Path) -> Iterator[Files]:
    server = Files(make_certificate(tmp_path))
    yield server
    server.close()


def environment(tmp_path: Path, gpus: FakeNvml) -> dict[str, str]:
    cert, cache = tmp_path / "cert.pem", tmp_path / "cache"
    return {**gpus.env, "SSL_CERT_FILE": str(cert), "CACHE_DIRECTORY": str(cache)}


def write(path: str, data: bytes) -> None:
    Path(path).write_bytes(data)


async def registered(suite: Suite, model_id: str) -> dict[str, Any]:
    """Return a model, once the catalog has it and nobody hashes it."""
    client = suite.client()
    with trio.fail_after(20):
        while True:
            found = {each["id"]: each for each in (await get(client, MODELS))["models"]}
            if model_id in found and not found[model_id]["verifying"]:
                client.close()
                return dict(found[model_id])
            await trio.sleep(0.05)


@pytest.mark.req("ORCH-3436", "ORCH-3091", "ORCH-3037", "CAT-LOCATE", "CAT-EXISTS", "ORCH-3031")
async def test_what_a_pool_and_a_user_fetch_is_in_the_catalog(
    suite_of: Callable[..., Suite], source: Files, fake_nvml: FakeNvml, tmp_path: Path
) -> None:
    mine, others = content(300_000), content(200_000, seed=2)
    source.add("/mine.gguf", mine)
    source.add("/other.gguf", others)
    pool_ref, ref = f"{source.url}/mine.gguf?sig=canary", f"{source.url}/other.gguf"
    config = POOL.format(ref=pool_ref)
    suite = suite_of(config, env=environment(tmp_path, fake_nvml), wait=False)
    await trio.to_thread.run_sync(partial(suite.wait_event, "model_registered", model_id="mine"))
    model = await registered(suite, "mine")
    assert model["digest"] == f"sha256:{sha256(mine)}"
    assert (model["source_url"], model["pools"]) == (f"{source.url}/mine.gguf", ["llama"])
    ran = suite.orchctl("models", "fetch", "--json", ref)
    done = json.loads(ran.stdout)
    assert (done["model_id"], done["digest"]) == ("other", f"sha256:{sha256(others)}")
    assert (await registered(suite, "other"))["verification"]["reason"] == "match"
    asked, before = len(source.asked), seen(tmp_path / "cache")
    client = suite.client()
    for name in ("other", ref, done["digest"]):
        found = await get(client, f"/v1/catalog/locate?name={quote(name)}")
        assert (found["models"], found["path"]) == (["other"], done["path"])
    assert suite.orchctl("models", "locate", ref).stdout.strip() == done["path"]
    assert suite.orchctl("models", "exists", f"{source.url}/none.gguf").returncode == 65
    listed = suite.orchctl("models", "list").stdout
    assert [line.split()[0] for line in listed.splitlines()] == ["model", "mine", "other"]
    assert (len(source.asked), seen(tmp_path / "cache")) == (asked, before)
    write(done["path"], content(200_000, seed=3))
    assert suite.orchctl("models", "verify", "other").returncode == 0
    assert (await registered(suite, "other"))["verification"]["reason"] == "mismatch"
    assert suite.orchctl("models", "retire", "mine").returncode == 0
    for name in ("mine", pool_ref, model["digest"]):
        body = task_body(model_ref=name, engine="llamacpp")
        answer = await post(client, "/v1/tasks", body)
        assert (answer.status, json.loads(answer.body)["code"]) == (400, "MODEL_DEPRECATED")
    client.close()
    kept = [path for path in suite.folder.rglob("*") if path.is_file()]
    assert not [path for path in kept if path != suite.config and b"canary" in path.read_bytes()]


async def show_next(suite: Suite, nvml: FakeNvml, mark: int) -> None:
    """Show the next engine that is started on the fake GPU."""
    wait = partial(suite.wait_event, "engine_started", mark)
    started = await trio.to_thread.run_sync(wait)
    nvml.follow_process(0, int(started["engine_pid"]), 300)


@pytest.mark.engine
@pytest.mark.req("ORCH-3090", "ORCH-3436", "OC-CTRL-2003")
async def test_a_task_names_a_fetched_model_by_its_id_and_a_reload_its_digest(
    suite_of: Callable[..., Suite],
    source: Files,
    llama_command: Command,
    tiny_gguf: Path,
    fake_nvml: FakeNvml,
    tmp_path: Path,
) -> None:
    model = await trio.Path(tiny_gguf).read_bytes()
    source.add("/tiny.gguf", model)
    source.add("/other.gguf", model + b"\0")
    ref = f"{source.url}/tiny.gguf"
    config = llama_pool(llama_command, tiny_gguf).replace(f"file:{tiny_gguf}", ref)
    host = source.url.removeprefix("https://")
    config = f'[policy.outbound]\nallow = ["{host}"]\n{config}'
    env = environment(tmp_path, fake_nvml) | dict(llama_command[1])
    suite = suite_of(config, env=env, wait=False)
    await ready_llama(suite, fake_nvml)
    await registered(suite, "tiny")
    client = suite.client()
    for name in ("tiny", f"sha256:{sha256(model)}"):
        task = await submit(client, engine="llamacpp", model_ref=name, ctx=256, max_tokens=4)
        assert last(await events_of(client, task["task_id"]))["tokens_out"] == 4
    wrong = f"sha256:{sha256(b'')}"
    reload = partial(suite.orchctl, "reload", "llama", f"{source.url}/other.gguf")
    ran = await trio.to_thread.run_sync(partial(reload, "--digest", wrong))
    assert ran.returncode == TABLE[Kind.DIGEST_MISMATCH].exit_code, ran.stderr
    assert f"pool llama keeps {ref}" in ran.stderr
    assert wrong in ran.stderr
    assert [each["id"] for each in (await get(client, MODELS))["models"]] == ["tiny"]
    mark = len(suite.events)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(show_next, suite, fake_nvml, mark)
        by_id = partial(suite.orchctl, "reload", "llama", "tiny")
        ran = await trio.to_thread.run_sync(by_id)
    assert ran.returncode == 0, ran.stderr
    assert f"Pool llama serves {ref}." in ran.stderr
    task = await submit(client, engine="llamacpp", model_ref="tiny", ctx=256, max_tokens=4)
    assert last(await events_of(client, task["task_id"]))["tokens_out"] == 4
    client.close()
