"""Finding orchd and asking it: which socket, which token, and its errors as ours."""

from __future__ import annotations

import contextlib
import os
import re
import ssl
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any, Final, TypeVar, TypeVarTuple

import click
import orjson
import trio
from attrs import frozen

from orchd.config.load import load
from orchd.config.schema import DEFAULT_BIND, Settings
from orchd.kit.client import Answer, Client, PeerError, Target
from orchd.kit.message import Limits
from orchd.wire import codec
from orchd.wire.errors import TABLE, Kind, OrchError

T = TypeVar("T")
Ts = TypeVarTuple("Ts")
F = TypeVar("F", bound=Callable[..., Any])

SYSTEM_SOCKET: Final = Path("/run/orchd/orchd.sock")
ANSWER_S: Final = 10.0
MAX_TEXT: Final = Limits().body_bytes
"""Of a prompt or an artifact: what orchd takes as a body."""
MAX_TOKEN_BYTES: Final = 4096
JSON: Final = click.option("--json", "as_json", is_flag=True, help="One JSON object, for programs.")
"""Of every verb that reads."""
CA_FILE: Final = "orchd.ca_file"  # in the context of a verb: each of them may need it


@frozen
class Where:
    """How to reach the daemon."""

    target: Target
    token: str | None


def run(where: Where, function: Callable[[Client, *Ts], Awaitable[T]], *args: *Ts) -> T:
    """Run `function(client, *args)` in trio and return what it returns; the client is closed."""

    async def main() -> T:
        client = Client(where.target, token=where.token)
        try:
            return await function(client, *args)
        finally:
            client.close()

    return trio.run(main)


def options(command: F) -> F:
    """Add --url, --ca-file and --token-file to a verb."""
    for option in (
        click.option(
            "--token-file",
            type=click.Path(path_type=Path, dir_okay=False),
            metavar="FILE",
            help="File with the bearer token. Else ORCHD_AUTH_TOKEN, else the configured one.",
        ),
        click.option(
            "--url",
            metavar="URL",
            help="unix:/path.sock or http[s]://HOST:PORT of orchd. Else ORCHD_URL, else found.",
        ),
        click.option(
            "--ca-file",
            type=click.Path(path_type=Path, dir_okay=False),
            metavar="FILE",
            envvar="ORCHD_CA_FILE",
            help="PEM file to verify an https URL with. Else ORCHD_CA_FILE, else the system.",
            expose_value=False,
            callback=_keep_ca,
        ),
    ):
        command = option(command)
    return command


def find(
    url: str | None,
    token_file: Path | None,
    environ: Mapping[str, str] = os.environ,
    settings: Settings | None = None,
) -> Where:
    """Return where orchd is: --url, ORCHD_URL, its unix sockets if there, else TCP.

    `settings` are those of a verb that has read a configuration. Raises OrchError(INVALID_PARAMS)
    for a URL or a token that cannot be used.
    """
    named = url or environ.get("ORCHD_URL")
    settings = None if named else settings or _settings(environ)
    token = _token(token_file, environ)
    if named:
        try:
            return Where(Target.parse(named, _ca()), token)
        except ValueError as exc:
            raise OrchError(Kind.INVALID_PARAMS, f"--url: {exc}") from None
    if token is None and settings is not None and settings.auth_token is not None:
        token = settings.auth_token.reveal()  # the configured daemon's own; never for a named URL
    sockets = [settings.front_socket] if settings is not None else []
    for path in (*sockets, SYSTEM_SOCKET):
        if path.exists():
            return Where(Target.unix(path), token)
    bind = settings.bind_addr if settings is not None else DEFAULT_BIND
    scheme = "https" if settings is not None and settings.tls is not None else "http"
    return Where(Target.parse(f"{scheme}://{_reachable(bind)}", _ca()), token)


def _keep_ca(context: click.Context, _option: click.Parameter, ca: Path | None) -> None:
    context.meta[CA_FILE] = ca


def _ca() -> Path | None:
    context = click.get_current_context(silent=True)
    ca = context.meta.get(CA_FILE) if context is not None else None
    return ca if isinstance(ca, Path) else None


def _reachable(bind: str) -> str:
    """Return the loopback address for a daemon that listens on every address."""
    return re.sub(r"^(0\.0\.0\.0|\[::\]):", "127.0.0.1:", bind)


def _settings(environ: Mapping[str, str]) -> Settings | None:
    """Return the settings, if this user can read them: a client needs none."""
    with contextlib.suppress(OrchError):
        return load(environ=environ)
    return None


def _token(token_file: Path | None, environ: Mapping[str, str]) -> str | None:
    if token_file is None:
        return environ.get("ORCHD_AUTH_TOKEN") or None
    try:
        with token_file.open("rb") as stream:
            token = stream.read(MAX_TOKEN_BYTES).decode("ascii").strip()
    except (OSError, UnicodeDecodeError) as exc:
        reason = exc.strerror if isinstance(exc, OSError) else "it is not ASCII"
        raise OrchError(Kind.INVALID_PARAMS, f"--token-file {token_file}: {reason}") from None
    if not re.fullmatch(r"[\x21-\x7e]+", token):
        raise OrchError(Kind.INVALID_PARAMS, f"--token-file {token_file}: holds no usable token")
    return token


_HERE: Final[Mapping[Kind, str]] = {
    Kind.MISSING_TOKEN: "Name the file that holds it: --token-file FILE, or set ORCHD_AUTH_TOKEN.",
    Kind.BAD_TOKEN: "Name the file with the token that orchd runs with: --token-file FILE, or set "
    "ORCHD_AUTH_TOKEN.",
}
"""What to do next in orchctl, where the advice of the table is for programs."""


class ToldError(OrchError):
    """An error that orchd told us: its message and advice, and the row they belong to."""

    def __init__(self, kind: Kind, message: str, advice: str | None, **fields: Any) -> None:
        super().__init__(kind, message, **fields)
        self.advice = advice


def unreachable(error: PeerError) -> OrchError:
    """Return a PeerError as what the operator is told."""
    message = f"orchd cannot be reached at {error.target}: {error.why}"
    return ToldError(Kind.DAEMON_UNREACHABLE, message, _way_in(error))


def _way_in(error: PeerError) -> str | None:
    """Return what helps where orchd runs but lets nobody in; None: the advice of the table."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, PermissionError):
            return (
                "Join the group orchd (sudo usermod -aG orchd $USER, then log in anew), or ask "
                "over TCP: --url http://127.0.0.1:8484."
            )
        if isinstance(cause, ssl.SSLCertVerificationError):
            return "Name the PEM file of its CA, or its own certificate: --ca-file FILE."
        cause = cause.__cause__
    return None


async def ask(
    client: Client,
    method: str,
    path: str,
    body: bytes | None = None,
    *,
    good: frozenset[int] = frozenset(),
) -> Answer:
    """Return the answer if its status is 2xx or in `good`. Raises OrchError."""
    try:
        answer = await client.request(method, path, body, deadline_s=ANSWER_S)
    except PeerError as exc:
        raise unreachable(exc) from exc
    if not 200 <= answer.status < 300 and answer.status not in good:
        raise refused(answer.status, answer.body)
    return answer


async def fetch(
    client: Client, cls: type[T], path: str, *, good: frozenset[int] = frozenset()
) -> T:
    """GET `path` as a `cls`. Raises OrchError."""
    answer = await ask(client, "GET", path, good=good)
    return understood(cls, answer.body)


def understood(cls: type[T], data: bytes) -> T:
    """Return a body as its class, without what a newer daemon adds to it.

    Raises OrchError(ENGINE_PROTOCOL) when it is none.
    """
    try:
        return codec.loads_known(cls, data)
    except codec.ShapeError as exc:
        raise ToldError(
            Kind.ENGINE_PROTOCOL,
            f"the daemon gave an answer that this orchctl does not understand: {exc}",
            "Compare orchctl --version with the daemon's, shown by orchctl status.",
        ) from exc


def refused(status: int, body: bytes) -> ToldError:
    """Return the error of an answer that is none of 2xx."""
    try:
        told = orjson.loads(body)
    except orjson.JSONDecodeError:
        told = None
    if not isinstance(told, dict) or not isinstance(told.get("code"), str):
        return ToldError(
            Kind.MALFORMED_HTTP,
            f"answered {status} without an error of OrchQueue",
            "Check that --url leads to orchd.",
        )
    return from_envelope(told, status)


def from_envelope(told: Mapping[str, Any], status: int | None = None) -> ToldError:
    """Return an envelope (an answer's body or an error frame's data) as an error.

    Its row is the first with this code and, where known, this status and this advice.
    """
    code = told.get("code")
    rows = [kind for kind, row in TABLE.items() if row.code == code]
    exact = [kind for kind in rows if TABLE[kind].status == status]
    hinted = [kind for kind in exact if TABLE[kind].advice == told.get("hint")]
    kind = (hinted or exact or rows or [Kind.INTERNAL])[0]
    hint, wait = _HERE.get(kind, told.get("hint")), told.get("retry_after_ms")
    label = f" ({told['policy_label']})" if isinstance(told.get("policy_label"), str) else ""
    return ToldError(
        kind,
        f"{code}{label}: {told.get('message', 'no message')}",
        hint if isinstance(hint, str) else None,
        retry_after_ms=wait if isinstance(wait, int) else None,
    )
