"""A Hub on this machine: the part of the Hugging Face API that fetching uses, over Files.

Written from the Hub's published API: `/api/models/REPO/revision/REV` names the commit,
`/tree/COMMIT` lists files in pages, `/REPO/resolve/COMMIT/PATH` redirects to content elsewhere for
files in LFS.
"""

from __future__ import annotations

import hashlib
import json

from attrs import evolve

from tests.fakes.fileserver import Files, Served

COMMIT = "0123456789abcdef0123456789abcdef01234567"
PAGE = 3


class Hub:
    """One repository, `org/repo`, with content on a server of its own."""

    def __init__(self, front: Files, content: Files, *, secret: str | None = None) -> None:
        self.front = front
        self.content = content
        self._secret = secret
        self._rows: list[dict[str, object]] = []
        self._say()

    def add(self, name: str, data: bytes, *, lfs: bool = True) -> None:
        """Put a file into the repository."""
        row: dict[str, object] = {"type": "file", "path": name, "size": len(data), "oid": "0" * 40}
        path = f"/org/repo/resolve/{COMMIT}/{name}"
        if lfs:
            digest = hashlib.sha256(data).hexdigest()
            row["lfs"] = {"oid": digest, "size": len(data), "pointerSize": 135}
            self.content.add(f"/blobs/{digest}", data)
            signed = f"{self.content.url}/blobs/{digest}?X-Amz-Signature=SIGNEDSIGNED"
            self.front.files[path] = Served(b"", redirect=signed, secret=self._secret)
        else:
            self.front.files[path] = Served(data, secret=self._secret)
        self._rows.append(row)
        self._say()

    def _say(self) -> None:
        api = "/api/models/org/repo"
        known = json.dumps({"id": "org/repo", "sha": COMMIT}).encode()
        for revision in ("main", "v1", COMMIT):
            self.front.files[f"{api}/revision/{revision}"] = Served(known, secret=self._secret)
        rows = [{"type": "directory", "path": "sub", "size": 0, "oid": "1" * 40}, *self._rows]
        pages = [rows[at : at + PAGE] for at in range(0, len(rows), PAGE)]
        for number, page in enumerate(pages):
            path = f"{api}/tree/{COMMIT}" + (f"/page{number}" if number else "")
            served = Served(json.dumps(page).encode(), secret=self._secret)
            if number + 1 < len(pages):
                following = f"{self.front.url}{api}/tree/{COMMIT}/page{number + 1}?cursor=x"
                served = evolve(served, headers={"Link": f'<{following}>; rel="next"'})
            self.front.files[path] = served
