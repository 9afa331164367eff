"""Checks of `provisioning` that hold for a mode: which keys it has, what they may be.

Each check yields faults that say what is allowed. What the keys are is in provisioning.py.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final

from orchd.config.engines import EXTERNAL_ONLY
from orchd.config.pool import (
    ENGINES,
    LLAMACPP,
    MOCK,
    TGI,
    TRITON,
    VLLM,
    Mode,
    Pool,
    Provisioning,
)
from orchd.config.provisioning import Build
from orchd.wire.codec import Fault

IMAGES: Final = {
    LLAMACPP: "ghcr.io/ggml-org/llama.cpp",
    VLLM: "docker.io/vllm/vllm-openai",
    TGI: "ghcr.io/huggingface/text-generation-inference",
    TRITON: "nvcr.io/nvidia/tritonserver",
}
"""What the engines' makers publish."""
PACKAGES: Final = {LLAMACPP: "llama.cpp-cuda"}
_OF_MODE: Final = {
    "source": Mode.SOURCE,
    "container": Mode.CONTAINER,
    "package": Mode.PACKAGE,
    "binary": Mode.BINARY,
}
FLAG: Final = re.compile(r"-D([A-Za-z_][A-Za-z0-9_]*)(?::[A-Z]+)?=([^\x00-\x1f\x7f]*)")
OFF: Final = frozenset({"0", "off", "no", "false", "n", "ignore", "notfound", ""})
"""What cmake takes for false (cmake-language(7), if)."""
NEEDED: Final = frozenset({"GGML_CUDA", "LLAMA_CUDA", "LLAMA_CUBLAS"})
"""CUDA in llama.cpp's build, by its names over time."""
OTHERS: Final = re.compile(
    r"(?:GGML|LLAMA)_(?:HIP|HIPBLAS|MUSA|VULKAN|SYCL|METAL|KOMPUTE|OPENCL|CANN|RPC|WEBGPU|OPENVINO"
    r"|ZDNN|HEXAGON)"
)
"""Backends other than NVIDIA's."""
_REPO: Final = re.compile(
    r"https://[A-Za-z0-9.\-]{1,253}(?::\d{1,5})?/[\w.~/\-]{1,512}|/[^\x00-\x1f]+"
)
_REF: Final = re.compile(r"[A-Za-z0-9][\w.\-/+]{0,199}")
_IMAGE: Final = re.compile(
    r"[a-z0-9][a-z0-9.\-]{0,252}(?::\d{1,5})?(?:/[a-z0-9]+(?:(?:[._]|__|-+)[a-z0-9]+)*){1,8}"
)
"""The distribution specification's form of a name, with its registry said."""
_TAG: Final = re.compile(r"[A-Za-z0-9_][\w.\-]{0,127}")
_PACKAGE: Final = re.compile(r"[a-z0-9@_+][a-z0-9@._+\-]{0,127}")
_URL: Final = re.compile(r"https://[A-Za-z0-9.\-]{1,253}(?::\d{1,5})?/[\x21-\x7e]{1,2000}")
_PATH: Final = re.compile(r"""/[^\x00-\x1f\x7f"'\\:,]*""")
"""A unit, a cmake list and a --mount option name it."""


def check_mode(pool: Pool, path: str) -> Iterator[Fault]:
    """Yield the faults of one pool's `provisioning`, at `path`."""
    how, mode = pool.provisioning, pool.mode
    if pool.engine.id not in ENGINES or (
        pool.engine.id in EXTERNAL_ONLY and mode is not Mode.EXTERNAL
    ):
        return  # said already, and nothing else can be right
    for key, of in _OF_MODE.items():
        if mode is not of and getattr(how, key) != getattr(Provisioning(), key):
            yield Fault(f"{path}.{key}", f"is only for mode {of}, and this is mode {mode}")
    if pool.engine.id == MOCK and mode not in (Mode.BINARY, Mode.EXTERNAL):
        yield Fault(f"{path}.mode", "must be binary or external for mock, which is our own program")
        return
    match mode:
        case Mode.SOURCE:
            yield from _source(pool, path)
        case Mode.CONTAINER:
            yield from _container(pool, path)
        case Mode.PACKAGE:
            yield from _package(pool, path)
        case Mode.BINARY:
            yield from _binary(pool, path)
        case Mode.EXTERNAL:
            pass
    if how.allow_package_installs and mode is Mode.EXTERNAL:
        yield Fault(
            f"{path}.allow_package_installs", "is not for mode external: nothing is brought"
        )
    if how.allow_binary_downloads and mode is not Mode.BINARY:
        yield Fault(f"{path}.allow_binary_downloads", "is only for mode binary")


def _source(pool: Pool, path: str) -> Iterator[Fault]:
    how = pool.provisioning
    if pool.engine.id != LLAMACPP:
        yield Fault(f"{path}.mode", f"source is for llamacpp; {pool.engine.id} has mode container")
    if how.command is not None:
        yield Fault(f"{path}.command", "is not for mode source: what is built is what runs")
    git, at = how.source.git, f"{path}.source"
    if not _REPO.fullmatch(git.repo) or ".." in git.repo:
        must = "must be https://HOST/PATH without a password, or an absolute path"
        yield Fault(f"{at}.git.repo", must)
    if not _REF.fullmatch(git.ref) or ".." in git.ref:
        yield Fault(f"{at}.git.ref", f"must be a tag or a commit, not {git.ref!r}")
    yield from _flags(how.source.build, f"{at}.build.cmake_flags")
    folder = how.source.cache_dir
    if folder is not None and not _PATH.fullmatch(folder):
        must = "must begin with / and hold no quote, backslash, colon, comma or control character"
        yield Fault(f"{at}.cache_dir", must)


def _flags(build: Build, path: str) -> Iterator[Fault]:
    for index, flag in enumerate(build.cmake_flags):
        found = FLAG.fullmatch(flag)
        at = f"{path}[{index}]"
        if found is None:
            yield Fault(at, f"must be -DNAME=VALUE, not {flag!r}")
        elif found[1] in NEEDED and found[2].lower() in OFF:
            yield Fault(at, "must not take CUDA out: nothing runs on the CPU")
        elif OTHERS.fullmatch(found[1]) and found[2].lower() not in OFF:
            yield Fault(at, f"must not bring {found[1]} in: inference is on NVIDIA GPUs only")


def _container(pool: Pool, path: str) -> Iterator[Fault]:
    one, at = pool.provisioning.container, f"{path}.container"
    if one.image is None and pool.engine.id not in IMAGES:
        yield Fault(f"{at}.image", f"is required: {pool.engine.id} has no image of its own")
    if one.image is not None and not _IMAGE.fullmatch(one.image):
        must = "must be REGISTRY/NAME in lower case, without tag and digest"
        yield Fault(f"{at}.image", f"{must}, not {one.image!r}")
    if one.tag is not None and not _TAG.fullmatch(one.tag):
        yield Fault(f"{at}.tag", f"must be the tag of an image, not {one.tag!r}")
    if one.tag is None and one.digest is None:
        must = "is required (or a tag): without either another image would run tomorrow"
        if pool.provisioning.mode is None:
            must += (
                f"; {pool.engine.id} is an image where no mode is given: such as "
                'provisioning = { container = { tag = "TAG" } }'
            )
        yield Fault(f"{at}.digest", must)


def _package(pool: Pool, path: str) -> Iterator[Fault]:
    name = pool.provisioning.package.name
    if name is not None and not _PACKAGE.fullmatch(name):
        yield Fault(f"{path}.package.name", f"must be the name of a package, not {name!r}")
    if not pool.command:
        yield Fault(f"{path}.command", "is required: the program that the package brings")


def _binary(pool: Pool, path: str) -> Iterator[Fault]:
    how = pool.provisioning
    url, checksum = how.binary.url, how.binary.checksum
    if url is None:
        if checksum is not None:
            yield Fault(f"{path}.binary.checksum", "is for a url, and there is none")
        if pool.engine.id != MOCK and not pool.command:
            yield Fault(f"{path}.command", 'must name a program, such as ["llama-server"]')
        return
    if not _URL.fullmatch(url) or "@" in url.partition("://")[2].partition("/")[0]:
        yield Fault(f"{path}.binary.url", "must be https://HOST/FILE without a password")
    if checksum is None:
        yield Fault(f"{path}.binary.checksum", "is required: sha256:<64 hex digits> of that file")
    if pool.engine.id == MOCK:
        yield Fault(f"{path}.binary.url", "is not for mock, which is our own program")
