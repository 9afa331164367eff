"""What is inside an ExceptionGroup: nurseries wrap, callers want the one thing that happened."""

from __future__ import annotations

from collections.abc import Iterator

from orchd.wire.errors import OrchError


def leaves(exc: BaseException) -> Iterator[BaseException]:
    """Yield the exceptions of a group, or the exception itself."""
    if isinstance(exc, BaseExceptionGroup):
        for inner in exc.exceptions:
            yield from leaves(inner)
    else:
        yield exc


def only(exc: BaseException, kind: type[BaseException]) -> bool:
    """True when nothing but `kind` happened."""
    return all(isinstance(leaf, kind) for leaf in leaves(exc))


def orch_error(exc: BaseException) -> OrchError | None:
    """Return the first OrchError when nothing else happened, else None."""
    found = list(leaves(exc))
    if found and isinstance(found[0], OrchError) and only(exc, OrchError):
        return found[0]
    return None
