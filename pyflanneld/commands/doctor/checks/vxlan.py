"""Checks of vxlan: the devices, their UDP port, the peers' entries, and who else configures the devices."""

from collections.abc import Iterator

from pyflanneld.commands.doctor.checks.input_rules import Chains, TunnelPacket, is_dropped, read_iptables
from pyflanneld.commands.doctor.checks.nft_input import dropping_inputs
from pyflanneld.commands.doctor.checks.peers import absent_devices
from pyflanneld.commands.doctor.finding import Finding, bad, ok, quoted, skipped, warn
from pyflanneld.commands.doctor.host_facts import Facts
from pyflanneld.core.invalid import Invalid
from pyflanneld.core.link.selection import Link
from pyflanneld.core.vxlan.device import Device, plan_device
from pyflanneld.core.vxlan.vtep import parse_mac

_NONE = "this backend needs no device"
_LOST = "packets to and from the other hosts are lost"


def devices(facts: Facts) -> Iterator[Finding]:
    """Check that each device is there and as it should be."""
    if not facts.devices:
        yield skipped("device", "the network is not known" if facts.node is None else _NONE)
    for device in facts.devices:
        yield _device(facts, device)


def _device(facts: Facts, wanted: Device) -> Finding:
    there = next((link for link in facts.links if link.name == wanted.name), None)
    todo = plan_device(wanted, facts.links)
    if todo.problem:
        seen, _, fix = todo.problem.partition(": ")
        return bad("device", seen, "the daemon makes its device as soon as nothing is in the way; until then " + _LOST,
                   fix)  # fmt: skip
    if there is None:
        if not _is_kept(facts):
            return ok("device", f"{wanted.name} is not there yet; the daemon makes it")
        return bad("device", f"{wanted.name} is not there", _LOST, "see device.failed in the daemon's log")
    if not _is_kept(facts):
        return ok("device", f"{_shown(there)}{'; the daemon corrects it at its start' if todo.changes else ''}")
    wrong = [*_differences(wanted, there), *_lease_differs(facts, there)]
    if not wrong:
        return ok("device", _shown(there))
    return bad("device", f"{there.name}: {', '.join(wrong)}", _LOST, "see device.* and lease.* in the daemon's log")


def _is_kept(facts: Facts) -> bool:
    """Return whether a daemon runs that keeps the devices: one of before a change of the backend does not."""
    return facts.daemon_runs and not facts.backend_before


def _shown(link: Link) -> str:
    one = link.vxlan
    parameters = f", VNI {one.vni}, port {one.port}, MAC {one.mac}" if one is not None else ""
    return f"{link.name}{parameters}, MTU {link.mtu}, {'up' if link.up else 'down'}"


def _differences(wanted: Device, there: Link) -> Iterator[str]:
    """Yield what differs, ``"MTU 1300 instead of 1450"``."""
    if not there.up:
        yield "down"
    if wanted.address not in there.interfaces(wanted.address.version):
        yield f"without its address {wanted.address}"
    pairs = [("MTU", there.mtu, wanted.mtu)]
    if there.vxlan is not None:
        names = {"port": "port", "local": "local address", "lower_index": "index of the lower link", "gbp": "GBP",
                 "learning": "learning", "plain": "plain"}  # fmt: skip
        pairs += [(text, getattr(there.vxlan, name), getattr(wanted.vxlan, name)) for name, text in names.items()]
    yield from (f"{text} {has} instead of {should}" for text, has, should in pairs if has != should)


def _lease_differs(facts: Facts, there: Link) -> Iterator[str]:
    """Yield that the lease has another MAC address than the device: the peers send to that one."""
    record = facts.node.own_record if facts.node is not None else None
    attrs = record.lease.attrs if record is not None else None
    if attrs is None or there.vxlan is None:
        return
    try:
        published = parse_mac(attrs.data if there.vxlan.version == 4 else attrs.data6)
    except Invalid:
        published = "none"
    if published != there.vxlan.mac:
        yield f"MAC {there.vxlan.mac}, but the lease says {published}"


def udp_port(facts: Facts) -> Finding:
    """Check that the devices can have their UDP port."""
    if not facts.devices:
        return skipped("UDP port", _NONE)
    wanted = facts.devices[0].vxlan
    ours = [link for link in facts.links if any(link.name == device.name for device in facts.devices)]
    if facts.udp_holder is not None and not any(link.up for link in ours):
        return bad("UDP port", f"{wanted.port} is in use by {facts.udp_holder}", "the kernel refuses the device",
                   "stop that program, or give the network another Port: all hosts have to agree")  # fmt: skip
    for link in facts.links:
        other = link.vxlan
        if other is not None and link not in ours and (other.port, other.gbp) == (wanted.port, not wanted.gbp):
            seen = f"{link.name} has {wanted.port} too, {'with' if other.gbp else 'without'} GBP"
            return bad("UDP port", seen, "Linux lets devices share a port only if all have GBP, or none",
                       "delete that device, or give the network another Port: all hosts have to agree")  # fmt: skip
    return ok("UDP port", f"nothing else has {wanted.port}")


def entries(facts: Facts) -> Finding:
    """Check that every peer behind a device has its neighbour and its forwarding entry."""
    if facts.node is None or not facts.devices:
        return skipped("tunnel entries", _NONE)
    if absent := absent_devices(facts):
        return skipped("tunnel entries", f"they wait for the device {', '.join(absent)}")
    counts = facts.node.entries.items()
    seen = ", ".join(f"{there} of {wanted} {plural}" for plural, (wanted, there) in counts)
    if all(there == wanted for wanted, there in facts.node.entries.values()):
        return ok("tunnel entries", seen)
    if not _is_kept(facts):
        return ok("tunnel entries", f"{seen}; no daemon keeps them yet")
    return bad("tunnel entries", seen, "packets to the peers without them go nowhere",
               "see neighbour.* and forwarding.* in the daemon's log")  # fmt: skip


def firewall(facts: Facts) -> Iterator[Finding]:
    """Check that no firewall of this host drops what comes through the tunnels."""
    if facts.choice is None or not facts.devices:
        yield skipped("tunnel firewall", _NONE)
        return
    link, rules, found = facts.choice.link.name, facts.rules, False
    for packet in _packets(facts, link):
        program, saved = ("iptables", rules.iptables) if packet.address.version == 4 else ("ip6tables", rules.ip6tables)
        if is_dropped(*_input_of(saved or "", packet)):
            found = True
            yield _dropped(f"{program}, chain INPUT,", packet,
                           f"{program} -I INPUT -i {quoted(link)} -p udp --dport {packet.port} -j ACCEPT")  # fmt: skip
        for place in _nft_inputs(rules.nft, packet):
            found = True
            words = " ".join(map(quoted, ("nft", "insert", "rule", *place, "iifname", f'"{link}"')))
            yield _dropped(f"nft, chain {' '.join(place)},", packet, f"{words} udp dport {packet.port} accept")
    if not found:
        port = facts.devices[0].vxlan.port
        yield ok("tunnel firewall", f"no rule here is certain to drop UDP {port} on {link}")


def _packets(facts: Facts, link: str) -> Iterator[TunnelPacket]:
    """Yield a packet of each family in use."""
    peers = set(facts.node.view.peers.values()) if facts.node is not None else set()
    for device in facts.devices:
        one = device.vxlan
        if one.local is not None:
            sources = [address for address in peers if address.version == one.version]
            yield TunnelPacket(link, one.local, one.port, sources)


def _input_of(saved: str, packet: TunnelPacket) -> tuple[Chains, str, str]:
    chains, policy = read_iptables(saved, packet)
    return chains, "INPUT", policy


def _nft_inputs(listing: str, packet: TunnelPacket) -> tuple[tuple[str, str, str], ...]:
    try:
        return dropping_inputs(listing, packet)
    except ValueError:
        return ()


def _dropped(where: str, packet: TunnelPacket, command: str) -> Finding:
    fix = f"{command}  # and into what sets these rules: firewall-cmd --permanent --add-port={packet.port}/udp, "
    return warn("tunnel firewall", f"{where} drops UDP {packet.port} on {packet.link}",
                "the packets of the other hosts do not come in", f"{fix}ufw allow {packet.port}/udp, ...")  # fmt: skip


def managed(facts: Facts) -> Finding:
    """Check that systemd-networkd leaves the devices alone."""
    names = {device.name for device in facts.devices}
    found = [link.name for link in facts.links if link.name in names and link.index in facts.networkd.managed]
    if not names:
        return skipped("device's owner", _NONE)
    if not found:
        return ok("device's owner", "systemd-networkd configures none of its devices")
    why = "it takes the device's address and routes away, or sets it down, when it is restarted or reloaded; the "
    why += "daemon restores them, each time with a gap"
    fix = "printf '[Match]\\nName=flannel*\\n\\n[Link]\\nUnmanaged=yes\\n' >/etc/systemd/network/00-flannel.network, "
    fix += "then networkctl reload"
    return warn("device's owner", f"systemd-networkd configures {', '.join(found)}", why, fix)
