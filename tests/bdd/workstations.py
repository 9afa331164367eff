"""The workstations that scenarios name: configurations of the real suite.

Each is started when it is first named and runs until the session ends: scenarios share it, with
sessions and tasks of their own, and leave it as they found it (story.py).
"""

from __future__ import annotations

from typing import Final

from tests.sockets.suite import SIMULATED

TOKEN: Final = "the-token-of-the-guarded-workstation"


def pool(
    name: str, *, model: str = "", replicas: str = "[[0]]", engine: str = "", more: str = ""
) -> str:
    """Return a pool of the mock engine: one slot a replica, the model `mock:NAME` or another."""
    return f"""
[[pools]]
id = "{name}"
engine = {{ id = "mock", tokens_per_s = 200{", " + engine if engine else ""} }}
model = {{ ref = "mock:{model or name}" }}
replicas = {replicas}
ctx = 8192
{more}
"""


ONE_EACH: Final = "queue = { interactive = 1, batch = 1 }"
WORKSTATIONS: Final = {
    # Two unlike GPUs. A pool over both of them, and one whose queues hold one task a class.
    "shared": SIMULATED + pool("both", replicas="[[0], [1]]") + pool("narrow", more=ONE_EACH),
    # A pool for each policy that makes room; two that serve one model; one over both GPUs; one to
    # be drained and reloaded; one whose engine dies under every task, one whose falls silent.
    "varied": SIMULATED
    + pool("lru", more=f'{ONE_EACH}\nfull_policy = "drop-lru"')
    + pool("shed", replicas="[[1]]", more=f'{ONE_EACH}\nfull_policy = "shed-low-priority"')
    + pool("large", model="pair")
    + pool("small", model="pair", replicas="[[1]]")
    + pool("both", replicas="[[0], [1]]")
    + pool("spare", engine='faults = { refuse_model = "mock:spoiled" }')
    + pool("frail", replicas="[[1]]", engine="faults = { die_after_tokens = 5 }")
    + pool("stuck", engine="faults = { hang_after_tokens = 3 }", more="watchdog.idle_ms = 1000"),
    # a token, and sessions that are soon forgotten
    "guarded": f'auth_token = "{TOKEN}"\nsessions.ttl_ms = 200\n{SIMULATED}' + pool("both"),
    "metered": """
[sessions]
max_turns = 3
budget = { tokens = 200, time_ms = 60_000, cost = 1.0 }
"""
    + SIMULATED
    + pool("small", more="price = { tokens_in = 1.0, tokens_out = 5.0 }"),
    "throttled": f"throttle = {{ requests_per_s = 0.1, burst = 2 }}\n{SIMULATED}" + pool("both"),
}
