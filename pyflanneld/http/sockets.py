"""Sockets that listen: they can be bound before all else, and the kernel keeps early clients until somebody answers."""

import errno
import socket
from ipaddress import IPv4Address, IPv6Address

from pyflanneld.core.families import Address, host_port
from pyflanneld.errors import PortTaken, UsageError
from pyflanneld.system import lock, unix_peers
from pyflanneld.system.listening import bind_abstract, listening


def bind_port(ip: IPv4Address | IPv6Address, port: int) -> socket.socket:
    """Return a socket that listens on *ip* and *port* (0: any). Raises ``OSError``.

    Where the kernel knows no IPv6, "every address" is every IPv4 one, as in Go.
    """
    try:
        sock = socket.socket(socket.AF_INET if ip.version == 4 else socket.AF_INET6, socket.SOCK_STREAM)
    except OSError as error:
        if error.errno != errno.EAFNOSUPPORT or not ip.is_unspecified or ip.version == 4:
            raise
        return bind_port(IPv4Address(0), port)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if ip.version == 6 and ip.is_unspecified:
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)  # "::" serves IPv4 too, as in Go
    return listening(sock, (str(ip), port))


def bind_operator(name: str) -> socket.socket:
    """Return a socket that listens on *name*, or on one of our own where another user has that. Raises ``OSError``."""
    try:
        return bind_abstract(name)
    except OSError as error:
        holder = unix_peers.listener(name[1:])
        if error.errno != errno.EADDRINUSE or (holder is not None and holder.trusted):
            raise
    return bind_abstract(lock.own_name(name))


def bind_health_port(ip: Address, port: int) -> socket.socket:
    """Return the health port, bound.

    Raises:
        PortTaken: the address is in use, or not (yet) on this host.
        UsageError: the system refuses it for a reason that waiting does not cure.
    """
    try:
        return bind_port(ip, port)
    except OSError as error:
        address = host_port(ip, port)
        match error.errno:
            case errno.EADDRINUSE:
                raise PortTaken(
                    f"health listener: {address} is in use by another program: give another --healthz-port, "
                    "or --healthz-port=0 for none"
                ) from error
            case errno.EADDRNOTAVAIL:
                # Not a usage error: at boot the address may come later, and the service manager should try again.
                raise PortTaken(
                    f"health listener: {address} is not an address of this host: see --healthz-ip"
                ) from error
        raise UsageError(f"health listener: {address} is refused ({error.strerror}): see --healthz-port") from error
