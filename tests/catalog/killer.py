"""Kills a writer of the catalog's files at every call of `os`, for real, and says what it left.

    python -m tests.catalog.killer FOLDER SCENARIO

For step 0, 1, 2, ... a fresh FOLDER/STEP gets the scenario's old state; then a fork does the
scenario's change and is killed (SIGKILL) before its call number STEP, until one gets through. A
write takes 64 bytes at most, so that the kill also falls between two parts of a file. Says one line
of JSON: for each step the call it died at, and whether the change had been reported as done.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from orchd.catalog import files
from orchd.catalog.artifacts import Store, name, plain
from orchd.catalog.files import Folder
from orchd.catalog.models import record_id
from orchd.catalog.shelf import Shelf
from orchd.wire.artifacts import ArtifactKind, ArtifactRecord, ArtifactUpload
from orchd.wire.catalog import ModelRecord, ModelRegistration
from orchd.wire.ids import Count, Digest, ModelId, Tag

PART = 64


class DeadlyOs:
    """`os`, as files.py sees it: its call number `at` is its last."""

    def __init__(self, at: int | None, died_at: int) -> None:
        self.at, self.died_at, self.calls = at, died_at, 0

    def __getattr__(self, called: str) -> Any:
        real = getattr(os, called)
        if not callable(real) or called == "path":
            return real

        def call(*arguments: Any) -> Any:
            if self.calls == self.at:
                os.write(self.died_at, called.encode())
                os.kill(os.getpid(), signal.SIGKILL)
            self.calls += 1
            if called == "write":
                return os.write(arguments[0], bytes(arguments[1])[:PART])
            return real(*arguments)

        return call


def models(folder: str) -> Shelf[ModelRecord]:
    return Shelf(Folder(f"{folder}/catalog/models"), ModelRecord, record_id)


def model(model_id: str, created_ms: int) -> ModelRecord:
    said = ModelRegistration(
        id=ModelId(model_id),
        digest=Digest("sha256:" + "0" * 64),
        tags=tuple(Tag(f"tag-{created_ms}-{n}") for n in range(8)),
    )
    return ModelRecord(model=said, created_ms=Count(created_ms))


def artifact(text: str, kind: ArtifactKind = ArtifactKind.PLAN) -> tuple[ArtifactRecord, str]:
    upload = plain(ArtifactUpload(kind=kind, content=text * 40))
    return name(upload, 5), upload.content


def nothing(_folder: str) -> None:
    pass


def two_models(folder: str) -> None:
    models(folder).folder.open()
    for each in ("a", "b"):
        models(folder).write(model(each, 1))


def one_artifact(folder: str) -> None:
    store = Store.at(f"{folder}/artifacts")
    store.load()
    store.put(*artifact("first"))


def two_of_one_content(folder: str) -> None:
    one_artifact(folder)
    Store.at(f"{folder}/artifacts").put(*artifact("first", ArtifactKind.DIFF))


def a_kill_before(folder: str) -> None:
    two_models(folder)
    for beside in ("a.json.tmp", "c.json.tmp"):
        Path(f"{folder}/catalog/models/{beside}").write_bytes(b'{"model":{"id"')


def an_orphan(folder: str) -> None:
    one_artifact(folder)
    store, (record, content) = Store.at(f"{folder}/artifacts"), artifact("orphan")
    store.contents.write(record.digest.removeprefix("sha256:"), content.encode())


def first_model(folder: str) -> None:
    models(folder).load()
    models(folder).write(model("a", 1))


def first_artifact(folder: str) -> None:
    Store.at(f"{folder}/artifacts").load()
    Store.at(f"{folder}/artifacts").put(*artifact("first"))


SCENARIOS: dict[str, tuple[Callable[[str], None], Callable[[str], object]]] = {
    "the first model of all": (nothing, first_model),
    "a model more": (two_models, lambda f: models(f).write(model("c", 2))),
    "a model in another state": (two_models, lambda f: models(f).write(model("a", 2))),
    "a model less": (two_models, lambda f: models(f).remove("a")),
    "a file set aside": (two_models, lambda f: models(f).folder.set_aside("a.json")),
    "an open after a kill": (a_kill_before, lambda f: models(f).load()),
    "the first artifact of all": (nothing, first_artifact),
    "an artifact more": (one_artifact, lambda f: Store.at(f"{f}/artifacts").put(*artifact("x"))),
    "an artifact of a known content": (
        one_artifact,
        lambda f: Store.at(f"{f}/artifacts").put(*artifact("first", ArtifactKind.DIFF)),
    ),
    "an artifact less": (
        one_artifact,
        lambda f: Store.at(f"{f}/artifacts").remove(artifact("first")[0], content=True),
    ),
    "an artifact of two less": (
        two_of_one_content,
        lambda f: Store.at(f"{f}/artifacts").remove(artifact("first")[0], content=False),
    ),
    "an open with an orphan": (an_orphan, lambda f: Store.at(f"{f}/artifacts").load()),
}


def attempt(folder: str, change: Callable[[str], object], at: int | None) -> tuple[str, bool]:
    """Do the change in a fork that dies before its call `at`; return that call, and if it was done.

    An empty name: it got through.
    """
    died, died_in = os.pipe()
    done, done_in = os.pipe()
    pid = os.fork()
    if pid == 0:
        files.os = DeadlyOs(at, died_in)  # type: ignore[assignment, attr-defined]
        change(folder)
        os.write(done_in, b"done")
        os._exit(0)
    os.close(died_in)
    os.close(done_in)
    _, status = os.waitpid(pid, 0)
    called, told = os.read(died, 100).decode(), os.read(done, 100) == b"done"
    os.close(died)
    os.close(done)
    if os.WIFSIGNALED(status):
        assert os.WTERMSIG(status) == signal.SIGKILL
    else:
        assert os.WEXITSTATUS(status) == 0, "the change itself failed"
    return called, told


def main(folder: str, scenario: str) -> None:
    """Run one scenario, killed at each step."""
    prepare, change = SCENARIOS[scenario]
    said = []
    for step in range(10_000):
        own = f"{folder}/{step}"
        Path(own).mkdir()
        prepare(own)
        called, told = attempt(own, change, step)
        said.append([called, told])
        if not called:
            break
    print(json.dumps(said))


if __name__ == "__main__":
    main(*sys.argv[1:])
