"""The strict converter: bad inputs with their exact paths, all at once; nothing is coerced."""

import re
from typing import Any

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchd.wire import codec, control, ids, shapes, snapshot
from orchd.wire.errors import Kind
from tests.wire import golden

CLASSES: dict[str, type[Any]] = {
    cls.__name__: cls
    for room in (shapes, control, snapshot)
    for cls in vars(room).values()
    if isinstance(cls, type) and attrs.has(cls)
}
TASK = golden.load("shapes/TaskRequest.json")


def faults(cls: type, value: object) -> list[str]:
    with pytest.raises(codec.ShapeError) as raised:
        codec.structure(cls, value)
    return [str(fault) for fault in raised.value.faults]


@pytest.mark.parametrize("name", golden.names("shapes", ".json"))
def test_a_golden_body_is_its_class_and_is_written_back_the_same(name):
    plain = golden.load(f"shapes/{name}.json")
    value = codec.structure(CLASSES[name], plain)
    assert codec.unstructure(value) == plain
    assert codec.loads(CLASSES[name], codec.dumps(value)) == value


@pytest.mark.req("OC-CONFIG-6001")
@pytest.mark.parametrize(
    ("change", "fault"),
    [
        ({"ctx": "12"}, "$.ctx: must be an integer of at least 1, not '12'"),
        ({"ctx": True}, "$.ctx: must be an integer of at least 1, not True"),
        ({"ctx": 12.0}, "$.ctx: must be an integer of at least 1, not 12.0"),
        ({"ctx": 0}, "$.ctx: must be an integer of at least 1, not 0"),
        ({"ctx": None}, "$.ctx: must be an integer of at least 1, not None"),
        ({"ctx": 2**53}, f"$.ctx: must be an integer of at least 1, not {2**53}"),
        ({"seed": 2**63}, f"$.seed: must be a 64-bit integer, not {2**63}"),
        ({"seed": 1.5}, "$.seed: must be a 64-bit integer, not 1.5"),
        ({"prompt": 7}, "$.prompt: must be a string, not 7"),
        ({"prompt": ["a"]}, "$.prompt: must be a string, not ['a']"),
        ({"model_ref": ""}, "$.model_ref: must be a string of 1 to 4096 characters, not ''"),
        ({"task_id": "1"}, "$.task_id: must be a UUID, not '1'"),
        ({"priority": "urgent"}, "$.priority: must be one of interactive, batch, not 'urgent'"),
        ({"priority": "Batch"}, "$.priority: must be one of interactive, batch, not 'Batch'"),
        ({"workload": 1}, "$.workload: must be one of completion, embedding, rerank, not 1"),
        ({"inputs": "abc"}, "$.inputs: must be a list, not 'abc'"),
        ({"inputs": {"0": "a"}}, "$.inputs: must be a list, not {'0': 'a'}"),
        ({"inputs": ["a", 1]}, "$.inputs[1]: must be a string, not 1"),
        ({"placement": []}, "$.placement: must be an object, not []"),
        ({"placement": {"mode": "pinned"}},
         "$.placement.mode: must be one of auto, pin, prefer, not 'pinned'"),
        ({"placement": {"prefer_pools": ["ok", "NO"]}},
         "$.placement.prefer_pools[1]: must be a pool id (a-z, 0-9 and -, at most 63), not 'NO'"),
        ({"placement": {"allow_fallback": 1}},
         "$.placement.allow_fallback: must be true or false, not 1"),
        ({"placement": {"require_device_mask": [1, 0]}},
         "$.placement.require_device_mask: "
         "a device mask lists each GPU once, in ascending order"),
        ({"placement": {"require_device_mask": []}},
         "$.placement.require_device_mask: a device mask names at least one GPU"),
        ({"placement": {"require_device_mask": [True]}},
         "$.placement.require_device_mask: must be a list of GPU indices such as [0], not [True]"),
        ({"placement": {"x": 1}},
         "$.placement.x: is not a known key (known: mode, pin_pool_id, prefer_pools, "
         "avoid_pools, require_device_mask, allow_fallback)"),
    ],
    ids=lambda case: str(case)[:40],
)  # fmt: skip
def test_a_bad_field_is_told_with_its_path(change, fault):
    assert faults(shapes.TaskRequest, {**TASK, **change}) == [fault]


@pytest.mark.parametrize(
    ("cls", "value", "fault"),
    [
        (snapshot.Cause, {"kind": "sad", "message": "", "advice": ""}, "$.kind: must be one of"),
        (control.QueueDepths, {"interactive": -1, "batch": 0},
         "$.interactive: must be an integer of at least 0, not -1"),
        (control.QueueDepths, {"interactive": 0}, "$.batch: is required"),
        (control.QueueDepths, [], "$: must be an object, not []"),
        (control.QueueDepths, None, "$: must be an object, not None"),
        (shapes.MetricsFrame, {"queue_depth": 0, "on_time_probability": "1"},
         "$.on_time_probability: must be a finite number, not '1'"),
        (shapes.MetricsFrame, {"queue_depth": 0, "on_time_probability": float("nan")},
         "$.on_time_probability: must be a finite number, not nan"),
        (shapes.MetricsFrame, {"queue_depth": 0, "on_time_probability": True},
         "$.on_time_probability: must be a finite number, not True"),
        (control.WorkerRegistration,
         {**golden.load("shapes/WorkerRegistration.json"), "replica_id": "demo"},
         "$.replica_id: must be POOL:MASK such as demo:0 or big:0_1, not 'demo'"),
    ],
    ids=lambda case: str(case)[:40],
)  # fmt: skip
def test_other_shapes_are_as_strict(cls, value, fault):
    (told,) = faults(cls, value)
    assert told.startswith(fault)


def test_every_fault_is_told_at_once_in_the_order_of_the_fields():
    wrong = {**TASK, "task_id": 1, "ctx": "x", "placement": {"mode": 0}, "zebra": 1, "apple": 2}
    del wrong["session_id"]
    paths = [fault.split(":")[0] for fault in faults(shapes.TaskRequest, wrong)]
    assert paths == [
        *("$.task_id", "$.session_id", "$.ctx", "$.placement.mode", "$.apple", "$.zebra"),
    ]


def test_a_number_without_a_point_is_a_number():
    frame = codec.structure(shapes.MetricsFrame, {"queue_depth": 0, "on_time_probability": 1})
    assert type(frame.on_time_probability) is float


@pytest.mark.parametrize("name", golden.names("shapes", ".json"))
def test_a_reader_of_answers_passes_over_keys_that_it_does_not_know(name):
    plain = golden.load(f"shapes/{name}.json")
    newer = codec.dumps(_with_new_keys(plain))
    assert codec.loads_known(CLASSES[name], newer) == codec.structure(CLASSES[name], plain)
    assert any("is not a known key" in f for f in faults(CLASSES[name], _with_new_keys(plain)))


def _with_new_keys(value: Any) -> Any:
    if isinstance(value, dict):
        known = {key: _with_new_keys(item) for key, item in value.items()}
        of_data = not value or "interactive" in value  # maps, whose keys are no fields
        return known if of_data else known | {"added_later": [1]}
    if isinstance(value, list):
        return [_with_new_keys(item) for item in value]
    return value


def test_a_reader_of_answers_is_as_strict_with_what_it_knows():
    with pytest.raises(codec.ShapeError, match=r"\$\.pools: must be a list, not 3"):
        codec.loads_known(control.Pools, b'{"pools": 3, "added_later": 1}')
    with pytest.raises(codec.ShapeError, match="is not JSON"):
        codec.loads_known(control.Pools, b"{")


def test_a_bomb_of_faults_is_told_in_part_and_soon():
    wrong = {**TASK, "inputs": [0] * 300_000, **{f"k{n}": n for n in range(100_000)}}
    told = faults(shapes.TaskRequest, wrong)
    assert len(told) <= 2 * codec.MAX_FAULTS + 2
    assert "$.inputs: has more faults" in told
    assert f"$: has {100_000 - codec.MAX_FAULTS} more unknown keys" in told
    assert len("".join(told)) < 64 << 10


@pytest.mark.parametrize("name", ["k" * 1_000_000, "model_ref", "engine"])
def test_a_long_name_is_not_repeated(name):
    told = faults(shapes.TaskRequest, {**TASK, name: "x" * 1_000_000})
    assert len("".join(told)) < 500


def test_a_long_value_is_not_repeated():
    (told,) = faults(shapes.TaskRequest, {**TASK, "seed": "secret " * 100})
    assert len(told) < 100
    assert told.endswith("...")


@pytest.mark.parametrize("text", [b"", b"{", b"{'a': 1}", b'{"a": NaN}', b"\xff", b'{"a":1} x'])
def test_what_is_not_json_is_told_so(text):
    with pytest.raises(codec.ShapeError, match=r"^\$: is not JSON: .*line \d+, column \d+"):
        codec.loads(shapes.TaskRequest, text)


def test_a_shape_error_is_a_400_with_the_first_path():
    with pytest.raises(codec.ShapeError) as raised:
        codec.structure(shapes.TaskRequest, {**TASK, "ctx": 0, "seed": "x"})
    error = raised.value.as_error()
    assert (error.kind, error.fields.path) == (Kind.INVALID_PARAMS, "$.ctx")
    assert "$.seed" in error.message


def test_none_is_not_said():
    assert codec.dumps(shapes.Timings(queue_time_ms=ids.Count(1))) == b'{"queue_time_ms":1}'
    assert codec.dumps({"plain": [1, None]}) == b'{"plain":[1,null]}'


ANY_JSON = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=3)),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=3,
)
FIELDS = st.sampled_from([field.name for field in attrs.fields(shapes.TaskRequest)])


@given(st.dictionaries(FIELDS, ANY_JSON, max_size=3))
def test_no_input_does_more_than_fail_with_its_faults(change):
    """Whatever JSON brings: a request of the right types, or faults of the changed fields."""
    told: set[str] = set()
    try:
        request = codec.structure(shapes.TaskRequest, {**TASK, **change})
    except codec.ShapeError as exc:
        told = {re.split(r"[.\[]", fault.path)[1] for fault in exc.faults}
    else:
        assert type(request.ctx) is int
        assert type(request.priority) is shapes.Priority
    assert told <= set(change)
