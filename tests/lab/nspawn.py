"""Booting a root file system under systemd-nspawn, and making sure that nothing of it stays.

Here: the launcher, the cgroup, finding the machine's PID 1, the end of it all. Not here: what one
does with a running machine (machine.py) and what its layers hold (rootfs.py, venv.py).

What a plain `systemd-nspawn --boot` lacks, each seen failing without it:
 * a cgroup of its own (every `--keep-unit` machine would share one) that takes no help from the
   host's systemd, which may not be PID 1, and dies as a whole by cgroup.kill;
 * a mount namespace of its own, so that the overlay goes away with the last process;
 * CAP_BPF and the bpf call: without them DeviceAllow= and IPAddressDeny= are silently not enforced;
 * a host's /proc that is not whole: nspawn leaves it in the machine's mount namespace, out of
   sight, and because of it the kernel would let every user namespace mount a /proc of its own, also
   in units where it refuses that on a real machine (ProtectKernelTunables=).
"""

from __future__ import annotations

import os
import secrets
import signal
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path

from attrs import define, field

from tests.lab.needs import unified_cgroup
from tests.lab.rootfs import overlay_options

BOOT_DEADLINE_S = 60.0  # under a second on an idle machine; eight suites on two cores are not idle
POWEROFF_DEADLINE_S = 15.0
REAP_DEADLINE_S = 30.0
SIGPOWEROFF = signal.SIGRTMIN + 4  # systemd(1): start poweroff.target

LAUNCH = """
set -e
cgroup=$1 root=$2 overlay=$3; shift 3
echo $$ > "$cgroup/machine/cgroup.procs"
mkdir -p /run/systemd/nspawn
mount -t tmpfs tmpfs /run/systemd/nspawn
mount -t overlay overlay -o "$overlay" "$root"
mount --bind /dev/null /proc/kallsyms
exec env SYSTEMD_NSPAWN_UNIFIED_HIERARCHY=1 systemd-nspawn --directory="$root" "$@"
"""
# Waits for the end of its input, which comes when the test process lets go or dies, however it
# dies; so the clean-up has one path, and SIGKILL of the tests leaves nothing behind either.
REAP = """
cgroup=$1 mirror=$2 scratch=$3
cat > /dev/null
echo 1 > "$cgroup/cgroup.kill"
tries=0
while grep -q "populated 1" "$cgroup/cgroup.events" && [ $tries -lt 500 ]; do
    sleep 0.02; tries=$((tries + 1))
done
find "$cgroup" -depth -type d -exec rmdir {} +
[ ! -d "$mirror" ] || find "$mirror" -depth -type d -exec rmdir {} +
rm -rf "$scratch"
"""
NSPAWN_OPTIONS = (
    "--quiet",
    "--boot",
    "--keep-unit",
    "--register=no",
    "--link-journal=no",
    "--resolv-conf=off",
    "--timezone=off",
    "--console=read-only",
    # systemd 258 and later ask a terminal for its size and colours and wait a third of a second,
    # at boot, at poweroff and in some services; dumb ones they do not ask.
    "--setenv=TERM=dumb",
    "--capability=CAP_BPF,CAP_NET_ADMIN",
    "--system-call-filter=bpf",
)


class BootError(RuntimeError):
    """The machine did not come up; the text holds what it said on its console."""


@define
class Container:
    """One systemd-nspawn process and everything around it."""

    name: str
    scratch: Path
    cgroup: Path
    _nspawn: subprocess.Popen[bytes]
    _reaper: subprocess.Popen[bytes]
    _ended: bool = field(default=False)

    @classmethod
    def launch(cls, layers: Sequence[Path], parent: Path, options: Sequence[str]) -> Container:
        """Start booting `layers` (top first) with scratch space under `parent`; does not wait."""
        name = f"orchd-{os.getpid()}-{secrets.token_hex(3)}"
        hierarchy = unified_cgroup()
        if hierarchy is None:
            raise BootError("no cgroup v2 hierarchy is mounted")
        cgroup, scratch = hierarchy / name, parent / name
        mirror = Path("/sys/fs/cgroup/systemd") / name  # nspawn's, on a hybrid host
        reaper = subprocess.Popen(
            ["sh", "-c", REAP, "sh", str(cgroup), str(mirror), str(scratch)],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,  # Ctrl-C is for the tests; they tell us when to end
        )
        try:
            nspawn = boot(layers, cgroup, scratch, [f"--machine={name}", *options])
        except BaseException:
            let_go(reaper)
            raise
        return cls(name, scratch, cgroup, nspawn, reaper)

    def leader(self) -> int | None:
        """The host's PID of the machine's PID 1; None while there is none (it reboots, say)."""
        parent = self._nspawn.pid
        try:
            children = Path(f"/proc/{parent}/task/{parent}/children").read_text().split()
        except OSError:  # nspawn is gone
            return None
        return next((int(pid) for pid in children if is_init(pid)), None)

    def check_alive(self) -> None:
        """Raise BootError with the console log once nspawn has ended."""
        status = self._nspawn.poll()
        if status is not None:
            raise BootError(f"systemd-nspawn ended with status {status}\n{self.console()}")

    def console(self) -> str:
        """What the machine and nspawn have written to the console."""
        try:
            return (self.scratch / "console.log").read_text(errors="replace")
        except FileNotFoundError:
            return ""

    def await_private_socket(self, deadline: float) -> int:
        """Wait until PID 1 answers systemctl; returns its PID."""
        while time.monotonic() < deadline:
            self.check_alive()
            leader = self.leader()
            if leader is not None and Path(f"/proc/{leader}/root/run/systemd/private").exists():
                return leader
            time.sleep(0.01)
        raise BootError(f"{self.name} did not boot in time\n{self.console()}")

    def end(self, *, orderly: bool) -> None:
        """Power off (when `orderly`, and only for so long), then remove what is left."""
        if self._ended:
            return
        self._ended = True
        try:
            # The outer half of a left-over nsenter stops when shutdown stops its inner half, and
            # the poweroff then waits for it forever.
            kill_cgroup(self.cgroup / "exec")
            leader = self.leader()
            if orderly and leader is not None:
                os.kill(leader, SIGPOWEROFF)
                self._nspawn.wait(POWEROFF_DEADLINE_S)
        except (ProcessLookupError, subprocess.TimeoutExpired):
            pass  # gone already, or never going: the reaper kills
        finally:
            let_go(self._reaper)
            self._nspawn.wait(REAP_DEADLINE_S)


def boot(
    layers: Sequence[Path], cgroup: Path, scratch: Path, options: Sequence[str]
) -> subprocess.Popen[bytes]:
    """Make the cgroup and the overlay's folders, and start nspawn in them."""
    for folder in ("upper", "work", "root"):
        (scratch / folder).mkdir(parents=True)
    (scratch / "upper").chmod(0o755)  # it is the / that service users see, whatever our umask
    for group in ("machine", "exec"):
        (cgroup / group).mkdir(parents=True)
    root = scratch / "root"
    overlay = overlay_options(layers, scratch / "upper", scratch / "work")
    private = ["unshare", "--mount", "--propagation", "private"]
    launch = ["sh", "-c", LAUNCH, "sh", str(cgroup), str(root), overlay]
    with (scratch / "console.log").open("wb") as console:
        return subprocess.Popen(
            [*private, *launch, *NSPAWN_OPTIONS, *options],
            stdin=subprocess.DEVNULL,
            stdout=console,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )


def let_go(reaper: subprocess.Popen[bytes]) -> None:
    """Have everything killed and removed, and wait for that."""
    assert reaper.stdin is not None
    reaper.stdin.close()
    reaper.wait(REAP_DEADLINE_S)


def kill_cgroup(cgroup: Path) -> None:
    """SIGKILL to every process of a cgroup and of those below it."""
    try:
        (cgroup / "cgroup.kill").write_text("1")
    except FileNotFoundError:
        return


def is_init(pid: str) -> bool:
    """Whether that host PID is PID 1 of a PID namespace of its own."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return False
    numbers = next(line for line in status.splitlines() if line.startswith("NSpid:")).split()[1:]
    return len(numbers) > 1 and numbers[-1] == "1"
