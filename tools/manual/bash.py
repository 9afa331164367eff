"""orchctl's completion for bash: plain tables, because starting orchctl for a Tab takes a while."""

from __future__ import annotations

from typing import Final

from tools.manual.verbs import Verb

_HEAD: Final = """\
# bash completion for orchctl. Written by `make specs` from orchctl's own verbs; do not edit.
# shellcheck shell=bash

_orchctl() {
    local cur=${COMP_WORDS[COMP_CWORD]} prev=${COMP_WORDS[COMP_CWORD - 1]}
    local verb='' word i options='' words='' files=''
    # --option=value comes as three words
    [[ $cur == = ]] && cur=
    [[ $prev == = ]] && prev=${COMP_WORDS[COMP_CWORD - 2]}
    for ((i = 1; i < COMP_CWORD; i++)); do
        word=${COMP_WORDS[i]}
        [[ $word == -* ]] && continue
        case $verb in
        '') verb=$word ;;
        @groups@) verb="$verb $word" && break ;;
        *) break ;;
        esac
    done
"""
_TAIL: Final = """\
    if [[ -n $files ]]; then
        compopt -o filenames 2>/dev/null
        mapfile -t COMPREPLY < <(compgen -f -- "$cur")
    fi
    [[ $cur == -* ]] && words=$options
    mapfile -t -O "${#COMPREPLY[@]}" COMPREPLY < <(compgen -W "$words" -- "$cur")
}

complete -F _orchctl orchctl
"""


def script(root: Verb) -> str:
    """Return the script."""
    groups = " | ".join(verb.name for verb in root.every() if verb.path and verb.verbs)
    lines = ["    COMPREPLY=()", "    case $verb in"]
    for verb in root.every():
        lines += [f"    {_quoted(verb.name)})", *_inside(verb), "        ;;"]
    return _HEAD.replace("@groups@", groups) + "\n".join([*lines, "    esac", ""]) + _TAIL


def _inside(verb: Verb) -> list[str]:
    """What is offered after this verb: the value of an option first, else words and options."""
    flags = " ".join(flag for option in verb.options for flag in option.flags if flag[:2] == "--")
    lines = [f"        options={_quoted(flags)}"]
    if verb.verbs:
        lines.append(f"        words={_quoted(' '.join(each.path[-1] for each in verb.verbs))}")
    if any(argument.is_file for argument in verb.arguments):
        lines.append("        files=1")
    values = []
    for option in verb.options:
        if not option.takes:
            continue
        mark = " | ".join(option.flags)
        if option.choices:
            values.append(
                f"        {mark}) options='' files='' words={_quoted(' '.join(option.choices))} ;;"
            )
        elif option.is_file:
            values.append(f"        {mark}) options='' words='' files=1 ;;")
        else:
            values.append(f"        {mark}) return ;;")
    return [*lines, "        case $prev in", *values, "        esac"] if values else lines


def _quoted(text: str) -> str:
    return f"'{text}'"
