"""What cmake says of CUDA when it fails: its log -> one sentence, or none. Pure.

The words are those of cmake 3.18 to 4 with the CMakeLists of llama.cpp. Running it is source.py's.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Final

from attrs import frozen

MOST: Final = 300
"""Characters of the sentence."""
_ABOUT: Final = re.compile(r"cuda|nvcc|cublas", re.IGNORECASE)
_NO_COMPILER: Final = "The CUDA compiler identification is unknown"
_CAUSE: Final = re.compile(r"\b(?:fatal|error)\b\s*:", re.IGNORECASE)
"""What the compiler itself said, in the midst of what cmake says of it."""
TOOLKIT: Final = "install the CUDA toolkit: sudo pacman -S --needed cuda"
_ADVICE: Final = (
    # CUDA 13 has none for Pascal and Volta
    (
        re.compile(r"Unsupported gpu architecture", re.IGNORECASE),
        "this CUDA toolkit has no code for that GPU: install a version that has, or name another "
        "-DCMAKE_CUDA_ARCHITECTURES in source.build.cmake_flags",
    ),
    (
        re.compile(r"unsupported \w+ version|versions later than", re.IGNORECASE),
        "install an older compiler, sudo pacman -S --needed gcc14, and name it in "
        "source.build.cmake_flags: -DCMAKE_CUDA_HOST_COMPILER=/usr/bin/g++-14",
    ),
)
_GUESSES: Final = re.compile(r"\.\s+Possible reasons include:.*", re.DOTALL)


@frozen
class _Wrong:
    """One error: its first line, what it says, where it was called from."""

    head: str
    said: tuple[str, ...]
    calls: tuple[str, ...]

    @property
    def about_cuda(self) -> bool:
        return any(_ABOUT.search(line) for line in (self.head, *self.said, *self.calls))


def about_cuda(lines: Sequence[str]) -> str | None:
    """Return what is wrong with CUDA; None: cmake complains of something else, or of nothing."""
    wrong = [one for one in _errors(lines) if one.about_cuda]
    if not wrong:
        return None
    if any(_NO_COMPILER in line for line in lines):
        return "nvcc does not answer as a CUDA compiler does"
    said = [line for one in wrong for line in one.said]
    cause = next((line for line in said if _CAUSE.search(line)), None)
    sentence = cause or " ".join(wrong[0].said) or wrong[0].head
    return _GUESSES.sub("", re.sub(r"\s+", " ", sentence)).strip()[:MOST]


def advice(sentence: str) -> str:
    """Return what helps against what `about_cuda` returned."""
    found = (words for pattern, words in _ADVICE if pattern.search(sentence))
    return next(found, TOOLKIT)


def _errors(lines: Sequence[str]) -> Iterator[_Wrong]:
    """Yield what begins with CMake Error: its text is indented, and so are its callers."""
    at = 0
    while at < len(lines):
        head, at = lines[at], at + 1
        if not head.startswith("CMake Error"):
            continue
        said, calls = list[str](), list[str]()
        into = said
        while at < len(lines) and (not lines[at].strip() or lines[at][0] in " C"):
            if lines[at].startswith("CMake "):
                break
            if lines[at].startswith("Call Stack"):
                into = calls
            elif lines[at].startswith(" "):
                into.append(lines[at].strip())
            elif lines[at].strip():
                break
            at += 1
        yield _Wrong(head, tuple(line for line in said if line), tuple(calls))
