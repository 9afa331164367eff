"""orchctl's completion for fish: one line for each verb, option and value."""

from __future__ import annotations

from typing import Final

from tools.manual.verbs import Option, Verb

_HEAD: Final = """\
# fish completion for orchctl. Written by `make specs` from orchctl's own verbs; do not edit.

# Whether the words before the cursor are this verb, options left out.
function __orchctl_at
    set -l path
    for word in (commandline -opc)[2..]
        string match --quiet -- '-*' $word; and continue
        set --append path $word
        contains -- $path[1] @groups@; and test (count $path) -lt 2; or break
    end
    test "$path" = "$argv"
end

complete --command orchctl --no-files
"""


def script(root: Verb) -> str:
    """Return the script."""
    groups = " ".join(verb.name for verb in root.every() if verb.path and verb.verbs)
    lines: list[str] = []
    for verb in root.every():
        here = (
            f"complete --command orchctl --condition {_quoted(f'__orchctl_at {verb.name}'.strip())}"
        )
        lines += [
            f"{here} --arguments {below.path[-1]} --description {_quoted(below.short)}"
            for below in verb.verbs
        ]
        lines += [f"{here} {_option(option)}" for option in verb.options]
        if any(argument.is_file for argument in verb.arguments):
            lines.append(f"{here} --force-files")
    return _HEAD.replace("@groups@", groups) + "\n".join(lines) + "\n"


def _option(option: Option) -> str:
    names = [
        f"--long-option {flag[2:]}" if flag.startswith("--") else f"--short-option {flag[1:]}"
        for flag in option.flags
    ]
    value = []
    if option.choices:
        value = ["--exclusive", f"--arguments {_quoted(' '.join(option.choices))}"]
    elif option.takes:
        value = ["--require-parameter --force-files" if option.is_file else "--exclusive"]
    about = [f"--description {_quoted(option.words)}"] if option.words else []
    return " ".join([*names, *value, *about])


def _quoted(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace("'", "\\'").replace("\n", " ")
    return f"'{escaped}'"
