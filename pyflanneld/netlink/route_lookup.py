"""How a packet would leave this host, asked in pyroute2's words.

A question that is asked once, at the start and only with ``--iface-can-reach``: pyroute2 knows the whole of rtnetlink,
and what it takes to load it (some 0.15 s and 10 MB) is no matter there. What thousands of routes go through is written
with ``struct``, see ``encoding``.

Wire format: rtnetlink(7), include/uapi/linux/rtnetlink.h.
"""

from ipaddress import IPv4Address
from socket import AF_INET

from pyroute2.netlink.rtnl.rtmsg import rtmsg

from pyflanneld.netlink.frames import HEADER, Malformed, NetlinkRequest
from pyflanneld.netlink.routes import RTM_GETROUTE

_RTN_UNICAST = 1


def lookup_request(address: IPv4Address) -> NetlinkRequest:
    """Ask how a packet to *address* would leave."""
    message = rtmsg()
    message["family"], message["dst_len"] = AF_INET, 32
    message["attrs"] = [("RTA_DST", str(address))]
    message.encode()
    return NetlinkRequest(RTM_GETROUTE, 0, bytes(message.data[HEADER.size :]))


def decode_lookup(body: bytes) -> tuple[int, IPv4Address] | None:
    """Return link and source address of the answer; ``None`` if nothing leaves this host. Raises ``Malformed``."""
    message = rtmsg(HEADER.pack(HEADER.size + len(body), RTM_GETROUTE, 0, 0, 0) + body)
    try:
        message.decode()
        link, source = message.get_attr("RTA_OIF"), message.get_attr("RTA_PREFSRC")
        if message["type"] != _RTN_UNICAST or not link or not source:
            return None
        return int(link), IPv4Address(source)
    except Exception as error:  # pyroute2 raises its own kinds, struct.error, and what it stumbles over
        raise Malformed(f"route message of {len(body)} bytes: {error}") from error
