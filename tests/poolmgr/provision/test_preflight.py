"""What is in the way, in which order, and the command to copy and paste."""

from __future__ import annotations

import pytest
from attrs import evolve

from poolmgr.provision.plans.facts import PackageFact, Runtime
from poolmgr.provision.plans.preflight import check
from tests.poolmgr.provision.making import DOCKER, MODES, WHOLE, facts, pool, without

DRIVER = "the NVIDIA driver does not answer: NVML Shared Library Not Found"


@pytest.mark.req("ORCH-3803", "ORCH-3431", "ORCH-1102")
@pytest.mark.parametrize("mode", ["source", "container", "package", "binary"])
def test_the_gpus_come_first_in_every_mode(tmp_path, mode):
    one = pool(tmp_path, MODES[mode])
    first, *_ = check(one, facts(gpus=(), no_driver=DRIVER))
    assert first.what == DRIVER
    assert first.command == "sudo pacman -S --needed nvidia-open nvidia-utils"
    first, *_ = check(one, facts(gpus=WHOLE.gpus[1:]))
    assert (first.what, first.command) == ("GPU 0 of the pool's masks is not here", "nvidia-smi -L")


def test_an_external_engine_needs_nothing(tmp_path):
    assert check(pool(tmp_path, MODES["external"]), facts(gpus=(), no_driver=DRIVER)) == ()


@pytest.mark.req("ORCH-3202", "ORCH-3203", "ORCH-3804", "ORCH-3092")
def test_a_build_needs_its_tools_and_the_cuda_compiler_before_all(tmp_path):
    one = pool(tmp_path, MODES["source"])
    found = check(one, without("git", "cmake", "nvcc", "c++", "ninja", "make"))
    assert [each.command for each in found] == [
        "sudo pacman -S --needed cuda",
        "sudo pacman -S --needed git",
        "sudo pacman -S --needed cmake",
        "sudo pacman -S --needed gcc",
        "sudo pacman -S --needed ninja",
    ]
    assert found[0].what.startswith("nvcc is not here (the CUDA compiler: without it")
    make = MODES["source"] + '\nsource.build.generator = "Unix Makefiles"'
    assert check(pool(tmp_path, make), without("ninja")) == ()
    (old,) = check(one, facts(versions={"cmake": "cmake version 3.16.3"}))
    assert old.what == "cmake 3.16 is too old: it has to be 3.18 or newer"


@pytest.mark.req("ORCH-3205")
def test_the_cache_has_to_be_ours_and_to_have_room(tmp_path):
    one = pool(tmp_path, MODES["source"])
    (closed,) = check(one, facts(cache_problem="user op may not write into /var/cache"))
    assert closed.command == "sudo install -d -o op -m 750 /var/cache/orchd/engines"
    units = facts(cache_problem="user op may not write into /var/cache", units=True)
    (theirs,) = check(one, units)
    assert theirs.command == "sudo orchctl provision llama"
    (full,) = check(one, facts(free_bytes=3 << 30))
    assert full.what == "/var/cache/orchd/engines is on a disk with 3 GiB free, and 6 are wanted"


@pytest.mark.req("ORCH-3801", "ORCH-3804")
def test_a_container_needs_a_runtime_ids_and_its_gpus_in_a_cdi_specification(tmp_path):
    one = pool(tmp_path, MODES["container"])
    assert check(one, WHOLE) == ()
    (none,) = check(one, facts(podman=None, docker=None))
    assert none.command == "sudo pacman -S --needed podman"
    broken = Runtime(path="/p", name="podman", version="", why_not="cannot clone: no namespaces")
    (why,) = check(one, facts(podman=broken, docker=None))
    assert (why.what, why.command) == (
        "podman does not work here: cannot clone: no namespaces", "podman info",
    )  # fmt: skip
    assert check(one, facts(podman=broken, docker=DOCKER)) == ()
    closed = Runtime(path="/d", name="docker", version="26.1", cdi=False)
    (off,) = check(one, facts(podman=None, docker=closed))
    assert off.what == "docker 26.1 takes no devices by CDI, as it is configured"
    (ids,) = check(one, facts(subordinate_ids=False))
    assert ids.command == (
        "sudo usermod --add-subuids 100000-165535 --add-subgids 100000-165535 op"
    )
    # by number it would be another GPU after a change of hardware
    (cdi,) = check(one, facts(cdi=frozenset({"0", "1", "all", "GPU-bb"})))
    assert cdi.what == "no CDI specification names nvidia.com/gpu=GPU-aa"
    generate = (
        "sudo nvidia-ctk cdi generate --device-name-strategy=uuid --output=/etc/cdi/nvidia.yaml"
    )
    assert cdi.command == generate
    (both,) = check(one, without("nvidia-ctk", cdi=frozenset()))
    assert both.command == f"sudo pacman -S --needed nvidia-container-toolkit && {generate}"


@pytest.mark.req("ORCH-3801", "ORCH-3804", "SYSD-28")
def test_for_the_units_podman_needs_no_ids_and_may_have_none(tmp_path):
    one = pool(tmp_path, MODES["container"])
    alone = {"units": True, "user": "poolmgr", "subordinate_ids": False}
    assert check(one, facts(**alone)) == ()
    (ids,) = check(one, facts(**alone | {"subordinate_ids": True}))
    assert ids.command == "sudo sed -i '/^poolmgr:/d' /etc/subuid /etc/subgid"
    (owner,) = check(one, facts(**alone | {"user": "root"}))
    assert owner.command == "sudo install -d -o poolmgr -g poolmgr -m 750 /var/cache/orchd/engines"
    runc = Runtime(path="/p", name="podman", version="5", oci="")
    (crun,) = check(one, facts(podman=runc, **alone))
    assert crun.command == "sudo pacman -S --needed crun"
    # nothing of that is docker's
    assert check(one, facts(podman=None, **alone | {"subordinate_ids": True})) == ()


@pytest.mark.parametrize(
    ("name", "value"),
    [("kernel.unprivileged_userns_clone", "1"), ("user.max_user_namespaces", "10000")],
)
def test_a_kernel_that_gives_users_no_namespaces_is_told(tmp_path, name, value):
    one = pool(tmp_path, MODES["container"])
    (closed,) = check(one, facts(no_namespaces=name))
    assert closed.what.endswith(f"({name} is 0)")
    assert closed.command.startswith(f"echo '{name} = {value}' | sudo tee /etc/sysctl.d/")
    assert check(one, facts(no_namespaces=name, root=True)) == ()
    assert len(check(one, facts(no_namespaces=name, root=True, units=True, user="poolmgr",
                                subordinate_ids=False))) == 1  # fmt: skip


@pytest.mark.req("ORCH-3434", "ORCH-3092", "OC-CONFIG-6026")
def test_no_package_is_installed_unless_that_is_allowed(tmp_path):
    one = pool(tmp_path, MODES["package"])
    allowed = pool(tmp_path, MODES["package"] + "\nallow_package_installs = true")
    arch = {**WHOLE.programs, "pacman": "/usr/bin/pacman", "sudo": "/usr/bin/sudo"}
    official = facts(programs=arch)
    (told,) = check(one, official)
    assert told.what == (
        "package llama.cpp-cuda is not installed, and allow_package_installs is false"
    )
    assert told.command == "sudo pacman -S --needed llama.cpp-cuda"
    assert check(allowed, official) == ()
    # the AUR: by a helper, not as root, and never by pacman
    aur = facts(programs={**arch, "paru": "/usr/bin/paru"}, package=PackageFact())
    assert check(one, aur)[0].command == "paru -S --needed llama.cpp-cuda"
    assert check(allowed, aur) == ()
    (root,) = check(allowed, facts(programs=aur.programs, package=PackageFact(), root=True))
    assert "nothing is built as root" in root.what
    assert root.command.startswith("paru -S --needed llama.cpp-cuda  # as an ordinary user")
    # root by sudo: its caller builds, if sudo then asks nothing of them
    called = facts(programs=aur.programs, package=PackageFact(), root=True, sudo_user="op")
    assert check(allowed, called) == ()
    (asked,) = check(allowed, evolve(called, sudo_asks=True))
    assert asked.what == "sudo asks op for a password, and there is no terminal to give it"
    assert asked.command.startswith(
        "sudo -u op -H /usr/bin/paru -S --needed llama.cpp-cuda  # then"
    )
    (asked,) = check(allowed, evolve(official, sudo_asks=True))
    assert asked.command.startswith("sudo pacman -S --needed llama.cpp-cuda  # then")
    assert check(allowed, evolve(official, sudo_asks=True, root=True)) == ()
    (sudo,) = check(allowed, facts(programs={**WHOLE.programs, "pacman": "/usr/bin/pacman"}))
    assert sudo.what == "package llama.cpp-cuda needs root to be installed"
    (nobody,) = check(allowed, facts(programs=arch, package=PackageFact()))
    assert nobody.command == "sudo pacman -S --needed paru && paru -S --needed llama.cpp-cuda"
    (other,) = check(allowed, WHOLE)
    assert other.what.endswith("there is no pacman here")
    assert check(one, facts(programs=arch, package=PackageFact(installed="b1-1"))) == ()


@pytest.mark.req("OC-CONFIG-6027")
def test_nothing_is_downloaded_unless_that_is_allowed(tmp_path):
    how = MODES["binary"].replace("\nallow_binary_downloads = true", "")
    (told,) = check(pool(tmp_path, how), WHOLE)
    assert told.what.endswith("allow_binary_downloads is false")
    assert told.command.startswith(
        "curl -fLO 'https://dl.example.org/b1/llama.tar.gz' && echo 'abab"
    )
    assert check(pool(tmp_path, MODES["binary"]), WHOLE) == ()
    (gone,) = check(pool(tmp_path, 'command = ["/opt/none"]'), WHOLE)
    assert gone.what == "/opt/none cannot be run here"
