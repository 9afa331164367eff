"""s3: models from moto's server, which stands for S3 over HTTP on this machine."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from orchd.kit import log
from orchd.wire.cached import Shape
from tests.fetch.making import below, bring, content, refused, sha256

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore:datetime.datetime.utcnow")]
SECRET = "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY"


@pytest.fixture(scope="module")
def endpoint() -> Iterator[str]:
    server = pytest.importorskip("moto.server").ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture(autouse=True)
def account(endpoint: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", endpoint)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIAIOSFODNN7EXAMPLE")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")


@pytest.fixture(scope="module")
def bucket(endpoint: str) -> str:
    """A bucket with a model, one in parts, and a folder."""
    boto3 = pytest.importorskip("boto3")
    client = boto3.client(
        "s3", endpoint_url=endpoint, region_name="us-east-1",
        aws_access_key_id="a", aws_secret_access_key="b",
    )  # fmt: skip
    client.create_bucket(Bucket="models")
    objects = {
        "deep/tiny model.gguf": content(300_000),
        "m-00001-of-00002.gguf": content(1000, 1),
        "m-00002-of-00002.gguf": content(1000, 2),
        "vl/config.json": b"{}",
        "vl/model & co.safetensors": content(5000, 3),
        "vl/sub/tokenizer.json": b"[]",
    }
    for key, data in objects.items():
        client.put_object(Bucket="models", Key=key, Body=data)
    return "models"


@pytest.mark.req("ORCH-3090", "ORCH-3430", "OC-CTRL-2041")
async def test_an_object(bucket: str, tmp_path: Path) -> None:
    with log.capture() as events:
        done = await bring(f"s3://{bucket}/deep/tiny model.gguf", tmp_path)
    assert done.digest == f"sha256:{sha256(content(300_000))}"
    assert Path(done.path).name == "tiny model.gguf"
    said = str(events)
    assert "/models/deep/tiny" in said
    assert "Signature" not in said
    assert SECRET not in said


@pytest.mark.req("ORCH-3435")
async def test_all_parts_and_all_below_a_key(bucket: str, tmp_path: Path) -> None:
    done = await bring(f"s3://{bucket}/m-00001-of-00002.gguf", tmp_path)
    assert done.digest == f"sha256:{sha256(content(1000, 1) + content(1000, 2))}"
    whole = await bring(f"s3://{bucket}/vl/", tmp_path, shape=Shape.WHOLE)
    assert below(whole.path) == {"config.json", "model & co.safetensors", "sub/tokenizer.json"}


async def test_what_is_not_there_is_said(bucket: str, tmp_path: Path) -> None:
    error = await refused(f"s3://{bucket}/none.gguf", tmp_path)
    assert "there is no such bucket or key" in error.message


@pytest.mark.req("ORCH-3430")
async def test_without_the_extra_it_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "botocore.session", None)
    error = await refused("s3://models/m.gguf", tmp_path)
    assert "pip install 'orchd[s3]'" in error.message
