"""The routes of the catalog and of artifacts: what is read of a request, and how it is answered.

Their rows stand in the table of routes.py; what is kept and what is refused is in catalog.py and
artifacts.py of this room.
"""

from __future__ import annotations

from typing import Final

from attrs import frozen

from orchd.edge.app import App
from orchd.edge.asked import Answer, Asked, body, page_size, with_etag
from orchd.kit.http import Response, json_response, require_json
from orchd.wire.artifacts import ArtifactUpload
from orchd.wire.catalog import (
    ModelRegistration,
    ModelStateChange,
    StateAccepted,
    TrustMode,
    VerifyStarted,
)
from orchd.wire.errors import Kind, OrchError
from orchd.wire.ids import MODEL_ID

MAX_NAME: Final = 4096
"""Characters; as a reference has in a configuration."""


@frozen
class Shelves:
    """The handlers, which `Routes` has too: one for each row."""

    app: App

    async def register_model(self, asked: Asked) -> Answer:
        """POST /v1/catalog/models."""
        require_json(asked.request)
        policy = asked.request.headers.get("x-trust-policy", TrustMode.PERMISSIVE)
        if policy not in set(TrustMode):
            why = f"X-Trust-Policy must be one of {', '.join(TrustMode)}"
            raise OrchError(Kind.INVALID_PARAMS, why, path="X-Trust-Policy")
        model = body(ModelRegistration, asked.request)
        found = await self.app.catalog.register(model, strict=policy == TrustMode.STRICT)
        return json_response(found, 201)

    async def list_models(self, asked: Asked) -> Answer:
        """GET /v1/catalog/models."""
        query = asked.request.query
        cursor = query.get("cursor")
        if cursor is not None and not MODEL_ID.fullmatch(cursor):
            why = "cursor must be one that an answer gave"
            raise OrchError(Kind.INVALID_PARAMS, why, path="cursor")
        page = self.app.catalog.page(cursor or "", page_size(asked.request))
        return with_etag(asked.request, json_response(page))

    async def get_model(self, asked: Asked) -> Answer:
        """GET /v1/catalog/models/{model_id}."""
        return with_etag(asked.request, json_response(self.app.catalog.get(asked.named)))

    async def remove_model(self, asked: Asked) -> Answer:
        """DELETE /v1/catalog/models/{model_id}."""
        await self.app.catalog.remove(asked.named)
        return Response(204)

    async def verify_model(self, asked: Asked) -> Answer:
        """POST /v1/catalog/models/{model_id}/verify."""
        self.app.catalog.verify(asked.named)
        return json_response(VerifyStarted(), 202)

    async def change_model_state(self, asked: Asked) -> Answer:
        """POST /v1/catalog/models/{model_id}/state."""
        require_json(asked.request)
        change = body(ModelStateChange, asked.request)
        await self.app.catalog.change_state(asked.named, change)
        return json_response(StateAccepted(), 202)

    async def locate_model(self, asked: Asked) -> Answer:
        """GET /v1/catalog/locate."""
        name = asked.request.query.get("name", "")
        if not 0 < len(name) <= MAX_NAME:
            why = f"name must be an id, a digest or a reference, of at most {MAX_NAME} characters"
            raise OrchError(Kind.INVALID_PARAMS, why, path="name")
        return json_response(await self.app.catalog.located(name))

    async def list_cached(self, asked: Asked) -> Answer:
        """GET /v1/catalog/cache."""
        return with_etag(asked.request, json_response(await self.app.catalog.cached()))

    async def store_artifact(self, asked: Asked) -> Answer:
        """POST /v1/artifacts."""
        require_json(asked.request)
        stored = await self.app.artifacts.store(body(ArtifactUpload, asked.request))
        return json_response(stored, 201)

    async def list_artifacts(self, asked: Asked) -> Answer:
        """GET /v1/artifacts."""
        tag, cursor = asked.request.query.get("tag"), asked.request.query.get("cursor")
        return json_response(await self.app.artifacts.page(tag, cursor, page_size(asked.request)))

    async def get_artifact(self, asked: Asked) -> Answer:
        """GET /v1/artifacts/{artifact_id}."""
        return json_response(await self.app.artifacts.get(asked.named))

    async def remove_artifact(self, asked: Asked) -> Answer:
        """DELETE /v1/artifacts/{artifact_id}."""
        await self.app.artifacts.remove(asked.named)
        return Response(204)
