"""The body of a task that any pool `demo` of engine mock takes, with changes."""

from __future__ import annotations

from typing import Any
from uuid import uuid4


def task_body(**changes: Any) -> dict[str, Any]:
    """A fresh task; a change to None takes the field out."""
    body = {
        "task_id": str(uuid4()),
        "session_id": str(uuid4()),
        "workload": "completion",
        "model_ref": "mock:lorem",
        "engine": "mock",
        "ctx": 1024,
        "priority": "interactive",
        "max_tokens": 16,
        "deadline_ms": 120_000,
        "prompt": "Say something.",
    }
    return {key: value for key, value in (body | changes).items() if value is not None}
