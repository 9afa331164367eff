"""Fetches for clients: against a real HTTP server, with redirects, large and slow bodies."""

from __future__ import annotations

import base64
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import trio

from orchd.config.policy import Fetch, Outbound, Policy
from orchd.kit import log
from orchd.policy import gate
from orchd.policy.mediated import AT_ONCE, Mediator, resolved
from orchd.wire.errors import Kind, OrchError
from orchd.wire.ids import Positive, Text
from orchd.wire.pages import Encoding, FetchRequest, Page
from tests.fakes.certs import make_certificate
from tests.fakes.fileserver import Files
from tests.policy.modules import answer, configured, module

HERE = ("127.0.0.0/8", "::1")


@pytest.fixture
def files() -> Iterator[Files]:
    house = Files()
    yield house
    house.close()


@pytest.fixture
def other() -> Iterator[Files]:
    """Another server, at another port."""
    house = Files()
    yield house
    house.close()


def policy(*houses: Files, outbound: dict[str, Any] | None = None, **keys: Any) -> Policy:
    said: dict[str, Any] = {
        "enabled": True,
        "allow": tuple(Text(f"localhost:{house.port}") for house in houses),
        "private": HERE,
        "timeout_ms": Positive(5000),
    }
    return Policy(outbound=Outbound(**(outbound or {})), fetch=Fetch(**said | keys))


async def get(it: Mediator, url: str, identity: str = "uid:7", accept: str | None = None) -> Page:
    wanted = FetchRequest(url=Text(url), accept=None if accept is None else Text(accept))
    return await it.fetch(wanted, identity)


async def refused(it: Mediator, url: str, **more: Any) -> OrchError:
    with pytest.raises(OrchError) as caught:
        await get(it, url, **more)
    return caught.value


@pytest.mark.req("POLICY-4030", "POLICY-4033")
async def test_a_page_is_fetched_with_nothing_of_the_client_s(files: Files) -> None:
    files.add("/a?q=SECRETQUERY", b"")
    files.add("/a", "grün".encode(), headers={"Content-Type": "text/plain"})
    it = Mediator(policy(files), None)
    with log.capture() as events:
        page = await get(it, f"{files.url}/a?q=SECRETQUERY", accept="text/plain")
    assert page == Page(
        status=Positive(200),
        url=f"{files.url}/a",
        content_type="text/plain",
        size_bytes=page.size_bytes,
        encoding=Encoding.UTF_8,
        body="grün",
    )
    (asked,) = files.asked
    assert asked.path == "/a?q=SECRETQUERY"
    assert set(asked.headers) == {"host", "accept", "accept-encoding", "user-agent"}
    assert asked.headers["accept"] == "text/plain"
    by_name = {event["event"]: event for event in events}
    assert by_name["outbound_allowed"]["purpose"] == "fetch for a client"
    assert by_name["outbound_allowed"]["identity"] == "uid:7"
    ended = by_name["fetch_ended"]
    assert (ended["identity"], ended["status"], ended["size_bytes"]) == ("uid:7", 200, 5)
    assert "SECRETQUERY" not in str(events)
    assert it.ended == {("ok",): 1}


async def test_bytes_come_as_base64_and_a_404_is_a_page(files: Files) -> None:
    files.add("/logo", b"\x89PNG\r\n")
    it = Mediator(policy(files), None)
    page = await get(it, f"{files.url}/logo")
    assert (page.encoding, base64.b64decode(page.body)) == (Encoding.BASE64, b"\x89PNG\r\n")
    assert (await get(it, f"{files.url}/none")).status == 404


@pytest.mark.req("POLICY-4030")
async def test_by_default_nothing_is_fetched(files: Files) -> None:
    error = await refused(Mediator(Policy(), None), f"{files.url}/a")
    assert (error.kind, "policy.fetch.enabled" in error.message) == (Kind.FETCH_DENIED, True)
    assert not files.asked


@pytest.mark.req("POLICY-4031", "POLICY-4033", "ORCH-3206")
@pytest.mark.parametrize(
    ("url", "keys", "outbound", "said"),
    [
        ("https://evil.example/", {}, {}, "policy.fetch.allow (add 'evil.example')"),
        ("https://evil.example/", {}, {"allow": ("evil.example",)}, "policy.fetch.allow"),
        ("{}/a", {}, {"enabled": False}, "policy.outbound.enabled is false"),
        ("{}/a", {}, {"deny": ("localhost",)}, "'localhost' in policy.outbound.deny"),
        ("http://plain.example/", {"allow": ("*",)}, {}, "only https leaves"),
        ("{}/a", {"private": ()}, {}, "which is not of the internet (policy.fetch.private)"),
        ("{}/a", {"private": ("10.0.0.0/8",)}, {}, "which is not of the internet"),
        ("{}/big", {"max_kb": Positive(1)}, {}, "has more than 1 KiB: policy.fetch.max_kb"),
        ("{}/long", {"max_kb": Positive(1)}, {}, "has more than 1 KiB: policy.fetch.max_kb"),
        ("{}/mb", {"max_kb": Positive(4096)}, {"max_mb": Positive(1)}, "more than 1024 KiB"),
    ],
)
async def test_what_the_rules_forbid_is_refused_with_its_key(
    files: Files, url: str, keys: dict[str, Any], outbound: dict[str, Any], said: str
) -> None:
    files.add("/a", b"a")
    files.add("/big", b"a" * 1025)
    files.add("/long", b"a" * 1025, length=False)
    files.add("/mb", b"a" * ((1 << 20) + 1))
    it = Mediator(policy(files, outbound=outbound, **keys), None)
    with log.capture() as events:
        error = await refused(it, url.format(files.url))
    assert (error.kind, said in error.message) == (Kind.FETCH_DENIED, True), error.message
    assert it.ended == {("denied",): 1}
    assert events[-1]["event"] == "fetch_refused"
    assert events[-1]["identity"] == "uid:7"
    assert len([path for path in files.paths() if path == "/a"]) == 0


@pytest.mark.req("POLICY-4031")
async def test_each_hop_of_a_redirect_is_asked_about(files: Files, other: Files) -> None:
    other.add("/end", b"there")
    files.add("/there", b"", redirect=f"{other.url}/end")
    files.add("/out", b"", redirect="https://evil.example/steal?d=1")
    files.add("/meta", b"", redirect="http://169.254.169.254/latest/meta-data")
    files.add("/file", b"", redirect="file:///etc/passwd")
    files.add("/loop", b"", redirect="/loop")
    page = await get(Mediator(policy(files, other), None), f"{files.url}/there")
    assert (page.url, page.body) == (f"{other.url}/end", "there")
    only = Mediator(policy(files), None)
    for path, kind, said in (
        ("/there", Kind.FETCH_DENIED, f"add 'localhost:{other.port}'"),
        ("/out", Kind.FETCH_DENIED, "https://evil.example is named neither"),
        ("/meta", Kind.FETCH_DENIED, "is not encrypted"),
        ("/file", Kind.PAGE_FAILED, "cannot be asked"),
        ("/loop", Kind.PAGE_FAILED, "more than 8 redirects"),
    ):
        error = await refused(only, f"{files.url}{path}")
        assert (error.kind, said in error.message) == (kind, True), error.message
    assert other.paths() == ["/end"]


def answering(table: dict[str, tuple[str, ...]], asked: list[str]) -> Callable[..., Any]:
    async def resolve(host: str, _port: int) -> tuple[str, ...]:
        asked.append(host)
        return table[host]

    return resolve


@pytest.mark.req("POLICY-4031")
async def test_a_name_that_leads_into_a_private_network_is_refused(files: Files) -> None:
    """Also one of whose addresses only one does, and one that a redirect leads to."""
    asked: list[str] = []
    table = {
        "inside.example": ("10.1.2.3",),
        "mixed.example": ("93.184.215.14", "192.168.0.7"),
        "six.example": ("::ffff:127.0.0.1",),
        "localhost": ("127.0.0.1",),
    }
    keys: dict[str, Any] = {"allow": ("*", f"*:{files.port}"), "private": ("127.0.0.1/32",)}
    files.add("/in", b"", redirect="https://inside.example/")
    it = Mediator(policy(**keys), None, resolve=answering(table, asked))
    for url, at in (
        ("https://inside.example/", "10.1.2.3"),
        ("https://mixed.example/", "192.168.0.7"),
        (f"{files.url}/in", "10.1.2.3"),
    ):
        error = await refused(it, url)
        assert error.kind is Kind.FETCH_DENIED
        assert f"is at {at}, which is not of the internet" in error.message
    assert asked == ["inside.example", "mixed.example", "localhost", "inside.example"]
    strict = Mediator(policy(allow=("*",), private=()), None, resolve=answering(table, asked))
    assert "::ffff:127.0.0.1" in (await refused(strict, "https://six.example/")).message


@pytest.mark.req("POLICY-4031", "ORCH-3613")
async def test_the_connection_goes_where_the_check_looked_and_the_certificate_is_the_name_s(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A name that is looked up a second time would lead elsewhere: it is not (DNS rebinding)."""
    cert = make_certificate(tmp_path)
    monkeypatch.setenv("SSL_CERT_FILE", str(cert[0]))
    secure = Files(cert)
    try:
        secure.add("/a", b"secret")
        asked: list[str] = []
        table: dict[str, tuple[str, ...]] = {}
        table |= {"localhost": ("127.0.0.1",), "name.example": ("127.0.0.1",)}
        keys: dict[str, Any] = {"allow": (f"*:{secure.port}",)}
        it = Mediator(policy(**keys), None, resolve=answering(table, asked))
        assert (await get(it, f"{secure.url}/a")).body == "secret"
        error = await refused(it, f"https://name.example:{secure.port}/a")
        assert (error.kind, "certificate" in error.message) == (Kind.PAGE_FAILED, True)
        assert asked == ["localhost", "name.example"]
        assert secure.paths() == ["/a"]
    finally:
        secure.close()


@pytest.mark.req("POLICY-4032")
async def test_a_slow_body_and_a_server_that_is_gone_fail_in_time(files: Files) -> None:
    files.add("/slow", b"a" * 4000, bytes_per_s=100)
    files.add("/cut", b"a" * 4000, cut_after=10, cuts=1)
    it = Mediator(policy(files, timeout_ms=Positive(300)), None)
    began = trio.current_time()
    error = await refused(it, f"{files.url}/slow?SECRET")
    assert error.kind is Kind.PAGE_FAILED
    said = "no whole answer within 0.3 s (policy.fetch.timeout_ms)"
    assert error.message == f"{files.url}/slow: {said}"
    assert trio.current_time() - began < 3
    assert (await refused(it, f"{files.url}/cut")).kind is Kind.PAGE_FAILED
    gone = Files()
    gone.close()
    error = await refused(Mediator(policy(gone), None), f"{gone.url}/")
    assert (error.kind, "cannot connect" in error.message) == (Kind.PAGE_FAILED, True)
    assert it.ended == {("failed",): 2}


async def test_a_name_without_an_address_fails() -> None:
    async def nowhere(_host: str, _port: int) -> tuple[str, ...]:
        raise OSError(-2, "Name or service not known")

    it = Mediator(policy(allow=("*",)), None, resolve=nowhere)
    error = await refused(it, "https://a.b/")
    assert (error.kind, error.message) == (
        Kind.PAGE_FAILED,
        "a.b has no address: Name or service not known",
    )
    assert "127.0.0.1" in await resolved("127.0.0.1", 80)


@pytest.mark.req("POLICY-4032")
async def test_each_identity_has_its_rate_by_a_clock(files: Files) -> None:
    files.add("/a", b"a")
    now = [1000.0]
    it = Mediator(policy(files, requests_per_min=Positive(2)), None, clock=lambda: now[0])
    for _ in range(2):
        await get(it, f"{files.url}/a")
    error = await refused(it, f"{files.url}/a")
    assert (error.kind, error.fields.policy_label) == (Kind.THROTTLED, "throttle")
    assert error.fields.retry_after_ms == 30_000
    await get(it, f"{files.url}/a", identity="uid:8")
    now[0] += 30
    await get(it, f"{files.url}/a")
    assert it.ended == {("ok",): 4, ("throttled",): 1}
    assert len(files.asked) == 4


@pytest.mark.req("POLICY-4032", "ORCH-3206")
async def test_the_rate_of_the_door_is_of_all_identities(files: Files) -> None:
    files.add("/a", b"a")
    bound = {"requests_per_min": Positive(1)}
    it = Mediator(policy(files, outbound=bound, timeout_ms=Positive(200)), None)
    await get(it, f"{files.url}/a", identity="uid:1")
    error = await refused(it, f"{files.url}/a", identity="uid:2")
    assert "no whole answer within 0.2 s" in error.message


@pytest.mark.req("POLICY-4032")
async def test_so_many_at_once_and_the_others_wait(files: Files) -> None:
    files.add("/a", b"a")
    inside, most, full = 0, 0, trio.Event()

    async def resolve(_host: str, _port: int) -> tuple[str, ...]:
        nonlocal inside, most
        inside += 1
        most = max(most, inside)
        if inside == AT_ONCE:
            full.set()
        with trio.fail_after(5):
            await full.wait()
        await trio.sleep(0.01)
        inside -= 1
        return ("127.0.0.1",)

    it = Mediator(policy(files), None, resolve=resolve)
    async with trio.open_nursery() as nursery:
        for number in range(AT_ONCE + 4):
            nursery.start_soon(get, it, f"{files.url}/a", f"uid:{number}")
    assert it.ended == {("ok",): AT_ONCE + 4}
    assert most == AT_ONCE


@pytest.mark.req("POLICY-4031")
async def test_plugins_are_asked_about_each_hop(files: Files, other: Files, tmp_path: Path) -> None:
    """The module denies the port of the other server."""
    decide = f"(if (i32.eq (i32.load offset=32 (local.get $at)) (i32.const {other.port}))"
    decide += f" (then (return {answer(2)})))" + answer(1)
    loaded = gate.load([configured(tmp_path, "ports", module(decide))])
    files.add("/there", b"", redirect=f"{other.url}/end")
    other.add("/end", b"there")
    it = Mediator(policy(files, other), loaded)
    error = await refused(it, f"{files.url}/there")
    assert (error.kind, "the policy plugin ports" in error.message) == (Kind.FETCH_DENIED, True)
    assert not other.asked
    assert loaded is not None
    assert loaded.decisions == {("ports", "allow"): 1, ("ports", "deny"): 1}


@pytest.mark.parametrize(
    "url", ["", "x", "ftp://a.b/", "https://u:p@a.b/", "https://", "https://a.b:0/", "file:///x"]
)
async def test_what_is_no_url_is_the_client_s_fault(files: Files, url: str) -> None:
    error = await refused(Mediator(policy(files), None), url)
    assert (error.kind, error.fields.path) == (Kind.INVALID_PARAMS, "$.url")


@pytest.mark.parametrize("accept", ["a\r\nX-Evil: 1", "é", "x" * 257])
async def test_an_accept_header_is_no_way_to_another_header(files: Files, accept: str) -> None:
    error = await refused(Mediator(policy(files), None), f"{files.url}/a", accept=accept)
    assert (error.kind, error.fields.path) == (Kind.INVALID_PARAMS, "$.accept")
    assert not files.asked


@pytest.mark.parametrize("host", ["a" * 64 + ".example", "a..example", ".example"])
async def test_a_host_that_no_resolver_takes_is_the_client_s_fault(host: str) -> None:
    error = await refused(Mediator(policy(allow=("*",)), None), f"https://{host}/")
    assert (error.kind, error.fields.path) == (Kind.INVALID_PARAMS, "$.url")
    assert "is no name that a machine can have" in error.message
