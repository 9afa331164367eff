"""The workstations that scenarios name: configurations of the real suite.

Each is started when it is first named and runs until the session ends: scenarios share it, with
sessions and tasks of their own, and leave it as they found it (story.py).
"""

from __future__ import annotations

from typing import Final

from tests.sockets.suite import SIMULATED

TOKEN: Final = "the-token-of-the-guarded-workstation"


def pool(name: str, *, model: str, replicas: str, more: str = "", engine: str = "") -> str:
    """Return a pool of the mock engine: one slot a replica, unless `more` says otherwise."""
    return f"""
[[pools]]
id = "{name}"
engine = {{ id = "mock", tokens_per_s = 200{", " + engine if engine else ""} }}
model = {{ ref = "mock:{model}" }}
replicas = {replicas}
ctx = 8192
{more}
"""


ONE_EACH: Final = "queue = { interactive = 1, batch = 1 }"
WORKSTATIONS: Final = {
    # two unlike GPUs, a pool over both of them; three whose queues hold one task a class, one for
    # each policy; one whose engine dies under every task
    "shared": SIMULATED
    + pool("both", model="both", replicas="[[0], [1]]")
    + pool("narrow", model="narrow", replicas="[[0]]", more=ONE_EACH)
    + pool("lru", model="lru", replicas="[[0]]", more=f'{ONE_EACH}\nfull_policy = "drop-lru"')
    + pool(
        "shed",
        model="shed",
        replicas="[[1]]",
        more=f'{ONE_EACH}\nfull_policy = "shed-low-priority"',
    )
    + pool("frail", model="frail", replicas="[[1]]", engine="faults = { die_after_tokens = 5 }"),
    "guarded": f'auth_token = "{TOKEN}"\n{SIMULATED}'
    + pool("both", model="both", replicas="[[0]]"),
}
