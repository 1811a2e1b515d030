"""Load the settings: from the command line, the environment, and the files that they name.

The result is complete and checked before anything is contacted; nothing that talks to etcd or the kernel is imported.
"""

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager

from pydantic import ValidationError

from pyflanneld import __version__
from pyflanneld.config import credentials, usage
from pyflanneld.config.deprecated import KUBERNETES, RETIRED, apply_deprecated
from pyflanneld.config.endpoints import left_out, with_tls
from pyflanneld.config.go_flags import (
    Flag,
    Given,
    HelpAsked,
    fill_in,
    read_argv,
    read_mixed,
    refuse_words,
    unread_variables,
    unusable,
)
from pyflanneld.config.settings import FLAGS, Settings

ACCEPTED = (*FLAGS, *RETIRED, *KUBERNETES)
"""All flags that a daemon's command line may hold."""

_TITLE = """\
pyflanneld {version}: leases a subnet from etcd and keeps host-gw routes to its peers, in flanneld's place.

Usage: {forms}

Flags are written -x v, -x=v, --x v or --x=v. Each can be set by the variable shown; the command line wins.
"""


def _daemon_form() -> Sequence[str]:
    return ("pyflanneld [flags]",)


def load(
    argv: Sequence[str], environ: Mapping[str, str], *, forms: Callable[[], Sequence[str]] = _daemon_form
) -> Settings:
    """Load the daemon's settings from *argv* (without the program's name) and *environ*.

    Args:
        argv: the words of the command line.
        environ: the environment.
        forms: returns the lines on how to use the program, for ``--help``.

    Raises:
        UsageError: one line that names the flag or variable as it was written, its value, and what would be right.
        SystemExit: 0, after ``--help`` or ``--version`` was answered on stdout.
    """
    with _answering_help(lambda: _TITLE.format(version=__version__, forms="\n       ".join(forms())), FLAGS):
        on_line, rest = read_argv(argv, ACCEPTED)
    if "version" in on_line and on_line["version"].value:  # before the environment is read, as in flanneld
        sys.stdout.write(f"pyflanneld {__version__}\n")
        raise SystemExit(0)
    refuse_words(rest, FLAGS)
    return _settings(fill_in(on_line, environ, ACCEPTED), environ)


def load_as_daemon(
    argv: Sequence[str], environ: Mapping[str, str], *, title: str, own: Sequence[Flag]
) -> tuple[Settings, dict[str, Given]]:
    """Load a daemon's settings, as ``load`` does, for a sub-command that has some flags of its *own*.

    Returns and raises as ``load_some``.
    """
    flags = (*own, *ACCEPTED)
    with _answering_help(lambda: title, (*own, *FLAGS)):
        on_line, rest = read_argv(argv, flags)
    refuse_words(rest, flags)
    given = fill_in(on_line, environ, flags)
    return _settings(given, environ), given


def load_some(
    argv: Sequence[str], environ: Mapping[str, str], *, title: str, flags: Sequence[Flag]
) -> tuple[Settings, dict[str, Given]]:
    """Load the settings for a sub-command: its *flags* are those of etcd, maybe more of the daemon's, and its own.

    Returns:
        The settings, with defaults for what the sub-command has no flag for, and all flags as they were given.

    Raises:
        UsageError: as for ``load``.
        SystemExit: 0, after ``--help`` was answered on stdout.
    """
    words, settings, given = load_words(argv, environ, title=title, flags=flags)
    refuse_words(words, flags)
    return settings, given


def load_words(
    argv: Sequence[str], environ: Mapping[str, str], *, title: str, flags: Sequence[Flag]
) -> tuple[list[str], Settings, dict[str, Given]]:
    """Load the settings for a sub-command that takes words among its flags.

    Returns:
        The words, then as ``load_some``, which it raises as, too.
    """
    with _answering_help(lambda: title, flags):
        on_line, words = read_mixed(argv, flags)
    given = fill_in(on_line, environ, flags)
    return words, _settings(given, environ), given


@contextmanager
def _answering_help(title: Callable[[], str], flags: Sequence[Flag]) -> Iterator[None]:
    """Answer ``--help`` where it is asked for, and end."""
    try:
        yield
    except HelpAsked:
        sys.stdout.write(usage.usage(title(), flags))
        raise SystemExit(0) from None


def _settings(given: Mapping[str, Given], environ: Mapping[str, str]) -> Settings:
    """Return the settings with the password from its file, and all warnings."""
    given, remarks = apply_deprecated(given)
    settings = to_settings(given)
    password = credentials.check(settings, given)
    unread = [
        f"{name} is set, but there is no such flag: it has no effect" for name in unread_variables(environ, ACCEPTED)
    ]
    warnings = (*remarks, *unread, *_left_out(given["etcd-endpoints"]), *credentials.warnings(settings, given))
    return settings.model_copy(update={"etcd_password": password, "warnings": warnings})


def _left_out(item: Given) -> list[str]:
    return [f"{item.written}: {text}" for text in left_out(str(item.value))]


def to_settings(given: Mapping[str, Given]) -> Settings:
    """Return the settings that the flags of *given* make; no file is looked at, and defaults are not asked for.

    Raises:
        UsageError: the first wrong value, in the operator's words.
    """
    asked = [flag for flag in FLAGS if flag.field and flag.name in given and not given[flag.name].is_default]
    flags = {flag.field: flag for flag in asked}
    values = {field: _converted(flag, given[flag.name]) for field, flag in flags.items()}
    if "etcd_endpoints" in values and values.get("etcd_certfile") and values.get("etcd_keyfile"):
        values["etcd_endpoints"] = with_tls(str(values["etcd_endpoints"]))
    try:
        return Settings.model_validate(values)
    except ValidationError as error:
        first = error.errors()[0]
        field, *position = first["loc"]
        flag = flags[str(field)]
        item = given[flag.name]
        value = item.value[int(position[0])] if isinstance(item.value, tuple) else item.value
        needed = first.get("ctx", {}).get("error") or flag.needed or first["msg"]
        raise unusable(item.written, value, str(needed)) from None


def _converted(flag: Flag, item: Given) -> object:
    return item.value * flag.factor if isinstance(item.value, int) and flag.factor > 1 else item.value
