"""Checks of this host: interface, kernel settings, systemd-networkd, firewall."""

import json
from collections.abc import Iterator
from ipaddress import IPv4Network
from itertools import takewhile

from pyflanneld.backends.vxlan import Vxlan
from pyflanneld.commands.doctor.finding import Finding, bad, ok, set_sysctl, skipped, warn
from pyflanneld.commands.doctor.host_facts import Facts
from pyflanneld.core.families import overlap
from pyflanneld.core.firewall import iptables
from pyflanneld.core.firewall.rules import ACCEPT, FORWARD, Section
from pyflanneld.core.host import LOCAL_TABLE, MAIN_TABLE
from pyflanneld.core.status.dry_run import overlap_problems


def interface(facts: Facts) -> Finding:
    """Check that the interface for the routes exists, is up, and has the address to publish."""
    if facts.choice is None:
        fix = "name one that exists with --iface, or bring it up with an address"
        return bad("interface", facts.choice_error, "the daemon does not start without one", fix)
    link, public_ip = facts.choice.link, facts.flags.public_ip
    if not link.up:
        why = "the kernel accepts no route through it"
        return bad("interface", f"{link.name} is down", why, f"ip link set {link.name} up")
    on_link = facts.backend is not None and facts.backend.needs_public_ip_on_link
    if public_ip is not None and on_link and not link.carries(public_ip):
        have = ", ".join(map(str, link.addresses))
        why = "the peers send directly to this address; with host-gw it has to be here"
        return bad("interface", f"--public-ip={public_ip} is not on {link.name}, which has {have}", why,
                   f"ip address add {public_ip}/PREFIX dev {link.name}, or another --public-ip")  # fmt: skip
    return ok("interface", f"{link.name}, {public_ip or facts.choice.address}, MTU {link.mtu}, up: {facts.choice.why}")


def forwarding(facts: Facts) -> Finding:
    """Check that this host forwards packets."""
    names = ["net/ipv4/ip_forward"]
    if facts.choice is not None:
        links = (facts.choice.link.name, *(device.name for device in facts.devices))
        names += [f"net/ipv4/conf/{name}/forwarding" for name in links]
    values = {name: facts.sysctls.get(name) for name in names}
    if not any(values.values()):
        return skipped("forwarding", "the kernel's settings cannot be read")
    off = [name for name, value in values.items() if value == "0"]
    if not off:
        return ok("forwarding", "on")
    fix = "; ".join(set_sysctl(name, 1) for name in off)
    fix += "  # and into /etc/sysctl.d/, for the next boot"
    why = "packets between containers and the other hosts are dropped here; Docker enables it when it runs"
    return bad("forwarding", ", ".join(f"{name} is 0" for name in off).replace("/", "."), why, fix)


def reverse_path(facts: Facts) -> Finding:
    """Check that the reverse path filter is not strict where a peer's packet may arrive by another interface."""
    if facts.choice is None:
        return skipped("rp_filter", "there is no interface to check")
    link = facts.choice.link
    strict = [name for name in (link.name, *(one.name for one in facts.devices)) if _is_strict(facts, name)]
    if strict and isinstance(facts.backend, Vxlan) and facts.backend.options.direct_routing:
        return _strict_both_ways(strict)
    if link.name not in strict:
        return ok("rp_filter", f"not strict on {link.name}")
    own = {one.network for one in link.addresses}
    twins = [other.name for other in facts.links if other != link and any(a.network in own for a in other.addresses)]
    if not twins:
        return ok("rp_filter", f"strict on {link.name}, the only interface of its network")
    why = "packets that arrive at one of them and would be answered by the other are dropped silently"
    fix = set_sysctl(f"net/ipv4/conf/{link.name}/rp_filter", 2)
    return warn("rp_filter", f"strict on {link.name}, and {', '.join(twins)} is on the same network", why, fix)


def _is_strict(facts: Facts, name: str) -> bool:
    """Return whether the larger of the two settings, which counts, is 1 (ip-sysctl.rst); 2 is loose."""
    return max(facts.sysctls.get(f"net/ipv4/conf/{one}/rp_filter", "0") for one in ("all", name)) == "1"


def _strict_both_ways(strict: list[str]) -> Finding:
    why = "where only one of two hosts reaches the other without the tunnel (while DirectRouting is switched, with "
    why += "another prefix length there), packets come in on one interface, the way back is the other: they are dropped"
    fix = "; ".join(set_sysctl(f"net/ipv4/conf/{name}/rp_filter", 2) for name in strict)
    return warn("rp_filter", f"strict on {' and '.join(strict)}, and the network has DirectRouting", why, fix)


def policy_routing(facts: Facts) -> Finding:
    """Check that no ``ip rule`` routes the network's packets by another table than main, where our routes are."""
    if facts.node is None:
        return skipped("policy rules", "the network is not known")
    before_main = takewhile(lambda rule: rule.table != MAIN_TABLE or rule.narrowed, facts.policy_rules)
    networks = facts.node.networks
    for rule in before_main:
        if rule.table in (LOCAL_TABLE, MAIN_TABLE) or not any(overlap(rule.destination, net) for net in networks):
            continue
        why = f"packets for {networks[0]} that match it are routed by table {rule.table}, which has no route of ours"
        fix = f"ip rule add to {networks[0]} lookup main priority {max(rule.priority - 1, 1)}"
        return warn("policy rules", f"{rule} comes before the main table", why, fix)
    return ok("policy rules", "none routes packets for the network by another table than main")


def networkd(facts: Facts) -> Finding:
    """Check that systemd-networkd keeps our routes."""
    there = facts.networkd
    if not there.runs:
        return ok("systemd-networkd", "does not run here")
    if there.keeps_foreign_routes:
        return ok("systemd-networkd", f"runs, and keeps foreign routes ({there.where})")
    why = "it deletes routes that it did not add, when it starts or sets an interface up again; the daemon restores "
    why += "them within milliseconds, each time with a gap"
    fix = "printf '[Network]\\nManageForeignRoutes=no\\n' >/etc/systemd/networkd.conf.d/pyflanneld.conf "
    fix += "(create the directory), then systemctl restart systemd-networkd"
    return warn("systemd-networkd", "runs without ManageForeignRoutes=no", why, fix)


def underlay(facts: Facts) -> Iterator[Finding]:
    """Report the networks of this host that overlap the cluster's."""
    if facts.node is None:
        yield skipped("address plan", "the network is not known")
        return
    ours = {facts.flags.docker_bridge, *(device.name for device in facts.devices)}
    others = [link for link in facts.links if link.name not in ours]
    problems = overlap_problems(facts.node.networks, facts.node.own, others)
    for problem in problems:
        why = "a peer's subnet in it takes away what has its addresses there; one that it holds loses those addresses"
        yield warn("address plan", problem.text, why, "choose a Network that no host has, or SubnetMin and SubnetMax")
    if not problems:
        networks = ", ".join(map(str, facts.node.networks))
        yield ok("address plan", f"{networks} overlaps no network of this host")


def programs(facts: Facts) -> Finding:
    """Check that the programs for the firewall rules are installed."""
    missing = facts.rules.missing
    if not missing:
        return ok("firewall programs", "are installed")
    seen = f"not found: {', '.join(missing)}"
    if facts.flags.ip_masq:
        why = "--ip-masq is set: the daemon does not start without them"
        return bad("firewall programs", seen, why, "apt-get install iptables (or nftables)")
    why = "the accept rules for forwarding are not set; a FORWARD policy of DROP needs them"
    return warn("firewall programs", seen, why, "install them, or set --iptables-forward-rules=false")


def forward_policy(facts: Facts) -> Finding:
    """Check that iptables accepts forwarded packets."""
    if facts.rules.iptables is None:
        return skipped("FORWARD policy", facts.rules.error or "iptables is not there")
    found = iptables.read(facts.rules.iptables, FORWARD)
    if found.policy != "DROP":
        return ok("FORWARD policy", found.policy or "iptables has no table filter")
    if _accepts(facts, found, FORWARD):
        return ok("FORWARD policy", "DROP, with accept rules for the network")
    if facts.flags.forward_rules and not facts.daemon_runs:
        return ok("FORWARD policy", "DROP; the daemon sets accept rules at its start")
    fix = "remove --iptables-forward-rules=false" if not facts.flags.forward_rules else "see firewall.* in its log"
    why = "what no rule accepts is dropped (Docker sets this policy): containers do not reach those of other hosts"
    return bad("FORWARD policy", "DROP, and no accept rules for the network", why, fix)


def _accepts(facts: Facts, found: iptables.Chains, section: Section) -> bool:
    networks = facts.node.networks if facts.node else ()
    wanted = [network for network in networks if isinstance(network, IPv4Network)]
    entered = found.own if found.own and section.jump in found.entrance else ()
    rules = [*found.entrance, *(one.rule for one in entered)]
    accepting = [rule for rule in rules if rule and rule.target == ACCEPT and not rule.marked]
    sources = {rule.source.network for rule in accepting if rule.source and not rule.source.negated}
    everything = any(not rule.named for rule in accepting)
    return everything or all(network in sources for network in wanted) if wanted else bool(entered)


def other_policies(facts: Facts) -> Finding:
    """Check that no chain of nft drops what iptables accepts."""
    if not facts.rules.dropping:
        return ok("nft policies", "no chain's policy drops forwarded packets")
    why = "an accept in another table does not override it: containers may not reach those of other hosts"
    fix = "nft list chain " + facts.rules.dropping[0] + " and accept the network there"
    return warn("nft policies", f"drop forwarded packets: {', '.join(facts.rules.dropping)}", why, fix)


def dropping_chains(listing: str) -> tuple[str, ...]:
    """Return the chains whose policy drops forwarded packets, from ``nft -j list chains``; iptables' own left out.

    Raises:
        ValueError: *listing* has another form.
    """
    try:
        chains = [item["chain"] for item in json.loads(listing)["nftables"] if "chain" in item]
        return tuple(
            f"{one['family']} {one['table']} {one['name']}"
            for one in chains
            if (one.get("hook"), one.get("policy")) == ("forward", "drop") and one["name"] != "FORWARD"
        )
    except (LookupError, TypeError) as error:
        raise ValueError(f"unexpected form: {error!r}") from error


def bridge_netfilter(facts: Facts) -> Finding:
    """Check that iptables does not drop packets between containers of this host."""
    value = facts.sysctls.get("net/bridge/bridge-nf-call-iptables")
    if value is None:
        return ok("br_netfilter", "is not loaded: packets between containers of this host do not pass iptables")
    if value == "0" or forward_policy(facts).verdict.value != "bad":
        return ok("br_netfilter", f"net.bridge.bridge-nf-call-iptables is {value}, and iptables drops nothing of that")
    why = "packets between containers of this host pass FORWARD with its policy DROP as well"
    return warn("br_netfilter", "net.bridge.bridge-nf-call-iptables is 1", why, "fix the FORWARD policy, see above")
