"""Policy plugins and fetches for clients where orchd.service lets them: with all that it forbids.

Here: what only the unit's sandbox can be in the way of. Not here: what is decided (tests/policy).
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.lab.cache import Cache
from tests.lab.machine import Machine
from tests.lab.venv import REPOSITORY, site_packages
from tests.system.house import SIMULATED, House, mock_pool, task
from tests.system.test_sandbox import probed

pytest_plugins = ("tests.lab.fixtures",)
pytestmark = [pytest.mark.system, pytest.mark.slow]

MODULE = REPOSITORY / "packaging/examples/plugins/models.wasm"
INSTALLED = "/usr/share/orchd/sdk/examples/models.wasm"
PLUGIN = f"""
[[policy.plugins]]
name = "models"
path = "{INSTALLED}"
sha256 = "{hashlib.sha256(MODULE.read_bytes()).hexdigest()}"
decides = ["admission"]
args = ["*=mock:lorem"]
"""
FETCH = """
[policy.fetch]
enabled = true
allow = ["docs.example.org"]
"""


@pytest.fixture(scope="module")
def booted(
    house_layers: list[Path], lab_cache: Cache, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[House]:
    """A machine that also has the extra `plugins`, whose wheel is of no Python in particular."""
    layer = tmp_path_factory.mktemp("plugins") / "layer"
    layer.mkdir()
    layer.parent.chmod(0o755)
    found = importlib.util.find_spec("wasmtime")
    assert found is not None
    assert found.origin is not None
    shutil.copytree(
        Path(found.origin).parent,
        site_packages(house_layers[-1], layer) / "wasmtime",
        ignore=shutil.ignore_patterns("__pycache__"),
    )
    target = layer / INSTALLED.lstrip("/")
    target.parent.mkdir(parents=True)
    target.write_bytes(MODULE.read_bytes())
    with Machine([layer, *house_layers], cache=lab_cache) as machine:
        yield House(machine)


@pytest.mark.req("POLICY-4011", "POLICY-4002", "SYSD-11")
def test_a_plugin_decides_where_nothing_may_become_executable(house: House) -> None:
    assert house.property("orchd.service", "MemoryDenyWriteExecute") == "yes"
    house.apply(SIMULATED, mock_pool(), PLUGIN)
    house.wait_ready()
    assert house.ask("POST", "/v1/tasks", task()).status == 202
    refused = house.ask("POST", "/v1/tasks", task(model_ref="mock:other"))
    assert refused.status == 403
    assert json.loads(refused.body)["code"] == "INVALID_PARAMS"
    (told,) = house.journal("orchd.service", "EVENT=policy_denied")
    assert (told["PLUGIN"], told["REASON"]) == ("models", "the model is not this identity's")
    # and nothing of it waits: no thread is left that would keep the daemon from stopping
    house.machine.systemctl("stop", "orchd.service")
    assert house.property("orchd.service", "Result") == "success"


@pytest.mark.req("POLICY-4021")
def test_orchd_does_not_start_with_another_module_and_says_which_key(house: House) -> None:
    wrong = PLUGIN.replace(hashlib.sha256(MODULE.read_bytes()).hexdigest(), "0" * 64)
    house.configure(SIMULATED, mock_pool(), wrong)
    house.machine.systemctl("daemon-reload")
    house.machine.systemctl("start", "orchd.service", check=False)
    house.wait(
        lambda: (
            "$.policy.plugins[0].sha256: models: is another file" in house.said("orchd.service")
        ),
        "the key is named",
    )


@pytest.mark.req("POLICY-4030", "SYSD-11")
def test_the_network_is_orchd_s_only_where_it_fetches_for_clients(house: House) -> None:
    house.configure(SIMULATED, mock_pool(), FETCH)
    assert probed(house, "orchd.service")["far"] == "done"
    house.clear()
    house.configure(SIMULATED, mock_pool())
    assert probed(house, "orchd.service")["far"] == "EAFNOSUPPORT"
