"""A fake NVML: the stub library (fakenvml.c, compiled once) and the GPUs that a test shows in it.

Here: building the stub, the file it reads, the environment and binds that put it before pynvml.
Not here: any use of pynvml; the product's own device code is what the tests exercise with this.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from attrs import define, evolve, field, frozen

from tests.lab.cache import Cache
from tests.lab.cc import shared_library

SOURCE = Path(__file__).with_name("fakenvml.c")
SONAME = "libnvidia-ml.so.1"
GPU_IS_LOST = 15
INSIDE = Path("/opt/fakenvml")  # fakenvml.c looks here when FAKE_NVML is not set
LIBRARY_INSIDE = Path("/usr/lib") / SONAME


@frozen
class Gpu:
    """One GPU as NVML shows it; `error` is the code that each query of it returns (0: none)."""

    uuid: str
    name: str = "NVIDIA Fake 4090"
    total_mib: int = 24576
    used_mib: int = 0
    util_percent: int = 0
    temp_c: int = 40
    power_mw: int = 50_000
    error: int = 0

    def line(self) -> str:
        """The GPU as fakenvml.c reads it."""
        numbers = (self.total_mib, self.used_mib, self.util_percent, self.temp_c, self.power_mw)
        return " ".join([self.uuid, *map(str, numbers), str(self.error), self.name])


@frozen
class GpuProcess:
    """A process that holds memory on a GPU."""

    gpu: int
    pid: int
    used_mib: int
    alive: bool = False
    """It is shown while it lives, as real ones are; its memory comes on top of the GPU's."""


def uuid_of(index: int) -> str:
    """The UUID that the GPUs of `two_gpus` and friends carry."""
    return f"GPU-11111111-2222-3333-4444-{index:012d}"


def two_gpus() -> list[Gpu]:
    """24 GB and 12 GB: unequal, so that a placement by free memory has something to prefer."""
    return [
        Gpu(uuid_of(0), "NVIDIA Fake 4090", total_mib=24576),
        Gpu(uuid_of(1), "NVIDIA Fake 3060", total_mib=12288),
    ]


def build_stub(cache: Cache) -> Path:
    """The compiled stub under the name that pynvml loads."""
    return shared_library(cache, SOURCE, SONAME)


def once_shown(argv: Sequence[str]) -> list[str]:
    """The command that becomes `argv` once its process is on a fake GPU, as a CUDA build is before
    it answers; after 10 s at the latest. Else a model of some kB is loaded sooner than it is shown.
    """
    wait = """
tries=0
until grep -q "^[LP] [0-9]* $$ " "$FAKE_NVML" || [ $tries -ge 500 ]; do
    sleep 0.02; tries=$((tries + 1))
done
exec "$@"
"""
    return ["/bin/sh", "-c", wait, "sh", *argv]


@define
class FakeNvml:
    """GPUs that change while a daemon runs: every assignment shows at the daemon's next query."""

    folder: Path
    _gpus: list[Gpu] = field(factory=two_gpus)
    _processes: list[GpuProcess] = field(factory=list)
    _split: set[int] = field(factory=set)
    _mute: set[int] = field(factory=set)
    _xids: list[tuple[int, int]] = field(factory=list)
    _ecc_errors: dict[int, int] = field(factory=dict)

    @classmethod
    def create(cls, cache: Cache, folder: Path, gpus: list[Gpu] | None = None) -> FakeNvml:
        """A fake of its own in `folder` (made if missing), showing `gpus` or two unequal ones."""
        folder.mkdir(parents=True, exist_ok=True)
        folder.chmod(0o755)  # service users inside a machine read it
        shutil.copy2(build_stub(cache), folder / SONAME)
        fake = cls(folder) if gpus is None else cls(folder, gpus)
        fake._write()
        return fake

    @property
    def file(self) -> Path:
        """What the stub reads."""
        return self.folder / "gpus.txt"

    @property
    def env(self) -> dict[str, str]:
        """What a subprocess on the host needs so that pynvml finds this fake."""
        return {"LD_LIBRARY_PATH": str(self.folder), "FAKE_NVML": str(self.file)}

    @property
    def binds(self) -> dict[Path, Path]:
        """Host path to inside path: what a Machine needs so that its services find this fake."""
        # The folder, not the file, so that a file renamed into place shows inside too.
        return {self.folder: INSIDE, self.folder / SONAME: LIBRARY_INSIDE}

    @property
    def gpus(self) -> tuple[Gpu, ...]:
        """The GPUs shown now."""
        return tuple(self._gpus)

    def set_gpu(
        self,
        index: int,
        *,
        used_mib: int | None = None,
        util_percent: int | None = None,
        temp_c: int | None = None,
        power_mw: int | None = None,
        error: int | None = None,
    ) -> None:
        """Change what is given about one GPU, and nothing else."""
        given = {
            "used_mib": used_mib,
            "util_percent": util_percent,
            "temp_c": temp_c,
            "power_mw": power_mw,
            "error": error,
        }
        changes: dict[str, Any] = {
            name: value for name, value in given.items() if value is not None
        }
        self._gpus[index] = evolve(self._gpus[index], **changes)
        self._write()

    def lose_gpu(self, index: int) -> None:
        """The GPU falls off the bus."""
        self.set_gpu(index, error=GPU_IS_LOST)

    def add_process(self, gpu: int, pid: int, used_mib: int) -> None:
        """A process shows up on a GPU; its memory counts as used."""
        self._processes.append(GpuProcess(gpu, pid, used_mib))
        self.set_gpu(gpu, used_mib=self._gpus[gpu].used_mib + used_mib)

    def follow_process(self, gpu: int, pid: int, used_mib: int) -> None:
        """A process of this PID namespace shows up on a GPU, and is gone when it ends."""
        self._processes.append(GpuProcess(gpu, pid, used_mib, alive=True))
        self._write()

    def split_into_instances(self, gpu: int) -> None:
        """MIG is enabled on a GPU."""
        self._split.add(gpu)
        self._write()

    def tell_xid(self, gpu: int, xid: int) -> None:
        """The driver tells an Xid of a GPU, to whoever waits for events."""
        self._xids.append((gpu, xid))
        self._write()

    def set_ecc_errors(self, gpu: int, count: int) -> None:
        """The GPU has ECC, and so many errors that could not be corrected; more of them are told as
        events, where the GPU supports any."""
        self._ecc_errors[gpu] = count
        self._write()

    def support_no_events(self, gpu: int) -> None:
        """The GPU supports no events, as some in virtual machines."""
        self._mute.add(gpu)
        self._write()

    def remove_process(self, pid: int) -> None:
        """The process is gone from every GPU, and its memory with it."""
        for process in [p for p in self._processes if p.pid == pid]:
            self._processes.remove(process)
            if process.alive:
                continue
            self.set_gpu(process.gpu, used_mib=self._gpus[process.gpu].used_mib - process.used_mib)
        self._write()

    def unload_driver(self) -> None:
        """The driver is gone; the next change of anything brings it back."""
        self.file.unlink(missing_ok=True)

    def _write(self) -> None:
        """Replace the file in one step: a daemon reads it at any moment."""
        lines = [gpu.line() for gpu in self._gpus]
        lines += [
            f"{'L' if p.alive else 'P'} {p.gpu} {p.pid} {p.used_mib}" for p in self._processes
        ]
        lines += [f"M {gpu}" for gpu in sorted(self._split)]
        lines += [f"N {gpu}" for gpu in sorted(self._mute)]
        lines += [f"E {gpu} {count}" for gpu, count in sorted(self._ecc_errors.items())]
        lines += [f"X {gpu} {xid}" for gpu, xid in self._xids]
        fresh = self.file.with_suffix(".new")
        fresh.write_text("\n".join(lines) + "\n")
        fresh.chmod(0o644)
        fresh.rename(self.file)
