"""The flags of llama.cpp's build in their one form: each name once, sorted, booleans as ON and OFF.

Pure. Which of the operator's are refused is orchd/config/modes.py's.
"""

from __future__ import annotations

import re
from typing import Final

from orchd.config.modes import FLAG, OFF

ON: Final = frozenset({"on", "yes", "true", "y"})
OURS: Final = {
    "CMAKE_BUILD_TYPE": "Release",
    # one file, which runs wherever it is put
    "BUILD_SHARED_LIBS": "OFF",
    "GGML_CUDA": "ON",
    "LLAMA_BUILD_EXAMPLES": "OFF",
    "LLAMA_BUILD_TESTS": "OFF",
    "LLAMA_BUILD_SERVER": "ON",
    # it fetches no model: poolmgr does, under the rules for what leaves (OPENSSL: CURL's new name)
    "LLAMA_CURL": "OFF",
    "LLAMA_OPENSSL": "OFF",
    # a page for browsers, on a socket that none reaches; the build would download it, or run npm
    "LLAMA_BUILD_UI": "OFF",
    "LLAMA_USE_PREBUILT_UI": "OFF",
}
_WORDS: Final = ("CMAKE_BUILD_TYPE", "CMAKE_CUDA_ARCHITECTURES")
"""Not booleans, whatever they look like."""
_RELEASE: Final = re.compile(r"b(\d{1,9})")


def normalised(given: tuple[str, ...]) -> tuple[str, ...]:
    """Return -DNAME=VALUE for each name once; booleans as ON and OFF. CUDA stays ON."""
    values = dict(OURS)
    for flag in given:
        found = FLAG.fullmatch(flag)
        assert found is not None, "configuration has checked it"
        values[found[1]] = _plain(found[1], found[2])
    values["GGML_CUDA"] = "ON"
    return tuple(f"-D{name}={values[name]}" for name in sorted(values))


def _plain(name: str, value: str) -> str:
    low = value.lower()
    if name in _WORDS or name.endswith(("_FLAGS", "_COMPILER", "_LAUNCHER", "_DIR", "_PATH")):
        return value
    if low.isdigit():
        return value  # cmake takes it for either, but GGML_SCHED_MAX_COPIES=1 is a number
    if low in ON:
        return "ON"
    return "OFF" if low and low in OFF else value


def build_number(ref: str) -> int:
    """Return which build of llama.cpp a tag names: b11669; 0 where it names none.

    llama.cpp counts the commits that it finds, and a source without history has one of them.
    """
    found = _RELEASE.fullmatch(ref)
    return int(found[1]) if found is not None else 0
