"""What can be configured of how an engine comes here: from its source, an image, a package, a file.

What is done with it is poolmgr/provision's; checks across keys are in modes.py.
"""

from __future__ import annotations

import enum

from attrs import frozen

from orchd.wire.ids import Digest, Text


class Generator(enum.StrEnum):
    """What runs the build that cmake writes."""

    NINJA = "Ninja"
    MAKE = "Unix Makefiles"


@frozen(kw_only=True)
class Git:
    """Where the source is."""

    repo: Text = Text("https://github.com/ggml-org/llama.cpp")
    """https://HOST/PATH, or an absolute path of this machine."""
    ref: Text = Text("b11669")
    """A tag or a commit (40 hex digits), and no branch, which would be another program each day.
    The default is the build that this version of orchd was tested with."""
    submodules: bool = False
    """Fetch its submodules too, at the commits that it names."""


@frozen(kw_only=True)
class Build:
    """How it is built: with CUDA, in any case."""

    cmake_flags: tuple[Text, ...] = ()
    """Further -DNAME=VALUE; of two with one name the last counts. Those that take CUDA out, or
    bring another backend in, are refused."""
    generator: Generator = Generator.NINJA
    """What runs the build: Ninja, or Unix Makefiles."""


@frozen(kw_only=True)
class Source:
    """source: build llama.cpp here."""

    git: Git = Git()
    build: Build = Build()
    cache_dir: Text | None = None
    """Where sources, builds and the catalog of engines are: an absolute path. Without it,
    orchd/engines in $XDG_CACHE_HOME, or /var/cache/orchd/engines for the system's units."""


@frozen(kw_only=True)
class Container:
    """container: an image that podman, or else docker, runs."""

    image: Text | None = None
    """REGISTRY/NAME without tag and digest. Without it, what the engine's makers publish."""
    tag: Text | None = None
    """A name that its owner may give to another image tomorrow: alone, it brings a warning."""
    digest: Digest | None = None
    """sha256:<64 hex digits> of the image: what runs is this and nothing else."""


@frozen(kw_only=True)
class Package:
    """package: what pacman, or else an AUR helper, installs."""

    name: Text | None = None
    """Without it, for llamacpp: llama.cpp-cuda."""


@frozen(kw_only=True)
class Binary:
    """binary: an archive, or the program itself, from a URL."""

    url: Text | None = None
    """https://HOST/FILE.tar.gz, .tar.xz, .zip or a bare program. Without it, `command` is here
    already."""
    checksum: Digest | None = None
    """sha256:<64 hex digits> of the file at the URL. Required."""
