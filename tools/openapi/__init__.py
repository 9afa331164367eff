"""The OpenAPI documents: a row for each route, schemas from shapes of orchd.wire."""
