"""The completion scripts of bash, zsh and fish, made from the declarations of flags and commands.

What is completed: the sub-commands, the fixed words that follow some of them, flags, the values of flags that have a
list of them, and file names. Text goes into the scripts quoted, so a help text may hold anything.
No library does it: shtab reads argparse parsers alone, knows no fish, and does not complete ``--flag=value``.
"""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from manual import Manual

from pyflanneld.commands.catalogue import COMMANDS
from pyflanneld.config.go_flags import Flag, FlagKind
from pyflanneld.config.settings import FLAGS

_HELP = Flag("help", FlagKind.BOOL, False, "Print help and exit.", from_env=False)


@dataclass(frozen=True, slots=True)
class _Entry:
    """One command as completion sees it: its fixed words, its own flags, and whether it takes the daemon's too."""

    name: str
    summary: str
    words: tuple[str, ...]
    own: tuple[Flag, ...]
    as_daemon: bool

    @property
    def flags(self) -> tuple[Flag, ...]:
        return (*self.own, *FLAGS) if self.as_daemon else self.own


def _entries() -> Iterator[_Entry]:
    """Yield the daemon, whose name is empty, and all sub-commands."""
    yield _Entry("", "", (), (), as_daemon=True)
    for command in COMMANDS:
        manual = Manual.of_command(command)
        if as_daemon := set(FLAGS) <= set(manual.flags):
            own = tuple(flag for flag in manual.flags if flag not in FLAGS)
        else:
            own = (*(flag for flag in manual.flags if flag.name != "help"), _HELP)
        yield _Entry(command.name, command.summary, manual.words, own, as_daemon)


def _written(flag: Flag) -> str:
    return f"-{flag.name}" if len(flag.name) == 1 else f"--{flag.name}"


def _is_file(flag: Flag) -> bool:
    return flag.metavar in ("FILE", "PATH")


def _quoted(text: str) -> str:
    """Return *text* in single quotes, as bash and zsh read them."""
    return "'" + text.replace("'", "'\\''") + "'"


def _filled(template: str, **blocks: Iterable[str]) -> str:
    """Return *template* with each line ``@name`` replaced by the lines of that block, at its indentation."""
    lines = []
    for line in template.splitlines():
        name = line.strip().removeprefix("@")
        indent = line[: len(line) - len(line.lstrip())]
        lines += [indent + one for one in blocks[name]] if line.strip() == f"@{name}" else [line]
    return "\n".join(lines) + "\n"


# bash

_BASH = """\
# bash completion for pyflanneld, made by "make docs"

_pyflanneld() {
    local cur=${COMP_WORDS[COMP_CWORD]} prev=${COMP_WORDS[COMP_CWORD-1]} command=${COMP_WORDS[1]}
    local flag='' words='' flags='' daemon
    @daemon
    COMPREPLY=()
    if [[ $cur == = ]]; then    # bash takes --flag=value for three words
        flag=$prev cur=''
    elif [[ $prev == = ]]; then
        flag=${COMP_WORDS[COMP_CWORD-2]}
    elif [[ $prev == -* && $COMP_CWORD -gt 1 ]]; then
        flag=$prev
    fi
    flag=${flag#-} flag=${flag#-}
    [[ $COMP_CWORD -eq 1 || $command == -* ]] && command=''
    case $command in
        @commands
        *) return ;;
    esac
    case $command:$flag in
        @values
        *)
            if [[ $cur == -* ]]; then
                words=$flags
            elif [[ $COMP_CWORD -eq 1 ]]; then
                @names
            elif [[ $COMP_CWORD -ne 2 ]]; then
                words=''
            fi
            ;;
    esac
    mapfile -t COMPREPLY < <(compgen -W "$words" -- "$cur")
    [[ ${#COMPREPLY[@]} -eq 1 && ${COMPREPLY[0]} == *= ]] && compopt -o nospace 2>/dev/null
    return 0
}

complete -F _pyflanneld pyflanneld
"""
_BASH_FILES = 'compopt -o filenames 2>/dev/null; mapfile -t COMPREPLY < <(compgen -f -- "$cur"); return'


def bash() -> str:
    """Return the script for bash; it needs nothing but bash itself."""
    entries = list(_entries())
    return _filled(
        _BASH,
        daemon=[f"daemon='{_bash_flags(FLAGS)}'"],
        commands=[_bash_command(entry) for entry in entries],
        values=_bash_values(entries),
        names=[f"words='{' '.join(entry.name for entry in entries if entry.name)}'"],
    )


def _bash_command(entry: _Entry) -> str:
    flags = f"'{_bash_flags(entry.own)} '{'$daemon' * entry.as_daemon}"
    return f"{entry.name or _quoted('')}) words='{' '.join(entry.words)}' flags={flags} ;;"


def _bash_flags(flags: Iterable[Flag]) -> str:
    return " ".join(_written(flag) + "=" * (flag.kind is not FlagKind.BOOL and len(flag.name) > 1) for flag in flags)


def _bash_values(entries: Iterable[_Entry]) -> Iterator[str]:
    """Yield what follows each flag that takes a value; another meaning in some command comes first."""
    usual: dict[str, str] = {}
    for entry in entries:
        for flag in (flag for flag in entry.flags if flag.kind is not FlagKind.BOOL):
            values = f"words='{' '.join(flag.choices)}'"
            action = values if flag.choices else _BASH_FILES if _is_file(flag) else "return"
            if action != usual.setdefault(flag.name, action):
                yield f"{entry.name}:{flag.name}) {action} ;;"
    for action in dict.fromkeys(usual.values()):
        yield f"{'|'.join(f'*:{name}' for name in usual if usual[name] == action)}) {action} ;;"


# zsh

_ZSH = """\
#compdef pyflanneld
# zsh completion for pyflanneld, made by "make docs"

_pyflanneld() {
    local -a commands=(
        @names
    ) daemon=(
        @daemon
    )
    if (( CURRENT == 2 )) && [[ $words[2] != -* ]]; then
        _describe command commands
        return
    fi
    local command=$words[2]
    if [[ $command != -* ]]; then
        shift words
        (( CURRENT-- ))
    fi
    case $command in
        @commands
    esac
}

if [[ $zsh_eval_context[-1] == loadautofunc ]]; then
    _pyflanneld "$@"
else
    compdef _pyflanneld pyflanneld
fi
"""


def zsh() -> str:
    """Return the script for zsh: a file for ``$fpath``, or to be sourced after ``compinit``."""
    entries = list(_entries())
    return _filled(
        _ZSH,
        names=[_quoted(f"{entry.name}:{entry.summary}") for entry in entries if entry.name],
        daemon=[_zsh_spec(flag) for flag in FLAGS],
        commands=[line for entry in entries for line in _zsh_command(entry)],
    )


def _zsh_command(entry: _Entry) -> Iterator[str]:
    specs = [_zsh_spec(flag) for flag in entry.own] + ["$daemon"] * entry.as_daemon
    specs += [_quoted(f"1:word:({' '.join(entry.words)})")] * bool(entry.words)
    yield f"{entry.name or '-*'})"
    yield "    _arguments " + " \\\n                ".join(specs)
    yield "    ;;"


def _zsh_spec(flag: Flag) -> str:
    text = re.sub(r"([\[\]:\\])", r"\\\1", flag.text)
    if flag.kind is FlagKind.BOOL:
        return _quoted(f"{_written(flag)}[{text}]")
    repeated, equals = "*" * (flag.kind is FlagKind.STRINGS), "=" * (len(flag.name) > 1)
    action = f"({' '.join(flag.choices)})" if flag.choices else "_files" if _is_file(flag) else " "
    label = re.sub(r"[^A-Za-z]", " ", flag.metavar).strip().lower()
    return _quoted(f"{repeated}{_written(flag)}{equals}[{text}]:{label}:{action}")


# fish

_FISH = """\
# fish completion for pyflanneld, made by "make docs"

function __pyflanneld_is
    set -l words (commandline -opc)
    test (count $words) -ge 2; and not string match -q -- '-*' $words[2]; or set words pyflanneld daemon
    contains -- $words[2] $argv
end

complete -c pyflanneld -f
@commands
@flags
"""


def fish() -> str:
    """Return the script for fish."""
    entries = list(_entries())
    having: dict[Flag, list[str]] = {}
    for entry in entries:
        for flag in entry.flags:
            having.setdefault(flag, []).append(entry.name or "daemon")
    return _filled(
        _FISH,
        commands=[line for entry in entries if entry.name for line in _fish_command(entry)],
        flags=[_fish_flag(flag, names) for flag, names in having.items()],
    )


def _fish_command(entry: _Entry) -> Iterator[str]:
    position = "test (count (commandline -opc)) -eq"
    yield f"complete -c pyflanneld -n '{position} 1' -a {entry.name} -d {_fish_quoted(entry.summary)}"
    if entry.words:
        yield f"complete -c pyflanneld -n '__pyflanneld_is {entry.name}; and {position} 2' -a '{' '.join(entry.words)}'"


def _fish_flag(flag: Flag, names: Iterable[str]) -> str:
    value = f"-x -a '{' '.join(flag.choices)}'" if flag.choices else "-r -F" if _is_file(flag) else "-x"
    name = f"-{'s' if len(flag.name) == 1 else 'l'} {flag.name}"
    what = name if flag.kind is FlagKind.BOOL else f"{name} {value}"
    return f"complete -c pyflanneld -n '__pyflanneld_is {' '.join(names)}' {what} -d {_fish_quoted(flag.text)}"


def _fish_quoted(text: str) -> str:
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"
