"""Policy plugins as WebAssembly text: honest ones, and ones that do what none should."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import wasmtime

from orchd.config.policy import Plugin as Configured
from orchd.policy.question import Question
from orchd.policy.sandbox import Bounds, Plugin
from orchd.wire.ids import Count, Text
from orchd.wire.policy import What

REASON_AT = 1024
ANSWER_AT = 2048
ROOM_AT = 4096


def answer(verdict: int, at: int = REASON_AT, length: int = 2) -> str:
    """Code that stores an answer and leaves its address."""
    return (
        f"(i32.store (i32.const {ANSWER_AT}) (i32.const {verdict}))"
        f"(i32.store (i32.const {ANSWER_AT + 4}) (i32.const {at}))"
        f"(i32.store (i32.const {ANSWER_AT + 8}) (i32.const {length}))"
        f"(i32.const {ANSWER_AT})"
    )


def module(
    decide: str = answer(1),
    *,
    version: str = "(i32.const 1)",
    alloc: str = f"(i32.const {ROOM_AT})",
    more: str = "",
    memory: str = '(memory (export "memory") 2)',
    reason: str = "ok",
) -> bytes:
    """A module that has all exports; `decide` is the body, with the question's address in $at."""
    text = f"""(module {more} {memory}
      (data (i32.const {REASON_AT}) "{reason}")
      (func (export "orchd_abi_version") (result i32) {version})
      (func (export "orchd_alloc") (param $size i32) (result i32) {alloc})
      (func (export "orchd_decide") (param $at i32) (result i32) {decide}))"""
    return bytes(wasmtime.wat2wasm(text))


def bounds(**changes: Any) -> Bounds:
    usual = {"fuel": 1_000_000, "memory_bytes": 1 << 20, "deadline_s": 1.0}
    return Bounds(**usual | changes)


def plugin(code: bytes | None = None, *args: str, **limits: Any) -> Plugin:
    return Plugin(module() if code is None else code, bounds(**limits), args)


def question(**changes: Any) -> Question:
    said: dict[str, Any] = {
        "what": What.OUTBOUND,
        "time_unix_s": Count(1_780_000_000),
        "minute_of_day": Count(600),
        "weekday": Count(2),
    }
    return Question(**said | changes)


def configured(folder: Path, name: str, code: bytes, **keys: Any) -> Configured:
    """Write a module, and return its entry of the configuration."""
    path = folder / f"{name}.wasm"
    path.write_bytes(code)
    digest = hashlib.sha256(code).hexdigest()
    said = {"path": Text(str(path)), "sha256": Text(digest)} | keys
    return Configured(name=Text(name), **said)
