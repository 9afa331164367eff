"""Deleting one thing by its path, and saying so: what models and artifacts have in common."""

from __future__ import annotations

from pathlib import Path

from orchd.cli import reach, say


def remove(path: str, human: str, as_json: bool, url: str | None, token_file: Path | None) -> None:
    """Send DELETE and tell that it is done; the last part of `path` is the id."""
    reach.run(reach.find(url, token_file), reach.ask, "DELETE", path)
    if as_json:
        say.json({"id": path.rpartition("/")[2], "removed": True})
    else:
        say.note(human, "")
