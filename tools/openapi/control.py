"""Each route of the control plane: its shapes, errors and prose.

A route is added by a row here beside the one in orchd/edge/routes.py, and by an entry in
examples.yaml; schemas, error answers and headers follow.
"""

from __future__ import annotations

from typing import Final

from orchd.wire import control
from orchd.wire.errors import Kind
from tools.openapi import catalog
from tools.openapi.table import Operation, Parameter, Reply

ROWS: Final = (
    Operation(
        id="getCapabilities",
        plane="control",
        tag="discovery",
        method="GET",
        path="/v1/capabilities",
        summary="What can be asked for",
        words="Each engine and model that is configured, with its limits. `concurrency` "
        "counts ready replicas only; `engine_version` is empty until a replica has reported.",
        parameters=(
            Parameter("header", "If-None-Match", str, "An ETag, or several, as RFC 9110 has it."),
        ),
        replies={
            200: Reply("What there is now.", control.Capabilities, headers=("ETag",)),
            304: Reply("It is as it was.", headers=("ETag",)),
        },
    ),
    Operation(
        id="listPools",
        plane="control",
        tag="pools",
        method="GET",
        path="/v1/pools",
        summary="Health of every pool",
        words="One item for each configured pool, ready or not.",
        replies={200: Reply("Every pool.", control.Pools)},
    ),
    Operation(
        id="getPoolHealth",
        plane="control",
        tag="pools",
        method="GET",
        path="/v1/pools/{pool_id}/health",
        summary="Health of one pool",
        words="Live, ready, draining, figures, the last error, and each replica's snapshot.",
        replies={200: Reply("The pool.", control.PoolHealth)},
        kinds=(Kind.UNKNOWN_NAME, Kind.UNKNOWN_ROUTE),
    ),
    Operation(
        id="drainPool",
        plane="control",
        tag="pools",
        method="POST",
        path="/v1/pools/{pool_id}/drain",
        summary="Let a pool run empty",
        words="Nothing new is placed on it. Running tasks go on until the deadline and then end "
        "with WORKER_RESET, retriable; waiting ones keep their place. The model stays loaded: a "
        "reload, or a restart of its units, brings the pool back. `deadline_ms` is at most a day.",
        body=control.DrainRequest,
        replies={202: Reply("It has begun; health shows `draining`.", control.PoolControl)},
        kinds=(
            Kind.UNKNOWN_NAME,
            Kind.UNKNOWN_ROUTE,
            Kind.UNSUPPORTED_MEDIA,
            Kind.RELOAD_UNDER_WAY,
            Kind.POOL_UNREADY,
        ),
    ),
    Operation(
        id="reloadPool",
        plane="control",
        tag="pools",
        method="POST",
        path="/v1/pools/{pool_id}/reload",
        summary="Give a pool another model, or the same anew",
        words="The new model is loaded and tested before it serves. If that fails on any replica "
        "the whole pool stays on, or goes back to, the old one, and health has `last_error`. Tasks "
        "that wait for the old model when the pool changes end with POOL_UNAVAILABLE, retriable. "
        "It ends a drain. With `digest` the new model's files must have it; the "
        "reload fails otherwise.",
        body=control.ReloadRequest,
        replies={202: Reply("It has begun; health shows `reloading`.", control.PoolControl)},
        kinds=(
            Kind.UNKNOWN_NAME,
            Kind.UNKNOWN_ROUTE,
            Kind.UNSUPPORTED_MEDIA,
            Kind.RELOAD_UNDER_WAY,
            Kind.POOL_UNREADY,
        ),
    ),
    Operation(
        id="registerWorker",
        plane="control",
        tag="workers",
        method="POST",
        path="/v1/workers/register",
        summary="A poolmgr says that it is Ready",
        words="orchd links to it at once instead of at its next try. With a token configured the "
        "request carries it, whatever `auth_optional` says.",
        body=control.WorkerRegistration,
        replies={200: Reply("orchd links to it.", control.Registered)},
        kinds=(Kind.UNKNOWN_REPLICA, Kind.PINS_DIFFER, Kind.UNSUPPORTED_MEDIA),
    ),
    *catalog.ROWS,
    Operation(
        id="scrapeMetrics",
        plane="control",
        tag="operation",
        method="GET",
        path="/metrics",
        summary="The scrape page",
        words="Prometheus text, or OpenMetrics when `Accept` asks for it. The families are in "
        "contracts/metrics.json.",
        replies={
            200: Reply(
                "The page.",
                media=("text/plain", "application/openmetrics-text"),
            )
        },
    ),
    *(
        Operation(
            id=name,
            plane="control",
            tag="operation",
            method="GET",
            path=path,
            summary="orchd runs",
            words="Says nothing of pools. Needs no token.",
            replies={200: Reply("It runs.", control.Health)},
            open=True,
        )
        for name, path in (("getHealth", "/health"), ("getHealthz", "/healthz"))
    ),
    Operation(
        id="getReady",
        plane="control",
        tag="operation",
        method="GET",
        path="/readyz",
        summary="A pool is ready",
        words="503 with the reasons until one is. Needs no token.",
        replies={
            200: Reply("A task could be served.", control.Health),
            503: Reply("No pool is ready, and why.", control.Health),
        },
        open=True,
    ),
)
