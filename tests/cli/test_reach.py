"""Where orchctl looks for orchd, which token it sends, and how answers become errors."""

from __future__ import annotations

import ssl

import orjson
import pytest

from orchd.cli import reach
from orchd.cli.main import main
from orchd.kit.client import PeerError, Target
from orchd.kit.http import Response
from orchd.wire.errors import TABLE, Kind, OrchError

CONFIG = 'bind_addr = "0.0.0.0:99"\nauth_token = "configured"\n'


@pytest.fixture
def environ(folder, monkeypatch):
    monkeypatch.setattr(reach, "SYSTEM_SOCKET", folder / "system.sock")
    (folder / "c.toml").write_text("")
    return {"ORCHD_RUN_DIR": str(folder / "run"), "ORCHD_CONFIG": str(folder / "c.toml")}


def test_the_places_in_order(folder, environ):
    def place(url: str | None = None, **more: str) -> str:
        return str(reach.find(url, None, environ | more).target)

    assert place() == "http://127.0.0.1:8484"
    (folder / "c.toml").write_text(CONFIG)
    assert place() == "http://127.0.0.1:99"
    (folder / "c.toml").write_text("this is no configuration")
    assert place() == "http://127.0.0.1:8484"
    (folder / "system.sock").touch()
    assert place() == f"unix:{folder}/system.sock"
    (folder / "c.toml").write_text("")
    (folder / "run" / "orchd").mkdir(parents=True)
    (folder / "run" / "orchd" / "orchd.sock").touch()
    assert place() == f"unix:{folder}/run/orchd/orchd.sock"
    assert place(ORCHD_URL="http://[::1]:5") == "http://[::1]:5"
    assert place("unix:/x.sock", ORCHD_URL="http://[::1]:5") == "unix:/x.sock"


def test_an_https_url_is_verified_with_the_named_file(orchctl, folder):
    ca = folder / "ca.pem"
    ca.write_text("no certificate")
    ran = orchctl("pools", "--url", "https://127.0.0.1:9", "--ca-file", str(ca))
    assert ran.code == TABLE[Kind.DAEMON_UNREACHABLE].exit_code
    assert "https://127.0.0.1:9" in ran.err


def test_a_configuration_with_tls_is_reached_over_tls(folder, environ):
    (folder / "c.toml").write_text('tls = { cert = "c.pem", key = "k.pem" }\n')
    found = reach.find(None, None, environ).target
    assert (str(found), found.tls) == ("https://127.0.0.1:8484", True)


def test_the_token_and_that_a_named_place_never_gets_the_configured_one(folder, environ):
    (folder / "c.toml").write_text(CONFIG)
    file = folder / "token"
    file.write_text("from-file\n")
    named = environ | {"ORCHD_AUTH_TOKEN": "from-environment"}
    assert reach.find(None, None, environ).token == "configured"
    assert reach.find("http://10.0.0.1:1", None, environ).token is None
    assert reach.find("http://10.0.0.1:1", None, named).token == "from-environment"
    assert reach.find(None, None, named).token == "from-environment"
    assert reach.find(None, file, named).token == "from-file"


@pytest.mark.parametrize("content", [b"", b"a b", b"\xff", None])
def test_a_token_file_that_cannot_be_used(folder, environ, content):
    file = folder / "token"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(OrchError, match=r"--token-file .*/token: ") as caught:
        reach.find(None, file, environ)
    assert caught.value.kind is Kind.INVALID_PARAMS


def test_the_token_is_sent(peer, orchctl, monkeypatch):
    monkeypatch.setenv("ORCHD_AUTH_TOKEN", "sesame")
    orchctl("cancel", "--url", peer.url, "0e6b8c8e-9d6e-4a52-8e6c-1fb3a3f0c001")
    assert peer.requests[0].headers["authorization"] == "Bearer sesame"


@pytest.mark.req("ORCH-3330")
def test_nobody_there(orchctl, folder):
    ran = orchctl("status", "--url", f"unix:{folder}/none.sock")
    assert ran.code == 69
    assert f"orchd cannot be reached at unix:{folder}/none.sock: cannot connect" in ran.err
    assert "Next: Start it: systemctl start orchd.socket, or orchctl up" in ran.err


@pytest.mark.req("ORCH-3330")
@pytest.mark.parametrize(
    ("cause", "advice"),
    [
        (PermissionError(13, "Permission denied"), "Join the group orchd"),
        (ssl.SSLCertVerificationError("self-signed certificate"), "--ca-file"),
        (ConnectionRefusedError(111, "Connection refused"), "Start it: "),
    ],
)
def test_who_is_kept_out_is_told_the_way_in_and_not_to_start_it(cause, advice):
    error = PeerError(Target.parse("http://127.0.0.1:1"), "connect", "cannot connect")
    error.__cause__ = OSError("no session")
    error.__cause__.__cause__ = cause
    told = reach.unreachable(error)
    assert advice in (getattr(told, "advice", None) or told.row.advice)
    assert told.kind is Kind.DAEMON_UNREACHABLE


def test_somebody_else_there(peer, orchctl):
    peer.say("GET", "/v1/pools", Response(404, b"<html>", "text/html"))
    ran = orchctl("pools", "--url", peer.url)
    assert ran.code == 76
    assert "Check that --url leads to orchd." in ran.err
    peer.say("GET", "/v1/pools", Response(200, b'{"pools": 3}'))
    ran = orchctl("pools", "--url", peer.url)
    assert ran.code == 76
    assert "does not understand: $.pools: must be a list" in ran.err


def test_a_newer_daemon_may_say_more(peer, orchctl):
    peer.say("GET", "/v1/pools", Response(200, b'{"pools": [], "added_later": 1}'))
    ran = orchctl("pools", "--json", "--url", peer.url)
    assert (ran.code, ran.out) == (0, '{"pools":[]}\n')


def test_an_url_that_is_none(orchctl):
    ran = orchctl("pools", "--url", "localhost:8484")
    assert ran.code == 65
    assert "is neither unix:/path.sock nor http[s]://host:port" in ran.err


@pytest.mark.req("ORCH-3331", "HME-032")
@pytest.mark.parametrize("kind", list(Kind))
def test_every_row_of_the_table_is_recognised_by_code_and_status(kind):
    envelope = orjson.loads(orjson.dumps(_envelope(kind)))
    told = reach.from_envelope(envelope, TABLE[kind].status)
    assert (told.row.code, told.row.status) == (TABLE[kind].code, TABLE[kind].status)
    if kind in (Kind.MISSING_TOKEN, Kind.BAD_TOKEN):  # the table's words are for programs
        assert "--token-file FILE" in str(told.advice)
    else:
        assert told.advice == TABLE[kind].advice


def _envelope(kind: Kind) -> dict[str, object]:
    row = TABLE[kind]
    return {"code": row.code, "message": "m", "hint": row.advice, "more": [1]}


def test_a_code_that_a_newer_daemon_has():
    told = reach.from_envelope({"code": "NEW", "message": "m", "retry_after_ms": "x"}, 418)
    assert (told.kind, told.message, told.advice) == (Kind.INTERNAL, "NEW: m", None)


def test_colours_only_on_a_terminal(orchctl, monkeypatch):
    monkeypatch.setenv("TERM", "xterm-256color")
    assert "\x1b" not in orchctl("status", "--url", "unix:/none.sock").err
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    monkeypatch.delenv("NO_COLOR", raising=False)
    assert "\x1b[1;31m" in orchctl("status", "--url", "unix:/none.sock").err
    monkeypatch.setenv("NO_COLOR", "1")
    assert "\x1b[1;31m" not in orchctl("status", "--url", "unix:/none.sock").err


def test_help_and_wrong_usage(orchctl):
    ran = orchctl("--help")
    assert ran.code == 0
    for verb in ("up", "run", "status", "cancel", "pools", "config"):
        assert f"\n  {verb} " in ran.out
        assert orchctl(verb, "--help").code == 0
    assert orchctl("frobnicate").code == 2
    assert orchctl("cancel", "not-a-uuid").code == 2
    assert orchctl("pools", "Not/A/Pool").code == 2
    assert main(["--version"]) == 0
