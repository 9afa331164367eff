"""Each route of the catalog and of artifacts, rows of the control plane: shapes, errors and prose.

A route is added by a row here beside the one in orchd/edge/routes.py, and by an entry in
examples.yaml; schemas, error answers and headers follow.
"""

from __future__ import annotations

from typing import Final

from orchd.wire import artifacts, catalog
from orchd.wire.errors import Kind
from orchd.wire.ids import ModelId, Text
from tools.openapi.table import ArtifactCursor, Operation, PageSize, Parameter, Reply

_IF_NONE_MATCH: Final = Parameter(
    "header", "If-None-Match", str, "An ETag, or several, as RFC 9110 has it."
)
_MODEL_LINKS: Final = {
    name: {"to": to, "model_id": "id"}
    for name, to in (
        ("Model", "getModel"),
        ("Verify", "verifyModel"),
        ("State", "changeModelState"),
        ("Delete", "deleteModel"),
    )
}
_ARTIFACT_LINKS: Final = {
    name: {"to": to, "artifact_id": "id"}
    for name, to in (("Artifact", "getArtifact"), ("Delete", "deleteArtifact"))
}
_ABSENT: Final = (Kind.UNKNOWN_NAME, Kind.UNKNOWN_ROUTE)

MODELS: Final = (
    Operation(
        id="registerModel",
        plane="control",
        tag="catalog",
        method="POST",
        path="/v1/catalog/models",
        summary="Register a model",
        words="Keeps what is told of a model; a task may then name it by its id or its digest. The "
        "same registration again answers as before, another one of the same `id` is 409. A model "
        "without signature or SBOM is taken with a warning unless its `trust_policy`, or "
        "`X-Trust-Policy: strict`, refuses it. What is on this machine is verified in the "
        "background; what a fetch found to have this digest is not hashed again.",
        parameters=(
            Parameter(
                "header",
                "X-Trust-Policy",
                catalog.TrustMode,
                "`strict` refuses a model without a signature, whatever its `trust_policy` says.",
            ),
        ),
        body=catalog.ModelRegistration,
        replies={201: Reply("It is kept.", catalog.CatalogModel, links=_MODEL_LINKS)},
        kinds=(
            Kind.UNTRUSTED_ARTIFACT,
            Kind.MODEL_EXISTS,
            Kind.UNSUPPORTED_MEDIA,
            Kind.STORE_FULL,
        ),
    ),
    Operation(
        id="listModels",
        plane="control",
        tag="catalog",
        method="GET",
        path="/v1/catalog/models",
        summary="List models",
        words="By id.",
        parameters=(
            Parameter("query", "cursor", ModelId, "`next_cursor` of the page before."),
            Parameter("query", "limit", PageSize, "Models on a page; without it 100."),
            _IF_NONE_MATCH,
        ),
        replies={
            200: Reply("A page.", catalog.CatalogModels, headers=("ETag",)),
            304: Reply("It is as it was.", headers=("ETag",)),
        },
    ),
    Operation(
        id="getModel",
        plane="control",
        tag="catalog",
        method="GET",
        path="/v1/catalog/models/{model_id}",
        summary="Show a model",
        words="What was registered, its state, and what came of its last verification.",
        parameters=(_IF_NONE_MATCH,),
        replies={
            200: Reply("The model.", catalog.CatalogModel, headers=("ETag",)),
            304: Reply("It is as it was.", headers=("ETag",)),
        },
        kinds=_ABSENT,
    ),
    Operation(
        id="deleteModel",
        plane="control",
        tag="catalog",
        method="DELETE",
        path="/v1/catalog/models/{model_id}",
        summary="Forget a model",
        words="Its file stays where it is, and tasks that were admitted go on.",
        replies={204: Reply("It is forgotten.")},
        kinds=_ABSENT,
    ),
    Operation(
        id="verifyModel",
        plane="control",
        tag="catalog",
        method="POST",
        path="/v1/catalog/models/{model_id}/verify",
        summary="Verify a model's file",
        words="Hashes its files in the background, where `source_url` names a file of this "
        "machine or was fetched, and compares their digest. The result is the model's "
        "`verification`; after a mismatch tasks that name the model are refused with "
        "UNTRUSTED_ARTIFACT.",
        replies={202: Reply("It is under way, or waits for others.", catalog.VerifyStarted)},
        kinds=_ABSENT,
    ),
    Operation(
        id="locateModel",
        plane="control",
        tag="catalog",
        method="GET",
        path="/v1/catalog/locate",
        summary="Say whether a model is here, and where",
        words="For an id, a digest or a reference: which models of the catalog it names, and where "
        "its files are on this machine, in a cache of fetched models or as a file. It only looks: "
        "nothing is written, fetched or hashed.",
        parameters=(
            Parameter(
                "query", "name", Text, "An id, `sha256:<hex>` or a reference.", required=True
            ),
        ),
        replies={200: Reply("What is known of it, which may be nothing.", catalog.Located)},
    ),
    Operation(
        id="listCachedModels",
        plane="control",
        tag="catalog",
        method="GET",
        path="/v1/catalog/cache",
        summary="List what was fetched",
        words="Each model that is whole in a cache, with the ids that the catalog has for it.",
        parameters=(_IF_NONE_MATCH,),
        replies={
            200: Reply("All of them, by reference.", catalog.CachedModels, headers=("ETag",)),
            304: Reply("It is as it was.", headers=("ETag",)),
        },
    ),
    Operation(
        id="changeModelState",
        plane="control",
        tag="catalog",
        method="POST",
        path="/v1/catalog/models/{model_id}/state",
        summary="Retire a model, or take it back",
        words="A Retired model takes no new tasks (MODEL_DEPRECATED), whatever they call it; with "
        "`deadline_ms` so much later. Tasks that were admitted go on.",
        body=catalog.ModelStateChange,
        replies={202: Reply("It holds from now on.", catalog.StateAccepted)},
        kinds=(*_ABSENT, Kind.UNSUPPORTED_MEDIA, Kind.STORE_FULL),
    ),
)

ARTIFACTS: Final = (
    Operation(
        id="storeArtifact",
        plane="control",
        tag="artifacts",
        method="POST",
        path="/v1/artifacts",
        summary="Store an artifact",
        words="A plan, a summary, a diff, a trace or another text, up to 4 MiB. The same upload "
        "again is the same artifact. Nothing but records of jobs is thrown out for something "
        "new: past the configured bounds it is 507.",
        body=artifacts.ArtifactUpload,
        replies={201: Reply("It is stored.", artifacts.ArtifactStored, links=_ARTIFACT_LINKS)},
        kinds=(Kind.UNSUPPORTED_MEDIA, Kind.STORE_FULL),
    ),
    Operation(
        id="listArtifacts",
        plane="control",
        tag="artifacts",
        method="GET",
        path="/v1/artifacts",
        summary="List artifacts",
        words="The newest first, 100 a page, without their contents.",
        parameters=(
            Parameter("query", "tag", str, "Only artifacts that have this tag."),
            Parameter("query", "cursor", ArtifactCursor, "`next_cursor` of the page before."),
            Parameter("query", "limit", PageSize, "Artifacts on a page; without it 100."),
        ),
        replies={200: Reply("A page.", artifacts.Artifacts)},
    ),
    Operation(
        id="getArtifact",
        plane="control",
        tag="artifacts",
        method="GET",
        path="/v1/artifacts/{artifact_id}",
        summary="Show an artifact",
        words="With its content.",
        replies={200: Reply("The artifact.", artifacts.Artifact)},
        kinds=_ABSENT,
    ),
    Operation(
        id="deleteArtifact",
        plane="control",
        tag="artifacts",
        method="DELETE",
        path="/v1/artifacts/{artifact_id}",
        summary="Delete an artifact",
        words="Artifacts that came from it still name it as their parent.",
        replies={204: Reply("It is gone.")},
        kinds=_ABSENT,
    ),
)

ROWS: Final = (*MODELS, *ARTIFACTS)
