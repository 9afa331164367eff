"""`orchctl policy test`, and what `orchctl config check` says of plugins."""

from __future__ import annotations

import hashlib
from pathlib import Path

import orjson
import pytest

from tests.policy.modules import answer, module

EXAMPLES = Path(__file__).resolve().parents[2] / "packaging" / "examples" / "plugins"
HOSTS = str(EXAMPLES / "hosts.wasm")
ASKED = {"what": "outbound", "time_unix_s": 0, "minute_of_day": 0, "weekday": 0, "host": "a.hf.co"}


@pytest.mark.req("POLICY-SDK-4110", "POLICY-SDK-4111")
def test_it_shows_decision_reason_and_fuel(orchctl, folder):
    file = folder / "q.json"
    file.write_bytes(orjson.dumps(ASKED))
    ran = orchctl("policy", "test", HOSTS, str(file), "--arg", "suffix=.hf.co")
    assert (ran.code, ran.out.startswith("allow: a host that is known (")) == (0, True)
    ran = orchctl("policy", "test", HOSTS, str(file), "--arg", "suffix=.x", "--json")
    said = orjson.loads(ran.out)
    assert (ran.code, said["allowed"]) == (77, False)
    assert said["reason"] == "the host is below none of the suffixes"
    assert said["fuel"] > 0
    ran = orchctl("policy", "test", HOSTS, str(file), "--fuel", "10", "--arg", "suffix=.x")
    assert (ran.code, "took more than its 10 fuel" in ran.err) == (65, True)


@pytest.mark.req("POLICY-SDK-4110")
@pytest.mark.parametrize(
    ("code", "asked", "said"),
    [
        (b"junk", ASKED, "it is not core WebAssembly"),
        (module("(unreachable)"), ASKED, "it trapped: unreachable"),
        (module(answer(7)), ASKED, "its verdict is 7"),
        (module(), ASKED | {"what": "x"}, "$.what: must be one of outbound, admission"),
        (module(), ASKED | {"hst": "x"}, "$.hst: is not a known key"),
        (module(), [], "must be an object"),
    ],
)
def test_what_cannot_be_asked_is_said(orchctl, folder, code, asked, said):
    (folder / "p.wasm").write_bytes(code)
    (folder / "q.json").write_bytes(orjson.dumps(asked))
    ran = orchctl("policy", "test", str(folder / "p.wasm"), str(folder / "q.json"))
    assert (ran.code, said in ran.err) == (65, True), ran.err


def configuration(path: Path, sha256: str) -> str:
    return (
        f'[[policy.plugins]]\nname = "hosts"\npath = "{path}"\nsha256 = "{sha256}"\n'
        'args = ["suffix=.hf.co"]\n'
    )


@pytest.mark.req("POLICY-4020", "POLICY-4021")
def test_config_check_loads_the_plugins_and_names_the_key(orchctl, folder):
    file = folder / "c.toml"
    good = hashlib.sha256(Path(HOSTS).read_bytes()).hexdigest()
    file.write_text(configuration(Path(HOSTS), good))
    ran = orchctl("config", "check", str(file))
    assert ran.code == 0, ran.err
    assert "hosts decides outbound, on error deny" in ran.out
    file.write_text(configuration(Path(HOSTS), "0" * 64))
    ran = orchctl("config", "check", str(file))
    assert (ran.code, "$.policy.plugins[0].sha256: hosts: is another file" in ran.err) == (78, True)
    wants = folder / "w.wasm"
    wants.write_bytes(module(more='(import "wasi_snapshot_preview1" "fd_write" (func))'))
    digest = hashlib.sha256(wants.read_bytes()).hexdigest()
    file.write_text(configuration(wants, digest))
    said = orjson.loads(orchctl("config", "check", "--json", str(file)).out)
    assert said["errors"][0]["path"] == "$.policy.plugins[0].path"
    assert "imports wasi_snapshot_preview1.fd_write" in said["errors"][0]["message"]
