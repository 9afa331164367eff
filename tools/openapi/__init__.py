"""The OpenAPI documents: a row for each route (table.py), schemas from shapes of orchd.wire."""
