"""nft's rules for packets that come into this host, from ``nft -j list ruleset`` (libnftables-json(5)). Pure."""

import json
from collections.abc import Iterator, Mapping
from typing import Any

from pyflanneld.commands.doctor.checks.input_rules import (
    Chains,
    FirewallRule,
    Match,
    TunnelPacket,
    comes_from,
    goes_to,
    is_dropped,
    together,
)

_VERDICTS = {"accept": "accept", "drop": "drop", "reject": "drop", "return": "return", "queue": "unknown"}
_NO_MATTER = frozenset({"counter", "log", "comment", "mangle", "notrack", "meter", "set", "add", "update"})


def dropping_inputs(listing: str, packet: TunnelPacket) -> tuple[tuple[str, str, str], ...]:
    """Return the base chains that drop *packet* for sure, as family, table and name; iptables' own are left out.

    Raises:
        ValueError: *listing* has another form.
    """
    try:
        items = json.loads(listing)["nftables"]
        chains = [item["chain"] for item in items if "chain" in item]
        rules = [item["rule"] for item in items if "rule" in item]
        return tuple(
            (one["family"], one["table"], one["name"]) for one in chains
            if one.get("hook") == "input" and one["name"] != "INPUT" and _family_fits(one["family"], packet)
            and is_dropped(_table(one, chains, rules, packet), one["name"], one.get("policy", "accept"))
        )  # fmt: skip
    except (LookupError, TypeError, AttributeError) as error:
        raise ValueError(f"unexpected form: {error!r}") from error


def _family_fits(family: str, packet: TunnelPacket) -> bool:
    return family in ("inet", "ip" if packet.address.version == 4 else "ip6")


def _table(base: Mapping[str, Any], chains: Any, rules: Any, packet: TunnelPacket) -> Chains:
    """Return the chains of the table of *base*."""
    place = base["family"], base["table"]
    found: dict[str, list[FirewallRule]] = {
        one["name"]: [] for one in chains if (one["family"], one["table"]) == place
    }
    for rule in rules:
        if (rule["family"], rule["table"]) == place:
            found[rule["chain"]].append(_rule(rule["expr"], packet))
    return found


def _rule(expressions: list[dict[str, Any]], packet: TunnelPacket) -> FirewallRule:
    matches, verdict, target = list[Match](), "go_on", ""
    for expression in expressions:
        ((kind, value),) = expression.items()
        if kind == "match":
            matches.append(_match(value, packet))
        elif kind == "vmap":
            verdict, target = _mapped(value, packet)
        elif kind in ("jump", "goto"):
            verdict, target = kind, value["target"]
        elif kind in _VERDICTS:
            verdict = _VERDICTS[kind]
        elif kind not in _NO_MATTER:
            matches.append(Match.MAYBE)
    return FirewallRule(together(matches), verdict, target)


def _mapped(value: Mapping[str, Any], packet: TunnelPacket) -> tuple[str, str]:
    """Return the verdict that a map has for *packet*; one whose keys cannot be told is unknown."""
    data = value["data"]
    for key, verdict in data["set"] if isinstance(data, dict) and "set" in data else ():
        found = _compared(value["key"], key, packet)
        if found is Match.MAYBE:
            return "unknown", ""
        if found is Match.YES:
            ((kind, where),) = verdict.items()
            return (kind, where["target"]) if kind in ("jump", "goto") else (_VERDICTS.get(kind, "go_on"), "")
    return ("go_on", "") if isinstance(data, dict) else ("unknown", "")  # a named map is listed elsewhere


def _match(value: Mapping[str, Any], packet: TunnelPacket) -> Match:
    found = _compared(value["left"], value["right"], packet)
    if value["op"] == "!=" and found is not Match.MAYBE:
        return Match.NO if found is Match.YES else Match.YES
    return found if value["op"] in ("==", "in", "!=") else Match.MAYBE


def _compared(left: Mapping[str, Any], right: Any, packet: TunnelPacket) -> Match:
    """Return whether one of the values on the right is that of *packet*."""
    found = {_one(left, value, packet) for value in _values(right)}
    return Match.YES if Match.YES in found else Match.MAYBE if Match.MAYBE in found else Match.NO


def _values(right: Any) -> Iterator[Any]:
    if isinstance(right, list):
        yield from right
    elif isinstance(right, dict) and "set" in right:
        yield from right["set"] if isinstance(right["set"], list) else [right["set"]]
    else:
        yield right


def _one(left: Mapping[str, Any], value: Any, packet: TunnelPacket) -> Match:
    ((kind, what),) = left.items()
    if not isinstance(what, dict) or (isinstance(value, str) and value[:1] in ("@", "$")):
        return Match.MAYBE  # several values in one, or a named set
    names = (kind, what.get("key")) if kind in ("meta", "ct") else (what.get("protocol"), what.get("field"))
    match names:
        case ("ip" | "ip6", "saddr" | "daddr"):
            return _address(names, value, packet)
        case ("tcp" | "icmp" | "icmpv6" | "igmp" | "sctp", _) | ("ct", "status"):  # nobody sends them elsewhere
            same = False
        case ("meta", "iifname" | "iif"):
            same = packet.link.startswith(value[:-1]) if str(value).endswith("*") else packet.link == value
        case ("meta", "l4proto") | ("ip", "protocol") | ("ip6", "nexthdr"):
            same = value in ("udp", 17)
        case ("meta", "nfproto"):
            same = value == f"ipv{packet.address.version}"
        case ("ct", "state"):
            same = value == "new"
        case ("udp", "dport"):
            same = _holds(value, packet.port)
        case _:
            return Match.MAYBE
    return Match.YES if same else Match.NO


def _address(names: tuple[Any, Any], value: Any, packet: TunnelPacket) -> Match:
    family, side = names
    if family != ("ip" if packet.address.version == 4 else "ip6"):
        return Match.NO
    return comes_from(_network(value), packet) if side == "saddr" else goes_to(_network(value), packet)


def _holds(value: Any, port: int) -> bool:
    if isinstance(value, dict):
        low, high = value["range"]
        return bool(low <= port <= high)
    return bool(value == port)


def _network(value: Any) -> str:
    """Return a network as text; a form that is none, such as a range, cannot be told."""
    if isinstance(value, dict) and "prefix" in value:
        return f"{value['prefix']['addr']}/{value['prefix']['len']}"
    return value if isinstance(value, str) else ""
