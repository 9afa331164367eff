"""Through a real forward proxy: models, git, images and clients' fetches; and who says which one.

The hosts behind it have names that nobody else knows, so what reaches them came through it.
"""

from __future__ import annotations

import contextlib
import json
import subprocess
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import pytest
import trio

from orchd.config import policy
from orchd.config.policy import Fetch, Policy
from orchd.kit.client import PeerError
from orchd.policy.hook import Outbound
from orchd.policy.mediated import Mediator
from orchd.policy.rules import Rules
from orchd.policy.web import Got, Web
from orchd.wire import address as addresses
from orchd.wire.errors import TABLE, Kind
from orchd.wire.ids import Positive, Text
from orchd.wire.pages import FetchRequest
from tests.cli.conftest import Ran
from tests.fakes.certs import make_certificate
from tests.fakes.fileserver import Files
from tests.fakes.githttp import GitHttp
from tests.fetch.making import content
from tests.lab.fake_llama import commit_of
from tests.lab.needs import CONTAINERS, PROXY, require
from tests.lab.nvml import uuid_of
from tests.lab.podman import Podman
from tests.lab.proxy import ForwardProxy, forward_proxy
from tests.poolmgr.provision.bringing import Place, finished

pytestmark = pytest.mark.slow
MODELS, GIT, REGISTRY = "models.example.test", "git.example.test", "registry.example.test"
Run = Callable[..., Ran]


@pytest.fixture
def proxy(tmp_path: Path) -> Iterator[ForwardProxy]:
    require(PROXY)
    (tmp_path / "proxy").mkdir()
    with forward_proxy(tmp_path / "proxy", MODELS, GIT, REGISTRY) as one:
        yield one


@pytest.fixture
def cert(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, Path]:
    """A certificate of all of them, which we and our children trust."""
    made = make_certificate(tmp_path, MODELS, GIT, REGISTRY)
    monkeypatch.setenv("SSL_CERT_FILE", str(made[0]))
    monkeypatch.setenv("CACHE_DIRECTORY", str(tmp_path / "cache"))
    return made


@pytest.fixture
def models(cert: tuple[Path, Path]) -> Iterator[Files]:
    server = Files(cert, host=MODELS)
    yield server
    server.close()


def config(folder: Path, *lines: str) -> str:
    path = folder / "orchd.toml"
    path.write_text("\n".join(["[policy.outbound]", *lines]) + "\n")
    return str(path)


@pytest.mark.req("ORCH-3206", "ORCH-3090")
def test_a_model_comes_through_the_proxy(
    proxy: ForwardProxy, models: Files, folder: Path, orchctl: Run
) -> None:
    data = content(300_000)
    models.add("/m.gguf", data)
    file = config(folder, f'proxy = "{proxy.url}"')
    ran = orchctl("models", "fetch", "--json", "--config", file, f"{models.url}/m.gguf")
    assert ran.code == 0, ran.err
    assert Path(json.loads(ran.out)["path"]).read_bytes() == data
    assert set(proxy.asked()) == {f"CONNECT {MODELS}:{models.port}"}


@pytest.mark.req("ORCH-3206", "ORCH-3080")
def test_the_rules_are_asked_of_the_host_and_not_of_its_proxy(
    proxy: ForwardProxy, models: Files, folder: Path, orchctl: Run
) -> None:
    file = config(folder, f'proxy = "{proxy.url}"', f'deny = ["{MODELS}"]')
    ran = orchctl("models", "fetch", "--config", file, f"{models.url}/m.gguf")
    assert ran.code == TABLE[Kind.OUTBOUND_DENIED].exit_code
    assert f"https://{MODELS}:{models.port} is denied" in ran.err
    assert proxy.asked() == []


@pytest.mark.req("ORCH-3206")
def test_this_machine_is_asked_without_the_proxy(
    proxy: ForwardProxy, cert: tuple[Path, Path], folder: Path, orchctl: Run
) -> None:
    here = Files(cert)
    try:
        here.add("/m.gguf", b"GGUF")
        file = config(folder, f'proxy = "{proxy.url}"')
        ran = orchctl("models", "fetch", "--config", file, f"{here.url}/m.gguf")
        assert ran.code == 0, ran.err
        assert proxy.asked() == []
    finally:
        here.close()


@contextlib.asynccontextmanager
async def page(url: str, proxy: str | None) -> AsyncIterator[Got]:
    web = Web(Outbound(Rules(allow=(f"{MODELS}:{addresses.parse(url).port}",)), "a test"), proxy)
    try:
        async with web.get(url) as got:
            yield got
    finally:
        web.close()


@pytest.mark.req("ORCH-3206")
async def test_what_the_environment_says_of_proxies_means_nothing(
    proxy: ForwardProxy, models: Files, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.setenv(name, proxy.url)
    models.add("/m.gguf", b"GGUF")
    with pytest.raises(PeerError, match=f"{MODELS}.*cannot connect"):
        async with page(f"{models.url}/m.gguf", None):
            pass
    assert proxy.asked() == []
    async with page(f"{models.url}/m.gguf", proxy.url) as got:
        assert await got.body(100) == b"GGUF"


@pytest.mark.req("OC-CTRL-2041")
async def test_a_proxy_that_wants_a_password_says_so_and_none_can_be_configured(
    tmp_path: Path, models: Files, folder: Path, orchctl: Run
) -> None:
    require(PROXY)
    (tmp_path / "proxy").mkdir()
    with forward_proxy(tmp_path / "proxy", MODELS, password="s3cret-word") as proxy:
        with pytest.raises(PeerError, match="the proxy answered 407: it wants a user and a pass"):
            async with page(f"{models.url}/m.gguf", proxy.url):
                pass
        assert models.asked == []
        file = config(folder, f'proxy = "{proxy.url.replace("//", "//u:s3cret-word@")}"')
        ran = await trio.to_thread.run_sync(orchctl, "config", "check", file)
        assert ran.code == TABLE[Kind.CONFIG_INVALID].exit_code
        assert "must be http://host:port, without user and path" in ran.err
        assert "s3cret-word" not in ran.err


@pytest.mark.req("POLICY-4031", "ORCH-3206")
async def test_a_client_s_page_comes_through_the_proxy_from_the_address_that_was_checked(
    proxy: ForwardProxy, models: Files
) -> None:
    models.add("/a", b"a page")
    there = ("127.0.0.9", "127.0.0.1")  # nobody listens on the first: the next one is asked

    async def resolve(_host: str, _port: int) -> tuple[str, ...]:
        return there

    fetch = Fetch(
        enabled=True,
        allow=(Text(f"{MODELS}:{models.port}"),),
        private=(Text("127.0.0.0/8"),),
        timeout_ms=Positive(20_000),
    )
    rules = policy.Outbound(proxy=Text(proxy.url))
    it = Mediator(Policy(outbound=rules, fetch=fetch), None, resolve=resolve)
    got = await it.fetch(FetchRequest(url=Text(f"{models.url}/a")), "uid:7")
    assert (got.status, got.body) == (200, "a page")
    # by address: the proxy cannot be led elsewhere by a name
    assert proxy.asked() == [f"CONNECT {one}:{models.port}" for one in there]


@pytest.mark.req("ORCH-3206", "ORCH-3201")
def test_git_goes_through_the_proxy(
    proxy: ForwardProxy, cert: tuple[Path, Path], place: Place, llama_repository: Path
) -> None:
    server = GitHttp(llama_repository.parent, cert)
    try:
        url = f"https://{GIT}:{server.port}/{llama_repository.name}/.git"
        place.write(
            f'mode = "source"\nsource.git = {{ repo = "{url}", ref = "b1" }}',
            more=f'policy.outbound.proxy = "{proxy.url}"\n',
        )
        done = place.run("provision")
        assert done.code == 0, done.events
        (entry,) = place.entries().values()
        assert entry.build_ref == commit_of(llama_repository, "b1")
        assert set(proxy.asked()) == {f"CONNECT {GIT}:{server.port}"}
    finally:
        server.close()


@pytest.mark.req("ORCH-3206")
def test_podman_goes_through_the_proxy(
    proxy: ForwardProxy, cert: tuple[Path, Path], place: Place, tmp_path: Path
) -> None:
    require(CONTAINERS)
    (tmp_path / "podman").mkdir()
    podman = Podman(tmp_path / "podman", 0, (uuid_of(0), uuid_of(1)))
    podman.prepare()
    house = Files(cert)  # no registry: what matters is who asked it
    try:
        place.write(
            f'mode = "container"\n'
            f'container = {{ image = "{REGISTRY}:{house.port}/a/b", tag = "t" }}',
            more=f'policy.outbound.proxy = "{proxy.url}"\n',
        )
        place.env.update(podman.env)
        done = finished(
            subprocess.Popen(
                podman.inside(place.argv("provision")),
                env=place.environment() | {"ORCHD_LOG": "json"},
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
        )
        assert done.code == TABLE[Kind.PROVISION_FAILED].exit_code, done.events
        assert set(proxy.asked()) == {f"CONNECT {REGISTRY}:{house.port}"}
        assert "/v2/" in house.paths()
    finally:
        house.close()
