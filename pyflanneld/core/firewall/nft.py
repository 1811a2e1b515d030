"""Firewall rules in the language of nft: written for ``nft -f``, read from ``nft -j list table``.

Tables, chains and comments are flannel's (``pkg/trafficmngr/nftables/nftables.go``, v0.28.9), the rules those of its
iptables side. Where flannel's nft rules differ from its iptables rules, these do not follow:

* from outside the network to this node's subnet: returned, as in iptables; flannel's rule returns what goes from
  outside this node's *subnet* to the whole network, so that nothing from outside the network is ever masqueraded;
* the mark is compared under its mask, so that a packet with further marks matches as well;
* a chain is there if its rules are asked for, and the table of a family that is used; flannel makes all of them.

The table is ours alone: whenever anything in it is not as it should be, it is replaced as a whole, at once. One thing
nft cannot do: an accept in one table does not overrule a drop in another, such as the policy of iptables' FORWARD.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from ipaddress import ip_network
from typing import Any

from pyflanneld.core.families import Network
from pyflanneld.core.firewall.rules import (
    ACCEPT,
    FORWARD,
    MARK,
    MASQUERADE,
    MASQUERADE_TARGET,
    RETURN,
    AddressMatch,
    Family,
    Rule,
    Section,
)

WantedRules = Mapping[Section, tuple[Rule, ...]]


@dataclass(frozen=True, slots=True)
class Hook:
    """How a chain of ours is entered, and its name and comment."""

    chain: str
    kind: str
    hook: str
    priority: int
    priority_name: str
    comment: str


HOOKS = {
    FORWARD: Hook("forward", "filter", "forward", 0, "filter", "chain to accept flannel traffic"),
    MASQUERADE: Hook(
        "postrtg", "nat", "postrouting", 100, "srcnat", "chain to manage traffic masquerading by flannel"
    ),
}
_VERDICTS = {RETURN: "return", ACCEPT: "accept", MASQUERADE_TARGET: "masquerade"}


@dataclass(frozen=True, slots=True)
class Chain:
    """A chain as it is: its hook, and its rules in order, ``None`` for one that we cannot have written."""

    kind: str
    hook: str
    priority: int
    policy: str
    rules: tuple[Rule | None, ...]


@dataclass(frozen=True, slots=True)
class Table:
    """Our table as it is.

    Attributes:
        chains: by name.
        plain: holds nothing else (sets, flags that put it to sleep).
    """

    chains: Mapping[str, Chain]
    plain: bool = True

    def names(self, networks: Sequence[Network]) -> bool:
        """Return whether the table is for one of *networks*, or empty."""
        rules = [rule for chain in self.chains.values() for rule in chain.rules]
        return not rules or any(rule is not None and rule.names(networks) for rule in rules)


def table_name(family: Family) -> str:
    """Return flannel's name for our table."""
    return f"flannel-{family.value}"


def family_word(family: Family) -> str:
    """Return nft's keyword for the family, also that of its addresses in a rule."""
    return "ip" if family is Family.IPV4 else "ip6"


def expected(wanted: WantedRules) -> Table:
    """Return what the table has to be."""
    return Table(
        {
            hook.chain: Chain(
                hook.kind, hook.hook, hook.priority, "accept", tuple(replace(rule, comment="") for rule in rules)
            )
            for section, hook in HOOKS.items()
            if (rules := wanted.get(section))
        }
    )


def repair(family: Family, found: Table | None, wanted: WantedRules) -> str:
    """Return the transaction that makes *found* what it should be; empty when it is."""
    if found == expected(wanted):
        return ""
    name = table_name(family)
    lines = [removal(family), f"table {family_word(family)} {name} {{", f'  comment "rules for {name}"']
    for section, hook in HOOKS.items():
        rules = wanted.get(section)
        if rules:
            lines += [f"  chain {hook.chain} {{", f'    comment "{hook.comment}"']
            lines.append(f"    type {hook.kind} hook {hook.hook} priority {hook.priority_name}; policy accept;")
            lines += [*(f"    {render(rule, family)}" for rule in rules), "  }"]
    return "\n".join([*lines, "}", ""])


def removal(family: Family) -> str:
    """Return the transaction that removes our table, whether or not it is there."""
    table = f"table {family_word(family)} {table_name(family)}"
    return f"add {table}\ndelete {table}"


def render(rule: Rule, family: Family) -> str:
    """Write one rule."""
    parts = [f"meta mark & {MARK:#x} == {MARK:#x}"] if rule.marked else []
    for field, side in (("saddr", rule.source), ("daddr", rule.destination)):
        if side is not None:
            parts.append(f"{family_word(family)} {field} {'!= ' if side.negated else ''}{side.network}")
    parts.append(_VERDICTS[rule.target])
    if rule.random_fully:
        parts.append("fully-random")
    return " ".join(parts)


def read(listing: str) -> Table:
    """Read what ``nft -j list table`` printed (libnftables-json(5)).

    Raises:
        ValueError: that is not such a listing.
    """
    try:
        items = [next(iter(item.items())) for item in json.loads(listing)["nftables"]]
        kinds = {kind for kind, _ in items}
        chains = {
            value["name"]: Chain(
                str(value.get("type")), str(value.get("hook")), value.get("prio"), str(value.get("policy")), ()
            )
            for kind, value in items
            if kind == "chain"
        }
        for kind, value in items:
            if kind == "rule":
                chain = chains[value["chain"]]
                chains[value["chain"]] = replace(chain, rules=(*chain.rules, _rule(value["expr"])))
        asleep = any(value.get("flags") for kind, value in items if kind == "table")
    except (LookupError, TypeError, AttributeError, StopIteration) as error:
        raise ValueError(f"unexpected form: {error!r}") from error
    return Table(chains, plain=kinds <= {"metainfo", "table", "chain", "rule"} and not asleep)


def _rule(expressions: Sequence[Mapping[str, Any]]) -> Rule | None:
    """Read a rule; ``None`` for one that we cannot have written."""
    fields: dict[str, object] = {}
    try:
        for expression in expressions:
            ((kind, value),) = expression.items()
            found = _match(value) if kind == "match" else _verdict(kind, value)
            if found is None or not found.keys().isdisjoint(fields) or "target" in fields:
                return None
            fields |= found
    except (LookupError, TypeError, AttributeError, ValueError):
        return None
    return Rule(**fields) if "target" in fields else None  # type: ignore[arg-type]


def _match(value: Mapping[str, Any]) -> dict[str, object] | None:
    left, right, negated = value["left"], value["right"], value["op"] == "!="
    if value["op"] not in {"==", "!="}:
        return None
    if left == {"&": [{"meta": {"key": "mark"}}, MARK]}:
        return {"marked": True} if right == MARK and not negated else None
    payload, prefix = left["payload"], right["prefix"]
    if payload["protocol"] not in {"ip", "ip6"}:
        return None
    field = {"saddr": "source", "daddr": "destination"}[payload["field"]]
    return {field: AddressMatch(ip_network(f"{prefix['addr']}/{prefix['len']}"), negated)}


def _verdict(kind: str, value: Any) -> dict[str, object] | None:
    target = {word: name for name, word in _VERDICTS.items()}.get(kind)
    if target is None:
        return None
    if value is None:
        return {"target": target}
    if kind == "masquerade" and value in ({"flags": "fully-random"}, {"flags": ["fully-random"]}):  # older nft, newer
        return {"target": target, "random_fully": True}
    return None
