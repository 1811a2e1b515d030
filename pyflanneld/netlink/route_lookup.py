"""How a packet would leave this host: the kernel's own lookup, policy rules included. Pure."""

from ipaddress import IPv4Address, IPv6Address, ip_address
from socket import AF_INET, AF_INET6

from pyroute2.netlink.rtnl import RTM_GETROUTE, rt_type
from pyroute2.netlink.rtnl.rtmsg import rtmsg

from pyflanneld.core.routes import Way
from pyflanneld.netlink.frames import NetlinkRequest
from pyflanneld.netlink.messages import Decoded, encode


def lookup_request(address: IPv4Address | IPv6Address) -> NetlinkRequest:
    """Ask how a packet to *address* would leave."""
    fields = {"family": AF_INET if address.version == 4 else AF_INET6, "dst_len": address.max_prefixlen}
    return NetlinkRequest(RTM_GETROUTE, 0, encode(rtmsg, fields, [("RTA_DST", str(address))]))


def decode_lookup(body: bytes) -> Way | None:
    """Return the way in the answer; ``None`` if nothing leaves this host. Raises ``ValueError``."""
    route = Decoded(rtmsg, body, "RTA_OIF", "RTA_PREFSRC", "RTA_GATEWAY", "RTA_VIA")
    link, source, via = route["RTA_OIF"], route["RTA_PREFSRC"], route["RTA_VIA"]
    if route.fields["type"] != rt_type["unicast"] or not link or not source:
        return None
    gateway = route["RTA_GATEWAY"] or (via and via["addr"])  # an IPv4 route may go over an IPv6 gateway
    return Way(int(link), ip_address(source), ip_address(gateway) if gateway else None)
