"""The ports themselves: one can be bound before all else, while what answers there takes its time to load."""

import errno
import socket
from ipaddress import IPv4Address, IPv6Address

from pyflanneld.errors import PortTaken, UsageError

CONNECTIONS = 16
WAITING = 1024  # in the kernel, at no cost of ours; those beyond would knock again after a second


def bound(ip: IPv4Address | IPv6Address, port: int) -> socket.socket:
    """Return a socket that listens; the kernel keeps those who knock until somebody answers. Raises ``OSError``."""
    family = socket.AF_INET if ip.version == 4 else socket.AF_INET6
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        sock.setblocking(False)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6 and ip.is_unspecified:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)  # "::" serves IPv4 too, as in Go
        sock.bind((str(ip), port))
        sock.listen(WAITING)  # already here: two sockets that only bind may share the address
    except OSError:
        sock.close()
        raise
    return sock


def bind_health_port(ip: IPv4Address | IPv6Address, port: int) -> socket.socket:
    """Return the health port, bound.

    Raises:
        PortTaken: the address is in use, or not (yet) on this host.
        UsageError: the system refuses it for a reason that waiting does not cure.
    """
    try:
        return bound(ip, port)
    except OSError as error:
        raise _refused(ip, port, error) from error


def _refused(ip: IPv4Address | IPv6Address, port: int, error: OSError) -> PortTaken | UsageError:
    address = f"{ip}:{port}" if ip.version == 4 else f"[{ip}]:{port}"
    match error.errno:
        case errno.EADDRINUSE:
            return PortTaken(
                f"health listener: {address} is in use by another program: give another --healthz-port, "
                "or --healthz-port=0 for none"
            )
        case errno.EADDRNOTAVAIL:
            # Not a usage error: at boot the address may come later, and the service manager should try again.
            return PortTaken(f"health listener: {address} is not an address of this host: see --healthz-ip")
        case _:
            return UsageError(f"health listener: {address} is refused ({error.strerror}): see --healthz-port")
