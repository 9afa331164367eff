"""A model of the cache: what `model.json` says of it, and what is told of it when it was looked at.

Who reads the folder is kit/cached.py, who fills it orchd/fetch.
"""

from __future__ import annotations

import enum

from attrs import frozen

from orchd.wire.ids import Count, Digest, Text


class Shape(enum.StrEnum):
    """What an engine wants of a repository that holds several models or forms of one."""

    GGUF = "gguf"
    """One GGUF file, with its further parts."""
    WHOLE = "whole"
    """A folder: weights, configuration and tokenizer, as transformers and vLLM read it."""


@frozen(kw_only=True)
class Kept:
    """One file of a model that is whole."""

    name: Text
    size: Count
    sha256: Text


@frozen(kw_only=True)
class Record:
    """`model.json`."""

    ref: Text
    """As anybody may see it: without a query."""
    shape: Shape
    path: Text
    """Below `files`; `.` is the folder itself."""
    model: tuple[Text, ...]
    """Names of the files in the order in which `digest` counts them."""
    digest: Text
    files: tuple[Kept, ...]


@frozen(kw_only=True)
class Cached:
    """One model that is whole in a cache, by what its record says and its files' sizes."""

    ref: Text
    """As anybody may see it: without a query."""
    path: Text
    """What an engine is given: a file, or a folder."""
    files: tuple[Text, ...]
    """Those that `digest` counts, in order: all of a folder, all parts of a GGUF model."""
    size_bytes: Count
    digest: Digest
    """Of `files`, one after the other."""
    verified_ms: Count
    """When it was hashed as it came and found right, as Unix time in milliseconds."""
