"""The checks of this host: interface, kernel settings, systemd-networkd, firewall."""

import json
from collections.abc import Iterator
from ipaddress import IPv4Network
from itertools import takewhile

from pyflanneld.commands.doctor.finding import Finding, bad, ok, skipped, warn
from pyflanneld.commands.doctor.host_facts import Facts
from pyflanneld.core.families import overlap
from pyflanneld.core.firewall import iptables
from pyflanneld.core.firewall.rules import FORWARD, Section
from pyflanneld.core.host import LOCAL_TABLE, MAIN_TABLE
from pyflanneld.core.status.dry_run import overlap_troubles


def interface(facts: Facts) -> Finding:
    """Say whether there is an interface that carries the routes, up, with the address to publish."""
    if facts.choice is None:
        mend = "name one that exists with --iface, or bring it up with an address"
        return bad("interface", facts.choice_trouble, "the daemon does not start without one", mend)
    link, public_ip = facts.choice.link, facts.asked.public_ip
    if not link.up:
        why = "the kernel takes no route through it"
        return bad("interface", f"{link.name} is down", why, f"ip link set {link.name} up")
    if public_ip is not None and not link.carries(public_ip):
        have = ", ".join(map(str, link.addresses))
        why = "the peers send straight to this address; with host-gw it has to be here"
        return bad("interface", f"--public-ip={public_ip} is not on {link.name}, which has {have}", why,
                   f"ip address add {public_ip}/PREFIX dev {link.name}, or another --public-ip")  # fmt: skip
    return ok("interface", f"{link.name}, {public_ip or facts.choice.address}, MTU {link.mtu}, up: {facts.choice.why}")


def forwarding(facts: Facts) -> Finding:
    """Say whether this host routes at all."""
    names = ["net/ipv4/ip_forward"]
    if facts.choice is not None:
        names.append(f"net/ipv4/conf/{facts.choice.link.name}/forwarding")
    values = {name.replace("/", "."): facts.sysctls.get(name) for name in names}
    if not any(values.values()):
        return skipped("forwarding", "the kernel's settings cannot be read")
    off = [name for name, value in values.items() if value == "0"]
    if not off:
        return ok("forwarding", "on")
    mend = "; ".join(f"sysctl -w {name}=1" for name in off)
    mend += "  # and into /etc/sysctl.d/, for the next boot"
    why = "packets between containers and the other hosts end here; Docker switches it on, if it runs"
    return bad("forwarding", ", ".join(f"{name} is 0" for name in off), why, mend)


def reverse_path(facts: Facts) -> Finding:
    """Say whether the reverse path filter is strict where a peer's packet may come in by another way."""
    if facts.choice is None:
        return skipped("rp_filter", "there is no interface to look at")
    link = facts.choice.link
    values = [facts.sysctls.get(f"net/ipv4/conf/{name}/rp_filter", "0") for name in ("all", link.name)]
    if max(values) != "1":  # the larger of the two counts (Documentation/networking/ip-sysctl.rst); 2 is loose
        return ok("rp_filter", f"not strict on {link.name}")
    own = {one.network for one in link.addresses}
    twins = [other.name for other in facts.links if other != link and any(a.network in own for a in other.addresses)]
    if not twins:
        return ok("rp_filter", f"strict on {link.name}, which is the only way to its network")
    why = "packets that come in by one of them and would be answered by the other are dropped without a word"
    mend = f"sysctl -w net.ipv4.conf.{link.name}.rp_filter=2"
    return warn("rp_filter", f"strict on {link.name}, and {', '.join(twins)} is on the same network", why, mend)


def policy_routing(facts: Facts) -> Finding:
    """Say whether ``ip rule`` leads packets for the network past the main table, where our routes are."""
    if facts.standing is None:
        return skipped("policy rules", "the network is not known")
    before_main = takewhile(lambda rule: rule.table != MAIN_TABLE or rule.narrowed, facts.policy_rules)
    networks = facts.standing.networks
    for rule in before_main:
        if rule.table in (LOCAL_TABLE, MAIN_TABLE) or not any(overlap(rule.destination, net) for net in networks):
            continue
        why = f"packets for {networks[0]} that it fits are routed by table {rule.table}, which has no route of ours"
        mend = f"ip rule add to {networks[0]} lookup main priority {max(rule.priority - 1, 1)}"
        return warn("policy rules", f"{rule} comes before the main table", why, mend)
    return ok("policy rules", "none leads packets for the network past the main table")


def networkd(facts: Facts) -> Finding:
    """Say whether systemd-networkd would delete our routes."""
    there = facts.networkd
    if not there.runs:
        return ok("systemd-networkd", "does not run here")
    if there.keeps_foreign_routes:
        return ok("systemd-networkd", f"runs, and leaves the routes of others alone ({there.where})")
    why = "it deletes routes that it has not made when it is started or an interface is set up again; they come back "
    why += "within milliseconds, each time with a gap"
    mend = "printf '[Network]\\nManageForeignRoutes=no\\n' >/etc/systemd/networkd.conf.d/pyflanneld.conf "
    mend += "(make the directory), then systemctl restart systemd-networkd"
    return warn("systemd-networkd", "runs without ManageForeignRoutes=no", why, mend)


def underlay(facts: Facts) -> Iterator[Finding]:
    """Say which networks of this host lie inside the cluster's."""
    if facts.standing is None:
        yield skipped("address plan", "the network is not known")
        return
    own = facts.standing.own
    halves = [half for half in ((own.ipv4, own.ipv6) if own else ()) if half is not None]
    bridge = [link for link in facts.links if link.name == facts.asked.docker_bridge]
    others = [link for link in facts.links if link not in bridge]
    troubles = overlap_troubles(facts.standing.networks, halves, others)
    for trouble in troubles:
        why = "a route into it would take this host's own traffic away, so leases there are set aside"
        yield warn("address plan", trouble.text, why, "choose a Network that no host has, or SubnetMin and SubnetMax")
    if not troubles:
        networks = ", ".join(map(str, facts.standing.networks))
        yield ok("address plan", f"{networks} overlaps no network of this host")


def programs(facts: Facts) -> Finding:
    """Say whether the programs are there that the rules need."""
    missing = facts.rules.missing
    if not missing:
        return ok("firewall programs", "are there")
    seen = f"not found: {', '.join(missing)}"
    if facts.asked.ip_masq:
        why = "--ip-masq is asked for: the daemon does not start without"
        return bad("firewall programs", seen, why, "apt-get install iptables (or nftables)")
    why = "the accept rules for forwarding are not set; you need them where the policy of FORWARD is DROP"
    return warn("firewall programs", seen, why, "install them, or say --iptables-forward-rules=false")


def forward_policy(facts: Facts) -> Finding:
    """Say whether forwarded packets get through iptables."""
    if facts.rules.iptables is None:
        return skipped("FORWARD policy", facts.rules.trouble or "iptables is not there")
    found = iptables.read(facts.rules.iptables, FORWARD)
    if found.policy != "DROP":
        return ok("FORWARD policy", found.policy or "iptables has no table filter")
    if _accepts(facts, found, FORWARD):
        return ok("FORWARD policy", "DROP, with accept rules for the network")
    if facts.asked.forward_rules and not facts.daemon_runs:
        return ok("FORWARD policy", "DROP; the daemon sets accept rules at its start")
    mend = "leave out --iptables-forward-rules=false" if not facts.asked.forward_rules else "see firewall.* in its log"
    why = "what no rule accepts is dropped (Docker sets this policy): containers do not reach those of other hosts"
    return bad("FORWARD policy", "DROP, and no accept rules for the network", why, mend)


def _accepts(facts: Facts, found: iptables.Chains, section: Section) -> bool:
    networks = facts.standing.networks if facts.standing else ()
    wanted = [network for network in networks if isinstance(network, IPv4Network)]
    jump = section.jump in found.entrance and bool(found.own)
    plain = {rule.source.network for rule in found.entrance if rule and rule.source and rule.target == "ACCEPT"}
    return jump or (bool(wanted) and all(network in plain for network in wanted))


def other_policies(facts: Facts) -> Finding:
    """Say whether a chain of nft drops what iptables lets through."""
    if not facts.rules.dropping:
        return ok("nft policies", "no chain drops by its policy what is forwarded")
    why = "an accept in another table does not overrule it: containers may not reach those of other hosts"
    mend = "nft list chain " + facts.rules.dropping[0] + " and accept the network there"
    return warn("nft policies", f"drop what is forwarded: {', '.join(facts.rules.dropping)}", why, mend)


def dropping_chains(listing: str) -> tuple[str, ...]:
    """Return the chains that drop what is forwarded, from ``nft -j list chains``; iptables' table left out.

    Raises:
        ValueError: that is no such listing.
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
    """Say whether packets between containers of one host meet iptables too."""
    value = facts.sysctls.get("net/bridge/bridge-nf-call-iptables")
    if value is None:
        return ok("br_netfilter", "is not loaded: packets between containers of this host do not meet iptables")
    if value == "0" or forward_policy(facts).verdict.value != "bad":
        return ok("br_netfilter", f"net.bridge.bridge-nf-call-iptables is {value}, and nothing is dropped for it")
    why = "packets between containers of this host meet the policy DROP of FORWARD as well"
    return warn("br_netfilter", "net.bridge.bridge-nf-call-iptables is 1", why, "mend the FORWARD policy, see above")
