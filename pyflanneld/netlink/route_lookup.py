"""How a packet would leave this host: the kernel's own lookup, policy rules included. Pure."""

from ipaddress import IPv4Address
from socket import AF_INET

from pyroute2.netlink.rtnl import RTM_GETROUTE, rt_type
from pyroute2.netlink.rtnl.rtmsg import rtmsg

from pyflanneld.netlink.frames import NetlinkRequest
from pyflanneld.netlink.messages import Decoded, encode


def lookup_request(address: IPv4Address) -> NetlinkRequest:
    """Ask how a packet to *address* would leave."""
    body = encode(rtmsg, {"family": AF_INET, "dst_len": 32}, [("RTA_DST", str(address))])
    return NetlinkRequest(RTM_GETROUTE, 0, body)


def decode_lookup(body: bytes) -> tuple[int, IPv4Address] | None:
    """Return link and source address of the answer; ``None`` if nothing leaves this host. Raises ``ValueError``."""
    route = Decoded(rtmsg, body, "RTA_OIF", "RTA_PREFSRC")
    link, source = route["RTA_OIF"], route["RTA_PREFSRC"]
    if route.fields["type"] != rt_type["unicast"] or not link or not source:
        return None
    return int(link), IPv4Address(source)
