"""Vxlan devices, their addresses and their forwarding entries from and to rtnetlink messages. Pure.

pyroute2 knows all layouts. The device is made as flannel makes it: bound to its link and its address, without learning.
"""

from ipaddress import ip_address
from socket import AF_BRIDGE, AF_INET, AF_INET6
from typing import Any

from pyroute2.netlink import NLM_F_CREATE, NLM_F_EXCL, NLM_F_REPLACE
from pyroute2.netlink.rtnl import (
    RTM_DELADDR,
    RTM_DELLINK,
    RTM_DELNEIGH,
    RTM_GETNEIGH,
    RTM_NEWADDR,
    RTM_NEWLINK,
    RTM_NEWNEIGH,
)
from pyroute2.netlink.rtnl.ifaddrmsg import IFA_F_NODAD, ifaddrmsg
from pyroute2.netlink.rtnl.ifinfmsg import IFF_UP, ifinfmsg
from pyroute2.netlink.rtnl.ndmsg import NTF_SELF, NUD_PERMANENT, ndmsg

from pyflanneld.core.families import Address
from pyflanneld.core.link.vxlan import Vxlan
from pyflanneld.core.objects.plan import Create, Drop, KernelChange, Replace
from pyflanneld.core.vxlan.device import Device, LinkAddress, Tunnel
from pyflanneld.core.vxlan.forwardings import Forwarding, KernelForwarding
from pyflanneld.netlink.entries import put_entry
from pyflanneld.netlink.frames import Malformed, NetlinkRequest, pack
from pyflanneld.netlink.messages import Decoded, encode

_NOT_OURS = ("GROUP", "GROUP6", "PROXY", "RSC", "L2MISS", "L3MISS", "COLLECT_METADATA", "GPE")


def device_message(change: KernelChange, flags: int, sequence: int) -> bytes:
    """Return the message that makes, changes or deletes a device."""
    match change:
        case Drop(link):
            return pack(NetlinkRequest(RTM_DELLINK, flags, encode(ifinfmsg, {"index": link.index})), sequence)
        case Create(device):
            return pack(NetlinkRequest(RTM_NEWLINK, flags | NLM_F_CREATE | NLM_F_EXCL, _new(device)), sequence)
        case Replace(Tunnel(name, vxlan)):
            body = encode(ifinfmsg, {}, [("IFLA_IFNAME", name), _info(_changeable(vxlan))])
        case _:
            body = encode(ifinfmsg, {"flags": IFF_UP, "change": IFF_UP}, _link(change.object))
    return pack(NetlinkRequest(RTM_NEWLINK, flags, body), sequence)


def _new(device: Device) -> bytes:
    one = device.vxlan
    own = [("IFLA_VXLAN_ID", one.vni), ("IFLA_VXLAN_PORT", one.port), *_changeable(one)]
    if one.gbp:
        own.append(("IFLA_VXLAN_GBP", True))
    attributes = [*_link(device), ("IFLA_TXQLEN", 0), _info(own)]
    return encode(ifinfmsg, {"flags": IFF_UP, "change": IFF_UP}, attributes)


def _link(device: Device) -> list[tuple[str, object]]:
    return [("IFLA_IFNAME", device.name), ("IFLA_ADDRESS", device.vxlan.mac), ("IFLA_MTU", device.mtu)]


def _changeable(one: Vxlan) -> list[tuple[str, object]]:
    """Return what Linux lets be changed later; it refuses all others, even with the value that they have."""
    local = ("IFLA_VXLAN_LOCAL" if one.version == 4 else "IFLA_VXLAN_LOCAL6", str(one.local))
    return [("IFLA_VXLAN_LINK", one.lower_index), local, ("IFLA_VXLAN_LEARNING", int(one.learning))]


def _info(own: list[tuple[str, object]]) -> tuple[str, object]:
    return "IFLA_LINKINFO", {"attrs": [("IFLA_INFO_KIND", "vxlan"), ("IFLA_INFO_DATA", {"attrs": own})]}


def decode_vxlan(link: Any, mac: object) -> Vxlan | None:
    """Return the parameters in an ``IFLA_LINKINFO``; ``None`` for a link of another kind."""
    if link is None or link.get_attr("IFLA_INFO_KIND") != "vxlan":
        return None
    data = link.get_attr("IFLA_INFO_DATA")
    found = {name.removeprefix("IFLA_VXLAN_"): value for name, value in data["attrs"]}
    version = 6 if "LOCAL6" in found or "GROUP6" in found else 4
    local = found.get("LOCAL") or found.get("LOCAL6")
    return Vxlan(
        mac=str(mac), vni=found.get("ID", 0), port=found.get("PORT", 0), lower_index=found.get("LINK", 0),
        local=ip_address(local) if local else None, learning=bool(found.get("LEARNING")), gbp="GBP" in found,
        plain=not any(found.get(name) for name in _NOT_OURS), version=version,
    )  # fmt: skip


def address_message(change: KernelChange, flags: int, sequence: int) -> bytes:
    """Return the message that puts or removes an address; an IPv6 one is not looked for elsewhere first."""
    address: LinkAddress = change.object
    own = address.interface
    fields = {
        "family": AF_INET if own.version == 4 else AF_INET6, "prefixlen": own.network.prefixlen,
        "index": address.link_index,
    }  # fmt: skip
    attributes: list[tuple[str, object]] = [("IFA_ADDRESS", str(own.ip)), ("IFA_LOCAL", str(own.ip))]
    if isinstance(change, Drop):
        return pack(NetlinkRequest(RTM_DELADDR, flags, encode(ifaddrmsg, fields, attributes)), sequence)
    if own.version == 6:
        attributes.append(("IFA_FLAGS", IFA_F_NODAD))
    return pack(
        NetlinkRequest(RTM_NEWADDR, flags | NLM_F_CREATE | NLM_F_EXCL, encode(ifaddrmsg, fields, attributes)), sequence
    )


def forwardings_request(link_index: int) -> NetlinkRequest:
    """Ask for the forwarding entries of one device."""
    return NetlinkRequest(RTM_GETNEIGH, 0, encode(ndmsg, {"family": AF_BRIDGE, "ifindex": link_index}))


def forwarding_message(change: KernelChange, flags: int, sequence: int) -> bytes:
    """Return the message that asks for *change* of a forwarding entry."""
    entry: Forwarding | KernelForwarding = change.object
    if isinstance(entry, Forwarding):
        flags |= NLM_F_CREATE | (NLM_F_EXCL if isinstance(change, Create) else NLM_F_REPLACE)
        body = put_entry(entry.destination, entry.mac, entry.link_index, forwarding=True)
        return pack(NetlinkRequest(RTM_NEWNEIGH, flags, body), sequence)
    fields = {"family": AF_BRIDGE, "ifindex": entry.link_index, "state": NUD_PERMANENT, "flags": NTF_SELF}
    attributes: list[tuple[str, object]] = [("NDA_LLADDR", entry.mac)]
    if entry.destination is not None:
        attributes.append(("NDA_DST", str(entry.destination)))
    return pack(NetlinkRequest(RTM_DELNEIGH, flags, encode(ndmsg, fields, attributes)), sequence)


def decode_forwarding(body: bytes) -> KernelForwarding | None:
    """Return the entry in an ``RTM_NEWNEIGH``; ``None`` if it is of another family. Raises ``Malformed``."""
    entry = Decoded(ndmsg, body, "NDA_DST", "NDA_LLADDR")
    if entry.fields["family"] != AF_BRIDGE:
        return None
    if not entry["NDA_LLADDR"]:
        raise Malformed(f"forwarding entry of link {entry.fields['ifindex']} without a MAC address")
    destination: Address | None = ip_address(entry["NDA_DST"]) if entry["NDA_DST"] else None
    permanent = bool(entry.fields["state"] & NUD_PERMANENT)
    return KernelForwarding(entry.fields["ifindex"], entry["NDA_LLADDR"], destination, permanent)
