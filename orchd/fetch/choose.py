"""Which files of a repository are the model. Pure: a listing in, the chosen ones out."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import PurePosixPath
from typing import Final

from orchd.fetch.remote import RemoteFile
from orchd.wire import modelref
from orchd.wire.cached import Shape

WEIGHTS: Final = (".safetensors", ".gguf", ".bin", ".pt", ".pth")
_NEVER: Final = (".gguf", ".onnx", ".msgpack", ".h5", ".ot", ".tflite", ".pth", ".png", ".jpg")
"""Other forms of the weights, and pictures: no engine of ours reads them from a folder."""
_NOT_BELOW: Final = frozenset({"original", "onnx", "openvino", "coreml", "metal", ".git"})
"""Folders in which publishers keep the weights once more, in another form."""
MAX_NAMED: Final = 8  # files that an error names


def choose(files: Sequence[RemoteFile], shape: Shape) -> tuple[RemoteFile, ...]:
    """Return the files of the one model that is meant. Raises ValueError that names the choice."""
    chosen = _gguf(files) if shape is Shape.GGUF else _whole(files)
    for file in chosen:
        if not modelref.safe_name(file.name):
            raise ValueError(f"its file {file.name[:80]!r} has a name that leads elsewhere")
    if len({file.name for file in chosen}) < len(chosen):
        raise ValueError("two of its files have one name")
    return chosen


def in_order(names: Sequence[str]) -> tuple[str, ...]:
    """Return the names of a folder's files in the order in which a digest counts them."""
    return tuple(sorted(names, key=PurePosixPath))


def _gguf(files: Sequence[RemoteFile]) -> tuple[RemoteFile, ...]:
    by_name = {file.name: file for file in files}
    found = [name for name in by_name if name.endswith(".gguf") and not _is_companion(name)]
    if not found and len(files) == 1:
        return tuple(files)  # whoever names one file means it, whatever it is called
    models = {modelref.shards(name) for name in found}
    if not models:
        raise ValueError("it holds no .gguf file, and llama.cpp reads no other form")
    if len(models) > 1:
        firsts = sorted(parts[0] for parts in models)
        more = f" and {len(firsts) - MAX_NAMED} more" if len(firsts) > MAX_NAMED else ""
        raise ValueError(
            f"it holds {len(firsts)} models: name one of {', '.join(firsts[:MAX_NAMED])}{more}"
        )
    (names,) = models
    missing = [name for name in names if name not in by_name]
    if missing:
        raise ValueError(f"it lacks {missing[0]}, a part of the model")
    return tuple(by_name[name] for name in names)


def _is_companion(name: str) -> bool:
    """Whether a GGUF is a projector or an importance matrix beside the model, by its name."""
    base = PurePosixPath(name).name.lower()
    return base.startswith(("mmproj", "imatrix"))


def _whole(files: Sequence[RemoteFile]) -> tuple[RemoteFile, ...]:
    kept = [
        file
        for file in files
        if not file.name.endswith(_NEVER)
        and not _NOT_BELOW & set(PurePosixPath(file.name).parts[:-1])
        and not PurePosixPath(file.name).name.startswith(".")
    ]
    if any(file.name.endswith(".safetensors") for file in kept):
        kept = [file for file in kept if not file.name.endswith((".bin", ".pt"))]
    if not any(file.name.endswith(WEIGHTS) for file in kept):
        raise ValueError("it holds no weights in a form that is read here (safetensors, bin)")
    return tuple(kept)
