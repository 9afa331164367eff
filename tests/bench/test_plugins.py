"""What a plugin's decision costs is measured, and its fuel is the same each time."""

from __future__ import annotations

import pytest

from tools.bench import plugins


@pytest.mark.req("PERF-BENCH", "POLICY-4003")
def test_a_decision_of_each_example_is_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plugins, "DECISIONS", 3)
    first, again = plugins.decisions(1), plugins.decisions(1)
    assert [(one.what, one.who) for one in first] == [
        ("rules alone", "CPU (us)"),
        ("hosts.wasm", "CPU (us)"),
        ("models.wasm", "CPU (us)"),
        ("hosts.wasm", "fuel"),
        ("models.wasm", "fuel"),
    ]
    assert all(one.value > 0 for one in first)
    fuel = [[one.value for one in figures if one.who == "fuel"] for figures in (first, again)]
    assert fuel[0] == fuel[1]
