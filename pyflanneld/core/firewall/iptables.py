"""Firewall rules in the language of iptables: read from ``iptables-save``, written for ``iptables-restore --noflush``.

What is ours: the section's chain, the one jump into it, and the older rules of flanneld that ``rules.is_legacy``
knows. Nothing else is ever named in a transaction, so it stays as it is. What is ours in a built-in chain is compared
by itself, whatever stands in between; when it is wrong, the jump goes to the place of the first rule of ours. A whole
transaction takes effect at once or, when a rule to be deleted has gone meanwhile, not at all.
"""

import re
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from functools import lru_cache
from ipaddress import ip_network

from pyflanneld.core.families import Network
from pyflanneld.core.firewall.rules import MARK, AddressMatch, Rule, Section, is_legacy

_WORD = re.compile(r'(?P<bare>[^\s"]+)|"(?P<quoted>(?:[^"\\]|\\.)*)"')


@dataclass(frozen=True, slots=True)
class Chains:
    """What one family's iptables holds for one section.

    Attributes:
        entrance: the rules of the built-in chain, in order; ``None`` for one that flanneld cannot have written.
        own: the rules of our chain; ``None`` when it does not exist.
        entered_elsewhere: a foreign rule jumps to our chain.
        policy: of the built-in chain; empty when the table does not exist.
    """

    entrance: tuple[Rule | None, ...] = ()
    own: tuple[Rule | None, ...] | None = None
    entered_elsewhere: bool = False
    policy: str = ""

    def names(self, networks: Collection[Network]) -> bool:
        """Return whether our chain is for one of *networks*, or empty."""
        return not self.own or any(rule is not None and rule.names(networks) for rule in self.own)


def read(saved: str, section: Section) -> Chains:
    """Read what ``iptables-save`` printed, of one table or of all."""
    entrance: list[Rule | None] = []
    own: list[Rule | None] | None = None
    elsewhere, policy = False, ""
    for line in _lines_of(saved, section.table):
        if line.startswith(f":{section.entrance} "):
            policy = line.split()[1]
        elif line.startswith(f":{section.chain} "):
            own = own or []
        elif line.startswith(f"-A {section.entrance} "):
            rule = parse_rule(line)
            entrance.append(rule)
            elsewhere |= rule != section.jump and section.chain in line.split()
        elif line.startswith(f"-A {section.chain} "):
            own = [*(own or ()), parse_rule(line)]
        elif section.chain in line:
            elsewhere |= section.chain in line.split()
    return Chains(tuple(entrance), None if own is None else tuple(own), elsewhere, policy)


def _lines_of(saved: str, table: str) -> Iterator[str]:
    inside = False
    for line in saved.splitlines():
        if line.startswith("*"):
            inside = line[1:].strip() == table
        elif inside:
            yield line


@lru_cache(maxsize=512)  # the same lines are read every few seconds
def parse_rule(line: str) -> Rule | None:
    """Read ``-A CHAIN …``, in any order of its options; ``None`` for a rule that flanneld cannot have written."""
    words = [found["bare"] or re.sub(r"\\(.)", r"\1", found["quoted"]) for found in _WORD.finditer(line)][2:]
    fields: dict[str, object] = {}
    negated = False
    while words:
        word = words.pop(0)
        if word == "!":
            negated = True
            continue
        taken = _option(word, words, negated)
        if taken is None or taken[0] in fields:
            return None
        if taken[0]:
            fields[taken[0]] = taken[1]
        negated = False
    return Rule(**fields) if "target" in fields and not negated else None  # type: ignore[arg-type]


def _option(word: str, rest: list[str], negated: bool) -> tuple[str, object] | None:
    """Return the field that an option sets, and its value; an empty name for one that sets none."""
    if word == "--random-fully":
        return None if negated else ("random_fully", True)
    if not rest:
        return None
    value = rest.pop(0)
    if word in {"-s", "-d"}:
        try:
            return {"-s": "source", "-d": "destination"}[word], AddressMatch(ip_network(value), negated)
        except ValueError:
            return None
    if negated:
        return None
    if word == "-m":
        return ("", None) if value in {"mark", "comment"} else None
    if word == "--mark":
        return ("marked", True) if _is_mark(value) else None
    return {"--comment": ("comment", value), "-j": ("target", value)}.get(word)


def _is_mark(text: str) -> bool:
    try:
        return [int(part, 16) for part in text.split("/")] == [MARK, MARK]
    except ValueError:
        return False


def render(rule: Rule) -> str:
    """Write a rule as ``iptables-save`` does, without ``-A CHAIN``."""
    parts = []
    for option, side in (("-s", rule.source), ("-d", rule.destination)):
        if side is not None:
            parts.append(f"{'! ' if side.negated else ''}{option} {side.network}")
    if rule.marked:
        parts.append(f"-m mark --mark {MARK:#x}/{MARK:#x}")
    if rule.comment:
        parts.append(f'-m comment --comment "{rule.comment}"')
    parts.append(f"-j {rule.target}")
    if rule.random_fully:
        parts.append("--random-fully")
    return " ".join(parts)


def repair(section: Section, found: Chains, rules: tuple[Rule, ...], plain: Collection[Network] = ()) -> str:
    """Return the transaction that makes *found* what it should be; empty when it is.

    Args:
        section: what it is about.
        found: what is there.
        rules: what our chain should hold.
        plain: the networks whose rules of v0.11.0 are to go; see ``rules.is_legacy``.
    """
    lines = []
    if found.own != rules:
        lines += [f":{section.chain} - [0:0]", *(f"-A {section.chain} {render(rule)}" for rule in rules)]
    ours = _ours(section, found, plain)
    if [rule for _, rule in ours] != [section.jump]:
        first = ours[0][0] if ours else len(found.entrance)
        at_end = first == len(found.entrance) - len(ours)
        entered = f"-A {section.entrance}" if at_end else f"-I {section.entrance} {first + 1}"
        lines += [*_deletions(section, ours), f"{entered} {render(section.jump)}"]
    return _transaction(section, lines)


def removal(section: Section, found: Chains, ours: Collection[Network], plain: Collection[Network] = ()) -> str:
    """Return the transaction that removes what is ours; empty when there is nothing.

    Args:
        section: what it is about.
        found: what is there.
        ours: the networks that this daemon serves; a chain for others belongs to another daemon.
        plain: as for ``repair``.
    """
    if not found.names(ours):
        return ""
    lines = _deletions(section, _ours(section, found, plain))
    if found.own:
        lines.append(f"-F {section.chain}")
    if found.own is not None and not found.entered_elsewhere:
        lines.append(f"-X {section.chain}")
    return _transaction(section, lines)


def _ours(section: Section, found: Chains, plain: Collection[Network]) -> list[tuple[int, Rule]]:
    """Return what is ours in the built-in chain, with its place from 0."""
    return [
        (place, rule)
        for place, rule in enumerate(found.entrance)
        if rule is not None and (rule == section.jump or is_legacy(rule, section, plain))
    ]


def _deletions(section: Section, ours: list[tuple[int, Rule]]) -> list[str]:
    """Name each rule in full: a number might mean another rule by the time it is read."""
    return [f"-D {section.entrance} {render(rule)}" for _, rule in ours]


def _transaction(section: Section, lines: list[str]) -> str:
    return "\n".join([f"*{section.table}", *lines, "COMMIT", ""]) if lines else ""
