"""One plugin: a WebAssembly module that is given nothing but the question, and its bounds.

The only module that knows wasmtime, an extra that is imported when a plugin is configured. What is
asked and what an answer leads to is gate.py's; the bytes are abi.py's.
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import wasmtime
from attrs import frozen

from orchd.policy import abi
from orchd.policy.question import Decision, PluginError, Question

MAX_FILE: Final = 4 << 20
MAX_STACK: Final = 256 << 10  # of wasm frames; wasmtime's own default is 512 KiB
MAX_TABLE: Final = 10_000
"""Entries of a table: of functions that are called by pointer."""
CORE: Final = b"\0asm\1\0\0\0"
TICK_S: Final = 0.01
IDLE_S: Final = 1.0
_I32: Final = "i32"
EXPORTS: Final = {
    "orchd_abi_version": ([], [_I32]),
    "orchd_alloc": ([_I32], [_I32]),
    "orchd_decide": ([_I32], [_I32]),
}


@frozen(kw_only=True)
class Bounds:
    """Of one decision."""

    fuel: int
    memory_bytes: int
    deadline_s: float


def read(path: Path) -> bytes:
    """Return the file's bytes. Raises PluginError: not readable, or too large."""
    try:
        with path.open("rb") as file:
            data = file.read(MAX_FILE + 1)
    except OSError as exc:
        raise PluginError(f"cannot be read from {path}: {exc.strerror}") from None
    if len(data) > MAX_FILE:
        raise PluginError(f"is larger than {MAX_FILE >> 20} MiB: {path}")
    return data


def check_same(module: bytes, sha256: str) -> None:
    """Raise PluginError when it is another file."""
    found = hashlib.sha256(module).hexdigest()
    if found != sha256:
        raise PluginError(f"is another file: its sha256 is {found}")


class Plugin:
    """A compiled module. `decide` may be called from several threads at once."""

    def __init__(self, module: bytes, bounds: Bounds, args: Sequence[str] = ()) -> None:
        """Compile and try it. Raises PluginError for what is no plugin of this ABI."""
        if module[: len(CORE)] != CORE:
            raise PluginError("is not core WebAssembly (a component, or text, is none)")
        self._bounds = bounds
        self._args = tuple(args)
        self._engine = wasmtime.Engine(_config())
        self._ticker = _Ticker(self._engine)
        try:
            self._module = wasmtime.Module(self._engine, module)
        except wasmtime.WasmtimeError as exc:
            raise PluginError(f"cannot be compiled: {_first_line(exc)}") from None
        for needed in self._module.imports:
            raise PluginError(
                f"imports {needed.module}.{needed.name}: a plugin may import nothing, for what it "
                "decides may depend on the question alone"
            )
        self._check_exports()
        with _Run(self) as run:
            version = run.call("orchd_abi_version")
        if version != abi.VERSION:
            raise PluginError(f"speaks version {version} of the ABI, and orchd {abi.VERSION}")

    def decide(self, question: Question) -> Decision:
        """Return what it decides: the same for the same question. Raises PluginError.

        Blocks for as long as the bounds allow.
        """
        size = abi.size_of(question, self._args)
        if size > abi.MAX_QUESTION:
            raise PluginError(f"was not asked: {size} bytes are over {abi.MAX_QUESTION}")
        with _Run(self) as run:
            at = run.call("orchd_alloc", size)
            if at == 0:
                raise PluginError(f"has no room for a question of {size} bytes")
            run.check_inside(at, size, "its buffer for the question")
            run.write(at, abi.packed(question, self._args, at))
            answer_at = run.call("orchd_decide", at)
            try:
                allowed, reason_at, length = abi.verdict(run.read(answer_at, abi.ANSWER.size))
                reason = run.read(reason_at, length) if length else b""
                return abi.decision(allowed, reason, run.fuel())
            except abi.NoAnswerError as exc:
                raise PluginError(f"answers nothing that can be read: {exc}") from None

    def _check_exports(self) -> None:
        there = {each.name: each.type for each in self._module.exports}
        if not isinstance(there.get("memory"), wasmtime.MemoryType):
            raise PluginError("exports no memory")
        for name, (takes, gives) in EXPORTS.items():
            kind = there.get(name)
            if not isinstance(kind, wasmtime.FuncType):
                raise PluginError(f"exports no function {name}")
            if ([str(t) for t in kind.params], [str(t) for t in kind.results]) != (takes, gives):
                form = f"({', '.join(takes)}) -> {', '.join(gives)}"
                raise PluginError(f"exports {name} that is not {form}")


def _config() -> wasmtime.Config:
    config = wasmtime.Config()
    # The interpreter: nothing becomes executable, which orchd.service forbids (adr/0006).
    config.target = "pulley64"
    config.consume_fuel = True
    config.epoch_interruption = True
    config.max_wasm_stack = MAX_STACK
    config.wasm_threads = False
    config.wasm_relaxed_simd = False
    config.wasm_memory64 = False
    config.cranelift_nan_canonicalization = True
    config.parallel_compilation = False  # threads that stay; a plugin is small
    return config


class _Run:
    """One instance: made, asked and thrown away, so that nothing is left of a decision."""

    def __init__(self, plugin: Plugin) -> None:
        self._plugin = plugin
        self._bounds = plugin._bounds
        self._store = wasmtime.Store(plugin._engine)

    def __enter__(self) -> _Run:
        bounds, store = self._bounds, self._store
        store.set_fuel(bounds.fuel)
        store.set_limits(
            memory_size=bounds.memory_bytes,
            table_elements=MAX_TABLE,
            instances=1,
            tables=4,
            memories=1,
        )
        self._plugin._ticker.begin()
        try:
            # the current tick is a part of one
            store.set_epoch_deadline(int(bounds.deadline_s / TICK_S) + 1)
            self._exports = wasmtime.Instance(store, self._plugin._module, []).exports(store)
        except (wasmtime.WasmtimeError, wasmtime.Trap) as exc:
            failed = self._failed(exc)
            self.__exit__(failed)
            raise failed from None
        memory = self._exports["memory"]
        assert isinstance(memory, wasmtime.Memory), "checked when it was loaded"
        self._memory = memory
        return self

    def __exit__(self, *raised: object) -> None:
        for exc in raised:
            if isinstance(exc, PluginError):
                exc.fuel = self.fuel()
        self._plugin._ticker.end()
        self._store.close()

    def call(self, name: str, *numbers: int) -> int:
        """Return what an export answers, as u32. Raises PluginError."""
        function = self._exports[name]
        assert isinstance(function, wasmtime.Func), "checked when it was loaded"
        try:
            answer = function(self._store, *numbers)
        except (wasmtime.WasmtimeError, wasmtime.Trap) as exc:
            raise self._failed(exc) from None
        assert isinstance(answer, int), "its type says so"
        return answer & abi.MAX_U32

    def write(self, at: int, data: bytes) -> None:
        """Write what was checked to be inside."""
        self._memory.write(self._store, data, at)

    def read(self, at: int, size: int) -> bytes:
        """Raises PluginError where that is outside its memory."""
        self.check_inside(at, size, "its answer")
        return bytes(self._memory.read(self._store, at, at + size))

    def fuel(self) -> int:
        """Return what has been taken."""
        return self._bounds.fuel - self._store.get_fuel()

    def check_inside(self, at: int, size: int, what: str) -> None:
        """Raise PluginError where that is outside its memory."""
        there = self._memory.data_len(self._store)
        if at + size > there:
            why = f"{what} at {at} ({size} bytes) is outside its memory of {there}"
            raise PluginError(f"lies: {why}")

    def _failed(self, exc: Exception) -> PluginError:
        code = exc.trap_code if isinstance(exc, wasmtime.Trap) else None
        if code is wasmtime.TrapCode.OUT_OF_FUEL:
            return PluginError(f"took more than its {self._bounds.fuel} fuel")
        if code is wasmtime.TrapCode.INTERRUPT:
            return PluginError(f"took longer than {self._bounds.deadline_s * 1000:g} ms")
        if code is not None:
            return PluginError(f"trapped: {code.name.lower().replace('_', ' ')}")
        return PluginError(f"cannot be run: {_first_line(exc)}")


class _Ticker:
    """Counts the engine's epochs while decisions run: by them the wall clock ends one.

    Its thread leaves when nobody has decided anything for IDLE_S.
    """

    def __init__(self, engine: wasmtime.Engine) -> None:
        self._engine = engine
        self._running = 0
        self._change = threading.Condition()
        self._thread: threading.Thread | None = None

    def begin(self) -> None:
        with self._change:
            self._running += 1
            if self._thread is None:
                self._thread = threading.Thread(target=self._tick, name="plugins", daemon=True)
                self._thread.start()
            elif self._running == 1:
                self._change.notify()

    def end(self) -> None:
        with self._change:
            self._running -= 1

    def _tick(self) -> None:
        while True:
            with self._change:
                if not self._change.wait_for(lambda: self._running > 0, IDLE_S):
                    self._thread = None
                    return
                self._change.wait(TICK_S)
            self._engine.increment_epoch()


def _first_line(exc: Exception) -> str:
    """Return the cause in one line: wasmtime tells a chain of them."""
    return " ".join(line.strip() for line in str(exc).splitlines() if line.strip())[:300]
