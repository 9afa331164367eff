"""The keys of provisioning: which mode has them, and what they may be."""

from __future__ import annotations

import pytest

from orchd.config.load import load
from tests.config.test_faults import LLAMA, faults, pool

P = "$.pools[0].provisioning"
SUM = "sha256:" + "0" * 64
URL = "https://h.example/x.tar.gz"


def llama(how: str) -> str:
    return pool(**LLAMA, provisioning=f"{{ {how} }}")


GOOD = [
    'mode = "source"',
    'source = { git = { repo = "/srv/llama.cpp", ref = "b1", submodules = true } }',
    'source = { build = { cmake_flags = ["-DGGML_CUDA_F16=ON"], generator = "Unix Makefiles" } }',
    'source = { build = { cmake_flags = ["-DGGML_VULKAN=OFF", "-DGGML_CUDA:BOOL=ON"] } }',
    'source = { cache_dir = "/srv/cache" }',
    f'mode = "container", container = {{ digest = "{SUM}" }}',
    'mode = "container", container = { image = "ghcr.io/a/b.c", tag = "v1.2-cuda" }',
    'mode = "container", container = { image = "localhost:5000/a", tag = "v1" }',
    'mode = "package", allow_package_installs = true',
    'mode = "package", package = { name = "llama.cpp-cuda-git" }',
    f'mode = "binary", binary = {{ url = "{URL}", checksum = "{SUM}" }}',
    'command = ["/opt/llama-server"]',
]


@pytest.mark.req(
    "OC-CONFIG-6020", "OC-CONFIG-6021", "OC-CONFIG-6022", "OC-CONFIG-6023", "OC-CONFIG-6024",
    "OC-CONFIG-6025", "OC-CONFIG-6026", "OC-CONFIG-6027",
)  # fmt: skip
@pytest.mark.parametrize("how", GOOD)
def test_every_mode_can_be_configured(tmp_path, how):
    (tmp_path / "c.toml").write_text(llama(how))
    (one,) = load(tmp_path / "c.toml", environ={"ORCHD_RUN_DIR": "/run"}).pools
    allowed = one.provisioning.allow_package_installs, one.provisioning.allow_binary_downloads
    assert allowed == ("allow_package_installs" in how, False)


def flag(text: str) -> str:
    return f'source = {{ build = {{ cmake_flags = ["{text}"] }} }}'


FLAG = f"{P}.source.build.cmake_flags[0]"
BAD = [
    # no build for the CPU, and none for another maker's cards
    (flag("-DGGML_CUDA=OFF"), FLAG, "must not take CUDA out"),
    (flag("-DGGML_CUDA:BOOL=false"), FLAG, "must not take CUDA out"),
    (flag("-DLLAMA_CUBLAS=0"), FLAG, "must not take CUDA out"),
    (flag("-DGGML_VULKAN=1"), FLAG, "NVIDIA GPUs only"),
    (flag("-DGGML_HIP=ON"), FLAG, "NVIDIA GPUs only"),
    (flag("-G"), FLAG, "must be -DNAME=VALUE"),
    ('source = { git = { ref = "a/../b" } }', f"{P}.source.git.ref", "a tag or a commit"),
    ('source = { git = { ref = "--upload-pack=x" } }', f"{P}.source.git.ref", "a tag or a commit"),
    ('source = { git = { repo = "ext::sh -c x" } }', f"{P}.source.git.repo", "https://HOST/PATH"),
    ('source = { git = { repo = "https://u:p@h/x" } }', f"{P}.source.git.repo", "password"),
    ('source = { cache_dir = "rel" }', f"{P}.source.cache_dir", "must begin with /"),
    ('mode = "source", command = ["x"]', f"{P}.command", "what is built is what runs"),
    ('mode = "container"', f"{P}.container.digest", "is required (or a tag)"),
    ('mode = "container", container = { image = "b", tag = "1" }', f"{P}.container.image",
     "REGISTRY/NAME"),
    ('mode = "container", container = { image = "r.io/b:1", tag = "1" }', f"{P}.container.image",
     "without tag and digest"),
    ('mode = "container", container = { tag = "-x" }', f"{P}.container.tag", "tag of an image"),
    ('mode = "container", container = { digest = "md5:1" }', f"{P}.container.digest", "sha256:"),
    ('mode = "package", package = { name = "-S x" }', f"{P}.package.name", "name of a package"),
    (f'mode = "binary", binary = {{ url = "{URL}" }}', f"{P}.binary.checksum", "is required"),
    (f'mode = "binary", binary = {{ url = "http://h/x", checksum = "{SUM}" }}', f"{P}.binary.url",
     "must be https://"),
    (f'mode = "binary", binary = {{ url = "https://u:p@h/x", checksum = "{SUM}" }}',
     f"{P}.binary.url", "without a password"),
    (f'mode = "binary", binary = {{ checksum = "{SUM}" }}', f"{P}.binary.checksum", "for a url"),
    (f'mode = "source", binary = {{ url = "{URL}", checksum = "{SUM}" }}', f"{P}.binary",
     "is only for mode binary, and this is mode source"),
    ('mode = "binary", source = { git = { ref = "b1" } }', f"{P}.source", "only for mode source"),
    ('mode = "source", allow_binary_downloads = true', f"{P}.allow_binary_downloads",
     "only for mode binary"),
]  # fmt: skip


@pytest.mark.req("ORCH-3437", "OC-CONFIG-6021")
@pytest.mark.parametrize(("how", "path", "words"), BAD)
def test_what_a_mode_does_not_have_is_refused(tmp_path, how, path, words):
    ((_, at, message),) = faults(tmp_path, llama(how))
    assert at == path
    assert words in message


def test_only_llama_cpp_is_built_and_mock_is_our_own(tmp_path):
    text = pool(
        engine='{ id = "vllm" }', model='{ ref = "/m" }', provisioning='{ mode = "source" }'
    )
    ((_, at, message),) = faults(tmp_path, text)
    assert (at, message) == (f"{P}.mode", "source is for llamacpp; vllm has mode container")
    ((_, _, message),) = faults(tmp_path, pool(provisioning='{ mode = "package" }'))
    assert message == "must be binary or external for mock, which is our own program"
