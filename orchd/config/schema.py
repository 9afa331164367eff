"""The top of the configuration: the file's keys, and what is in force of them.

`File` is what the TOML file may say; `Settings` is what is in force once flags, environment, file
and defaults have been put together (load.py). What stands in its sections is in pool.py, devices.py
and serving.py, all frozen classes with their defaults; checks across keys are in checks.py. The
docstring under a field is its description in contracts/config.schema.json.
"""

from __future__ import annotations

import ipaddress
from pathlib import Path
from typing import Final

from attrs import frozen

from orchd.config.devices import Devices
from orchd.config.policy import Policy
from orchd.config.pool import Pool, is_file_ref
from orchd.config.serving import ArtifactBounds, Sessions, Sse, Throttle, Tls
from orchd.wire.ids import PoolId, Positive, ReplicaId, Text
from orchd.wire.modelref import is_remote

DEFAULT_BIND: Final = "127.0.0.1:8484"


@frozen(repr=False)
class Secret:
    """A string that no repr, log line or error shows."""

    _value: str

    def reveal(self) -> str:
        """Return the string itself, to be compared or sent."""
        return self._value

    def __repr__(self) -> str:
        return "Secret(...)"

    __str__ = __repr__


@frozen(kw_only=True)
class Common:
    """The keys that mean the same in the file and in force."""

    bind_addr: str = DEFAULT_BIND
    """IP:PORT or localhost:PORT. Beyond loopback only with an auth_token. Env: ORCHD_ADDR."""
    auth_optional: bool = False
    """With a token configured, let callers over loopback and the unix socket come without it."""
    throttle: Throttle = Throttle()
    queued_prompts_mb: Positive = Positive(256)
    """MiB of memory for the prompts of all waiting tasks; a task over it is answered 429."""
    trust_proxy_auth: bool = False
    """Believe a reverse proxy on this machine that names, in X-Forwarded-User, a user whom it let
    in. Any program of this machine can say so too: the proxy must be the only one that reaches
    orchd, and must remove the header from what clients send."""
    cors_origins: tuple[Text, ...] = ()
    """Web pages of this machine that may ask from a browser, such as "http://localhost:5173"."""
    cancel_on_disconnect: bool = True
    """Cancel a task when its last reader leaves before the end."""
    devices: Devices = Devices()
    sse: Sse = Sse()
    artifacts: ArtifactBounds = ArtifactBounds()
    sessions: Sessions = Sessions()
    policy: Policy = Policy()
    tls: Tls | None = None
    """Without it the TCP address speaks plain HTTP/1.1 and HTTP/2."""
    pools: tuple[Pool, ...] = ()


@frozen(kw_only=True)
class File(Common):
    """orchd's configuration file (TOML)."""

    state_dir: Text | None = None
    """Where the catalog and artifacts are kept. Env: ORCHD_STATE_DIR."""
    run_dir: Text | None = None
    """Where sockets are: orchd/orchd.sock and poolmgr/ below it. Env: ORCHD_RUN_DIR."""
    auth_token: Text | None = None
    """The bearer token, or file:/path of a file that holds it; LoadCredential= hides it better."""


@frozen(kw_only=True)
class Settings(Common):
    """What is in force."""

    state_dir: Path
    run_dir: Path
    auth_token: Secret | None = None
    source: Path | None = None
    """The file that was read; None: there was none."""

    @property
    def bind(self) -> tuple[str, int]:
        """Return host and port of `bind_addr`."""
        return parse_bind(self.bind_addr)

    @property
    def front_socket(self) -> Path:
        """Return orchd's unix socket."""
        return self.run_dir / "orchd" / "orchd.sock"

    def pool_socket(self, replica_id: ReplicaId) -> Path:
        """Return the unix socket of the poolmgr of this replica."""
        return self.run_dir / "poolmgr" / f"{replica_id}.sock"

    def engine_socket(self, replica_id: ReplicaId, seat: int = 0) -> Path:
        """Return the unix socket of the engine that this replica's poolmgr starts.

        `seat` is 0 or 1: during a reload two engines may run.
        """
        return self.run_dir / "poolmgr" / f"{replica_id}.engine{seat or ''}.sock"

    def reloaded_file(self, replica_id: ReplicaId) -> Path:
        """Return where this replica's poolmgr keeps which model it was reloaded with."""
        return self.run_dir / "poolmgr" / f"{replica_id}.model"

    def pool(self, pool_id: PoolId) -> Pool:
        """Return the pool of this id. Raises KeyError."""
        for pool in self.pools:
            if pool.id == pool_id:
                return pool
        raise KeyError(pool_id)

    def model_path(self, pool: Pool) -> Path | None:
        """Return the model's file; None where `model.ref` names none (mock, external, fetched)."""
        if not is_file_ref(pool) or is_remote(pool.model.ref):
            return None
        return self._beside(pool.model.ref.removeprefix("file:"))

    @property
    def tls_files(self) -> tuple[Path, Path] | None:
        """Return certificate and key; None: no TLS. Relative paths begin at the file's folder."""
        return (
            None if self.tls is None else (self._beside(self.tls.cert), self._beside(self.tls.key))
        )

    @property
    def base(self) -> Path:
        """Return the folder where relative paths begin: the file's."""
        return self.source.parent if self.source else Path.cwd()

    def _beside(self, name: str) -> Path:
        return self.base / name


def parse_bind(text: str) -> tuple[str, int]:
    """Split IP:PORT, [IP]:PORT or localhost:PORT. Raises ValueError that says the form."""
    host, colon, port = text.rpartition(":")
    host = host.removeprefix("[").removesuffix("]") if host.startswith("[") else host
    if host == "localhost":
        host = "127.0.0.1"
    wrong = ValueError(f"must be IP:PORT, [IPV6]:PORT or localhost:PORT, not {text!r}")
    if not colon or not port.isascii() or not port.isdigit() or int(port) > 65535:
        raise wrong
    try:
        ipaddress.ip_address(host)
    except ValueError:
        raise wrong from None
    return host, int(port)
