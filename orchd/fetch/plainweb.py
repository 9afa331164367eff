"""`https://`: a file at a URL, with its further parts where its name says that it has some."""

from __future__ import annotations

from urllib.parse import quote, urlsplit, urlunsplit

from orchd.fetch.remote import Ask, RemoteFile
from orchd.wire import modelref
from orchd.wire.modelref import WebRef


class PlainWeb:
    """One URL."""

    def __init__(self, ref: WebRef) -> None:
        self._ref = ref

    async def listing(self) -> tuple[RemoteFile, ...]:
        """Return the file, or all parts of it; nothing is asked yet."""
        name = modelref.file_name(self._ref.url)
        names = modelref.shards(name)
        if len(names) == 1:
            return (RemoteFile(name=name, place=self._ref.url),)
        parts = urlsplit(self._ref.url)
        folder = parts.path.rpartition("/")[0]
        return tuple(
            RemoteFile(name=one, place=urlunsplit(parts._replace(path=f"{folder}/{quote(one)}")))
            for one in names
        )

    def ask(self, file: RemoteFile) -> Ask:
        """Return how to ask for it: as it is."""
        return Ask(file.place)

    def refusal(self, status: int) -> str:
        """Return what a status may mean."""
        if status in (401, 403):
            return "it is not for everybody, or the URL's signature has run out"
        return "there is no such file" if status in (404, 410) else "not understood"
