"""Flags that several sub-commands have beside the daemon's."""

from collections.abc import Mapping

from pyflanneld.config.go_flags import Flag, FlagKind, Given
from pyflanneld.errors import UsageError

OWN = "this command"
OUTPUT = Flag("output", FlagKind.STRING, "text", "text or json.", "FORMAT", OWN, from_env=False)


def own_switch(name: str, text: str) -> Flag:
    """Return a true-or-false flag of a sub-command alone."""
    return Flag(name, FlagKind.BOOL, False, text, "", OWN, from_env=False)


def is_on(given: Mapping[str, Given], flag: Flag) -> bool:
    """Say whether a true-or-false flag is set."""
    return given[flag.name].value is True


def wants_json(given: Mapping[str, Given]) -> bool:
    """Say whether ``OUTPUT`` asks for JSON.

    Raises:
        UsageError: it asks for something else than that or text.
    """
    item = given[OUTPUT.name]
    if item.value not in ("text", "json"):
        raise UsageError(f"{item.written}: {item.value!a} is not usable: text or json is needed")
    return item.value == "json"
