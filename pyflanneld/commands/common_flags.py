"""Flags that several sub-commands have in addition to the daemon's."""

from collections.abc import Mapping

from pyflanneld.config.go_flags import Flag, FlagKind, Given

OWN = "this command"
OUTPUT = Flag(
    "output", FlagKind.STRING, "text", "text or json.", "FORMAT", OWN, from_env=False, choices=("text", "json")
)


def own_switch(name: str, text: str) -> Flag:
    """Return a true-or-false flag of a sub-command alone."""
    return Flag(name, FlagKind.BOOL, False, text, "", OWN, from_env=False)


def is_on(given: Mapping[str, Given], flag: Flag) -> bool:
    """Return whether a true-or-false flag is set."""
    return given[flag.name].value is True


def wants_json(given: Mapping[str, Given]) -> bool:
    """Return whether ``OUTPUT`` asks for JSON."""
    return given[OUTPUT.name].value == "json"
