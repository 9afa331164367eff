"""An OpenAI-compatible server as a whole: the calls that poolmgr makes, and what answers mean.

What every such server has. vllm.py adds what vLLM's says besides; engines/openai.py and
engines/vllm.py add how theirs come to run. None of these routes is ever exposed [OC-ADAPT-5021].
"""

from __future__ import annotations

from collections.abc import Container, Sequence
from typing import Any, Final

import orjson

from orchd.wire.errors import Kind, OrchError
from orchd.wire.shapes import Workload
from poolmgr.dialects import openai, openai_errors, vectors
from poolmgr.dialects.exchange import Call, Job, Load, Props, Reader, Reply, Usage
from poolmgr.dialects.refused import ErrorReader

JSON: Final = (("content-type", "application/json"),)


class OpenAiServer:
    """The methods of engines.base.Adapter that talk.

    `model` is the name that the server knows the model by, `base` the path before each route
    (`/v1`), `version` what is said for a server that tells none.
    """

    sampler_profiles: Container[str] = openai.SAMPLERS
    strict_slots: int | None = 0  # its caches and who else asks it are not ours to know

    def __init__(
        self, model: str, *, base: str, form: openai.Form, profile: str, version: str = "unknown"
    ) -> None:
        self._model = model
        self._base = base
        self._form: openai.Form = form
        self._profile = profile
        self._version = version

    def health(self) -> Call:
        """Return `GET /v1/models`: the one route that all have."""
        return Call(method="GET", path=f"{self._base}/models")

    def load_state(self, status: int, body: bytes) -> tuple[Load, str]:
        """Return where it is. A server that is busy serves."""
        if status in (200, 429):
            return Load.SERVING, "the engine serves"
        error = openai_errors.http_error(status, body)
        if error.kind is Kind.POOL_UNREADY:
            return Load.LOADING, "the engine is not available yet"
        return Load.BROKEN, error.message

    def props(self) -> tuple[Call, ...]:
        """Return `GET /v1/models`."""
        return (Call(method="GET", path=f"{self._base}/models"),)

    def read_props(self, replies: Sequence[Reply]) -> Props:
        """Return what it says, which is whether it has the model. Raises OrchError."""
        self.listed(replies[0])
        return Props(engine_version=self._version, slots=None, ctx_max=None)

    def listed(self, reply: Reply) -> dict[str, Any]:
        """Return the model's entry of `/v1/models`. Raises OrchError: CONFIG_INVALID when it has
        none, ENGINE_PROTOCOL."""
        if reply.status != 200:
            raise openai_errors.http_error(reply.status, reply.body)
        value = json_of(reply.body)
        rows = value.get("data") if isinstance(value, dict) else None
        if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
            raise OrchError(
                Kind.ENGINE_PROTOCOL,
                f"{self._base}/models is no list of models: nothing OpenAI-compatible answers",
            )
        for row in rows:
            if row.get("id") == self._model:
                return dict(row)
        known = ", ".join(str(row.get("id")) for row in rows[:8]) or "none"
        raise OrchError(
            Kind.CONFIG_INVALID,
            f"the engine does not serve {self._model!r} (it serves: {known}); name one with "
            "engine.served_name",
        )

    def usage(self) -> Call | None:
        """Return None: such servers do not tell how full they are."""
        return None

    def read_usage(self, body: bytes) -> Usage:  # noqa: ARG002
        """Raise OrchError: nothing was asked."""
        raise OrchError(Kind.ENGINE_PROTOCOL, "the engine does not tell how full it is")

    def tokenize(self, text: str) -> Call | None:  # noqa: ARG002
        """Return None: OpenAI has no such route."""
        return None

    def read_tokenize(self, status: int, body: bytes) -> tuple[int, ...]:  # noqa: ARG002
        """Raise OrchError: nothing was asked."""
        raise OrchError(Kind.ENGINE_PROTOCOL, "the engine does not tell tokens")

    def submit(self, job: Job) -> Call:
        """Return the request of the workload. Raises OrchError(INVALID_PARAMS)."""
        if job.workload is Workload.COMPLETION:
            path = "/completions" if self._form == "completions" else "/chat/completions"
            body = openai.completion(job, self._model, self._form, self.sampler(), self.more(job))
        else:
            path = "/embeddings" if job.workload is Workload.EMBEDDING else "/rerank"
            body = vectors.body(job, self._model)
        return Call(method="POST", path=f"{self._base}{path}", body=body, headers=JSON)

    def sampler(self) -> dict[str, Any]:
        """Return the parameters of the sampler profile."""
        return openai.SAMPLERS[self._profile]

    def more(self, job: Job) -> dict[str, Any]:
        """Return what a completion says beside what every server reads."""
        seed = openai.seed_of(job)
        return {} if seed is None else {"seed": seed}

    def reader(self, job: Job, status: int) -> Reader:
        """Return the reader of a completion, of vectors or scores, or of an error."""
        if job.workload is not Workload.COMPLETION:
            return vectors.VectorsReader(job, status, refusal)
        if status != 200:
            return ErrorReader(status, openai_errors.http_error)
        return openai.StreamReader(job)


def refusal(status: int, body: bytes) -> OrchError:
    """Return what an answer to texts means that is not 200: one that is too long is the
    client's."""
    error = openai_errors.http_error(status, body)
    if error.kind is Kind.INVALID_PARAMS:
        return OrchError(error.kind, error.message, path="$.inputs")
    return error


def json_of(body: bytes) -> Any:
    """Return the value of a body; None for one that is no JSON."""
    try:
        return orjson.loads(body)
    except orjson.JSONDecodeError:
        return None


def positive(value: object) -> int | None:
    """Return a number above 0; None for anything else."""
    return value if type(value) is int and value > 0 else None
