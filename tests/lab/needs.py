"""What a test needs from the host, how to see whether it is there, and the command that brings it.

Here: the table of needs, the skip with its precise reason, installing. Not here: anything that a
need is then used for. Imports the standard library only, so that `python3 -m tests.lab.needs`
(`--install`: as root, by apt-get) works before there is a venv to compile systemd-python into.
"""

from __future__ import annotations

import ctypes.util
import os
import platform
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Need:
    """One thing that must be there; `debian` and `arch` name the packages that bring it."""

    what: str
    present: Callable[[], bool]
    debian: tuple[str, ...] = ()
    arch: tuple[str, ...] = ()
    advice: str = ""

    def reason(self) -> str:
        """The sentence that a skipped test shows: what is missing and the command that helps."""
        return f"needs {self.what}: {self.advice or install_command([self])}"


def has_program(name: str) -> Callable[[], bool]:
    """A check that looks in PATH and, since an ordinary user's PATH lacks them, in sbin too."""
    path = os.environ.get("PATH", os.defpath) + ":/usr/local/sbin:/usr/sbin:/sbin"
    return lambda: shutil.which(name, path=path) is not None


def unified_cgroup() -> Path | None:
    """Where cgroup v2 is mounted: alone, or beside v1 on a hybrid host; None when nowhere."""
    for candidate in ("/sys/fs/cgroup", "/sys/fs/cgroup/unified"):
        if Path(candidate, "cgroup.controllers").is_file():
            return Path(candidate)
    return None


def kernel() -> tuple[int, ...]:
    """The kernel's major and minor version."""
    return tuple(int(number) for number in platform.release().split(".")[:2])


def knows_overlay() -> bool:
    """The kernel has overlayfs loaded, or can load it."""
    loaded = "overlay" in Path("/proc/filesystems").read_text()
    return loaded or Path("/lib/modules", platform.release(), "kernel/fs/overlayfs").is_dir()


ROOT = Need("root", lambda: os.geteuid() == 0, advice="run the tests as root (sudo make test)")
NSPAWN = Need(
    "systemd-nspawn",
    has_program("systemd-nspawn"),
    debian=("systemd-container",),
    arch=("systemd",),
)
MMDEBSTRAP = Need(
    "mmdebstrap",
    has_program("mmdebstrap"),
    debian=("mmdebstrap", "debian-archive-keyring"),
    arch=("mmdebstrap", "debian-archive-keyring"),
)
NSENTER = Need("nsenter", has_program("nsenter"), debian=("util-linux",), arch=("util-linux",))
LINUX = Need("Linux 5.14 (cgroup.kill)", lambda: kernel() >= (5, 14), advice="boot a newer kernel")
CGROUP2 = Need(
    "a mounted cgroup v2",
    lambda: unified_cgroup() is not None,
    advice="mount -t cgroup2 cgroup2 /sys/fs/cgroup/unified",
)
OVERLAY = Need("overlayfs in the kernel", knows_overlay, advice="modprobe overlay")
CLANGS = ("", *(f"-{number}" for number in range(30, 12, -1)))
"""What distributions put behind the names of clang's programs."""
GCC = Need("gcc", has_program("gcc"), debian=("gcc", "libc6-dev"), arch=("gcc",))
CLANG = Need(
    "clang and wasm-ld",
    lambda: any(has_program(f"clang{n}")() and has_program(f"wasm-ld{n}")() for n in CLANGS),
    debian=("clang", "lld"),
    arch=("clang", "lld"),
)
PATCHELF = Need("patchelf", has_program("patchelf"), debian=("patchelf",), arch=("patchelf",))
APT = Need(
    "apt-get and dpkg",
    lambda: has_program("apt-get")() and has_program("dpkg")(),
    arch=("apt", "dpkg"),
    debian=("apt", "dpkg"),
)
X86_64 = Need(
    "an x86-64 machine",
    lambda: platform.machine() == "x86_64",
    advice="this build of the engine is published for x86-64 only",
)
# systemd-python has no wheels: whoever makes the project's own venv compiles it.
LIBSYSTEMD = Need(
    "libsystemd's headers (systemd-python is compiled)",
    lambda: any(
        Path(folder, "systemd/sd-daemon.h").is_file()
        for folder in ("/usr/include", "/usr/local/include")
    ),
    debian=("libsystemd-dev", "pkg-config"),
    arch=("systemd-libs", "pkgconf"),
)
LIBGOMP = Need(
    "libgomp (the engine's wheel loads it)",
    lambda: ctypes.util.find_library("gomp") is not None,
    debian=("libgomp1",),
    arch=("gcc-libs",),
)
PYTHON = f"{sys.version_info.major}.{sys.version_info.minor}"
TRITON_PYTHONS = ("3.8", "3.9", "3.10", "3.11", "3.12", "3.13")
"""Pythons that tritonserver's wheel has a backend for."""
TRITON_PYTHON = Need(
    f"a Python of {', '.join(TRITON_PYTHONS)} (Triton's Python backend)",
    lambda: PYTHON in TRITON_PYTHONS,
    advice="run the tests with one of them",
)
LIBPYTHON = Need(
    "libpython (Triton's Python backend loads it)",
    lambda: ctypes.util.find_library(f"python{PYTHON}") is not None,
    debian=(f"libpython{PYTHON}",),
    arch=("python",),
)
PYTHON_H = Need(
    "Python's headers (systemd-python is compiled)",
    lambda: Path(sysconfig.get_paths()["include"], "Python.h").is_file(),
    debian=("python3-dev", "python3-venv"),
    arch=("python",),
)

REGISTRY = Need(
    "docker-registry",
    has_program("docker-registry"),
    debian=("docker-registry",),
    arch=("docker-registry",),  # from the AUR
)

SUDO = Need("sudo", has_program("sudo"), debian=("sudo",), arch=("sudo",))
TINYPROXY = Need(
    "tinyproxy", has_program("tinyproxy"), debian=("tinyproxy-bin",), arch=("tinyproxy",)
)
MAKEPKG = Need("makepkg", has_program("makepkg"), debian=("makepkg",), arch=("pacman",))
PACMAN = Need(
    "pacman",
    has_program("pacman"),
    debian=("pacman-package-manager", "libarchive-tools", "zstd"),
    arch=("pacman",),
)
FAKEROOT = Need("fakeroot", has_program("fakeroot"), debian=("fakeroot",), arch=("fakeroot",))

GROFF = Need("groff", has_program("groff"), debian=("groff-base",), arch=("groff",))
ZSH = Need("zsh", has_program("zsh"), debian=("zsh",), arch=("zsh",))
FISH = Need("fish", has_program("fish"), debian=("fish",), arch=("fish",))
DBUS = Need("dbus-daemon", has_program("dbus-daemon"), debian=("dbus-daemon",), arch=("dbus",))

GIT = Need("git", has_program("git"), debian=("git",), arch=("git",))
CMAKE = Need("cmake", has_program("cmake"), debian=("cmake",), arch=("cmake",))
NINJA = Need("ninja", has_program("ninja"), debian=("ninja-build",), arch=("ninja",))
PODMAN = Need(
    "podman",
    has_program("podman"),
    debian=("podman", "runc", "crun", "uidmap"),
    arch=("podman", "runc", "crun"),
)
UIDMAP = Need("newuidmap", has_program("newuidmap"), debian=("uidmap",), arch=("shadow",))
RUNC = Need("runc", has_program("runc"), debian=("runc",), arch=("runc",))

MACHINE = (ROOT, LINUX, NSPAWN, NSENTER, MMDEBSTRAP, CGROUP2, OVERLAY)
DEBIAN_LLAMA = (X86_64, APT, PATCHELF)
WHEEL_LLAMA = (X86_64, LIBGOMP)
TRITON = (X86_64, TRITON_PYTHON, LIBPYTHON)
FAKE_NVML = (GCC,)
BUS = (DBUS,)
VENV = (GCC, LIBSYSTEMD, PYTHON_H)
PACKAGING = (MAKEPKG, PACMAN, FAKEROOT)
MANUAL = (GROFF, ZSH, FISH)
BUILDING = (GIT, CMAKE, NINJA, GCC)
PROXY = (ROOT, TINYPROXY)
CONTAINERS = (ROOT, PODMAN, RUNC, UIDMAP)
EVERYTHING = (
    *(*VENV, *MACHINE, *DEBIAN_LLAMA, *WHEEL_LLAMA, *TRITON),
    *(
        *FAKE_NVML,
        *BUS,
        *PACKAGING,
        CLANG,
        REGISTRY,
        *MANUAL,
        *BUILDING,
        *CONTAINERS,
        TINYPROXY,
        SUDO,
    ),
)


def missing(needs: Iterable[Need]) -> list[Need]:
    """Those of `needs` that are not there, in order, each once."""
    return [need for need in dict.fromkeys(needs) if not need.present()]


def require(needs: Iterable[Need]) -> None:
    """Skip the running test (or fixture) when something is missing, naming every one of them."""
    import pytest  # not there before the venv is

    absent = missing(needs)
    if absent:
        pytest.skip("; ".join(need.reason() for need in absent))


def is_arch() -> bool:
    """Whether packages come by pacman and nothing else (Debian may carry pacman as a tool)."""
    return has_program("pacman")() and not Path("/etc/debian_version").exists()


def packages(needs: Iterable[Need]) -> list[str]:
    """The packages of this distribution that bring `needs`."""
    arch = is_arch()
    return list(dict.fromkeys(p for need in needs for p in (need.arch if arch else need.debian)))


def install_command(needs: Iterable[Need]) -> str:
    """The exact command, for root, that brings `needs`; empty when no package can."""
    names = packages(needs)
    if not names:
        return ""
    if not is_arch():
        return "apt-get install -y --no-install-recommends " + " ".join(names)
    # mmdebstrap is not in Arch's own repositories; every AUR helper knows it by this name.
    from_aur = [name for name in names if name == "mmdebstrap"]
    steps = ["pacman -S --needed --noconfirm " + " ".join(n for n in names if n not in from_aur)]
    if from_aur:
        steps.append("yay -S " + " ".join(from_aur))
    return " && ".join(steps)


def install(absent: list[Need]) -> bool:
    """Bring what is missing, if we may; otherwise say what would. True when all went well."""
    for need in absent:
        print(f"  missing: {need.what}", flush=True)
    command = install_command(absent)
    if is_arch() or os.geteuid() != 0:
        # On Arch a partial upgrade can break a system: that is for its owner to run.
        print(f"  as root, run: {command}", flush=True)
        return False
    names = packages(absent)
    print(f"  installing {' '.join(names)}", flush=True)
    env = os.environ | {"DEBIAN_FRONTEND": "noninteractive"}
    get = ["apt-get", "-qq", "-y", "-o", "DPkg::Lock::Timeout=300"]
    for arguments in (["update"], ["install", "--no-install-recommends", *names]):
        argv = [*get, *arguments]
        done = subprocess.run(argv, env=env, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            print(f"  apt-get {arguments[0]} failed:\n{done.stderr}\n  as root, run: {command}")
            return False
    return not missing(absent)


def main() -> int:
    """Say what is missing, or install it; exit status 1 while something is."""
    absent = missing(EVERYTHING)
    if not absent:
        return 0
    if "--install" in sys.argv[1:]:
        return 0 if install(absent) else 1
    for need in absent:
        print(need.reason())
    print(f"all of it, as root: {install_command(absent)}")
    return 1


if __name__ == "__main__":
    sys.exit(main())
