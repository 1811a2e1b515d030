"""Whether a firewall drops the tunnels' packets on their way into this host. Pure.

A rule matches such a packet, does not, or that cannot be told from the rule alone. A packet counts as dropped only
where no rule can have let it in before, so that a warning is never wrong; what cannot be told lets it in.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum, auto
from ipaddress import ip_network

from pyflanneld.core.families import Address

_WORD = re.compile(r'"(?:\\.|[^"\\])*"|\S+')
_GOES_ON = frozenset({"LOG", "NFLOG", "ULOG", "MARK", "CONNMARK", "TCPMSS", "DSCP", "TOS", "CT", "SET", "TRACE"})
_SETTLED = frozenset({"udp", "conntrack", "state", "multiport", "comment", "addrtype", "tcp", "icmp"})


class Match(Enum):
    """Whether a rule matches."""

    YES = auto()
    NO = auto()
    MAYBE = auto()


@dataclass(frozen=True, slots=True)
class TunnelPacket:
    """A packet of a peer to this host's device: new to the firewall, because each flow has a source port of its own.

    Attributes:
        link: by which it comes in.
        address: to which it goes.
        port: UDP.
        sources: the peers' addresses.
    """

    link: str
    address: Address
    port: int
    sources: Sequence[Address] = ()


@dataclass(frozen=True, slots=True)
class FirewallRule:
    """One rule: *verdict* is accept, drop, return, jump, goto, go_on or unknown; *target* the chain of a jump."""

    match: Match
    verdict: str
    target: str = ""


Chains = Mapping[str, Sequence[FirewallRule]]


def is_dropped(chains: Chains, entrance: str, policy: str) -> bool:
    """Return whether every packet that enters the chain *entrance* is certain to be dropped."""
    let_in = _walk(chains, entrance, frozenset())
    return policy.lower() == "drop" if let_in is None else not let_in


def _walk(chains: Chains, name: str, above: frozenset[str]) -> bool | None:
    """Return whether a packet may be let in by this chain; ``None``: it comes to its end."""
    for rule in chains.get(name, ()):
        if rule.match is Match.NO or rule.verdict == "go_on":
            continue
        certain, found = rule.match is Match.YES, _verdict(chains, rule, above | {name})
        if found:
            return True
        if found is False and certain:
            return False
        if rule.verdict in ("return", "goto"):  # they end this chain
            return None if certain else True
    return None


def _verdict(chains: Chains, rule: FirewallRule, above: frozenset[str]) -> bool | None:
    match rule.verdict:
        case "accept" | "unknown":
            return True
        case "drop":
            return False
        case "jump" | "goto" if rule.target not in above:
            return _walk(chains, rule.target, above)
        case _:
            return None


def together(matches: Iterable[Match]) -> Match:
    """Return whether all of them match."""
    every = set(matches)
    return Match.NO if Match.NO in every else Match.MAYBE if Match.MAYBE in every else Match.YES


def _is(value: bool) -> Match:
    return Match.YES if value else Match.NO


def _not(match: Match) -> Match:
    return {Match.YES: Match.NO, Match.NO: Match.YES, Match.MAYBE: Match.MAYBE}[match]


def comes_from(text: str, packet: TunnelPacket) -> Match:
    """Return whether the peers are inside the network *text*."""
    try:
        inside = [source in ip_network(text, strict=False) for source in packet.sources]
    except ValueError:
        return Match.MAYBE
    return Match.MAYBE if not inside or (any(inside) and not all(inside)) else _is(inside[0])


def goes_to(text: str, packet: TunnelPacket) -> Match:
    """Return whether this host's address is inside the network *text*."""
    try:
        return _is(packet.address in ip_network(text, strict=False))
    except ValueError:
        return Match.MAYBE


def read_iptables(saved: str, packet: TunnelPacket) -> tuple[Chains, str]:
    """Return the chains of the table filter in what ``iptables-save`` prints, and the policy of INPUT."""
    table = re.search(r"^\*filter\n(.*?)^COMMIT", saved, re.MULTILINE | re.DOTALL)
    lines = table[1].splitlines() if table else []
    chains: dict[str, list[FirewallRule]] = {line[1:].split()[0]: [] for line in lines if line.startswith(":")}
    policy = next((line.split()[1] for line in lines if line.startswith(":INPUT ")), "ACCEPT")
    for line in lines:
        words = [word.strip('"') for word in _WORD.findall(line)]
        if words[:1] == ["-A"] and len(words) > 1:
            chains.setdefault(words[1], []).append(_iptables_rule(words[2:], packet, chains))
    return chains, policy


def _iptables_rule(words: list[str], packet: TunnelPacket, chains: Chains) -> FirewallRule:
    matches, verdict, target, negated = list[Match](), "go_on", "", False
    while words:
        word = words.pop(0)
        if word == "!":
            negated = True
            continue
        value = words.pop(0) if words and not words[0].startswith("-") and words[0] != "!" else ""
        if word in ("-j", "-g"):
            verdict, target = _iptables_verdict(value, chains, jump="jump" if word == "-j" else "goto")
            break  # what follows are the target's own options
        found = _iptables_match(word, value, packet)
        matches.append(_not(found) if negated else found)
        negated = False
    return FirewallRule(together(matches), verdict, target)


def _iptables_verdict(name: str, chains: Chains, *, jump: str) -> tuple[str, str]:
    if name in chains:
        return jump, name
    known = {"ACCEPT": "accept", "DROP": "drop", "REJECT": "drop", "RETURN": "return"}
    return ("go_on" if name in _GOES_ON else known.get(name, "unknown")), ""


def _iptables_match(option: str, value: str, packet: TunnelPacket) -> Match:
    match option:
        case "-m":
            return Match.YES if value in _SETTLED else Match.MAYBE
        case "--comment":
            return Match.YES
        case "-p":
            return _is(value.lower() in ("udp", "17", "all", "0"))
        case "-i":
            return _is(packet.link.startswith(value[:-1]) if value.endswith("+") else packet.link == value)
        case "-s":
            return comes_from(value, packet)
        case "-d":
            return goes_to(value, packet)
        case "--dport" | "--dports":
            return _is(any(_has_port(one, packet.port) for one in value.split(",")))
        case "--ctstate" | "--state":
            return _is("NEW" in value.split(","))
        case "--dst-type":
            return _is("LOCAL" in value.split(","))
        case _:
            return Match.MAYBE


def _has_port(text: str, port: int) -> bool:
    first, _, last = text.partition(":")
    numbers = (first or "0", last or (first if ":" not in text else "65535"))
    return all(number.isdigit() for number in numbers) and int(numbers[0]) <= port <= int(numbers[1])
