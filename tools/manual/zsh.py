"""orchctl's completion for zsh: one function for each verb, by _arguments."""

from __future__ import annotations

from tools.manual.verbs import Argument, Option, Verb

_HEAD = """\
#compdef orchctl
# zsh completion for orchctl. Written by `make specs` from orchctl's own verbs; do not edit.
"""
_TAIL = """\
if [ "$funcstack[1]" = "_orchctl" ]; then
  _orchctl "$@"
else
  compdef _orchctl orchctl
fi
"""


def script(root: Verb) -> str:
    """Return the script; autoloaded from a folder of $fpath, or sourced."""
    functions = [_group(verb) if verb.verbs else _leaf(verb) for verb in root.every()]
    return "\n".join([_HEAD, *functions, _TAIL])


def _group(verb: Verb) -> str:
    below = [f"    {_quoted(f'{each.path[-1]}:{each.short}')}" for each in verb.verbs]
    calls = [f"        {each.path[-1]}) {_function(each)} ;;" for each in verb.verbs]
    return "\n".join(
        [
            f"{_function(verb)}() {{",
            '  local curcontext="$curcontext" state line',
            "  local -a verbs=(",
            *below,
            "  )",
            "  _arguments -C \\",
            *(f"    {each} \\" for option in verb.options for each in _specs(option)),
            "    '1:verb:->verb' '*::argument:->rest' && return",
            "  case $state in",
            "    verb) _describe -t verbs verb verbs ;;",
            "    rest)",
            "      case $words[1] in",
            *calls,
            "      esac",
            "      ;;",
            "  esac",
            "}",
            "",
        ]
    )


def _leaf(verb: Verb) -> str:
    specs = [each for option in verb.options for each in _specs(option)]
    specs += [_argument(argument) for argument in verb.arguments]
    lines = [f"{_function(verb)}() {{", "  _arguments \\"]
    lines += [f"    {spec} \\" for spec in specs[:-1]]
    return "\n".join([*lines, f"    {specs[-1]}", "}", ""])


def _specs(option: Option) -> list[str]:
    """One word for each name; names of one option exclude each other unless it may be repeated."""
    words = _plain(option.words.split("\n")[0])
    head = "*" if option.again else f"({' '.join(option.flags)})" if len(option.flags) > 1 else ""
    value = ""
    if option.takes:
        kind = f"({' '.join(option.choices)})" if option.choices else "_files"
        value = f":{_plain(option.takes)}:{kind if option.choices or option.is_file else ' '}"
    return [_quoted(f"{head}{flag}[{words}]{value}") for flag in option.flags]


def _argument(argument: Argument) -> str:
    action = "_files" if argument.is_file else " "
    head = "*:" if argument.many else "::" if argument.optional else ":"
    return _quoted(f"{head}{argument.name}:{action}")


def _function(verb: Verb) -> str:
    return "_".join(("_orchctl", *verb.path))


def _plain(text: str) -> str:
    """Colons and brackets mean something to _arguments."""
    for mark in "\\:[]":
        text = text.replace(mark, f"\\{mark}")
    return text


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "'\\''") + "'"
