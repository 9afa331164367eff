"""The gate: who is asked, what an error means, what is counted and told, and what is loaded."""

from __future__ import annotations

import datetime as dt
import subprocess
import sys
from pathlib import Path

import pytest
import trio

import orchd.policy
from orchd.config.policy import Plugin as Configured
from orchd.kit import log
from orchd.policy import gate
from orchd.policy.gate import Denied
from orchd.policy.hook import Outbound
from orchd.policy.rules import Rules
from orchd.wire.address import parse
from orchd.wire.errors import Kind, OrchError
from orchd.wire.ids import Positive, Text
from orchd.wire.policy import OnError, What
from tests.policy.modules import answer, configured, module, question

LOOP = "(loop br 0) (unreachable)"
BOTH = (What.OUTBOUND, What.ADMISSION)
NO = module(answer(2), reason="no")


def opened(*plugins: Configured) -> gate.Gate:
    found = gate.load(plugins)
    assert found is not None
    return found


@pytest.mark.req("POLICY-4001")
def test_without_plugins_nothing_is_there_and_nothing_is_imported() -> None:
    assert gate.load(()) is None
    code = (
        "import sys, orchd.daemon\n"
        "from orchd.config.policy import Policy\n"
        "from orchd.edge.policies import Policies\n"
        "assert not Policies(Policy()).decide_tasks\n"
        "assert not any(name.startswith('wasmtime') for name in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], check=False, timeout=60)
    assert done.returncode == 0


@pytest.mark.req("POLICY-4001", "POLICY-4002")
async def test_all_that_decide_are_asked_until_one_denies(tmp_path: Path) -> None:
    it = opened(
        configured(tmp_path, "tasks", NO, decides=(What.ADMISSION,)),
        configured(tmp_path, "first", module()),
        configured(tmp_path, "second", NO, decides=BOTH),
        configured(tmp_path, "third", module()),
    )
    assert await it.judge(question()) == Denied("second", "no")
    assert it.decisions == {("first", "allow"): 1, ("second", "deny"): 1}
    assert await it.judge(question(what=What.ADMISSION)) == Denied("tasks", "no")
    assert it.decides(What.ADMISSION)
    only = opened(configured(tmp_path, "first", module()))
    assert await only.judge(question()) is None
    assert not only.decides(What.ADMISSION)


@pytest.mark.req("POLICY-4014", "POLICY-4022", "POLICY-4023")
@pytest.mark.parametrize(
    ("bad", "said"),
    [
        (module(LOOP), "it took more than its 50000 fuel"),
        (module("(unreachable)"), "it trapped: unreachable"),
        (module(answer(9)), "it answers nothing that can be read: its verdict is 9"),
    ],
)
async def test_an_error_is_what_on_error_says_and_is_told(
    tmp_path: Path, bad: bytes, said: str
) -> None:
    for on_error in OnError:
        keys = {"on_error": on_error, "fuel": Positive(50_000)}
        it = opened(configured(tmp_path, "bad", bad, **keys))
        with log.capture() as events:
            denied = await it.judge(question(host="a.b", via="http", identity="uid:7"))
        (event,) = [each for each in events if each["event"] == "policy_error"]
        assert (event["level"], event["plugin"], event["identity"]) == ("warning", "bad", "uid:7")
        assert said in event["reason"]
        assert it.decisions == {("bad", "error"): 1}
        if on_error is OnError.DENY:
            assert denied is not None
            assert said in denied.reason
            assert event["human"].startswith(
                "Policy plugin bad has not decided on http to a.b, so it is denied: it "
            )
        else:
            assert denied is None
        assert it.fuel["bad",] >= (50_000 if "fuel" in said else 1)


@pytest.mark.req("POLICY-4014")
async def test_the_loop_turns_while_plugins_decide(tmp_path: Path) -> None:
    """Four at once are in threads that hold no lock of Python's; the others wait for theirs."""
    keys = {"fuel": Positive(100_000_000), "deadline_ms": Positive(300)}
    it = opened(configured(tmp_path, "slow", module(LOOP), **keys))
    turns = 0
    async with trio.open_nursery() as nursery:
        for _ in range(gate.AT_ONCE + 2):
            nursery.start_soon(it.judge, question())
        began = trio.current_time()
        while trio.current_time() - began < 0.25:
            await trio.sleep(0.005)
            turns += 1
    assert turns >= 5
    assert it.decisions == {("slow", "error"): gate.AT_ONCE + 2}
    assert trio.current_time() - began >= 0.5  # two rounds


@pytest.mark.req("POLICY-4022", "POLICY-4023")
async def test_each_decision_is_counted_with_its_fuel_and_a_denial_is_told(tmp_path: Path) -> None:
    it = opened(configured(tmp_path, "no", NO), configured(tmp_path, "yes", module()))
    with log.capture() as events:
        await it.judge(question(host="a.b", via="http", purpose="model m"))
    (event,) = events
    assert (event["event"], event["level"]) == ("policy_denied", "info")
    assert event["human"] == "Policy plugin no denies http to a.b: no."
    assert (event["purpose"], event["host"], event["what"]) == ("model m", "a.b", "outbound")
    assert it.fuel == {("no",): event["fuel"]}
    assert event["fuel"] > 0


def test_the_time_of_a_question_is_the_machine_s(tmp_path: Path) -> None:
    zone = dt.timezone(dt.timedelta(hours=2))
    at = dt.datetime(2026, 11, 22, 0, 30, tzinfo=zone)  # a Sunday there, and Saturday in UTC
    loaded = gate._load([configured(tmp_path, "x", module())])[0]
    it = gate.Gate(loaded, lambda: at)
    assert it.when() == (int(at.timestamp()), 30, 6)


@pytest.mark.req("POLICY-4020", "POLICY-4021")
def test_what_cannot_be_loaded_is_told_with_its_key(tmp_path: Path) -> None:
    good = configured(tmp_path, "good", module())
    gone = configured(tmp_path, "gone", module(), path=Text(str(tmp_path / "none.wasm")))
    other = configured(tmp_path, "other", module(), sha256=Text("0" * 64))
    wants = configured(
        tmp_path, "wants", module(more='(import "wasi_snapshot_preview1" "fd_write" (func))')
    )
    large = configured(
        tmp_path, "large", module(memory='(memory (export "memory") 17)'), memory_mb=Positive(1)
    )
    found = gate.faults([good, gone, other, wants, large])
    assert [fault.path for fault in found] == [
        "$.policy.plugins[1].path",
        "$.policy.plugins[2].sha256",
        "$.policy.plugins[3].path",
        "$.policy.plugins[4].path",
    ]
    assert "wants: imports wasi_snapshot_preview1.fd_write" in found[2].message
    with pytest.raises(OrchError) as caught:
        gate.load([good, other])
    assert caught.value.kind is Kind.CONFIG_INVALID
    assert "$.policy.plugins[1].sha256: other: is another file" in caught.value.message


def test_without_wasmtime_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "wasmtime", None)
    monkeypatch.delitem(sys.modules, "orchd.policy.sandbox")
    monkeypatch.delattr(orchd.policy, "sandbox")
    (fault,) = gate.faults([Configured(name=Text("x"), path=Text("/x"), sha256=Text("0"))])
    assert fault.path == "$.policy.plugins"
    assert "pip install 'orchd[plugins]'" in fault.message


@pytest.mark.req("POLICY-4001", "ORCH-3206")
async def test_the_door_asks_the_plugins_after_the_rules(tmp_path: Path) -> None:
    """And never where the rules forbid: a plugin opens nothing."""
    it = opened(configured(tmp_path, "no", NO))
    door = Outbound(Rules(allow=("a.b",)), "model demo", lambda: 0.0, gate=it)
    with log.capture() as events:
        with pytest.raises(OrchError) as caught:
            await door.wait_permit(parse("https://a.b/x?key=SECRET"))
        with pytest.raises(OrchError) as also:
            door.permit(parse("https://a.b/x"), via="git")
        with pytest.raises(OrchError) as ruled:
            await door.wait_permit(parse("https://c.d/"))
    said = "model demo: https://a.b is denied by the policy plugin no: no"
    assert caught.value.message == also.value.message == said
    assert caught.value.kind is Kind.OUTBOUND_DENIED
    assert "named neither" in ruled.value.message
    assert it.decisions == {("no", "deny"): 2}
    told = [event for event in events if event["event"] == "outbound_denied"]
    assert [event["rule"] for event in told] == ["policy.plugins: no", "policy.outbound.allow"]
    assert "SECRET" not in str(events)


async def test_a_plugin_for_tasks_is_not_asked_about_requests(tmp_path: Path) -> None:
    it = opened(configured(tmp_path, "no", NO, decides=(What.ADMISSION,)))
    door = Outbound(Rules(allow=("a.b",)), "x", lambda: 0.0, gate=it)
    assert door.permit(parse("https://a.b/")) == 0
    await door.wait_permit(parse("https://a.b/"))
    assert not it.decisions


@pytest.mark.req("POLICY-4002")
async def test_what_is_asked_of_a_request_has_no_query(tmp_path: Path) -> None:
    """The module allows only what has the path /x, by its length and its last byte."""
    at = "(i32.add (local.get $at) (i32.const 88))"  # path: address, then length
    decide = (
        f"(if (i32.eq (i32.load offset=4 {at}) (i32.const 2)) (then (if (i32.eq (i32.load8_u"
        f" offset=1 (i32.load {at})) (i32.const 120)) (then (return {answer(1)})))))" + answer(2)
    )
    it = opened(configured(tmp_path, "path", module(decide)))
    door = Outbound(Rules(allow=("a.b",)), "x", lambda: 0.0, gate=it)
    await door.wait_permit(parse("https://a.b/x?secret"))
    with pytest.raises(OrchError):
        await door.wait_permit(parse("https://a.b/y"))
