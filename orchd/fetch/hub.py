"""The Hugging Face Hub: which files a repository has at one commit, and their sha256.

Its HTTP API by hand, and not huggingface_hub: so every request passes the policy, and parts,
resume and progress are the same for all sources (specs/adr/0004-own-fetcher.md). `HF_ENDPOINT` and
`HF_TOKEN` mean what they mean there.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final
from urllib.parse import quote

import orjson

from orchd.fetch.attempts import check, persist
from orchd.fetch.remote import Ask, RemoteFile
from orchd.policy.web import Got, Web
from orchd.wire import modelref
from orchd.wire.errors import Kind, OrchError
from orchd.wire.modelref import HubRef

DEFAULT_ENDPOINT: Final = "https://huggingface.co"
CONTENT: Final = ("*.hf.co", "*.huggingface.co")
"""Where the Hub's own addresses lead for content (cdn-lfs.hf.co, cas-bridge.xethub.hf.co)."""
MAX_LISTING: Final = 16 << 20
MAX_PAGES: Final = 50  # of 1,000 files each
_OK: Final = frozenset({200})
_NEXT: Final = re.compile(r'<([^>]+)>;\s*rel="next"')
_COMMIT: Final = re.compile(r"[0-9a-f]{40,64}")
_SHA256: Final = re.compile(r"[0-9a-f]{64}")


class Hub:
    """One repository."""

    def __init__(self, ref: HubRef, web: Web, endpoint: str, token: str | None) -> None:
        self._ref = ref
        self._web = web
        self._endpoint = endpoint.rstrip("/")
        self._headers: Mapping[str, str] = (
            {} if token is None else {"Authorization": f"Bearer {token}"}
        )
        self._known = token is not None
        self._commit = quote(ref.revision, safe="")

    async def listing(self) -> tuple[RemoteFile, ...]:
        """Return the files of the repository, or the one that is named with its further parts."""
        said = await self._json(f"/api/models/{self._ref.repo}/revision/{self._commit}")
        commit = said[0].get("sha") if isinstance(said[0], dict) else None
        if not isinstance(commit, str) or not _COMMIT.fullmatch(commit):
            raise self._odd("names no commit")
        self._commit = commit  # whatever is pushed meanwhile, all files are of one commit
        files = await self._files()
        if not self._ref.path:
            return files
        by_name = {file.name: file for file in files}
        names = modelref.shards(self._ref.path)
        missing = [name for name in names if name not in by_name]
        if missing:
            raise OrchError(
                Kind.FETCH_FAILED, f"there is no file {missing[0]} in hf:{self._ref.repo}"
            )
        return tuple(by_name[name] for name in names)

    def ask(self, file: RemoteFile) -> Ask:
        """Return how to ask for a file: an address that leads on to its content."""
        path = quote(file.place)
        return Ask(
            f"{self._endpoint}/{self._ref.repo}/resolve/{self._commit}/{path}", self._headers
        )

    def refusal(self, status: int) -> str:
        """Return what a status may mean."""
        if status in (401, 403, 404) and not self._known:
            return (
                "there is none, or it is private or gated: then set HF_TOKEN, or the credential "
                "hf_token of the unit"
            )
        if status in (401, 403):
            return "the token may not read it; accept the model's terms on its page"
        return (
            "there is no such repository, revision or file" if status == 404 else "not understood"
        )

    async def _files(self) -> tuple[RemoteFile, ...]:
        found: list[RemoteFile] = []
        path: str | None = f"/api/models/{self._ref.repo}/tree/{self._commit}?recursive=true"
        for _ in range(MAX_PAGES):
            if path is None:
                return tuple(found)
            rows, path = await self._json(path)
            if not isinstance(rows, list):
                raise self._odd("lists no files")
            found += [self._file(row) for row in rows if _is_file(row)]
        raise self._odd(f"has more than {MAX_PAGES} pages of files")

    def _file(self, row: Mapping[str, Any]) -> RemoteFile:
        name, size, lfs = row.get("path"), row.get("size"), row.get("lfs")
        digest = lfs.get("oid") if isinstance(lfs, dict) else None
        if not isinstance(name, str) or type(size) is not int or size < 0:
            raise self._odd("has a file without a name or a size")
        if not isinstance(digest, str) or not _SHA256.fullmatch(digest):
            digest = None
        return RemoteFile(name=name, size=size, sha256=digest, place=name)

    async def _json(self, path: str) -> tuple[Any, str | None]:
        """Return an answer's JSON, and the path of the page after it."""
        url = path if "://" in path else self._endpoint + path
        if not url.startswith(f"{self._endpoint}/"):  # the token is for nobody else
            raise self._odd("leads to another host for more files")

        async def ask() -> tuple[Any, str | None]:
            async with self._web.get(url, headers=self._headers) as got:
                check(got, f"hf:{self._ref.repo}", _OK, self.refusal)
                try:
                    return orjson.loads(await got.body(MAX_LISTING)), self._following(got)
                except orjson.JSONDecodeError:
                    raise self._odd("answers no JSON") from None

        return await persist(ask)

    def _following(self, got: Got) -> str | None:
        match = _NEXT.search(got.headers.get("link", ""))
        return None if match is None else match[1]

    def _odd(self, why: str) -> OrchError:
        return OrchError(Kind.FETCH_FAILED, f"{self._endpoint} {why} for hf:{self._ref.repo}")


def _is_file(row: object) -> bool:
    return isinstance(row, dict) and row.get("type") == "file"
