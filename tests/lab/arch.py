"""The machine that stands in for Arch: the newest systemd, and pacman 7 with makepkg inside.

Here: what it has beyond a plain machine, its layers. Not here: what is built and installed there.
"""

from __future__ import annotations

from pathlib import Path

from tests.lab.cache import Cache
from tests.lab.rootfs import Suite, rootfs
from tests.lab.venv import PREFIX, dependency_layer, python_version

# pacman 7, and what the PKGBUILD wants for a build; as Arch has them in base-devel and [extra].
PACKAGES = (
    "pacman-package-manager",
    "makepkg",
    "fakeroot",
    "binutils",
    "libarchive-tools",
    "zstd",
    "python3-build",
    "python3-installer",
    "python3-hatchling",
)
# What Arch's package systemd has pacman do, in the order of its names.
HOOKS = {
    "20-systemd-sysusers": ("usr/lib/sysusers.d/*.conf", "systemd-sysusers", False),
    "30-systemd-daemon-reload-system": (
        "usr/lib/systemd/system/*",
        "systemctl daemon-reload",
        True,
    ),
    "30-systemd-tmpfiles": ("usr/lib/tmpfiles.d/*.conf", "systemd-tmpfiles --create", False),
}
HOOK = """[Trigger]
Type = Path
Operation = Install
Operation = Upgrade
{remove}Target = {target}

[Action]
Description = {name}
When = PostTransaction
Exec = /usr/bin/{command}
"""

# Arch's where Debian's differs: a package that one has built is not signed.
CONF = """[options]
Architecture = auto
SigLevel = Required DatabaseOptional
LocalFileSigLevel = Optional
"""


def arch_layers(cache: Cache | None = None) -> list[Path]:
    """The cached layers, top first: our dependencies, the system with pacman."""
    root = rootfs(Suite.SID, cache, PACKAGES, "arch")
    return [dependency_layer(Suite.SID, cache, root), root]


def pass_for_arch(below: list[Path], layer: Path) -> list[Path]:
    """Fill `layer` with what a package of Arch finds there; returns all layers, top first.

    /usr/bin/python sees the dependencies (those of the lab's venv) and Arch's site-packages.
    """
    version = python_version(below[-1])
    places = [f"{prefix}/lib/python{version}/site-packages" for prefix in (PREFIX, "/usr")]
    path = layer / "usr/lib/python3/dist-packages/arch.pth"
    path.parent.mkdir(parents=True)
    path.write_text("".join(f"{place}\n" for place in places))
    (layer / "usr/bin").mkdir()
    (layer / "usr/bin/python").symlink_to("python3")
    hooks = layer / "usr/share/libalpm/hooks"
    hooks.mkdir(parents=True)
    for name, (target, command, at_removal) in HOOKS.items():
        remove = "Operation = Remove\n" if at_removal else ""
        text = HOOK.format(name=name, target=target, command=command, remove=remove)
        (hooks / f"{name}.hook").write_text(text)
    (layer / "etc").mkdir()
    (layer / "etc/pacman.conf").write_text(CONF)
    for folder in (layer, *(p for p in layer.rglob("*") if p.is_dir())):
        folder.chmod(0o755)
    return [layer, *below]
