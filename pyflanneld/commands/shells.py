"""The completion scripts of bash, zsh and fish, made from the declarations of all commands. Pure but for their loading.

What can be completed: the sub-commands, the fixed words that follow some of them, flags, the values of flags that have
a list of them, and file names. Text goes into the scripts quoted, so a help text may hold whatever it likes.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass

from pyflanneld.commands.catalogue import COMMANDS
from pyflanneld.config.flags import FLAGS
from pyflanneld.config.go_flags import Flag, FlagKind

_HELP = Flag("help", FlagKind.BOOL, False, "Print help and exit.", from_env=False)


@dataclass(frozen=True, slots=True)
class _Entry:
    """One command as completion sees it; the daemon's *name* is empty."""

    name: str
    summary: str
    words: tuple[str, ...]
    flags: tuple[Flag, ...]


def _entries() -> list[_Entry]:
    found = [_Entry("", "", (), FLAGS)]
    for command in COMMANDS:
        manual = command.manual()
        own = manual.flags if any(flag.name == "help" for flag in manual.flags) else (*manual.flags, _HELP)
        found.append(_Entry(command.name, command.summary, manual.words, own))
    return found


def _written(flag: Flag) -> str:
    return f"-{flag.name}" if len(flag.name) == 1 else f"--{flag.name}"


def _is_file(flag: Flag) -> bool:
    return flag.metavar == "FILE"


def _quoted(text: str) -> str:
    """Return *text* in single quotes, as bash and zsh read them."""
    return "'" + text.replace("'", "'\\''") + "'"


# bash


def bash() -> str:
    """Return the script for bash; it needs nothing but bash itself."""
    entries = _entries()
    cases = "\n".join(_bash_case(entry) for entry in entries)
    names = " ".join(entry.name for entry in entries if entry.name)
    return f"""\
# bash completion for pyflanneld, made by "pyflanneld completion bash"

_pyflanneld() {{
    local cur=${{COMP_WORDS[COMP_CWORD]}} prev=${{COMP_WORDS[COMP_CWORD-1]}} command=${{COMP_WORDS[1]}}
    local flag='' kind='' words='' flags='' values=''
    COMPREPLY=()
    if [[ $cur == = ]]; then    # bash takes --flag=value for three words
        flag=$prev cur=''
    elif [[ $prev == = ]]; then
        flag=${{COMP_WORDS[COMP_CWORD-2]}}
    elif [[ $prev == -* && $COMP_CWORD -gt 1 ]]; then
        flag=$prev
    fi
    flag=${{flag#-}} flag=${{flag#-}}
    [[ $COMP_CWORD -eq 1 || $command == -* ]] && command=''
    case $command in
{cases}
        *) return ;;
    esac
    case $kind in
        one) mapfile -t COMPREPLY < <(compgen -W "$values" -- "$cur") ;;
        any) ;;
        file)
            compopt -o filenames 2>/dev/null
            mapfile -t COMPREPLY < <(compgen -f -- "$cur")
            ;;
        *)
            if [[ $cur == -* ]]; then
                words=$flags
            elif [[ $COMP_CWORD -eq 1 ]]; then
                words='{names}'
            elif [[ $COMP_CWORD -ne 2 ]]; then
                words=''
            fi
            mapfile -t COMPREPLY < <(compgen -W "$words" -- "$cur")
            [[ ${{#COMPREPLY[@]}} -eq 1 && ${{COMPREPLY[0]}} == *= ]] && compopt -o nospace 2>/dev/null
            ;;
    esac
}}

complete -F _pyflanneld pyflanneld
"""


def _bash_case(entry: _Entry) -> str:
    valued = [flag for flag in entry.flags if flag.kind is not FlagKind.BOOL]
    flags = " ".join(_written(flag) + ("=" * (flag in valued and len(flag.name) > 1)) for flag in entry.flags)
    lines = [f"{entry.name or _quoted('')})", f"    words='{' '.join(entry.words)}'", f"    flags='{flags}'"]
    if valued:
        lines += ["    case $flag in", *(f"        {_bash_value(flag)} ;;" for flag in valued), "    esac"]
    return "\n".join(" " * 8 + line for line in [*lines, "    ;;"])


def _bash_value(flag: Flag) -> str:
    if flag.choices:
        return f"{flag.name}) kind=one values='{' '.join(flag.choices)}'"
    return f"{flag.name}) kind={'file' if _is_file(flag) else 'any'}"


# zsh


def zsh() -> str:
    """Return the script for zsh: a file for ``$fpath``, or to be sourced after ``compinit``."""
    entries = _entries()
    names = "\n".join(f"            {_quoted(f'{one.name}:{one.summary}')}" for one in entries if one.name)
    cases = "\n".join(_zsh_case(entry) for entry in entries if entry.name)
    return f"""\
#compdef pyflanneld
# zsh completion for pyflanneld, made by "pyflanneld completion zsh"

_pyflanneld() {{
    if (( CURRENT == 2 )) && [[ $words[2] != -* ]]; then
        local -a commands=(
{names}
        )
        _describe command commands
        return
    fi
    local command=$words[2]
    if [[ $command != -* ]]; then
        shift words
        (( CURRENT-- ))
    fi
    case $command in
{cases}
        -*)
{_zsh_arguments(entries[0])}
            ;;
    esac
}}

if [[ $zsh_eval_context[-1] == loadautofunc ]]; then
    _pyflanneld "$@"
else
    compdef _pyflanneld pyflanneld
fi
"""


def _zsh_case(entry: _Entry) -> str:
    return f"        {entry.name})\n{_zsh_arguments(entry)}\n            ;;"


def _zsh_arguments(entry: _Entry) -> str:
    specs = [_quoted(_zsh_spec(flag)) for flag in entry.flags]
    specs += [_quoted(f"1:word:({' '.join(entry.words)})")] if entry.words else []
    return " " * 12 + (" \\\n" + " " * 16).join(["_arguments", *specs])


def _zsh_spec(flag: Flag) -> str:
    text = re.sub(r"([\[\]:\\])", r"\\\1", flag.text)
    repeated = "*" if flag.kind is FlagKind.STRINGS else ""
    if flag.kind is FlagKind.BOOL:
        return f"{_written(flag)}[{text}]"
    action = f"({' '.join(flag.choices)})" if flag.choices else "_files" if _is_file(flag) else " "
    equals = "=" if len(flag.name) > 1 else ""
    label = re.sub(r"[^A-Za-z]", " ", flag.metavar).strip().lower()
    return f"{repeated}{_written(flag)}{equals}[{text}]:{label}:{action}"


# fish


def fish() -> str:
    """Return the script for fish."""
    lines = [
        '# fish completion for pyflanneld, made by "pyflanneld completion fish"',
        "",
        "function __pyflanneld_command",
        "    set -l words (commandline -opc)",
        "    if test (count $words) -ge 2; and not string match -q -- '-*' $words[2]",
        "        echo $words[2]",
        "    end",
        "end",
        "",
        "complete -c pyflanneld -f",
        *(line for entry in _entries() for line in _fish_entry(entry)),
    ]
    return "\n".join(lines) + "\n"


def _fish_entry(entry: _Entry) -> Iterator[str]:
    here = f'-n \'test "$(__pyflanneld_command)" = "{entry.name}"\''
    if entry.name:
        first = "-n 'test (count (commandline -opc)) -eq 1'"
        yield f"complete -c pyflanneld {first} -a {entry.name} -d {_fish_quoted(entry.summary)}"
    if entry.words:
        second = f'-n \'test "$(__pyflanneld_command)" = "{entry.name}"; and test (count (commandline -opc)) -eq 2\''
        yield f"complete -c pyflanneld {second} -a '{' '.join(entry.words)}'"
    for flag in entry.flags:
        yield f"complete -c pyflanneld {here} {_fish_flag(flag)} -d {_fish_quoted(flag.text)}"


def _fish_flag(flag: Flag) -> str:
    name = f"-s {flag.name}" if len(flag.name) == 1 else f"-l {flag.name}"
    if flag.kind is FlagKind.BOOL:
        return name
    if flag.choices:
        return f"{name} -x -a '{' '.join(flag.choices)}'"
    return f"{name} -r -F" if _is_file(flag) else f"{name} -x"


def _fish_quoted(text: str) -> str:
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"
