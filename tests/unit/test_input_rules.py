"""Whether rules of iptables and nft drop the tunnels' packets: only what is certain counts."""

import json
from collections.abc import Mapping
from ipaddress import IPv4Address
from typing import Any

import pytest

from pyflanneld.commands.doctor.checks.input_rules import TunnelPacket, is_dropped, read_iptables
from pyflanneld.commands.doctor.checks.nft_input import dropping_inputs

PACKET = TunnelPacket(
    "eth1", IPv4Address("192.168.14.21"), 8472, [IPv4Address("192.168.14.22"), IPv4Address("192.168.15.23")]
)
SSH = "-A INPUT -p tcp -m tcp --dport 22 -j ACCEPT\n"
KNOWN = "-A INPUT -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT\n-A INPUT -i lo -j ACCEPT\n"
UFW = """:ufw-before-input - [0:0]
:ufw-not-local - [0:0]
:ufw-logging-deny - [0:0]
:ufw-user-input - [0:0]
-A INPUT -j ufw-before-input
-A ufw-before-input -i lo -j ACCEPT
-A ufw-before-input -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
-A ufw-before-input -m conntrack --ctstate INVALID -j ufw-logging-deny
-A ufw-before-input -m conntrack --ctstate INVALID -j DROP
-A ufw-before-input -p icmp -m icmp --icmp-type 8 -j ACCEPT
-A ufw-before-input -p udp -m udp --sport 67 --dport 68 -j ACCEPT
-A ufw-before-input -j ufw-not-local
-A ufw-before-input -d 224.0.0.251/32 -p udp -m udp --dport 5353 -j ACCEPT
-A ufw-before-input -j ufw-user-input
-A ufw-not-local -m addrtype --dst-type LOCAL -j RETURN
-A ufw-not-local -m addrtype --dst-type MULTICAST -j RETURN
-A ufw-not-local -m limit --limit 3/min --limit-burst 10 -j ufw-logging-deny
-A ufw-not-local -j DROP
-A ufw-logging-deny -m limit --limit 3/min --limit-burst 10 -j LOG --log-prefix "[UFW BLOCK] "
-A ufw-user-input -p tcp -m tcp --dport 22 -j ACCEPT
"""


def iptables_drops(rules: str, policy: str = "DROP") -> bool:
    saved = f"*nat\n:INPUT ACCEPT [0:0]\nCOMMIT\n*filter\n:INPUT {policy} [0:0]\n:FORWARD DROP [0:0]\n{rules}COMMIT\n"
    chains, found = read_iptables(saved, PACKET)
    return is_dropped(chains, "INPUT", found)


@pytest.mark.parametrize(
    ("rules", "policy"),
    [
        ("", "DROP"), (SSH + KNOWN, "DROP"),
        (KNOWN + "-A INPUT -j REJECT --reject-with icmp-port-unreachable\n", "ACCEPT"),
        ("-A INPUT -p udp -m udp --dport 8472 -j DROP\n", "ACCEPT"), ("-A INPUT ! -i lo -j DROP\n", "ACCEPT"),
        ("-A INPUT -s 10.0.0.0/8 -j ACCEPT\n", "DROP"), ("-A INPUT -i eth0 -j ACCEPT\n", "DROP"),
        ("-A INPUT -p udp -m multiport --dports 53,4789,9000:9100 -j ACCEPT\n", "DROP"), (UFW, "DROP"),
        (":x - [0:0]\n-A INPUT -i eth+ -g x\n-A INPUT -j ACCEPT\n", "DROP"),
        ('-A INPUT -m comment --comment "all of -j ACCEPT" -j DROP\n', "ACCEPT"),
    ],
)  # fmt: skip
def test_iptables_drops_them(rules: str, policy: str) -> None:
    """By the policy or by a rule, whatever is let in besides."""
    assert iptables_drops(rules, policy)


@pytest.mark.parametrize(
    ("rules", "policy"),
    [
        ("", "ACCEPT"), ("-A INPUT -p udp -m udp --dport 8472 -j ACCEPT\n", "DROP"),
        ("-A INPUT -i eth+ -j ACCEPT\n", "DROP"),
        ("-A INPUT -p udp -m multiport --dports 53,8000:9000 -j ACCEPT\n", "DROP"),
        (SSH + "-A INPUT -j ACCEPT\n", "DROP"),
        ("-A INPUT -s 192.168.0.0/16 -j ACCEPT\n", "DROP"), ("-A INPUT -s 192.168.14.0/24 -j ACCEPT\n", "DROP"),
        ("-A INPUT -m set --match-set peers src -j ACCEPT\n", "DROP"), ("-A INPUT -j NFQUEUE --queue-num 0\n", "DROP"),
        (UFW + "-A ufw-user-input -p udp -m udp --dport 8472 -j ACCEPT\n", "DROP"),
        ("-A INPUT -m recent --name bad --rcheck -j DROP\n", "ACCEPT"),
        ("-A INPUT -p udp -m udp --dport 8472 -j ACCEPT\n-A INPUT -j DROP\n", "ACCEPT"),
        ("-A INPUT -m conntrack --ctstate NEW,ESTABLISHED -j ACCEPT\n", "DROP"),
        ("-A INPUT -m mac --mac-source aa:bb:cc:00:00:22 -j RETURN\n-A INPUT -j DROP\n", "ACCEPT"),
    ],
)  # fmt: skip
def test_iptables_may_let_them_in(rules: str, policy: str) -> None:
    """What cannot be told from the rules is never called dropped."""
    assert not iptables_drops(rules, policy)


def match(left: Mapping[str, Any], right: object, op: str = "==") -> dict[str, Any]:
    return {"match": {"op": op, "left": left, "right": right}}


IIF, DPORT = {"meta": {"key": "iifname"}}, {"payload": {"protocol": "udp", "field": "dport"}}
SADDR, STATE = {"payload": {"protocol": "ip", "field": "saddr"}}, {"ct": {"key": "state"}}
TCP = {"payload": {"protocol": "tcp", "field": "dport"}}
ACCEPT, DROP, REJECT = {"accept": None}, {"drop": None}, {"reject": {"type": "icmpx", "expr": "admin-prohibited"}}
USUAL = [
    [match(IIF, "lo"), ACCEPT], [match(STATE, {"set": ["established", "related"]}, "in"), ACCEPT],
    [match({"ct": {"key": "status"}}, "dnat", "in"), ACCEPT], [match(STATE, "invalid", "in"), DROP],
    [match(TCP, 22), {"counter": {"packets": 0, "bytes": 0}}, ACCEPT],
]  # fmt: skip


def nft_drops(rules: list[list[dict[str, Any]]], policy: str = "drop", **others: list[list[dict[str, Any]]]) -> bool:
    place = {"family": "inet", "table": "fw"}
    items: list[dict[str, Any]] = [
        {"metainfo": {}}, {"table": {"family": "inet", "name": "fw"}},
        {"chain": {**place, "name": "in", "hook": "input", "policy": policy}},
        *({"chain": {**place, "name": name}} for name in others),
    ]  # fmt: skip
    for name, some in {"in": rules, **others}.items():
        items += [{"rule": {**place, "chain": name, "expr": rule}} for rule in some]
    found = dropping_inputs(json.dumps({"nftables": items}), PACKET)
    return {(("inet", "fw", "in"),): True, (): False}[found]


@pytest.mark.parametrize(
    ("rules", "policy"),
    [
        ([], "drop"), (USUAL, "drop"), ([*USUAL, [REJECT]], "accept"), ([[match(DPORT, 8472), DROP]], "accept"),
        ([[match(DPORT, {"set": [53, {"range": [9000, 9100]}]}), ACCEPT]], "drop"),
        ([[match(SADDR, {"prefix": {"addr": "10.0.0.0", "len": 8}}), ACCEPT]], "drop"),
        ([[{"vmap": {"key": STATE, "data": {"set": [["established", ACCEPT], ["invalid", DROP]]}}}]], "drop"),
        ([[match(IIF, "lo", "!="), DROP]], "accept"), ([[{"goto": {"target": "zone"}}], [ACCEPT]], "drop"),
    ],
)  # fmt: skip
def test_nft_drops_them(rules: list[list[dict[str, Any]]], policy: str) -> None:
    """By the policy or by a rule, whatever is let in besides."""
    assert nft_drops(rules, policy, zone=[[match(TCP, 22), ACCEPT]])


@pytest.mark.parametrize(
    ("rules", "policy"),
    [
        ([], "accept"), ([*USUAL, [match(DPORT, 8472), ACCEPT], [REJECT]], "accept"),
        ([[match(IIF, "eth*"), ACCEPT]], "drop"),
        ([[match(DPORT, {"set": [53, {"range": [8000, 9000]}]}), ACCEPT]], "drop"),
        ([[match(SADDR, "@peers"), ACCEPT]], "drop"), ([[match(SADDR, "192.168.14.22"), ACCEPT]], "drop"),
        ([[{"vmap": {"key": STATE, "data": {"set": [["new", {"jump": {"target": "zone"}}]]}}}]], "drop"),
        ([[{"vmap": {"key": IIF, "data": "@zones"}}]], "drop"),
        ([[{"xt": {"type": "match", "name": "set"}}, ACCEPT]], "drop"),
        ([[match({"concat": [IIF, DPORT]}, "@open"), ACCEPT]], "drop"), ([[{"limit": {"rate": 5}}, DROP]], "accept"),
        ([[{"jump": {"target": "zone"}}]], "drop"),
    ],
)  # fmt: skip
def test_nft_may_let_them_in(rules: list[list[dict[str, Any]]], policy: str) -> None:
    """What cannot be told from the rules is never called dropped."""
    assert not nft_drops(rules, policy, zone=[[match(DPORT, 8472), ACCEPT]])


def test_other_chains_of_nft_do_not_count() -> None:
    """Those of iptables, of forwarded packets, and of the other family; junk is no listing."""
    chains = [
        {"family": "ip", "table": "filter", "name": "INPUT", "hook": "input", "policy": "drop"},
        {"family": "inet", "table": "fw", "name": "fwd", "hook": "forward", "policy": "drop"},
        {"family": "ip6", "table": "fw", "name": "in", "hook": "input", "policy": "drop"},
    ]
    assert dropping_inputs(json.dumps({"nftables": [{"chain": one} for one in chains]}), PACKET) == ()
    for junk in ("[]", '{"nftables": [{"chain": {"hook": "input"}}]}', ""):
        with pytest.raises(ValueError, match=r"unexpected form|Expecting value"):
            dropping_inputs(junk, PACKET)
