"""The plan: the same bytes each time, and what makes one engine another."""

from __future__ import annotations

import pytest
from attrs import evolve

from orchd.config.pool import Mode
from orchd.wire import codec
from poolmgr.provision.plans import steps as s
from poolmgr.provision.plans import words
from poolmgr.provision.plans.facts import Facts, PackageFact
from poolmgr.provision.plans.planning import entry_id, plan, runtime
from poolmgr.provision.plans.preflight import check
from tests.poolmgr.provision.making import DIGEST, DOCKER, GPUS, MODES, PODMAN, WHOLE, facts, pool


def kinds(planned: s.Plan) -> list[str]:
    return [step.name for step in planned.steps]


@pytest.mark.req("ORCH-3207", "ORCH-3200", "ORCH-3201", "OC-CONFIG-6020", "OC-CONFIG-6021")
@pytest.mark.parametrize(
    ("mode", "wanted"),
    [
        ("source", ["clone", "configure", "build", "check_cuda", "register"]),
        ("container", ["pull", "register"]),
        ("package", ["install", "find_program", "check_cuda", "register"]),
        ("binary", ["download", "extract", "check_cuda", "register"]),
        ("external", ["attach"]),
    ],
)
def test_each_mode_has_its_steps_and_the_same_bytes_each_time(tmp_path, mode, wanted):
    one = pool(tmp_path, MODES[mode])
    planned = plan(one, WHOLE)
    assert (planned.mode, kinds(planned)) == (mode, wanted)
    assert check(one, WHOLE) == (() if mode != "package" else check(one, WHOLE))
    once, again = (
        codec.dumps(words.value(plan(each, WHOLE), check(each, WHOLE)))
        for each in (one, pool(tmp_path, MODES[mode]))
    )
    assert once == again
    assert list(words.lines(planned, ())) == list(words.lines(plan(one, WHOLE), ()))


@pytest.mark.req("ORCH-3800")
def test_every_engine_has_its_own_way(tmp_path):
    tag = 'container.tag = "v1"'
    assert pool(tmp_path, "").mode is Mode.SOURCE
    assert pool(tmp_path, 'command = ["/opt/llama-server"]').mode is Mode.BINARY
    for engine, image in (
        ("vllm", "docker.io/vllm/vllm-openai"),
        ("triton", "nvcr.io/nvidia/tritonserver"),
    ):
        one = pool(tmp_path, tag, engine)
        assert one.mode is Mode.CONTAINER
        (pull, _) = plan(one, WHOLE).steps
        assert pull == s.Pull(runtime="/usr/bin/podman", reference=f"{image}:v1", digest=None)


@pytest.mark.req("ORCH-3437", "ORCH-3433")
def test_the_flags_of_a_build_are_in_one_form_and_cuda_stays_in(tmp_path):
    how = (
        'mode = "source"\n[pools.provisioning.source.build]\n'
        'cmake_flags = ["-DGGML_CUDA_FA_ALL_QUANTS=yes", "-DLLAMA_CURL:BOOL=true", '
        '"-DLLAMA_CURL=off", "-DGGML_CUDA=1", "-DGGML_SCHED_MAX_COPIES=1"]\n'
        'generator = "Unix Makefiles"'
    )
    planned = plan(pool(tmp_path, how), facts(programs={**WHOLE.programs, "ccache": "/b/ccache"}))
    assert planned.flags == (
        "-DBUILD_SHARED_LIBS=OFF",
        "-DCMAKE_BUILD_TYPE=Release",
        "-DCMAKE_CUDA_ARCHITECTURES=86;89",
        "-DCMAKE_CUDA_COMPILER_LAUNCHER=ccache",
        "-DCMAKE_CXX_COMPILER_LAUNCHER=ccache",
        "-DCMAKE_C_COMPILER_LAUNCHER=ccache",
        "-DGGML_CUDA=ON",
        "-DGGML_CUDA_FA_ALL_QUANTS=ON",
        "-DGGML_SCHED_MAX_COPIES=1",
        "-DLLAMA_BUILD_EXAMPLES=OFF",
        "-DLLAMA_BUILD_NUMBER=11669",
        "-DLLAMA_BUILD_SERVER=ON",
        "-DLLAMA_BUILD_TESTS=OFF",
        "-DLLAMA_BUILD_UI=OFF",
        "-DLLAMA_CURL=OFF",
        "-DLLAMA_OPENSSL=OFF",
        "-DLLAMA_USE_PREBUILT_UI=OFF",
    )
    configure, build = planned.steps[1:3]
    assert isinstance(configure, s.Configure)
    assert isinstance(build, s.Build)
    assert "Unix Makefiles" in configure.argv
    assert build.argv[-2:] == ("--parallel", "8")


def test_without_a_word_on_the_gpus_the_build_looks_for_itself(tmp_path):
    one = pool(tmp_path, "")
    assert "-DCMAKE_CUDA_ARCHITECTURES=native" in plan(one, facts(gpus=())).flags
    how = 'source.build.cmake_flags = ["-DCMAKE_CUDA_ARCHITECTURES=90"]'
    assert "-DCMAKE_CUDA_ARCHITECTURES=90" in plan(pool(tmp_path, how), WHOLE).flags


@pytest.mark.parametrize(
    ("ref", "number"), [("b11434", "11434"), ("v0.6.0", "0"), ("a" * 40, "0"), ("b12-fix", "0")]
)
def test_the_build_has_the_number_that_its_tag_names(tmp_path, ref, number):
    planned = plan(pool(tmp_path, f'source.git.ref = "{ref}"'), WHOLE)
    assert f"-DLLAMA_BUILD_NUMBER={number}" in planned.flags
    how = f'source = {{ git.ref = "{ref}", build.cmake_flags = ["-DLLAMA_BUILD_NUMBER=7"] }}'
    assert "-DLLAMA_BUILD_NUMBER=7" in plan(pool(tmp_path, how), WHOLE).flags


@pytest.mark.req("ORCH-3440")
def test_an_engine_s_name_follows_from_the_configuration_alone(tmp_path):
    names = {
        entry_id(pool(tmp_path, how))
        for how in (
            'source.git.ref = "b1"',
            'source.git.ref = "b2"',
            'source.git = { ref = "b1", repo = "https://example.org/llama" }',
            'source.git = { ref = "b1", submodules = true }',
            'source = { git.ref = "b1", build.cmake_flags = ["-DGGML_CUDA_F16=ON"] }',
        )
    }
    assert len(names) == 5
    assert all(name is not None and name.startswith("llamacpp-source-b") for name in names)
    # one flag, written in three ways, is one engine
    ways = ("-DGGML_CUDA_F16=ON", "-DGGML_CUDA_F16:BOOL=yes", "-DGGML_CUDA_F16=true")
    each = {entry_id(pool(tmp_path, f'source.build.cmake_flags = ["{way}"]')) for way in ways}
    assert len(each) == 1
    # and what the machine has changes nothing of it
    one = pool(tmp_path, "")
    assert plan(one, WHOLE).entry_id == plan(one, Facts()).entry_id == entry_id(one)
    assert entry_id(pool(tmp_path, MODES["external"])) is None


@pytest.mark.req("ORCH-3802", "OC-CONFIG-6023")
def test_an_image_is_pulled_by_its_digest_and_a_tag_alone_is_warned_of(tmp_path):
    image = 'container.image = "registry.example.org/a/b"\n'
    both = plan(pool(tmp_path, f'mode = "container"\n{image}container.tag = "t"\n'
                               f'container.digest = "{DIGEST}"'), WHOLE)  # fmt: skip
    assert both.steps[0] == s.Pull(
        runtime="/usr/bin/podman", reference=f"registry.example.org/a/b@{DIGEST}", digest=DIGEST
    )
    assert both.warnings == ()
    tag = plan(pool(tmp_path, f'mode = "container"\n{image}container.tag = "t"'), WHOLE)
    assert tag.warnings == (
        "registry.example.org/a/b:t may be another image tomorrow: pin container.digest, which "
        "orchctl provision tells",
    )


@pytest.mark.req("ORCH-3801")
def test_podman_comes_first_and_docker_where_it_does_not_work():
    assert runtime(WHOLE) is PODMAN
    assert runtime(facts(podman=None)) is DOCKER
    broken = PODMAN.__class__(path="/p", name="podman", version="", why_not="no ids")
    assert runtime(facts(podman=broken)) is DOCKER
    assert runtime(facts(podman=broken, docker=None)) is broken
    assert runtime(facts(podman=None, docker=None)) is None


@pytest.mark.req("ORCH-3434", "ORCH-3204")
def test_a_package_is_installed_by_pacman_or_by_an_aur_helper(tmp_path):
    one = pool(tmp_path, MODES["package"])
    install = plan(one, WHOLE).steps[0]
    assert isinstance(install, s.Install)
    assert install.argv == ("sudo", "pacman", "-S", "--needed", "--noconfirm", "llama.cpp-cuda")
    aur = facts(package=PackageFact(), programs={**WHOLE.programs, "yay": "/b/yay"})
    install = plan(one, aur).steps[0]
    assert isinstance(install, s.Install)
    assert install.argv == ("yay", "-S", "--needed", "--noconfirm", "llama.cpp-cuda")
    both = {**aur.programs, "paru": "/b/paru"}
    called = evolve(aur, programs=both, root=True, sudo_user="op")
    install = plan(one, called).steps[0]
    assert isinstance(install, s.Install)
    assert " ".join(install.argv) == (
        "sudo -n -u op -H -- /b/paru -S --needed --noconfirm --skipreview llama.cpp-cuda"
    )
    there = plan(one, facts(package=PackageFact(installed="b1-1")))
    assert kinds(there) == ["find_program", "check_cuda", "register"]


def test_words_name_every_step(tmp_path):
    for mode, how in MODES.items():
        planned = plan(pool(tmp_path, how), facts(gpus=GPUS))
        text = "\n".join(words.lines(planned, ()))
        assert text.startswith(f"Pool llama, mode {mode}")
        assert all(f"{step.name} " in text for step in planned.steps)
    named = plan(pool(tmp_path, MODES["binary"].replace(".gz", ".gz?sig=secret")), WHOLE)
    assert "secret" not in "\n".join(words.lines(named, ()))
