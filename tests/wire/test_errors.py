"""The one table of errors: every kind has a row, every code of the contract is used."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from orchd.wire import codec, errors
from orchd.wire.errors import TABLE, Envelope, Kind, OrchError

# contract.md, Errors, and the statuses under POST /v1/tasks. 502: of POST /v1/fetch, which is ours.
STATUS_OF_CODE = {
    "INVALID_PARAMS": {400, 403, 404, 405, 408, 409, 413, 415, 431, 502},
    "DEADLINE_UNMET": {400},
    "MISSING_TOKEN": {401},
    "BAD_TOKEN": {401},
    "NON_LOOPBACK_WITHOUT_TOKEN": {403},
    "ADMISSION_REJECT": {429},
    "QUEUE_FULL_DROP_LRU": {429},
    "POOL_UNREADY": {503},
    "POOL_UNAVAILABLE": {503},
    "MODEL_DEPRECATED": {400},
    "UNTRUSTED_ARTIFACT": {400},
    "REPLICA_EXHAUSTED": {503, 507},
    "DECODE_TIMEOUT": {500},
    "WORKER_RESET": {500},
    "INTERNAL": {500},
}
CODES = {
    *("ADMISSION_REJECT", "QUEUE_FULL_DROP_LRU", "INVALID_PARAMS", "POOL_UNREADY"),
    *("POOL_UNAVAILABLE", "REPLICA_EXHAUSTED", "DECODE_TIMEOUT", "WORKER_RESET", "INTERNAL"),
    *("DEADLINE_UNMET", "MODEL_DEPRECATED", "UNTRUSTED_ARTIFACT"),
}
AUTH = {
    Kind.MISSING_TOKEN: 40101,
    Kind.BAD_TOKEN: 40102,
    Kind.NON_LOOPBACK_WITHOUT_TOKEN: 40301,
}


@pytest.mark.req("OC-CTRL-2030")
def test_every_kind_has_a_row_and_every_code_is_the_contracts():
    assert set(TABLE) == set(Kind)
    used = {row.code for row in TABLE.values()}
    assert used == set(STATUS_OF_CODE)
    assert used - {"MISSING_TOKEN", "BAD_TOKEN", "NON_LOOPBACK_WITHOUT_TOKEN"} == CODES


@pytest.mark.req("OC-CTRL-2030", "ORCH-3330")
@pytest.mark.parametrize("kind", Kind)
def test_a_row_is_whole(kind):
    row = TABLE[kind]
    assert row.status in STATUS_OF_CODE[row.code]
    assert row.auth_code == AUTH.get(kind)
    assert 64 <= row.exit_code <= 78 or row.exit_code == 130, "sysexits.h, or 128 + SIGINT"
    assert row.advice.endswith("."), "advice is a sentence"
    assert row.advice[0].isupper() or row.advice.split(" ")[0].islower()
    if row.status in (429, 503):
        assert row.retriable
    if row.status in (401, 403, 404, 405, 413, 415, 431):
        assert not row.retriable


@pytest.mark.req("HME-032", "OC-CTRL-2031", "OC-CTRL-2032")
@pytest.mark.parametrize("kind", Kind)
def test_the_envelope_says_what_happened_where_and_what_to_do_next(kind):
    error = OrchError(kind, "what happened", engine="mock", pool_id="demo", retry_after_ms=1500)
    said = codec.unstructure(error.envelope())
    assert said["code"] == TABLE[kind].code
    assert said["message"] == str(error) == "what happened"
    assert said["hint"] == TABLE[kind].advice
    assert said["retriable"] is TABLE[kind].retriable
    assert (said["engine"], said["pool_id"], said["retry_after_ms"]) == ("mock", "demo", 1500)
    assert codec.structure(Envelope, said) == error.envelope()


def test_a_field_that_was_not_given_is_not_said():
    said = codec.unstructure(OrchError(Kind.INTERNAL, "m").envelope())
    assert set(said) == {"code", "message", "hint", "retriable"}


def test_where_adds_and_keeps():
    first = OrchError(Kind.QUEUE_FULL, "full", retry_after_ms=5, policy_label="reject")
    more = first.where(pool_id="demo")
    assert more.envelope().pool_id == "demo"
    assert more.envelope().policy_label == "reject"
    assert first.envelope().pool_id is None


def constants(node: ast.AST) -> Iterator[ast.Constant]:
    """Every constant but those that something is only compared with."""
    if isinstance(node, ast.Constant):
        yield node
    elif not isinstance(node, ast.Compare):
        for inner in ast.iter_child_nodes(node):
            yield from constants(inner)


def test_no_other_module_invents_an_envelope():
    """`OrchError` is made of a Kind; codes as strings stand in the table's file alone."""
    product = [*Path(errors.__file__).parents[1].rglob("*.py")]
    product += [*(Path(errors.__file__).parents[2] / "poolmgr").rglob("*.py")]
    codes = set(STATUS_OF_CODE)
    found = [
        f"{path.name}:{node.lineno} {node.value!r}"
        for path in product
        if path != Path(errors.__file__)
        for node in constants(ast.parse(path.read_text()))
        if node.value in codes
    ]
    assert found == []
