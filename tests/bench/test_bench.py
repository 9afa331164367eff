"""The benchmark runs: real daemons, a load, figures that make sense. Not: how large they are."""

from __future__ import annotations

import pytest

from tests.lab.needs import require
from tools.bench import engine, requests, staging
from tools.bench.baselines import NGINX
from tools.bench.figures import SUITE, Figure, markdown
from tools.bench.house import Shape, house
from tools.bench.orders import Api, Mode, Order
from tools.bench.run import load


@pytest.mark.slow
@pytest.mark.req("PERF-BENCH")
def test_the_suite_is_measured_beside_its_engine() -> None:
    with house(Shape(slots=4)) as home:
        first = load(Order(mode=Mode.FIRST, targets=(home.bare, home.tasks), tasks=3, max_tokens=2))
        order = Order(
            mode=Mode.STREAMS,
            targets=(home.tasks,),
            pids=home.daemons,
            streams=2,
            max_tokens=50,
            again=True,
            warm_s=0.1,
            window_s=0.4,
        )
        (window,) = load(order).windows
        (posts,) = load(
            Order(mode=Mode.ANSWERS, targets=(home.tasks,), tasks=5, max_tokens=2)
        ).samples
    assert len(posts.ms) == 5
    assert min(posts.ms) > 0
    bare, tasks = (samples.ms for samples in first.samples)
    assert len(bare) == len(tasks) == 3
    assert 0 < min(bare) < min(tasks)
    assert window.tasks > 0
    # windows cut tasks at both ends: each of the two streams may be off by one task
    assert abs(window.tokens - 50 * window.tasks) <= 2 * 50
    assert all(0 < cpu < window.wall_s * 1.2 for cpu in window.cpu_s)


@pytest.mark.slow
def test_an_answer_that_is_none_is_no_figure() -> None:
    with house(Shape(slots=1, queue=1, hang=True)) as home:
        order = Order(
            mode=Mode.ADMISSIONS, targets=(home.tasks,), pids=(home.orchd,), windows=(1, 9)
        )
        with pytest.raises(RuntimeError, match="429"):
            load(order)


@pytest.mark.slow
@pytest.mark.req("PERF-BENCH")
def test_fetching_is_measured_beside_curl(monkeypatch: pytest.MonkeyPatch) -> None:
    require([NGINX])
    monkeypatch.setattr(staging, "SIZE", 9 << 20)
    figures = staging.staging(1)
    assert {figure.who for figure in figures} >= {"curl", "orchd.fetch"}
    assert len(figures) == 12
    assert all(figure.value > 0 for figure in figures)


def test_each_frame_is_a_chunk_of_its_own() -> None:
    assert engine.chunks(b"data: 1\n\ndata: 22\n\n") == (
        b"9\r\ndata: 1\n\n\r\na\r\ndata: 22\n\n\r\n"
    )


def test_a_whole_answer_is_told_from_a_part() -> None:
    answer = b"HTTP/1.1 202 Accepted\r\nContent-Length: 3\r\n\r\nabc"
    sizes = [requests.answer_size(answer[:end]) for end in range(len(answer) + 1)]
    assert sizes == [None] * len(answer) + [len(answer)]
    assert requests.answer_size(answer + b"rest") == len(answer)


def test_marks_stand_once_in_a_frame_of_their_api() -> None:
    suite = b'id: 3\nevent: token\ndata: {"t":"event: token","i":0}\n\n'
    assert suite.count(requests.MARKS[Api.TASKS]) == 1


def test_a_table_says_which_goals_are_met() -> None:
    figures = [
        Figure(section="S", what="cost", who=SUITE, runs=(1.0, 3.0, 2.0), goal=1.5),
        Figure(section="S", what="cost", who="other", runs=(5000.0,)),
        Figure(section="S", what="rate", who=SUITE, runs=(2.0,), goal=1.5, at_least=True),
    ]
    table = markdown(figures)
    assert "| cost | **2 (1 to 3)** | 5,000 | at most 1.5: **not met** |" in table
    assert "| rate | **2** |  | at least 1.5: met |" in table
