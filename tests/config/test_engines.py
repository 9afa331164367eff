"""What belongs to one engine and not to another, and how an engine may be reached."""

from __future__ import annotations

import pytest

from orchd.config.load import load
from tests.config.test_faults import faults, pool

E, P = "$.pools[0].engine", "$.pools[0].provisioning"


def external(engine: str, how: str = "", more: str = "") -> str:
    url = (
        ""
        if "url =" in how.replace("grpc_url", "").replace("metrics_url", "")
        else ', url = "http://127.0.0.1:8000"'
    )
    return pool(
        engine=f'{{ id = "{engine}"{more} }}',
        provisioning=f'{{ mode = "external"{url}{how} }}',
    )


FAR = ', url = "https://api.example.org/v1"'
HERE = '{ command = ["/opt/engine"] }'
GOOD = [
    external("openai"),
    external("openai", ', url = "http://localhost:8000/v1"', ', api = "chat"'),
    external("openai", FAR + ", gpu_attested = true", ', api_key = "credential:key"'),
    external("openai", FAR + ', gpu_attested = true, proxy = "http://p:1", ca = "/ca.pem"'),
    external("vllm", more=', served_name = "m", api = "completions"'),
    external("tgi", more=', api_key = "file:/run/key"'),
    external("triton", more=', served_name = "ensemble"'),
    external("triton", ', metrics_url = "http://127.0.0.1:8002"'),
    external("triton", ', grpc_url = "unix:/run/g.sock"', ', api = "grpc"'),
    pool(engine='{ id = "vllm" }', model='{ ref = "/m" }', provisioning=HERE),
    pool(engine='{ id = "tgi" }', model='{ ref = "/m" }', provisioning=HERE),
    pool(
        engine='{ id = "tgi" }',
        model='{ ref = "/m" }',
        provisioning='{ container = { tag = "3.3.6" } }',
    ),
    pool(engine='{ id = "triton", served_name = "m" }', model='{ ref = "/m" }', provisioning=HERE),
]


@pytest.mark.req("OC-CONFIG-6020")
@pytest.mark.parametrize("text", GOOD)
def test_every_engine_can_be_configured(tmp_path, text):
    (tmp_path / "c.toml").write_text(text)
    assert len(load(tmp_path / "c.toml", environ={"ORCHD_RUN_DIR": "/run"}).pools) == 1


BAD = [
    (pool(engine='{ id = "openai" }', provisioning=HERE), f"{P}.mode", "must be external for op"),
    (pool(engine='{ id = "openai" }'), f"{P}.url", "is required for mode external"),
    (pool(engine='{ id = "tgi" }', model='{ ref = "/m" }'), f"{P}.container.digest",
     'such as provisioning = { container = { tag = "TAG" } }'),
    (external("openai", FAR), f"{P}.gpu_attested", "must be true for an engine on another machine"),
    (external("vllm", FAR), f"{P}.url", "http://127.0.0.1:PORT, not"),
    (external("openai", ', url = "http://api.example.org"'), f"{P}.url", "https://HOST"),
    (external("openai", ', url = "https://user:pw@example.org", gpu_attested = true'), f"{P}.url",
     "not one with a password"),
    (external("openai", ', url = "https://example.org:99999", gpu_attested = true'), f"{P}.url",
     "https://HOST"),
    (external("vllm", ', url = "http://127.0.0.1:8000/v1"'), f"{P}.url", "must be unix:"),
    (external("openai", ', proxy = "http://p:1"'), f"{P}.proxy", "only for a url that begins"),
    (external("openai", ', ca = "/ca"'), f"{P}.ca", "only for a url that begins"),
    (external("openai", FAR + ', gpu_attested = true, proxy = "socks5://p:1"'), f"{P}.proxy",
     "must be http://HOST:PORT"),
    (external("triton", ', grpc_url = "unix:/g"'), f"{P}.grpc_url", 'engine.api = "grpc"'),
    (external("tgi", ', metrics_url = "unix:/m"'), f"{P}.metrics_url", "only for triton"),
    (external("triton", more=', api = "grpc"'), f"{P}.grpc_url", "is required"),
    (external("triton", more=', api = "chat"'), f"{E}.api", "must be http or grpc for triton"),
    (external("tgi", more=', api = "chat"'), f"{E}.api", "is not for tgi"),
    (external("tgi", more=', served_name = "x"'), f"{E}.served_name", "only for vllm, triton"),
    (pool(engine='{ id = "vllm", api_key = "env:K" }', model='{ ref = "/m" }', provisioning=HERE),
     f"{E}.api_key", "only for mode external"),
    (pool(engine='{ id = "vllm" }', model='{ ref = "/m" }',
          workloads='["completion", "embedding"]', provisioning=HERE), "$.pools[0].workloads",
     "one workload for vllm"),
    (external("tgi") + 'workloads = ["embedding"]\n', "$.pools[0].workloads", "be completion for"),
    (external("vllm", ', command = ["x"]'), f"{P}.command", "not for mode external"),
]  # fmt: skip


@pytest.mark.parametrize(("text", "path", "words"), BAD)
def test_what_an_engine_does_not_have_is_refused(tmp_path, text, path, words):
    found = faults(tmp_path, text)
    assert [one[1] for one in found] == [path]
    assert words in found[0][2]


@pytest.mark.req("ORCH-3613", "CONF-PRECEDENCE")
def test_a_key_in_the_file_is_refused_and_not_shown(tmp_path):
    ((_, path, message),) = faults(tmp_path, external("openai", more=', api_key = "sk-0123456789"'))
    assert path == f"{E}.api_key"
    assert "credential:NAME" in message
    assert "sk-0123456789" not in message
