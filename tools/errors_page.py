"""Writes specs/errors.md: every error, what it means and what to do, from the table of errors.

Part of `make specs` (tools/contracts.py); a test holds the page in step [DOCS-4x]. The words of the
examples are those of the OpenAPI documents.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Final, Literal

from orchd.wire.errors import TABLE, Kind
from tools.openapi import examples
from tools.openapi.document import OPERATIONS, kinds_of
from tools.openapi.table import IN_FRAMES, NEVER_ANSWERED

FILE: Final = Path(__file__).resolve().parents[1] / "specs" / "errors.md"
Class = Literal["retry later", "reject now", "permanent"]

_HEAD: Final = """\
# Errors: what they mean, and what to do

Written by `make specs` from `orchd/wire/errors.py`; do not edit.

Every error is one envelope: as the body of an answer, and as the `data` of a stream's last frame
(`event: error`). `code` is for programs and never changes its meaning; `message` says what is wrong
with this request, with the path of the field where there is one; `hint` says what to do next.

```json
{example}
```

Three classes:

* **retry later** (`retriable: true`): send the same again, after `retry_after_ms` where it is given
  (`Retry-After`, `X-Backoff-Ms`), else after a second, doubling, with jitter;
* **reject now** (`retriable: false`, 4xx): do not send it again as it is; change the request as
  `message` and `hint` say;
* **permanent** (`retriable: false`, 403 or 5xx): tell the operator; neither waiting nor changing
  the request helps.

orchctl prints the same three things (what, when, what next) and exits with the number of the last
column. The name in brackets is the `reason` of logs. `tasks_rejected_total` has the same names, but
`queue_full` also for `queue_full_drop_lru`, `dropped` also for `shed`, `pool_unready` also for
`draining`: a label has at most 16 values.
"""
_ANSWERED: Final = {kind for row in OPERATIONS for kind in kinds_of(row)}
_CAUSES: Final = [
    kind for kind in Kind if kind in NEVER_ANSWERED and TABLE[kind].code == "POOL_UNREADY"
]
_OWN: Final = [kind for kind in Kind if kind in NEVER_ANSWERED and kind not in _CAUSES]
_FOOT: Final = """
## To see one

Most of them need no broken machine. A wrong field, an unknown id, a token that is missing: `curl`.
A full queue: `queue = { interactive = 1 }` and three tasks. What an engine does wrong, the mock
engine does on purpose (`engine.faults`, [09](09-configuration.md)):

* `refuse_load`, `refuse_model`: the pool is unready, with the cause in its health; tasks are
  answered POOL_UNREADY. `load_ms`: so for a while.
* `die_after_tokens`: WORKER_RESET in the stream, unless the task had no token yet: then it starts
  anew.
* `hang_after_tokens`: DECODE_TIMEOUT when the watchdog's `idle_ms` has passed.
* `garbage_after_tokens`: WORKER_RESET, for what the engine says cannot be read.
* `self_test` (die, hang, garbage or keep_slot): the pool is unready, with the step in its health.
* `only_model`: the faults are those of one model, so that only a reload with it fails. `slower` and
  `vram_mb` fail the canary then.

## To write one

A new error is a row in the table: kind, code, status, exit code, whether to retry, whose fault, and
what to do next, as one imperative sentence. No other place invents a code. Its message names the
field first (`$.ctx: must be ...`), then what is wrong, then what is allowed; it never holds a
prompt, a token of a model or a secret. Give it an example in `tools/openapi/examples.yaml`, and a
test that sees it from outside; this page writes itself.
"""


def class_of(kind: Kind) -> Class:
    """Return what a client does about an error [ORCH-3330]."""
    row = TABLE[kind]
    if row.retriable:
        return "retry later"
    return "reject now" if row.fault == "client" else "permanent"


def page() -> str:
    """Return the text of the page."""
    text = _HEAD.replace("{example}", _example(Kind.QUEUE_FULL))
    text += "\n## Answers\n\nWhat a request may be answered with.\n\n"
    text += _table(kind for kind in Kind if kind in _ANSWERED)
    text += "\n## Streams that break\n\n"
    text += "The 200 was sent already, so the last frame is `event: error`; nothing follows it.\n\n"
    text += _table(IN_FRAMES)
    text += "\n## Pools that are not ready\n\n"
    text += "Causes: they stand as `last_error` in a pool's health, in `systemctl status` and in\n"
    text += "`orchctl pools`. A client meets them as POOL_UNREADY; the operator acts.\n\n"
    text += _causes(_CAUSES)
    text += "\n## orchctl's own\n\nNobody answered, or nobody waits any more.\n\n"
    text += _causes(_OWN)
    return text + _FOOT


def _example(kind: Kind) -> str:
    lines = (f' "{key}": {_json(value)}' for key, value in examples.envelope(kind).items())
    return "{\n" + ",\n".join(lines) + "\n}"


def _json(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return f'"{value}"' if isinstance(value, str) else str(value)


def _table(kinds: Iterable[Kind]) -> str:
    lines = [
        "| code | status | class | what to do | for example | exit |",
        "|---|---|---|---|---|---|",
    ]
    for kind in kinds:
        row = TABLE[kind]
        code = row.code if row.auth_code is None else f"{row.code} {row.auth_code}"
        words = examples.envelope(kind)["message"].replace("|", "\\|")
        cells = (
            f"{code} ({kind.value})",
            str(row.status),
            class_of(kind),
            row.advice,
            words,
            str(row.exit_code),
        )
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def _causes(kinds: Iterable[Kind]) -> str:
    lines = ["| cause | what to do | exit |", "|---|---|---|"]
    lines += [
        f"| {kind.value} | {TABLE[kind].advice} | {TABLE[kind].exit_code} |" for kind in kinds
    ]
    return "\n".join(lines) + "\n"
