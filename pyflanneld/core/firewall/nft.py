"""Firewall rules in the language of nft: written for ``nft -f``, read from ``nft -j list table``.

Tables, chains and comments are flannel's (``pkg/trafficmngr/nftables/nftables.go``, v0.28.9), the rules those of its
iptables side. Where flannel's nft rules differ from its iptables rules, these do not follow:

* from outside the network to this node's subnet: returned, as in iptables; flannel's rule returns what goes from
  outside this node's *subnet* to the whole network, so that nothing from outside the network is ever masqueraded;
* the mark is compared under its mask, so that a packet with further marks matches as well;
* a chain is there if its rules are asked for, and the table of a family that is used; flannel makes all of them.

The table serves all networks of a host, as iptables' chains do: table and chains are made where they are missing or
sleep, and go when nobody's rule is left; in the chains only the rules of our networks are touched (``shared_chain``),
each by its handle. What else the table holds is not looked at.

One thing nft cannot do: an accept in one table does not overrule a drop in another, such as the policy of iptables'
FORWARD.
"""

import json
from collections.abc import Collection, Iterator, Mapping, Sequence
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
    WantedRules,
)
from pyflanneld.core.firewall.shared_chain import ChainChange, ChainRule, change, deletions


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
_TERMINAL = {*_VERDICTS.values(), "drop", "reject", "goto"}


@dataclass(frozen=True, slots=True)
class Chain:
    """A chain as it is: its hook, and its rules in order; their keys are handles."""

    kind: str
    hook: str
    priority: int
    policy: str
    rules: tuple[ChainRule, ...] = ()

    def is_on(self, hook: Hook) -> bool:
        """Return whether it is entered as it should be."""
        return (self.kind, self.hook, self.priority) == (hook.kind, hook.hook, hook.priority)


@dataclass(frozen=True, slots=True)
class Table:
    """Flannel's table as it is.

    Attributes:
        chains: by name.
        asleep: a flag keeps its chains from being entered.
        more: it holds other things, such as sets.
    """

    chains: Mapping[str, Chain]
    asleep: bool = False
    more: bool = False


def table_name(family: Family) -> str:
    """Return flannel's name for its table."""
    return f"flannel-{family.value}"


def family_word(family: Family) -> str:
    """Return nft's keyword for the family, also that of its addresses in a rule."""
    return "ip" if family is Family.IPV4 else "ip6"


def repair(family: Family, found: Table | None, wanted: WantedRules, networks: Collection[Network]) -> str:
    """Return the transaction that makes the rules of *networks* the *wanted* ones; empty when they are."""
    table = f"{family_word(family)} {table_name(family)}"
    first, declared, lines = list[str](), list[str](), list[str]()
    for section, hook in HOOKS.items():
        rules = tuple(replace(rule, comment="") for rule in wanted.get(section, ()))
        chain = found.chains.get(hook.chain) if found and rules else None
        if chain and not chain.is_on(hook):  # this cannot be changed in a chain
            first += _chain_removal(table, hook)
            others = (one.rule for one in chain.rules if not one.belongs_to(networks))
            rules, chain = (*rules, *(rule for rule in others if rule and rule not in rules)), None
        if rules and (chain is None or chain.policy != "accept"):
            declared += _declaration(hook)
        lines += _changes(f"{table} {hook.chain}", family, change(chain.rules if chain else (), rules, networks))
    if declared or (found and found.asleep):
        name = table_name(family)
        first += [f"table {table} {{", f'  comment "rules for {name}"', *declared, "}"]
    return "\n".join([*first, *lines, ""]) if first or lines else ""


def removal(family: Family, found: Table | None, sections: Collection[Section], networks: Collection[Network]) -> str:
    """Return the transaction that removes the rules of *networks* in *sections*; empty when there is nothing.

    A chain, and the table, go when only shared rules are left. nft deletes them with what is in them: a rule that
    another daemon adds at this very moment goes with them, and comes with that daemon's next check.
    """
    if found is None:
        return ""
    table = f"{family_word(family)} {table_name(family)}"
    lines, emptied = list[str](), list[Hook]()
    for section in sections:
        hook = HOOKS[section]
        chain = found.chains.get(hook.chain)
        if chain is None:
            continue
        ours = deletions(chain.rules, networks)
        if ours is None:
            emptied.append(hook)
        else:
            lines += _changes(f"{table} {hook.chain}", family, ChainChange(ours))
    if not found.more and {hook.chain for hook in emptied} == found.chains.keys():
        return f"delete table {table}\n"
    for hook in emptied:
        lines += _chain_removal(table, hook)
    return "\n".join([*lines, ""]) if lines else ""


def _declaration(hook: Hook) -> list[str]:
    """Return what makes a chain, and what gives one that is there its policy."""
    return [
        f"  chain {hook.chain} {{",
        f'    comment "{hook.comment}"',
        f"    type {hook.kind} hook {hook.hook} priority {hook.priority_name}; policy accept;",
        "  }",
    ]


def _chain_removal(table: str, hook: Hook) -> list[str]:
    return [f"flush chain {table} {hook.chain}", f"delete chain {table} {hook.chain}"]


def _changes(chain: str, family: Family, needed: ChainChange) -> list[str]:
    lines = [f"delete rule {chain} handle {one.key}" for one in needed.deletions]
    for one in needed.insertions:
        to = f"add rule {chain}" if one.before is None else f"insert rule {chain} position {one.before.key}"
        lines.append(f"{to} {render(one.rule, family)}")
    return lines


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
        chains = {
            value["name"]: Chain(
                str(value.get("type")), str(value.get("hook")), value.get("prio"), str(value.get("policy"))
            )
            for kind, value in items
            if kind == "chain"
        }
        for kind, value in items:
            if kind == "rule":
                chain = chains[value["chain"]]
                chains[value["chain"]] = replace(chain, rules=(*chain.rules, _chain_rule(value)))
        asleep = any(value.get("flags") for kind, value in items if kind == "table")
    except (LookupError, TypeError, AttributeError, StopIteration) as error:
        raise ValueError(f"unexpected form: {error!r}") from error
    return Table(chains, asleep, more=not {kind for kind, _ in items} <= {"metainfo", "table", "chain", "rule"})


def _chain_rule(value: Mapping[str, Any]) -> ChainRule:
    """Read a rule, whoever wrote it."""
    expressions = [one if isinstance(one, Mapping) else {} for one in value["expr"]]
    matches = any(one.keys() - {"counter"} for one in expressions[:-1])
    unconditional = not matches and any(one.keys() & _TERMINAL for one in expressions[-1:])
    shared = all(word in str(expressions) for word in ("'mark'", "'&'", str(MARK), "'return'"))
    named = frozenset(_named(expressions))
    return ChainRule(str(value["handle"]), _rule(value["expr"]), named, shared and not named, unconditional)


def _named(expressions: Sequence[Mapping[str, Any]]) -> Iterator[Network]:
    """Yield the networks that a rule's addresses name; all addresses for what is compared with more than a network."""
    for expression in expressions:
        if "addr" in str(expression.get("match")):
            try:
                yield _network(expression["match"]["right"]["prefix"])
            except (LookupError, TypeError, ValueError):
                yield ip_network("0.0.0.0/0")


def _network(prefix: Mapping[str, Any]) -> Network:
    return ip_network(f"{prefix['addr']}/{prefix['len']}")


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
    return {field: AddressMatch(_network(prefix), negated)}


def _verdict(kind: str, value: Any) -> dict[str, object] | None:
    target = {word: name for name, word in _VERDICTS.items()}.get(kind)
    if target is None:
        return None
    if value is None:
        return {"target": target}
    if kind == "masquerade" and value in ({"flags": "fully-random"}, {"flags": ["fully-random"]}):  # older nft, newer
        return {"target": target, "random_fully": True}
    return None
