"""A model's files: are they there, may we read them, are they the right ones. Gate 1 of ORCH-3421.

What is not here is fetched by fetching.py.
"""

from __future__ import annotations

import contextlib
import functools
import getpass
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Final

import trio
from attrs import frozen

from orchd.config.pool import TGI, TRITON, VLLM, Pool, is_file_ref
from orchd.config.schema import Settings
from orchd.kit import log
from orchd.wire.errors import Kind, OrchError
from orchd.wire.modelref import is_remote, shown
from poolmgr.core import requirements
from poolmgr.core.modelfile import Head
from poolmgr.core.requirements import ModelRequirements
from poolmgr.provision.models import digests
from poolmgr.provision.models.fetching import bring
from poolmgr.provision.models.heads import read_config, read_head
from poolmgr.provision.state import folder

FOLDERS: Final = frozenset({VLLM, TGI, TRITON})
"""Engines whose model is a folder."""
STILL_S: Final = 5.0
_WEIGHTS: Final = frozenset({".gguf", ".safetensors"})
_SHARD: Final = re.compile(r"(?P<stem>.+)-\d{5}-of-(?P<count>\d{5})\.gguf")


@frozen
class Staged:
    """A model that an engine can load."""

    name: str
    """Short, for status lines: `tiny.gguf`, `mock:lorem`."""
    path: Path | None = None
    """None: the engine needs no file from us."""
    size_bytes: int | None = None
    """Of all its files; None: unknown."""
    head: Head = Head(why="poolmgr sees no file of it")
    """What its files say of themselves."""
    asks: ModelRequirements = ModelRequirements()
    """The same in the words of people."""
    files: tuple[Path, ...] = ()
    digest: str | None = None
    """`sha256:<hex>` of its files, where it was seen while they were staged."""


async def stage(
    settings: Settings, pool: Pool, say: Callable[[str], None] = lambda _: None
) -> Staged:
    """Return the pool's model, verified against `model.digest`; it is fetched if need be.

    Hashing reads the whole file, some 2 s per GB, in a worker thread; a file that is as it was is
    not hashed again. `say` hears how far a fetch is. Raises OrchError: MODEL_MISSING,
    DIGEST_MISMATCH, and what fetching.py raises.
    """
    ref = pool.model.ref
    if not is_file_ref(pool):
        if pool.model.digest is not None:
            log.event(
                "model_not_verified",
                f"model.digest of {ref} is compared only if the engine itself names one: poolmgr "
                "sees no file of it.",
                level="warning",
                pool_id=pool.id,
            )
        return Staged(ref.rpartition("/")[2] or ref)
    compared, digest = False, pool.model.digest
    if is_remote(ref):
        done, compared = await bring(settings, pool, say)
        digest = done.digest
        path, files = Path(done.path), [Path(file) for file in done.files]
        name = shown(ref).rpartition("/")[2]
    else:
        local = settings.model_path(pool)
        assert local is not None, "what is not remote is a path"
        path, files = local, _files(local, folder=pool.engine.id in FOLDERS)
        name = path.name
    size = sum(_readable(file) for file in files)
    if pool.model.digest is not None and not compared:
        wanted = pool.model.digest.removeprefix("sha256:").lower()
        found = await _hashed(settings, path, files)
        if found != wanted:
            raise OrchError(
                Kind.DIGEST_MISMATCH,
                f"{path} is not the model that model.digest names: it has sha256:{found}, "
                f"and model.digest is sha256:{wanted}",
            )
    elif pool.model.digest is None and not is_remote(ref):
        log.event(
            "model_not_verified",
            f"{path} is served as it is: without model.digest nobody sees whether it is whole.",
            level="warning",
            pool_id=pool.id,
        )
    heads = [file for file in files if file == path or file.suffix in _WEIGHTS]
    head = await trio.to_thread.run_sync(read_head, heads, abandon_on_cancel=True)
    config = {} if path in files else await trio.to_thread.run_sync(read_config, path)
    asks = requirements.of(head, config)
    _tell(pool, name, asks)
    return Staged(name, path, size, head, asks, tuple(files), digest)


async def digest_of(settings: Settings, model: Staged, still: Callable[[], None]) -> str | None:
    """Return the model's digest as `sha256:<hex>`; None where poolmgr sees no file of it.

    Nothing in the configuration asks for it, so it is not in the way of the engine's load: the
    same bytes are read right after, out of the page cache where they fit. `still` is called every
    few seconds meanwhile. Raises OrchError(MODEL_MISSING).
    """
    if model.digest is not None or model.path is None or not model.files:
        return model.digest
    path, files = model.path, model.files
    async with trio.open_nursery() as nursery:
        nursery.start_soon(_repeat, still)
        found = await _hashed(settings, path, files)
        nursery.cancel_scope.cancel()
    return f"sha256:{found}"


async def _repeat(still: Callable[[], None]) -> None:
    while True:
        still()
        await trio.sleep(STILL_S)


async def _hashed(settings: Settings, path: Path, files: Sequence[Path]) -> str:
    memory = folder(settings) / digests.NAME
    hashed = functools.partial(_sha256, path, files, memory)
    return await trio.to_thread.run_sync(hashed, abandon_on_cancel=True)


def _tell(pool: Pool, name: str, asks: ModelRequirements) -> None:
    log.event(
        "model_staged",
        f"{name} is here: {asks.words}.",
        pool_id=pool.id,
        model_id=shown(pool.model.ref),
        arch=asks.arch,
        quant=asks.quant,
        ctx_trained=asks.ctx_trained,
        layers=asks.layers,
        weights_bytes=asks.weights_bytes,
        kv_bytes_per_token=asks.kv_bytes_per_token,
    )
    if asks.ctx_trained is not None and pool.ctx > asks.ctx_trained:
        log.event(
            "ctx_beyond_training",
            f"ctx of pool {pool.id} is {pool.ctx}, and {name} was trained for {asks.ctx_trained} "
            "tokens: beyond them its answers get worse. Lower ctx, or scale positions in "
            "engine.args.",
            level="warning",
            pool_id=pool.id,
        )


def _files(path: Path, *, folder: bool) -> list[Path]:
    """Return all files of a model in several (`x-00001-of-00003.gguf`), or the one.

    `folder`: the engine loads one, and its files are meant, in the order of their names.
    """
    if folder and path.is_dir():
        return sorted(file for file in path.rglob("*") if file.is_file())
    match = _SHARD.fullmatch(path.name)
    if match is None:
        return [path]
    count = int(match["count"])
    return [
        path.with_name(f"{match['stem']}-{number:05d}-of-{count:05d}.gguf")
        for number in range(1, count + 1)
    ]


def _readable(path: Path) -> int:
    """Return the size of a file that we can read. Raises OrchError(MODEL_MISSING)."""
    with _told(path), path.open("rb"):
        return path.stat().st_size


@contextlib.contextmanager
def _told(path: Path) -> Iterator[None]:
    """Tell what is wrong with a file. Raises OrchError(MODEL_MISSING)."""
    try:
        yield
        return
    except FileNotFoundError:
        why = f"there is no model file {path}"
    except IsADirectoryError:
        why = f"{path} is a folder, not a model file"
    except PermissionError:
        why = f"user {_user()} cannot read {path}"
    except OSError as exc:
        why = f"{path} cannot be read: {exc.strerror}"
    raise OrchError(Kind.MODEL_MISSING, why)


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return "of this process"


def _sha256(path: Path, files: Sequence[Path], memory: Path) -> str:
    """Return the hex digest of these files; see digests.py. Blocks.

    Raises OrchError(MODEL_MISSING).
    """
    with _told(path):
        return digests.sha256(files, memory)
