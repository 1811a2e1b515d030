"""Firewall rules in the language of iptables: read from ``iptables-save``, written for ``iptables-restore --noflush``.

What is ours: the rules of our networks in the section's chain (``shared_chain``), and the older rules of flanneld that
``rules.is_legacy`` knows. The chain and the one jump into it serve all networks: they are made where they are missing,
and go when nobody's rule is left. Nothing else is ever named in a transaction, so it stays as it is. What stands in a
built-in chain is compared by itself, whatever stands in between; when it is wrong, the jump goes to the place of the
first of these rules. A whole transaction takes effect at once or, when a rule to be deleted has gone meanwhile or a
chain to be made is there, not at all.
"""

import re
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from ipaddress import ip_network
from itertools import pairwise

from pyflanneld.core.families import Network
from pyflanneld.core.firewall.rules import (
    ACCEPT,
    MARK,
    MASQUERADE_TARGET,
    RETURN,
    SECTIONS,
    AddressMatch,
    Rule,
    Section,
    is_legacy,
)
from pyflanneld.core.firewall.shared_chain import ChainRule, change, deletions

_WORD = re.compile(r'(?P<bare>[^\s"]+)|"(?P<quoted>(?:[^"\\]|\\.)*)"')
_COMMENTS = [("--comment", section.comment) for section in SECTIONS]
_TERMINAL = {RETURN, ACCEPT, MASQUERADE_TARGET, "DROP", "REJECT"}


@dataclass(frozen=True, slots=True)
class Chains:
    """What one family's iptables holds for one section.

    Attributes:
        entrance: the rules of the built-in chain, in order; ``None`` for one that flanneld cannot have written.
        own: the rules of flannel's chain; ``None`` when it does not exist.
        entered_elsewhere: a foreign rule jumps to that chain.
        policy: of the built-in chain; empty when the table does not exist.
    """

    entrance: tuple[Rule | None, ...] = ()
    own: tuple[ChainRule, ...] | None = None
    entered_elsewhere: bool = False
    policy: str = ""


def read(saved: str, section: Section) -> Chains:
    """Read what ``iptables-save`` printed, of one table or of all."""
    entrance: list[Rule | None] = []
    own: list[ChainRule] | None = None
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
            own = [*(own or ()), parse_chain_rule(line)]
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
def parse_chain_rule(line: str) -> ChainRule:
    """Read ``-A CHAIN …`` as a rule among others, whoever wrote it; its key is what stands behind ``-A CHAIN``."""
    words = _words(line)
    named = frozenset(_network(value) for option, value in pairwise(words) if option in {"-s", "-d"})
    shared = not named and any(pair in pairwise(words) for pair in _COMMENTS)
    verdict = words[4:] if words[:3] == ["-m", "comment", "--comment"] else words
    unconditional = verdict[:1] == ["-g"] or (verdict[:1] == ["-j"] and not _TERMINAL.isdisjoint(verdict[1:2]))
    return ChainRule(line.split(" ", 2)[2], parse_rule(line), named, shared, unconditional)


def _network(text: str) -> Network:
    """Read an address; all of them for one with a mask that is no prefix."""
    try:
        return ip_network(text)
    except ValueError:
        return ip_network("0.0.0.0/0")


def _words(line: str) -> list[str]:
    """Return the words behind ``-A CHAIN``."""
    return [found["bare"] or re.sub(r"\\(.)", r"\1", found["quoted"]) for found in _WORD.finditer(line)][2:]


@lru_cache(maxsize=512)
def parse_rule(line: str) -> Rule | None:
    """Read ``-A CHAIN …``, in any order of its options; ``None`` for a rule that flanneld cannot have written."""
    words = _words(line)
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


def repair(
    section: Section, found: Chains, rules: tuple[Rule, ...], networks: Collection[Network], *, take_over: bool = False
) -> str:
    """Return the transaction that makes our rules in *found* what they should be; empty when they are.

    Args:
        section: what it is about.
        found: what is there.
        rules: those of ours, and the shared ones.
        networks: those that we speak for.
        take_over: whether their rules of v0.11.0 are to go; see ``rules.is_legacy``.
    """
    lines = [f"-N {section.chain}"] if found.own is None else []
    needed = change(found.own or (), rules, networks)
    lines += _own_deletions(section, needed.deletions)
    for one in needed.insertions:
        to = f"-A {section.chain}" if one.before is None else f"-I {section.chain} {one.place + 1}"
        lines.append(f"{to} {render(one.rule)}")
    leading = _leading(section, found, networks, take_over=take_over)
    if [rule for _, rule in leading] != [section.jump]:
        first = leading[0][0] if leading else len(found.entrance)
        at_end = first == len(found.entrance) - len(leading)
        entered = f"-A {section.entrance}" if at_end else f"-I {section.entrance} {first + 1}"
        lines += [*_deletions(section, leading), f"{entered} {render(section.jump)}"]
    return _transaction(section, lines)


def removal(section: Section, found: Chains, networks: Collection[Network], *, take_over: bool = False) -> str:
    """Return the transaction that removes the rules of *networks*; empty when there is nothing.

    The chain and the jumps go when only shared rules are left. Arguments as for ``repair``.
    """
    leading, own = _leading(section, found, networks, take_over=take_over), found.own or ()
    ours, end = deletions(own, networks), list[str]()
    if ours is not None:
        leading = [(place, rule) for place, rule in leading if rule != section.jump]
    elif found.own is not None and not found.entered_elsewhere:
        end = [f"-X {section.chain}"]
    gone = own if ours is None else ours
    return _transaction(section, [*_deletions(section, leading), *_own_deletions(section, gone), *end])


def _leading(
    section: Section, found: Chains, networks: Collection[Network], *, take_over: bool
) -> list[tuple[int, Rule]]:
    """Return the jumps and our legacy rules in the built-in chain, with their places from 0."""
    return [
        (place, rule)
        for place, rule in enumerate(found.entrance)
        if rule is not None and (rule == section.jump or is_legacy(rule, section, networks, plain=take_over))
    ]


def _deletions(section: Section, rules: list[tuple[int, Rule]]) -> list[str]:
    """Name each rule in full: a number might mean another rule by the time it is read."""
    return [f"-D {section.entrance} {render(rule)}" for _, rule in rules]


def _own_deletions(section: Section, rules: Iterable[ChainRule]) -> list[str]:
    return [f"-D {section.chain} {one.key}" for one in rules]


def _transaction(section: Section, lines: list[str]) -> str:
    return "\n".join([f"*{section.table}", *lines, "COMMIT", ""]) if lines else ""
