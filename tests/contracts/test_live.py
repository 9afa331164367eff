"""schemathesis asks the live daemon everything that the documents say, and much that they forbid.

A real orchd with a real poolmgr and the mock engine; the token is configured, so that what needs
one is asked without it too. Seeded and bounded: the same requests on every run.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import orjson
import pytest
import trio

from orchd.kit.client import Client, Target
from tests.fakes.fileserver import Files
from tests.sockets.suite import SIMULATED, Suite, mock_pool
from tests.sockets.talk import get, post
from tools.openapi import examples
from tools.openapi.document import OPERATIONS
from tools.openapi.table import Plane

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parents[2]
TOKEN = "a-token-of-the-contract-tests"
HOOKS = "tests.contracts.hooks"  # not imported here: schemathesis takes a second to load
ROWS = {row.id: row for row in OPERATIONS}
RUN_S = 90.0
"""A run takes 10 s where nothing else runs."""


@pytest.fixture(scope="module")
def pages() -> Iterator[Files]:
    """What the examples of fetchPage fetch."""
    house = Files()
    house.add("/intro", b"", redirect="/intro/")
    house.add("/intro/", b"<h1>Intro</h1>\r\n", headers={"Content-Type": "text/html"})
    house.add("/logo.png", b"\x89PNG\r\n\x1a\n", headers={"Content-Type": "image/png"})
    yield house
    house.close()


@pytest.fixture(scope="module")
def suite(pages: Files, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Suite]:
    pool = mock_pool(engine="tokens_per_s = 0", replicas="[[0], [1]]")
    # the examples of drain and reload name it, and what is made from them
    pool += (
        mock_pool(engine="tokens_per_s = 0")
        .replace('"demo"', '"spare"')
        .replace("mock:lorem", "mock:spare")
    )
    folder = tmp_path_factory.mktemp("orchd")
    fetch = f'allow = ["localhost:{pages.port}"]\nprivate = ["127.0.0.1", "::1"]\n'
    fetch = f"[policy.fetch]\nenabled = true\n{fetch}requests_per_min = 100000\n"
    with Suite(folder, f'auth_token = "{TOKEN}"\n{SIMULATED}{pool}{fetch}') as suite:
        suite.wait_ready()
        yield suite


def run(suite: Suite, plane: Plane, pages: Files, folder: Path) -> tuple[str, dict[str, set[int]]]:
    """Return what schemathesis said, and which statuses it saw of each operation."""
    seen = folder / "seen"
    done = subprocess.run(
        [
            *(sys.executable, "-m", "schemathesis.cli"),
            *("--config-file", str(Path(__file__).with_name("schemathesis.toml"))),
            *("run", str(ROOT / "contracts" / "openapi" / f"{plane}.yaml"), "--checks", "all"),
            # ctx and max_tokens have bounds that a pool sets, so what the schema takes may be a
            # 400; hooks.what_the_schema_takes_the_codec_takes asks what is meant by it
            *("--exclude-checks", "positive_data_acceptance"),
            *("--url", f"http://127.0.0.1:{suite.port}"),
            *("--header", f"Authorization: Bearer {TOKEN}"),
        ],
        cwd=folder,
        env=os.environ | {
            "SCHEMATHESIS_HOOKS": HOOKS, "PYTHONPATH": str(ROOT), "ORCHD_SEEN": str(seen),
            "ORCHD_PAGES": pages.url,
        },
        capture_output=True,
        text=True,
        timeout=RUN_S,
        check=False,
    )  # fmt: skip
    said = done.stdout + done.stderr
    assert done.returncode == 0, said
    found: dict[str, set[int]] = {}
    for line in seen.read_text().splitlines():
        _, method, path, status = line.split(" ")
        found.setdefault(f"{method} {path}", set()).add(int(status))
    return said, found


@pytest.mark.req("OC-CTRL-2067", "OC-CTRL-2069", "OC-CTRL-2030", "AUTH-1005")
@pytest.mark.parametrize("plane", ["data", "control"])
async def test_the_daemon_answers_as_its_document_says(
    suite: Suite, plane: Plane, pages: Files, tmp_path: Path
) -> None:
    mark = len(suite.events)
    client = Client(Target.parse(f"http://127.0.0.1:{suite.port}"), token=TOKEN)
    if plane == "control":  # what the examples that read them name
        for row_id in ("registerModel", "storeArtifact"):
            sent = examples.of(row_id)[0]
            assert (await post(client, ROWS[row_id].path, sent.body)).status == sent.status
    said, found = await trio.to_thread.run_sync(run, suite, plane, pages, tmp_path)
    for row in OPERATIONS:
        if row.plane == plane:
            statuses = found[f"{row.method} {row.path}"]
            assert statuses & set(row.replies), f"{row.id} never answered well: {statuses}\n{said}"
            assert row.open or 401 in statuses, f"{row.id} was never asked without a token"
    wrong = [e for e in suite.events[mark:] if e.get("level") == "error" or "traceback" in e]
    assert wrong == []
    with trio.fail_after(10):
        while (await get(client, "/v1/pools/demo/health"))["metrics"]["slots_active"]:
            await trio.sleep(0.05)
    assert (
        orjson.loads((await client.request("GET", "/v1/tasks?state=running")).body)["tasks"] == []
    )
    client.close()
