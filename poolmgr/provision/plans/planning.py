"""Pool and facts -> the steps that bring its engine here. Pure: the same bytes each time.

What an engine is called in the catalog follows from the configuration alone, so that a pool can
look for it without knowing what the machine had when it was brought.
"""

from __future__ import annotations

import hashlib
import re
from typing import Final, assert_never

import orjson

from orchd.config.modes import IMAGES, PACKAGES
from orchd.config.pool import LLAMACPP, MOCK, Mode, Pool
from orchd.config.provisioning import Generator
from orchd.wire.engines import ImageIdentity
from orchd.wire.ids import Text
from poolmgr.provision.plans import steps as s
from poolmgr.provision.plans.facts import Facts, Runtime
from poolmgr.provision.plans.flags import build_number, normalised

TARGET: Final = "llama-server"
AUR_HELPERS: Final = ("paru", "yay")
_SLUG: Final = re.compile(r"[^A-Za-z0-9._]+")
_FORM: Final = 1
"""Of what an id is made from: another number makes all ids others."""


def plan(pool: Pool, facts: Facts) -> s.Plan:
    """Return what has to be done for this pool on this machine, whether or not it can be."""
    mode, steps, flags, warnings = pool.mode, tuple[s.Step, ...](), tuple[str, ...](), list[str]()
    match mode:
        case Mode.EXTERNAL:
            steps = (s.Attach(url=pool.provisioning.url or ""),)
        case Mode.SOURCE:
            flags = build_flags(pool, facts)
            steps = _source(pool, facts, flags)
        case Mode.CONTAINER:
            steps = _container(pool, facts)
            if pool.provisioning.container.digest is None:
                warnings.append(tag_warning(pool))
        case Mode.PACKAGE:
            steps = _package(pool, facts)
        case Mode.BINARY:
            steps = _binary(pool, facts)
        case _:
            assert_never(mode)
    entry = entry_id(pool)
    if entry is not None:
        steps = (*steps, s.Register(entry_id=entry, engine=pool.engine.id))
    return s.Plan(
        pool=pool.id,
        mode=mode,
        entry_id=entry,
        folder=f"{facts.cache}/{entry}" if entry is not None else "",
        steps=steps,
        flags=flags,
        warnings=tuple(warnings),
    )


def entry_id(pool: Pool) -> str | None:
    """Return the engine's name in the catalog; None: this pool's engine is not brought by us."""
    identity = _identity(pool)
    if identity is None:
        return None
    word, parts = identity
    made = orjson.dumps([_FORM, pool.engine.id, pool.mode, parts], option=orjson.OPT_SORT_KEYS)
    slug = _SLUG.sub("-", word).strip("-.")[:60]
    return f"{pool.engine.id}-{pool.mode}-{slug}-{hashlib.sha256(made).hexdigest()[:12]}"


def _identity(pool: Pool) -> tuple[str, object] | None:
    """Return a word for people, and what makes this engine another than others."""
    how = pool.provisioning
    match pool.mode:
        case Mode.EXTERNAL:
            return None
        case Mode.SOURCE:
            git, build = how.source.git, how.source.build
            flags = normalised(build.cmake_flags)
            return git.ref, [git.repo, git.ref, git.submodules, flags, build.generator]
        case Mode.CONTAINER:
            one = image(pool)
            word = one.tag or (one.digest or "").removeprefix("sha256:")[:12]
            # once its digest is said, a tag is no more than a word
            return word, [one.image, one.digest or one.tag]
        case Mode.PACKAGE:
            return package_name(pool), [package_name(pool), pool.command]
        case Mode.BINARY:
            if how.binary.url is None or pool.engine.id == MOCK:
                return None
            return file_name(how.binary.url), [how.binary.checksum, pool.command]


def file_name(url: str) -> str:
    """Return what a downloaded file is called: the URL's last word, as far as it is harmless."""
    last = url.partition("?")[0].rpartition("/")[2]
    return _SLUG.sub("-", last).strip("-.")[:100] or "file"


def image(pool: Pool) -> ImageIdentity:
    """Return which image the pool's engine is."""
    one = pool.provisioning.container
    name = one.image or IMAGES[pool.engine.id]
    return ImageIdentity(image=Text(name), tag=one.tag, digest=one.digest)


def reference(one: ImageIdentity) -> str:
    """Return what is pulled and run: by digest where there is one, the tag then being dropped."""
    return f"{one.image}@{one.digest}" if one.digest is not None else f"{one.image}:{one.tag}"


def tag_warning(pool: Pool) -> str:
    """Return what a tag alone means [ORCH-3802]."""
    one = image(pool)
    return (
        f"{one.image}:{one.tag} may be another image tomorrow: pin container.digest, which "
        "orchctl provision tells"
    )


def package_name(pool: Pool) -> str:
    """Return the package of the pool's engine."""
    return pool.provisioning.package.name or PACKAGES.get(pool.engine.id, pool.command[0])


def runtime(facts: Facts) -> Runtime | None:
    """Return what runs images here: podman first, docker where that does not work [ORCH-3801]."""
    for one in (facts.podman, facts.docker):
        if one is not None and one.why_not is None:
            return one
    return facts.podman or facts.docker


def build_flags(pool: Pool, facts: Facts) -> tuple[str, ...]:
    """Return every flag of the build: the operator's and ours in one form, and this machine's."""
    build = pool.provisioning.source.build
    flags = normalised(build.cmake_flags)
    names = {flag.partition("=")[0] for flag in flags}
    more = []
    if "-DCMAKE_CUDA_ARCHITECTURES" not in names:
        more.append(f"-DCMAKE_CUDA_ARCHITECTURES={architectures(facts)}")
    if "-DLLAMA_BUILD_NUMBER" not in names:
        number = build_number(pool.provisioning.source.git.ref)
        more.append(f"-DLLAMA_BUILD_NUMBER={number}")
    # llama.cpp looks for it too (GGML_CCACHE), but not for what nvcc compiles in older releases
    if facts.has("ccache"):
        more += [f"-DCMAKE_{one}_COMPILER_LAUNCHER=ccache" for one in ("C", "CUDA", "CXX")]
    return tuple(sorted({*flags, *more}))


def architectures(facts: Facts) -> str:
    """Return the GPUs to compile for: those that are here, `86;89`; native where nobody says."""
    known = {one.compute_capability for one in facts.gpus}
    if not known or None in known:
        return "native"
    return ";".join(sorted((str(one).replace(".", "") for one in known), key=int))


def _source(pool: Pool, facts: Facts, flags: tuple[str, ...]) -> tuple[s.Step, ...]:
    how = pool.provisioning.source
    part = f"{facts.cache}/{entry_id(pool)}.part"
    source, build = f"{part}/source", f"{part}/build"
    configure = ("cmake", "-S", source, "-B", build, "-G", how.build.generator, *flags)
    compile_ = ("cmake", "--build", build, "--target", TARGET, "--parallel", str(facts.jobs))
    return (
        s.Clone(repo=how.git.repo, ref=how.git.ref, submodules=how.git.submodules, into=source),
        s.Configure(source=source, build=build, argv=configure),
        s.Build(argv=compile_),
        s.CheckCuda(program=TARGET, folder=f"{build}/bin"),
    )


def _container(pool: Pool, facts: Facts) -> tuple[s.Step, ...]:
    one, with_ = image(pool), runtime(facts)
    name = "podman" if with_ is None else with_.path
    return (s.Pull(runtime=name, reference=reference(one), digest=one.digest),)


def _package(pool: Pool, facts: Facts) -> tuple[s.Step, ...]:
    name = package_name(pool)
    program = pool.command[0]
    steps: tuple[s.Step, ...] = ()
    if facts.package.installed is None:
        steps = (s.Install(package=name, argv=install_command(name, facts)),)
    return (*steps, s.FindProgram(program=program), *_cuda(pool, program))


def install_command(name: str, facts: Facts) -> tuple[str, ...]:
    """Return the command that installs a package.

    An AUR helper asks for root by itself and refuses to be root: whoever called sudo runs it then.
    """
    helper = _helper(facts)
    if facts.package.in_repositories or not helper:
        sudo = () if facts.root else ("sudo",)
        return (*sudo, "pacman", "-S", "--needed", "--noconfirm", name)
    more = ("--skipreview",) if helper == "paru" else ()  # yay has none without a terminal
    install = (helper, "-S", "--needed", "--noconfirm", *more, name)
    if facts.sudo_user is None:
        return install
    # -H: its cache is in that user's home. By its path: sudo has a PATH of its own
    as_user = ("sudo", "-n", "-u", facts.sudo_user, "-H", "--")
    return (*as_user, facts.programs[helper], *install[1:])


def by_hand(name: str, facts: Facts) -> str:
    """Return the same for a terminal, where questions can be answered."""
    unasked = ("-n", "--", "--noconfirm", "--skipreview")
    return " ".join(word for word in install_command(name, facts) if word not in unasked)


def _helper(facts: Facts) -> str:
    return next((one for one in AUR_HELPERS if facts.has(one)), "")


def _binary(pool: Pool, facts: Facts) -> tuple[s.Step, ...]:
    one = pool.provisioning.binary
    if pool.engine.id == MOCK and not pool.command:
        return (s.FindProgram(program="poolmgr.mockengine"),)
    program = pool.command[0]
    if one.url is None or one.checksum is None:
        return (s.FindProgram(program=program), *_cuda(pool, program))
    part = f"{facts.cache}/{entry_id(pool)}.part"
    return (
        s.Download(url=one.url, checksum=one.checksum),
        s.Extract(into=f"{part}/files"),
        *_cuda(pool, program, f"{part}/files"),
    )


def _cuda(pool: Pool, program: str, folder: str | None = None) -> tuple[s.Step, ...]:
    """Of the programs that can be asked which backends they have."""
    if pool.engine.id != LLAMACPP:
        return ()
    return (s.CheckCuda(program=program, folder=folder),)


GENERATORS: Final = {Generator.NINJA: "ninja", Generator.MAKE: "make"}
