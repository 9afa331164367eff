"""What README.md says is run as it stands there: its configurations and its five curl lines."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from orchd.config.load import load
from tools.demo import suite

README = (Path(__file__).resolve().parents[1] / "README.md").read_text()


def blocks(language: str) -> list[str]:
    """The fenced blocks of one language."""
    return re.findall(rf"(?ms)^```{language}$\n(.*?)^```$", README)


@pytest.mark.req("OC-CONFIG-6002", "ORCH-3820")
@pytest.mark.parametrize("text", blocks("toml"))
def test_its_configurations_are_valid_and_name_one_gpu_for_each_replica(tmp_path, text):
    file = tmp_path / "orchd.toml"
    file.write_text(text)
    (pool,) = load(file, environ={}).pools
    assert [len(mask.indices) for mask in pool.replicas] == [1] * len(pool.replica_ids)


@pytest.mark.engine
@pytest.mark.slow
def test_its_curl_lines_do_what_it_says(tmp_path_factory):
    if shutil.which("curl") is None:
        pytest.skip("needs curl: apt-get install -y curl")
    (script,) = blocks("sh")
    lines = script.strip().splitlines()
    assert sum(line.startswith("curl ") for line in lines) == 5
    folder = tmp_path_factory.mktemp("r")
    with suite(folder, blocks("toml")[1]):
        # The same requests on the unix socket: the port may be in use on this machine.
        by_socket = script.replace("curl ", f"curl --unix-socket {folder}/orchd/orchd.sock ")
        done = subprocess.run(
            ["sh", "-euc", by_socket], capture_output=True, text=True, check=True, timeout=30
        )
    said = done.stdout
    assert '"api_version"' in said
    assert '"queue_position":0,"predicted_start_ms":' in said
    names = re.findall(r"^event: (\w+)$", said, re.MULTILINE)
    assert (names[0], names[-1]) == ("started", "end")
    assert names.count("token") == 20
    assert "HTTP/1.1 204 No Content" in said
    assert '"pool_id":"demo"' in said
