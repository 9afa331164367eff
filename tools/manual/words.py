"""The prose of the man pages that no table holds: what the programs are for, files, environment."""

from __future__ import annotations

from typing import Final

ENVIRONMENT: Final[tuple[tuple[str, str, tuple[str, ...]], ...]] = (
    ("ORCHD_CONFIG", "The configuration file.", ("orchctl", "orchd", "poolmgr")),
    ("ORCHD_ADDR", "In the place of `bind_addr`.", ("orchd",)),
    ("ORCHD_RUN_DIR", "In the place of `run_dir`.", ("orchctl", "orchd", "poolmgr")),
    ("ORCHD_STATE_DIR", "In the place of `state_dir`.", ("orchd", "poolmgr")),
    (
        "ORCHD_AUTH_TOKEN",
        "The bearer token, unless a credential `auth_token` in `$CREDENTIALS_DIRECTORY` is there.",
        ("orchctl", "orchd", "poolmgr"),
    ),
    ("ORCHD_LOG", "How to log: `auto`, `json`, `pretty` or `journal`.", ("orchd", "poolmgr")),
    ("ORCHD_URL", "Where orchd is, in the place of `--url`.", ("orchctl",)),
    ("ORCHD_CA_FILE", "In the place of `--ca-file`.", ("orchctl",)),
    ("NO_COLOR", "No colours, whatever the terminal can do.", ("orchctl", "orchd", "poolmgr")),
)
"""Variable, meaning, and the programs that read it."""

FILES: Final[tuple[tuple[str, str, tuple[str, ...]], ...]] = (
    (
        "/etc/orchd/orchd.toml",
        "The configuration: orchd.toml(5). A user's own is `$XDG_CONFIG_HOME/orchd/orchd.toml`.",
        ("orchctl", "orchd", "poolmgr", "orchd.toml"),
    ),
    (
        "/etc/credstore/orchd.auth_token",
        "The bearer token, where one is wanted; readable by root alone.",
        ("orchd", "poolmgr"),
    ),
    ("/run/orchd/orchd.sock", "Where local clients come in (group orchd).", ("orchctl", "orchd")),
    ("/run/poolmgr/", "Sockets of the pools and of their engines.", ("poolmgr",)),
    ("/var/lib/orchd/", "The catalog of models and the artifacts.", ("orchd",)),
    ("/var/lib/poolmgr/", "What running out of VRAM has taught.", ("poolmgr",)),
    ("/var/cache/orchd/", "Compiled kernels, and caches of the engines.", ("poolmgr",)),
    ("/usr/share/orchd/", "The schema of the configuration, and OpenAPI documents.", ("orchd",)),
)
"""Path, meaning, and the pages that list it."""

ORCHCTL: Final = """
orchctl speaks orchd's public API. It looks for orchd at `--url`, then `ORCHD_URL`, then the unix
socket of the configuration, then `/run/orchd/orchd.sock`, then the configured TCP address.

Answers go to stdout, all else to stderr. An error says what went wrong, whose fault it is, when
to try again, and what to type next.
"""

ORCHD: Final = """
orchd admits tasks of local clients, queues them, places them on the pools of this machine's
NVIDIA GPUs, and relays the tokens as server-sent events over HTTP/1.1 and HTTP/2. It has no GPU
code and opens no network of its own: systemd passes it its sockets (`orchd.socket`); without
systemd it binds what is configured. `orchctl up` runs it with its pools in a terminal.
"""

ORCHD_SIGNALS: Final = (
    (
        "SIGTERM, SIGINT",
        "Stop in order: nothing new is admitted, running tasks get 15 s. The second one ends it at "
        "once.",
    ),
    (
        "SIGHUP",
        "Under systemd: read the configuration again. New pools are taken in; the log names what "
        "needs a restart.",
    ),
)

POOLMGR: Final = """
poolmgr serves one replica of a pool: one model on one device mask. It checks the devices, starts
the engine as its child, watches it, and speaks to orchd on its unix socket. systemd runs one for
each replica of the configuration as `poolmgr@POOL:MASK.service`, which is active once the model
is loaded and has passed its self-test.
"""

POOLMGR_SIGNALS: Final = (
    (
        "SIGTERM, SIGINT",
        "Stop in order: nothing new is taken, running jobs get 20 s, the engine ends. The second "
        "one ends it at once, with the engine.",
    ),
)

TOML: Final = """
One TOML file for both daemons and for orchctl. Without it the defaults hold, and there are no
pools. A flag wins over the environment, that over the file. Unknown keys are errors. `orchctl
config check` reads the file as the daemons do and says every error with its line.

After a change: `systemctl daemon-reload`, then `systemctl start orchd.target`, then `systemctl
reload orchd`; each pool whose own part changed needs a restart of its service.
"""
