"""JSON and TOML values <-> frozen attrs classes, strictly: the suite's one cattrs converter.

Unknown keys are refused with their path, nothing is coerced ("12" is not 12, true is not 1, 1.0 is
not 1), and every fault of a value is reported at once. What the shapes are is not said here.
"""

from __future__ import annotations

import enum
import math
import re
from collections.abc import Callable, Sequence
from typing import Any, TypeVar, get_args, get_origin

import attrs
import orjson
from cattrs import BaseValidationError, ClassValidationError, Converter
from cattrs.errors import (
    ForbiddenExtraKeysError,
    IterableValidationError,
    IterableValidationNote,
)
from cattrs.gen import make_dict_structure_fn, make_dict_unstructure_fn

from orchd.wire import ids, results
from orchd.wire.errors import Kind, OrchError

T = TypeVar("T")

MAX_FAULTS = 32
"""Of one list or object: a body of 8 MB that is wrong two million times is told as quickly."""

UUID = re.compile(r"[0-9a-fA-F]{8}-(?:[0-9a-fA-F]{4}-){3}[0-9a-fA-F]{12}")


@attrs.frozen(order=True)
class Fault:
    """One thing wrong with a value, and where."""

    path: str
    message: str

    def __str__(self) -> str:
        return f"{self.path}: {self.message}"


class ShapeError(ValueError):
    """A value does not fit its class. `faults` has all of them, in the order of the fields."""

    def __init__(self, faults: Sequence[Fault]) -> None:
        super().__init__("; ".join(str(fault) for fault in faults))
        self.faults = tuple(faults)

    def as_error(self) -> OrchError:
        """Return it as the error that a client is told."""
        return OrchError(Kind.INVALID_PARAMS, str(self), path=self.faults[0].path)


class WrongValueError(ValueError):
    """A leaf value of the wrong kind; the message is for the reader of the request."""


def _shown(value: object) -> str:
    """Return a short form of a value for a message: never the whole of a prompt."""
    text = repr(value)
    return text if len(text) <= 40 else text[:37] + "..."


def _cut(name: str) -> str:
    return name if len(name) <= 80 else name[:77] + "..."


def _integer(low: int | None, high: int | None, name: str) -> Callable[[Any, Any], int]:
    def hook(value: Any, _type: Any) -> int:
        if type(value) is not int:
            raise WrongValueError(f"must be {name}, not {_shown(value)}")
        if (low is not None and value < low) or (high is not None and value > high):
            raise WrongValueError(f"must be {name}, not {_shown(value)}")
        return value

    return hook


def _number(low: float | None, name: str) -> Callable[[Any, Any], float]:
    def hook(value: Any, _type: Any) -> float:
        if type(value) not in (int, float) or not math.isfinite(value):
            raise WrongValueError(f"must be {name}, not {_shown(value)}")
        if low is not None and value < low:
            raise WrongValueError(f"must be {name}, not {_shown(value)}")
        return float(value)

    return hook


def _string(pattern: re.Pattern[str] | None, name: str) -> Callable[[Any, Any], str]:
    def hook(value: Any, _type: Any) -> str:
        if type(value) is not str or (pattern is not None and not pattern.fullmatch(value)):
            raise WrongValueError(f"must be {name}, not {_shown(value)}")
        return value

    return hook


def _uuid(value: Any, _type: Any) -> str:
    if type(value) is not str or not UUID.fullmatch(value):
        raise WrongValueError(f"must be a UUID, not {_shown(value)}")
    return value.lower()  # RFC 9562: case means nothing on input, output is lower case


def _boolean(value: Any, _type: Any) -> bool:
    if type(value) is not bool:
        raise WrongValueError(f"must be true or false, not {_shown(value)}")
    return value


def _enumeration(value: Any, cls: type[enum.Enum]) -> enum.Enum:
    for member in cls:
        if type(value) is type(member.value) and value == member.value:
            return member
    allowed = ", ".join(str(member.value) for member in cls)
    raise WrongValueError(f"must be one of {allowed}, not {_shown(value)}")


def _mask(value: Any, _type: Any) -> ids.DeviceMask:
    if type(value) is not list or any(type(item) is not int for item in value):
        raise WrongValueError(f"must be a list of GPU indices such as [0], not {_shown(value)}")
    try:
        return ids.DeviceMask(tuple(value))
    except ValueError as exc:
        raise WrongValueError(str(exc)) from None


_MAX_COUNT = 2**53 - 1  # what every JSON reader keeps exactly (RFC 8259, section 6)
_TEXT = re.compile(r"(?s).{1,4096}")  # the longest are paths: PATH_MAX
_ENGINE_ID = ids.POOL_ID  # the same letters: it stands in labels and file names too
MASK_ID = re.compile(f"{ids.POOL_ID.pattern}:{ids.MASK.pattern}")


def _make(*, closed: bool) -> Converter:
    converter = Converter(forbid_extra_keys=closed, detailed_validation=True)
    hook = converter.register_structure_hook
    hook(int, _integer(-_MAX_COUNT, _MAX_COUNT, "an integer"))
    hook(float, _number(None, "a finite number"))
    hook(str, _string(None, "a string"))
    hook(bool, _boolean)
    hook(ids.Count, _integer(0, _MAX_COUNT, "an integer of at least 0"))
    hook(ids.Positive, _integer(1, _MAX_COUNT, "an integer of at least 1"))
    hook(ids.Int64, _integer(-(2**63), 2**63 - 1, "a 64-bit integer"))
    hook(ids.NonNegative, _number(0.0, "a number of at least 0"))
    hook(ids.Text, _string(_TEXT, "a string of 1 to 4096 characters"))
    hook(ids.EngineId, _string(_ENGINE_ID, "an engine's name (a-z, 0-9 and -, at most 63)"))
    hook(ids.TaskId, _uuid)
    hook(ids.SessionId, _uuid)
    hook(ids.PoolId, _string(ids.POOL_ID, "a pool id (a-z, 0-9 and -, at most 63)"))
    hook(ids.ReplicaId, _string(MASK_ID, "POOL:MASK such as demo:0 or big:0_1"))
    hook(ids.ModelId, _string(ids.MODEL_ID, "a model id (A-Z, a-z, 0-9, . _ and -, at most 128)"))
    hook(ids.Digest, _string(ids.DIGEST, "sha256: and 64 hex digits"))
    hook(ids.ArtifactId, _string(ids.ARTIFACT_ID, "an artifact id (32 hex digits)"))
    hook(ids.Tag, _string(ids.TAG, "a word (A-Z, a-z, 0-9, . _ : / @ = + and -, at most 128)"))
    hook(ids.DeviceMask, _mask)
    converter.register_unstructure_hook(ids.DeviceMask, lambda mask: list(mask.indices))
    converter.register_unstructure_hook(results.Ready, results.Ready.as_json)
    # by class: a hook by predicate would lose against the one of str, which a StrEnum is too
    for base in (enum.Enum, enum.IntEnum, enum.StrEnum):
        hook(base, _enumeration)
        converter.register_unstructure_hook(base, lambda member: member.value)
    # cattrs iterates whatever is iterable: a string or an object is not a list here
    converter.register_structure_hook_factory(
        lambda cls: bool(get_origin(cls) is tuple and get_args(cls)[-1] is Ellipsis),  # type: ignore[comparison-overlap]
        lambda cls: _listed(converter, cls),
    )
    converter.register_structure_hook_factory(
        lambda cls: bool(get_origin(cls) is dict),  # type: ignore[comparison-overlap]
        lambda cls: _mapped(converter, cls),
    )
    converter.register_structure_hook_factory(
        attrs.has, lambda cls: _object(converter, cls, closed=closed)
    )
    converter.register_unstructure_hook_factory(attrs.has, lambda cls: _said(converter, cls))
    return converter


def _listed(converter: Converter, cls: Any) -> Callable[[Any, Any], tuple[Any, ...]]:
    """Return the hook of `tuple[T, ...]`: a JSON array, each fault with its index."""
    item_type = get_args(cls)[0]

    def hook(value: Any, _cls: Any) -> tuple[Any, ...]:
        if type(value) is not list:
            raise WrongValueError(f"must be a list, not {_shown(value)}")
        done: list[Any] = []
        wrong: list[Exception] = []
        for index, item in enumerate(value):
            try:
                done.append(converter.structure(item, item_type))
            except (ValueError, BaseValidationError) as exc:
                exc.add_note(IterableValidationNote(f"at index {index}", index, item_type))
                wrong.append(exc)
                if len(wrong) == MAX_FAULTS:
                    wrong.append(WrongValueError("has more faults"))
                    break
        if wrong:
            raise IterableValidationError("in a list", wrong, cls)
        return tuple(done)

    return hook


def _mapped(converter: Converter, cls: Any) -> Callable[[Any, Any], dict[Any, Any]]:
    """Return the hook of `dict[K, V]`: a JSON object, each fault with its key."""
    key_type, item_type = get_args(cls)

    def hook(value: Any, _cls: Any) -> dict[Any, Any]:
        if type(value) is not dict:
            raise WrongValueError(f"must be an object, not {_shown(value)}")
        done: dict[Any, Any] = {}
        wrong: list[Exception] = []
        for key, item in value.items():
            try:
                done[converter.structure(key, key_type)] = converter.structure(item, item_type)
            except (ValueError, BaseValidationError) as exc:
                where = _cut(str(key))
                exc.add_note(IterableValidationNote(f"at key {where}", where, item_type))
                wrong.append(exc)
                if len(wrong) == MAX_FAULTS:
                    wrong.append(WrongValueError("has more faults"))
                    break
        if wrong:
            raise IterableValidationError("in an object", wrong, cls)
        return done

    return hook


def _object(converter: Converter, cls: Any, *, closed: bool) -> Callable[[Any, Any], Any]:
    """Return the hook of an attrs class; `closed`: no key beside the class's own."""
    inner = make_dict_structure_fn(
        cls, converter, _cattrs_forbid_extra_keys=closed, _cattrs_detailed_validation=True
    )

    def hook(value: Any, cls_: Any) -> Any:
        if not isinstance(value, dict):
            raise WrongValueError(f"must be an object, not {_shown(value)}")
        return inner(value, cls_)

    return hook


def _said(converter: Converter, cls: Any) -> Callable[[Any], dict[str, Any]]:
    """Return the hook that turns an attrs class into a dict; None is not said."""
    inner = make_dict_unstructure_fn(cls, converter)

    def hook(value: Any) -> dict[str, Any]:
        return {key: item for key, item in inner(value).items() if item is not None}

    return hook


_CONVERTER = _make(closed=True)
_TOLERANT = _make(closed=False)


def structure(cls: type[T], value: object) -> T:
    """Return `value` (what a JSON or TOML parser gave) as a `cls`.

    Raises ShapeError with every fault of the value.
    """
    try:
        return _CONVERTER.structure(value, cls)
    except (BaseValidationError, ValueError) as exc:
        raise ShapeError(_faults(exc, "$")) from None


def loads(cls: type[T], data: bytes | bytearray | memoryview) -> T:
    """Return the JSON text `data` as a `cls`. Raises ShapeError."""
    return structure(cls, _parsed(data))


def loads_known(cls: type[T], data: bytes | bytearray | memoryview) -> T:
    """Return what `cls` knows of the JSON text `data`: answers may gain keys. Raises ShapeError."""
    value = _parsed(data)
    try:
        return _TOLERANT.structure(value, cls)
    except (BaseValidationError, ValueError) as exc:
        raise ShapeError(_faults(exc, "$")) from None


def _parsed(data: bytes | bytearray | memoryview) -> Any:
    try:
        return orjson.loads(data)
    except orjson.JSONDecodeError as exc:
        where = f"line {exc.lineno}, column {exc.colno}"
        raise ShapeError([Fault("$", f"is not JSON: {exc.msg.split(':')[0]} ({where})")]) from None


def unstructure(value: object) -> Any:
    """Return plain dicts, lists, strings and numbers; fields that are None are left out."""
    return _CONVERTER.unstructure(value)


def dumps(value: object) -> bytes:
    """Return compact JSON of an attrs instance or of plain data."""
    return orjson.dumps(_CONVERTER.unstructure(value))


def _faults(exc: BaseException, path: str) -> list[Fault]:
    if isinstance(exc, ClassValidationError):
        found: list[Fault] = []
        noted, bare = exc.group_exceptions()
        for inner, note in noted:
            found += _faults(inner, f"{path}.{note.name}")
        for inner_bare in bare:
            found += _faults(inner_bare, path)
        return found
    if isinstance(exc, IterableValidationError):
        found = []
        noted_items, bare = exc.group_exceptions()
        for inner, at in noted_items:
            found += _faults(inner, f"{path}[{at.index}]")
        for inner_bare in bare:
            found += _faults(inner_bare, path)
        return found
    if isinstance(exc, ForbiddenExtraKeysError):
        allowed = ", ".join(field.name for field in attrs.fields(exc.cl))
        names = sorted(map(str, exc.extra_fields))
        found = [
            Fault(f"{path}.{_cut(name)}", f"is not a known key (known: {allowed})")
            for name in names[:MAX_FAULTS]
        ]
        if len(names) > MAX_FAULTS:
            found.append(Fault(path, f"has {len(names) - MAX_FAULTS} more unknown keys"))
        return found
    if isinstance(exc, KeyError):
        return [Fault(path, "is required")]
    return [Fault(path, str(exc))]
