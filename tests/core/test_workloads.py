"""What embedding and rerank take, what is refused before it is queued, what is kept of results."""

from typing import Any

import pytest

from orchd.core.effects import Accepted, Finish, Refused
from orchd.core.events import Submit
from orchd.core.limits import workloads
from orchd.core.limits.workloads import Longest
from orchd.core.state.task import TOKEN_BYTES
from orchd.wire.errors import Kind
from orchd.wire.results import MAX_INPUTS, MAX_NUMBERS, Ready
from orchd.wire.shapes import Workload
from tests.core.making import House, acts, ended, only, pool, request, snapshot, uid

EMBEDDING, RERANK = Workload.EMBEDDING, Workload.RERANK
RESULT = Ready(b'{"dimension":1,"embeddings":[[1.0]]}')
ALL: dict[str, Any] = {"workloads": tuple(Workload), "embedding_dim": 4096}


def vectors(**more: Any) -> House:
    house = House.of(pool(**more))
    house.see(snapshot(**ALL))
    return house


def embed(*inputs: str, **more: Any) -> dict[str, Any]:
    return {"workload": EMBEDDING, "prompt": None, "inputs": inputs, **more}


def rank(*inputs: str, **more: Any) -> dict[str, Any]:
    return embed(*inputs, **more) | {"workload": RERANK}


@pytest.mark.parametrize(
    ("asked", "path", "words"),
    [
        (embed(), "$.inputs", "at least one text"),
        (embed("a") | {"prompt": "a"}, "$.prompt", "embedding takes inputs"),
        (embed(*"a" * (MAX_INPUTS + 1)), "$.inputs", f"at most {MAX_INPUTS}"),
        (rank("query"), "$.inputs", "the query and then at least one document"),
        ({"inputs": ("a",)}, "$.inputs", "a completion takes prompt"),
        ({"prompt": None}, "$.prompt", "is required"),
    ],
)
def test_each_workload_has_its_own_texts(asked: dict[str, Any], path: str, words: str) -> None:
    error = vectors().refuse(**asked)
    assert (error.kind, error.fields.path) == (Kind.INVALID_PARAMS, path)
    assert words in error.message


def test_a_pool_takes_what_its_replicas_serve() -> None:
    house = House.of()
    house.see()
    error = house.refuse(**embed("a"))
    assert (error.kind, error.fields.path) == (Kind.INVALID_PARAMS, "$.workload")
    assert "pool demo serves completion" in error.message


@pytest.mark.req("ORCH-3016")
@pytest.mark.parametrize(("count", "fits"), [(64, True), (65, False)])
def test_a_result_that_would_be_too_large_is_refused_before_it_is_queued(
    count: int, fits: bool
) -> None:
    house = vectors()
    assert MAX_NUMBERS == 64 * 4096
    asked = embed(*["text"] * count)
    if fits:
        house.admit(**asked)
        return
    error = house.refuse(**asked)
    assert (error.kind, error.fields.path) == (Kind.INVALID_PARAMS, "$.inputs")
    assert "send at most 64 texts" in error.message


def test_a_rerank_gives_back_scores_whatever_the_dimension() -> None:
    vectors().admit(**rank("query", *["text"] * 1000))


def test_max_tokens_means_nothing_where_nothing_is_generated() -> None:
    house = vectors(max_tokens=10)
    house.admit(1, **embed("a", max_tokens=100_000))
    assert house.refuse(2, max_tokens=11).fields.path == "$.max_tokens"


@pytest.mark.req("OC-CORE-1020", "OC-CORE-1021", "ORCH-3016")
@pytest.mark.parametrize(
    ("asked", "texts"),
    [
        (embed("a" * 997, "b"), []),
        (embed("b", "a" * 998, "\u8a00" * 333), [(1, 1), (2, 1)]),
        (rank("a" * 500, "b" * 494, "c"), []),
        (rank("a" * 500, "b" * 495, "c"), [(1, 2)]),
        (rank(), []),
        ({"workload": RERANK, "prompt": None}, []),
    ],
)
def test_only_texts_that_could_be_too_long_are_counted(
    asked: dict[str, Any], texts: list[tuple[int, int]]
) -> None:
    found = workloads.to_count(request(**asked))
    assert [(text.index, len(text.parts)) for text in found] == texts


@pytest.mark.req("OC-CORE-1020", "OC-CORE-1021", "ORCH-3016")
@pytest.mark.parametrize(
    ("asked", "words"),
    [(embed("a", "b"), "has 1001 tokens, more"), (rank("a", "b"), "1001 tokens with the query")],
)
def test_a_text_over_the_context_is_named(asked: dict[str, Any], words: str) -> None:
    house = vectors()
    only(house.send(Submit(request(1, **asked), b"", "c", "me", None, Longest(1000, 1))), Accepted)
    error = only(
        house.send(Submit(request(2, **asked), b"", "c", "me", None, Longest(1001, 1))), Refused
    ).error
    assert (error.kind, error.fields.path) == (Kind.INVALID_PARAMS, "$.inputs[1]")
    assert words in error.message


def test_a_result_is_passed_on_as_it_came_and_counts_for_what_is_kept() -> None:
    house = vectors()
    house.admit(1, **embed("a"))
    effects = house.finish(1, 0, result=RESULT, first_token_ms=None)
    assert acts(effects) == [Finish(uid(1), ended(0, result=RESULT))]
    assert house.front.world.retained_tokens == len(RESULT.json) // TOKEN_BYTES


def test_many_large_results_are_not_kept_for_long() -> None:
    house = House.of(retain_tokens=1000)
    house.see(snapshot(**ALL))
    large = Ready(b"x" * (TOKEN_BYTES * 600))
    for number in (1, 2, 3):
        house.admit(number, **embed("a"))
        house.finish(number, 0, result=large, first_token_ms=None)
    assert list(house.front.world.retained) == [uid(3)]


def test_a_result_that_crosses_a_cancel_is_dropped() -> None:
    house = vectors()
    house.admit(1, **embed("a"))
    house.cancel(1)
    assert acts(house.finish(1, 0, result=RESULT)) == []
    assert house.front.world.retained_tokens == 0
