"""What a test needs from the host, how to see whether it is there, and the command that brings it.

Here: the table of needs, the skip with its precise reason. Not here: installing (setup.py) and
anything that a need is then used for.
"""

from __future__ import annotations

import ctypes.util
import os
import platform
import shutil
from collections.abc import Callable, Iterable
from pathlib import Path

import pytest
from attrs import frozen


@frozen
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
CGROUP2 = Need(
    "a mounted cgroup v2 with cgroup.kill (Linux 5.14)",
    lambda: unified_cgroup() is not None,
    advice="mount -t cgroup2 cgroup2 /sys/fs/cgroup/unified",
)
OVERLAY = Need("overlayfs in the kernel", knows_overlay, advice="modprobe overlay")
GCC = Need("gcc", has_program("gcc"), debian=("gcc", "libc6-dev"), arch=("gcc",))
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
    debian=("libsystemd-dev", "pkg-config", "python3-dev"),
    arch=("systemd-libs", "pkgconf"),
)
LIBGOMP = Need(
    "libgomp",
    lambda: ctypes.util.find_library("gomp") is not None,
    debian=("libgomp1",),
    arch=("gcc-libs",),
)

MACHINE = (ROOT, NSPAWN, NSENTER, MMDEBSTRAP, CGROUP2, OVERLAY)
DEBIAN_LLAMA = (X86_64, APT, PATCHELF)
WHEEL_LLAMA = (X86_64,)
FAKE_NVML = (GCC,)
EVERYTHING = (*MACHINE, *DEBIAN_LLAMA, *FAKE_NVML, LIBSYSTEMD)


def missing(needs: Iterable[Need]) -> list[Need]:
    """Those of `needs` that are not there, in order, each once."""
    return [need for need in dict.fromkeys(needs) if not need.present()]


def require(needs: Iterable[Need]) -> None:
    """Skip the running test (or fixture) when something is missing, naming every one of them."""
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
