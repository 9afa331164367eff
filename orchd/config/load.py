"""Read the configuration: flag over environment over file over default [CONF-PRECEDENCE].

Everything wrong is reported at once, each fault with its place. The secret is never shown. What the
keys are is in schema.py and beside it, what must hold between them in checks.py.
"""

from __future__ import annotations

import contextlib
import difflib
import os
import re
import tomllib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, get_args

import attrs
from xdg import BaseDirectory

from orchd.config import checks, folders, positions
from orchd.config.faults import ConfigError, ConfigFault
from orchd.config.pool import MOCK, Pool
from orchd.config.schema import Common, File, Secret, Settings
from orchd.wire import codec, ids
from orchd.wire.codec import Fault
from orchd.wire.ids import DeviceMask

SYSTEM_FILE: Final = Path("/etc/orchd/orchd.toml")
MAX_FILE_BYTES: Final = 1 << 20  # a thousand pools are 200 kB; more is not a configuration
_UNKNOWN_KEY: Final = "is not a known key"  # how wire.codec begins such a fault
MAX_TOKEN_BYTES: Final = 4096  # h11 and we take headers of 32 kB; a token is under 100 bytes
ENVIRONMENT: Final = {
    "bind_addr": "ORCHD_ADDR",
    "state_dir": "ORCHD_STATE_DIR",
    "run_dir": "ORCHD_RUN_DIR",
}


def load(
    path: Path | None = None,
    *,
    environ: Mapping[str, str] = os.environ,
    overrides: Mapping[str, object] = {},
) -> Settings:
    """Return what is in force. `overrides`: top-level keys that flags gave (None: not given).

    Raises ConfigError with every fault.
    """
    return _Loading(path, environ, overrides).run()


def default_file(environ: Mapping[str, str] = os.environ) -> Path | None:
    """Return the file that is read when no flag names one; None: there is none."""
    if named := environ.get("ORCHD_CONFIG"):
        return Path(named)
    if os.geteuid() != 0:
        own = Path(environ.get("XDG_CONFIG_HOME") or BaseDirectory.xdg_config_home)
        with contextlib.suppress(PermissionError):  # a service user's HOME is nobody's business
            if (own / "orchd" / "orchd.toml").exists():
                return own / "orchd" / "orchd.toml"
    return SYSTEM_FILE if SYSTEM_FILE.exists() else None


class _Loading:
    """One load: what was read, where each part came from, and what is wrong with it."""

    def __init__(
        self, path: Path | None, environ: Mapping[str, str], overrides: Mapping[str, object]
    ) -> None:
        self.path = path or default_file(environ)
        self.environ = environ
        self.text = ""
        self.faults: list[ConfigFault] = []
        self.origin: dict[str, str] = {}
        """Top-level key -> where it came from, unless that is the file."""
        self.raw: dict[str, Any] = self._read_file()
        for key, name in ENVIRONMENT.items():
            if environ.get(name):
                self.raw[key], self.origin[key] = environ[name], f"environment {name}"
        for key, value in overrides.items():
            if value is not None:
                self.raw[key], self.origin[key] = value, f"flag {key}"

    def run(self) -> Settings:
        token = self._token()
        wrong: list[Fault] = []
        try:
            file = codec.structure(File, self.raw)
        except codec.ShapeError as exc:
            wrong += exc.faults
            file = _salvage(File, self.raw)
        run_dir = self._run_dir(file)
        state_dir = Path(file.state_dir) if file.state_dir else folders.state_dir(self.environ)
        echoes = _echoes(wrong)
        wrong += [
            fault
            for fault in checks.check(file, has_token=token is not None, run_dir=run_dir)
            if not echoes(fault)
        ]
        lines = positions.find(self.text) if wrong else {}
        wrong.sort(key=lambda fault: positions.nearest(lines, fault.path))
        self.faults += [self._placed(fault, lines) for fault in wrong]
        if self.faults:
            raise ConfigError(self.faults)
        common = {each.name: getattr(file, each.name) for each in attrs.fields(Common)}
        common["pools"] = tuple(_with_replicas(pool) for pool in file.pools)
        return Settings(
            state_dir=state_dir.absolute(),
            run_dir=run_dir.absolute(),
            auth_token=token,
            source=self.path,
            **common,
        )

    def _run_dir(self, file: File) -> Path:
        if file.run_dir:
            return Path(file.run_dir)
        path, fault = folders.run_dir(self.environ)
        if fault is not None:
            self.faults.append(ConfigFault("default", "$.run_dir", fault))
        return path

    def _read_file(self) -> dict[str, Any]:
        if self.path is None:
            return {}
        try:
            with self.path.open("rb") as stream:
                data = stream.read(MAX_FILE_BYTES + 1)
        except OSError as exc:
            raise ConfigError([self._whole(f"cannot be read: {exc.strerror}")]) from exc
        if len(data) > MAX_FILE_BYTES:
            raise ConfigError([self._whole(f"is larger than {MAX_FILE_BYTES >> 20} MiB")])
        try:
            # TOML ends lines with LF or CRLF; universal newlines would also split at a lone CR
            self.text = data.decode("utf-8").replace("\r\n", "\n")
            return tomllib.loads(self.text)
        except UnicodeDecodeError as exc:
            line = data.count(b"\n", 0, exc.start) + 1
            raise ConfigError([self._whole("is not UTF-8", line)]) from exc
        except (tomllib.TOMLDecodeError, RecursionError) as exc:
            found = re.search(r"at line (\d+)", str(exc))
            line = int(found[1]) if found else 1 + self.text.count("\n")
            raise ConfigError([self._whole(f"is not TOML: {_said(exc)}", line)]) from exc

    def _whole(self, message: str, line: int | None = None) -> ConfigFault:
        where = str(self.path) if line is None else f"{self.path}:{line}"
        return ConfigFault(where, "$", message)

    def _placed(self, fault: Fault, lines: dict[str, int]) -> ConfigFault:
        key = fault.path.removeprefix("$.").partition(".")[0].partition("[")[0]
        if key in self.origin:
            where = self.origin[key]
        elif self.path is None:
            where = "defaults"
        else:
            where = f"{self.path}:{positions.nearest(lines, fault.path)}"
        return ConfigFault(where, fault.path, _explained(fault))

    def _token(self) -> Secret | None:
        """Return the token of the first source that has one: credential, environment, file."""
        in_file = self.raw.pop("auth_token", None)
        folder = self.environ.get("CREDENTIALS_DIRECTORY")
        if folder and (credential := Path(folder) / "auth_token").exists():
            return self._token_from(credential, "credential auth_token")
        if value := self.environ.get("ORCHD_AUTH_TOKEN"):
            return self._token_of(value, "environment ORCHD_AUTH_TOKEN")
        if in_file is None:
            return None
        line = positions.nearest(positions.find(self.text), "$.auth_token")
        where = self.origin.get("auth_token", f"{self.path}:{line}")
        if not isinstance(in_file, str) or not in_file:
            self.faults.append(
                ConfigFault(where, "$.auth_token", "must be a string that is not empty")
            )
            return None
        if in_file.startswith("file:"):
            return self._token_from(Path(in_file.removeprefix("file:")), where)
        return self._token_of(in_file, where)

    def _token_from(self, path: Path, where: str) -> Secret | None:
        try:
            with path.open("rb") as stream:
                data = stream.read(MAX_TOKEN_BYTES)
        except OSError as exc:
            message = f"cannot be read from {path}: {exc.strerror}"
            self.faults.append(ConfigFault(where, "$.auth_token", message))
            return None
        return self._token_of(data.decode("latin-1").strip("\r\n \t"), where)

    def _token_of(self, text: str, where: str) -> Secret | None:
        if fault := checks.token_fault(text):
            self.faults.append(ConfigFault(where, "$.auth_token", fault))
            return None
        return Secret(text)


def _fields(cls: type) -> list[tuple[str, Any, bool]]:
    """Return name and type of each field, and whether it is required."""
    found = attrs.fields(attrs.resolve_types(cls))
    return [(each.name, each.type, each.default is attrs.NOTHING) for each in found]


def _salvage(cls: type[codec.T], raw: object) -> codec.T:
    """Return a `cls` of whatever in `raw` fits; a required key that does not gets a stand-in.

    It serves to check the rest across keys, so that one run shows every fault.
    """
    given = raw if isinstance(raw, dict) else {}
    kept: dict[str, Any] = {}
    for name, kind, required in _fields(cls):
        item = (get_args(kind) or (None,))[0]
        value = given.get(name)
        try:
            if name in given:
                kept[name] = codec.structure(kind, value)
        except codec.ShapeError:
            if isinstance(value, list) and attrs.has(item) and item is not DeviceMask:
                kept[name] = tuple(_salvage(item, each) for each in value)
            elif attrs.has(kind):
                kept[name] = _salvage(kind, value)
        if name not in kept and required:
            kept[name] = _salvage(kind, {}) if attrs.has(kind) else STAND_INS[kind]
    return cls(**kept)


STAND_INS: Final[Mapping[Any, Any]] = {
    ids.PoolId: "mock",
    ids.EngineId: MOCK,
    ids.Text: "x",
    ids.Positive: 2**53 - 1,
    ids.Count: 0,
}
"""Type of a required key -> a value that no check minds."""


def _echoes(wrong: Sequence[Fault]) -> Callable[[Fault], bool]:
    """Return whether a fault across keys may only be there because its keys are among `wrong`."""
    bad = {_section(each.path) for each in wrong if not each.message.startswith(_UNKNOWN_KEY)}

    def echo(fault: Fault) -> bool:
        section = _section(fault.path).replace(".tensor_split", ".replicas")
        return any(section == each or section.startswith(each + ".") for each in bad)

    return echo


def _section(path: str) -> str:
    """Return the key of a pool, or the top-level key, at `path`; devices is short for replicas."""
    found = re.match(r"\$\.pools\[\d+\](\.[^.\[]+)?|\$\.[^.\[]+", path)
    section = found[0] if found else path
    return section.replace("].devices", "].replicas")


def _explained(fault: Fault) -> str:
    """Return the fault's message with a hint where we know what was meant."""
    message, key = fault.message, fault.path.rpartition(".")[2]
    if message.startswith(_UNKNOWN_KEY):
        known = message.partition("(known: ")[2].rstrip(")").split(", ")
        if close := difflib.get_close_matches(key, known, n=1):
            return f"{message}; did you mean {close[0]}?"
    return message


def _said(exc: Exception) -> str:
    return "it is nested too deeply" if isinstance(exc, RecursionError) else str(exc)


def _with_replicas(pool: Pool) -> Pool:
    if pool.devices is None:
        return pool
    return attrs.evolve(pool, replicas=(pool.devices,), devices=None)
