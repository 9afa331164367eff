"""The man pages, put together: orchctl(1), orchd(8), poolmgr(8), orchd.toml(5)."""

from __future__ import annotations

import argparse
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from orchd import __version__
from orchd import daemon as orchd_daemon
from orchd.wire.errors import TABLE, Kind
from poolmgr import daemon as poolmgr_daemon
from tools.manual import config_page, roff, words
from tools.manual.verbs import Option, Verb

EXAMPLE: Final = Path(__file__).resolve().parents[2] / "packaging/examples/two-pools.toml"
SEE: Final = ("orchctl(1)", "orchd(8)", "poolmgr(8)", "orchd.toml(5)")
COMMON: Final = ("--url", "--token-file", "--ca-file", "-h")


def pages(root: Verb) -> dict[str, str]:
    """Return every page by its file name."""
    return {
        "orchctl.1": _orchctl(root),
        "orchd.8": _daemon(
            "orchd",
            "front daemon of the LLM orchestrator",
            words.ORCHD,
            orchd_daemon.parser(),
            words.ORCHD_SIGNALS,
        ),
        "poolmgr.8": _daemon(
            "poolmgr",
            "pool daemon of the LLM orchestrator",
            words.POOLMGR,
            poolmgr_daemon.parser(),
            words.POOLMGR_SIGNALS,
        ),
        "orchd.toml.5": _toml(),
    }


def _orchctl(root: Verb) -> str:
    leaves = [verb for verb in root.every() if verb.path and not verb.verbs]
    shared = {option.flags: option for verb in leaves for option in _common(verb)}
    return roff.page(
        "orchctl",
        1,
        __version__,
        "User Commands",
        {
            "NAME": "orchctl \\- operate orchd, the LLM orchestrator",
            "SYNOPSIS": rf"{roff.bold('orchctl')} \fIVERB\fR [\fIOPTIONS\fR] [\fIARGUMENTS\fR]",
            "DESCRIPTION": roff.paragraphs(root.words) + "\n" + roff.paragraphs(words.ORCHCTL),
            "VERBS": "\n".join(_verb(verb) for verb in leaves),
            "COMMON OPTIONS": roff.text("Of every verb that asks orchd; `-h` of all.")
            + "\n"
            + _options([*shared.values(), *(o for o in root.options if o.flags not in shared)]),
            "EXIT STATUS": _exits(),
            **_around("orchctl"),
        },
    )


def _verb(verb: Verb) -> str:
    arguments = " ".join(rf"\fI{roff.escaped(each.shown)}\fR" for each in verb.arguments)
    own = [option for option in verb.options if option not in _common(verb)]
    synopsis = f"{roff.bold(f'orchctl {verb.name}')} {'[OPTIONS] ' if own else ''}{arguments}"
    parts = [f'.SS "{roff.escaped(verb.name)}"', synopsis.rstrip(), roff.paragraphs(verb.words)]
    return "\n".join([*parts, *([_options(own)] if own else [])])


def _common(verb: Verb) -> list[Option]:
    return [option for option in verb.options if option.flags[0] in COMMON]


def _options(options: Iterable[Option]) -> str:
    return roff.tagged((roff.flags(each.flags, each.takes), each.words) for each in options)


def _exits() -> str:
    """Return the exit codes of the table of errors, each with its kinds."""
    kinds: dict[int, list[str]] = {}
    for kind, row in TABLE.items():
        kinds.setdefault(row.exit_code, []).append(kind.value)
    items = [("0", "All went well."), ("2", "Wrong usage.")]
    items += [(str(code), ", ".join(kinds[code]) + ".") for code in sorted(kinds)]
    return roff.tagged((roff.bold(code), what) for code, what in items)


def _daemon(
    name: str,
    what: str,
    about: str,
    parser: argparse.ArgumentParser,
    signals: Iterable[tuple[str, str]],
) -> str:
    actions = list(parser._actions)  # argparse lists them nowhere else
    options = [action for action in actions if action.option_strings]
    arguments = [action for action in actions if not action.option_strings]
    synopsis = [roff.bold(name), "[\\fIOPTIONS\\fR]"]
    synopsis += [rf"\fI{roff.escaped(str(each.metavar))}\fR" for each in arguments]
    tags = [
        *(
            (rf"\fI{roff.escaped(str(each.metavar))}\fR", f"{_sentence(each)}.")
            for each in arguments
        ),
        *(
            (roff.flags(each.option_strings, str(each.metavar or "")), f"{_sentence(each)}.")
            for each in options
        ),
    ]
    stopped = f"{TABLE[Kind.CONFIG_INVALID].exit_code}"
    return roff.page(
        name,
        8,
        __version__,
        "System Administration",
        {
            "NAME": f"{name} \\- {what}",
            "SYNOPSIS": " ".join(synopsis),
            "DESCRIPTION": roff.paragraphs(about),
            "OPTIONS": roff.tagged(tags),
            "SIGNALS": roff.tagged((roff.bold(signal), does) for signal, does in signals),
            "EXIT STATUS": roff.text(
                f"0 after an orderly stop, {stopped} for a configuration that is refused, 128 and "
                "the signal's number after a second signal; else that of the error in the last "
                "line of the log, as orchctl(1) lists them."
            ),
            **_around(name),
        },
    )


def _sentence(action: argparse.Action) -> str:
    said = action.help or ""
    return said[:1].upper() + said[1:]


def _toml() -> str:
    return roff.page(
        "orchd.toml",
        5,
        __version__,
        "File Formats",
        {
            "NAME": "orchd.toml \\- configuration of orchd and its pools",
            "DESCRIPTION": roff.paragraphs(words.TOML),
            "KEYS": config_page.keys(),
            "EXAMPLE": roff.verbatim(EXAMPLE.read_text()),
            **_around("orchd.toml"),
        },
    )


def _around(page: str) -> dict[str, str]:
    """Return what every page ends with."""
    variables = [(name, said) for name, said, readers in words.ENVIRONMENT if page in readers]
    files = [(name, said) for name, said, readers in words.FILES if page in readers]
    parts = {}
    if variables:
        parts["ENVIRONMENT"] = roff.tagged((roff.bold(name), said) for name, said in variables)
    if files:
        parts["FILES"] = roff.tagged((rf"\fI{roff.escaped(n)}\fR", said) for n, said in files)
    others = [name for name in SEE if name.partition("(")[0] != page]
    parts["SEE ALSO"] = roff.text(", ".join([*others, "systemctl(1)", "journalctl(1)"]))
    return parts
