"""orchctl's verbs as data: what click knows of them, in one shape for pages and completions."""

from __future__ import annotations

import inspect

import click
from attrs import frozen

from orchd.cli.program import VERBS, program


@frozen(kw_only=True)
class Option:
    """One option."""

    flags: tuple[str, ...]
    takes: str = ""
    """What it takes, as the help calls it; empty: it is a switch."""
    choices: tuple[str, ...] = ()
    is_file: bool = False
    words: str
    """What it is for, with its default."""
    again: bool = False
    """Whether it may be repeated."""


@frozen(kw_only=True)
class Argument:
    """One positional argument."""

    name: str
    shown: str
    """As the synopsis has it."""
    is_file: bool = False
    many: bool = False
    optional: bool = False


@frozen(kw_only=True)
class Verb:
    """One verb, or the program itself (the empty path)."""

    path: tuple[str, ...]
    short: str
    """One line for a list."""
    words: str
    """The whole help, paragraphs apart by empty lines."""
    options: tuple[Option, ...]
    arguments: tuple[Argument, ...] = ()
    verbs: tuple[Verb, ...] = ()

    @property
    def name(self) -> str:
        """The path as one types it, without the program."""
        return " ".join(self.path)

    def every(self) -> list[Verb]:
        """Return it and all below it, in the order of the help."""
        return [self, *(each for verb in self.verbs for each in verb.every())]


def orchctl() -> Verb:
    """Read the program."""
    return _verb(program, (), "Operate orchd.", None)


def _verb(
    command: click.Command, path: tuple[str, ...], short: str, parent: click.Context | None
) -> Verb:
    # with its parent: -h is the program's to say
    context = click.Context(command, parent, **command.context_settings)
    inside: list[Verb] = []
    if isinstance(command, click.Group):
        for name in command.list_commands(context):
            below = command.get_command(context, name)
            assert below is not None, name
            said = VERBS[name][1] if not path else _first_line(below)
            inside.append(_verb(below, (*path, name), said, context))
    parameters = command.get_params(context)
    return Verb(
        path=path,
        short=short,
        words=inspect.cleandoc(command.help or short),
        options=tuple(_option(p) for p in parameters if isinstance(p, click.Option)),
        arguments=tuple(_argument(p) for p in parameters if isinstance(p, click.Argument)),
        verbs=tuple(inside),
    )


def _first_line(command: click.Command) -> str:
    first = inspect.cleandoc(command.help or "").split("\n\n")[0]
    return " ".join(first.split()).partition("; ")[0].partition(": ")[0].removesuffix(".") + "."


def _option(option: click.Option) -> Option:
    kind = option.type
    choices = (
        tuple(str(choice) for choice in kind.choices) if isinstance(kind, click.Choice) else ()
    )
    takes = "" if option.is_flag else option.metavar or "|".join(choices) or kind.name.upper()
    words = option.help or f"One of {', '.join(choices)}."
    facts = []
    if isinstance(kind, click.IntRange | click.FloatRange):
        facts += [f"at least {kind.min:g}"] if kind.min is not None else []
        facts += [f"at most {kind.max:g}"] if kind.max is not None else []
    if option.show_default and isinstance(option.default, str | int | float):
        facts.append(f"default: {option.default}")
    return Option(
        flags=(*option.opts, *option.secondary_opts),
        takes=takes,
        choices=choices,
        is_file=isinstance(kind, click.Path),
        words=f"{words} [{', '.join(facts)}]".strip() if facts else words,
        again=option.multiple,
    )


def _argument(argument: click.Argument) -> Argument:
    name = argument.metavar or (argument.name or "").upper()
    plain = name.strip("[].")
    many = argument.nargs == -1
    shown = plain + ("..." if many else "")
    return Argument(
        name=plain,
        shown=shown if argument.required else f"[{shown}]",
        is_file=isinstance(argument.type, click.Path) or plain in ("FILE", "SOURCE"),
        many=many,
        optional=not argument.required,
    )
