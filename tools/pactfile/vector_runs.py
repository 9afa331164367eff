"""Runs of orchctl that ask for vectors and scores."""

from __future__ import annotations

import uuid
from typing import Any, Final

from pact import match

from orchd.wire import control, shapes
from tools.pactfile.asks import EMBEDDED, READY, RERANKED, Ask, Run
from tools.pactfile.matchers import UUID, golden, needed, result_rule

TEXTS: Final = ("one", "two")
EMBEDDING: Final = "0b7e2f3a-6c1d-4e59-8a90-1f2e3d4c5b6e"
RERANK: Final = "0b7e2f3a-6c1d-4e59-8a90-1f2e3d4c5b6f"


def _capabilities(workload: str) -> Ask:
    said = golden("Capabilities")
    said["engines"][0]["supported_workloads"] = [workload]
    return Ask(
        words=f"what can be asked for, {workload} among it",
        path="/v1/capabilities",
        answer=needed(control.Capabilities, said | {"api_version": "1.0.0"}),
    )


def _stream(result: str) -> str:
    return (
        'id: 1\nevent: started\ndata: {"queue_position":0,"predicted_start_ms":0,'
        '"correlation_id":"c","pool_id":"demo"}\n\n'
        'id: 2\nevent: end\ndata: {"tokens_out":0,"decode_time_ms":3,"decode_ms":3,'
        f'"finish_reason":"stop","tokens_in":2,"result":{result}}}\n\n'
    )


def _run(verb: str, workload: str, state: str, task: str, result: str, rule: str, out: str) -> Run:
    words = f"a task of {workload}"
    task_id = str(uuid.uuid5(uuid.NAMESPACE_URL, words))
    body: dict[str, Any] = {
        "task_id": match.regex(task_id, regex=f"^{UUID}$"),
        "session_id": match.regex(golden("TaskRequest")["session_id"], regex=f"^{UUID}$"),
        "workload": workload,
        "model_ref": "mock:lorem",
        "engine": "mock",
        "ctx": 8192,
        "priority": "interactive",
        "max_tokens": 1,
        "deadline_ms": 600_000,
        "determinism": "best_effort",
        "inputs": list(TEXTS),
    }
    return Run(
        arguments=(verb, *TEXTS),
        asks=(
            _capabilities(workload),
            Ask(
                words=words,
                method="POST",
                path="/v1/tasks",
                body=body,
                state=READY,
                status=202,
                answer=needed(shapes.TaskAccepted, golden("TaskAccepted")),
            ),
            Ask(
                words=f"the result of {workload}",
                state=state,
                task=task,
                path=match.regex(f"/v1/tasks/{task}/stream", regex=f"^/v1/tasks/{UUID}/stream$"),
                answer=_stream(result),
                rule=result_rule(rule),
            ),
        ),
        out=out,
    )


RUNS: Final = (
    _run(
        "embed",
        "embedding",
        EMBEDDED,
        EMBEDDING,
        '{"dimension":2,"embeddings":[[0.5,-0.5],[1.0,0.0]]}',
        r'"dimension":\d+,"embeddings":\[\[.+\]\]',
        "[0.5,-0.5]\n",
    ),
    _run(
        "rerank",
        "rerank",
        RERANKED,
        RERANK,
        '{"ranking":[{"index":0,"score":0.25}]}',
        r'"ranking":\[\{"index":\d+,"score":.+\}\]',
        "0.25\ttwo",
    ),
)
