"""Sockets that listen: they can be bound before all else, and the kernel keeps early clients until somebody answers."""

import errno
import socket
from ipaddress import IPv4Address, IPv6Address

from pyflanneld.core.families import Address
from pyflanneld.errors import PortTaken, UsageError
from pyflanneld.system import lock, unix_peers
from pyflanneld.system.host_names import address_of

_BACKLOG = 1024  # clients that wait in the kernel, at no cost; one beyond them tries again after a second


def bind_port(ip: IPv4Address | IPv6Address, port: int) -> socket.socket:
    """Return a socket that listens on *ip* and *port* (0: any). Raises ``OSError``."""
    sock = socket.socket(socket.AF_INET if ip.version == 4 else socket.AF_INET6, socket.SOCK_STREAM)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if ip.version == 6 and ip.is_unspecified:
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)  # "::" serves IPv4 too, as in Go
    return _listening(sock, (str(ip), port))


def bind_abstract(name: str) -> socket.socket:
    """Return a socket that listens on the abstract *name* (with its leading NUL). Raises ``OSError``."""
    return _listening(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM), name)


def bind_operator(name: str) -> socket.socket:
    """Return a socket that listens on *name*, or on one of our own where another user has that. Raises ``OSError``."""
    try:
        return bind_abstract(name)
    except OSError as error:
        holder = unix_peers.listener(name[1:])
        if error.errno != errno.EADDRINUSE or (holder is not None and holder.trusted):
            raise
    return bind_abstract(lock.own_name(name))


def _listening(sock: socket.socket, address: str | tuple[str, int]) -> socket.socket:
    try:
        sock.setblocking(False)
        sock.bind(address)
        sock.listen(_BACKLOG)  # at once: two sockets that are only bound may share an address
    except OSError:
        sock.close()
        raise
    return sock


def bind_health_port(host: Address | str, port: int) -> socket.socket:
    """Return the health port, bound.

    Raises:
        PortTaken: the address is in use, or not (yet) on this host, or the name has none (yet).
        UsageError: the system refuses it for a reason that waiting does not cure.
    """
    try:
        ip = address_of(host)
    except OSError as error:
        raise PortTaken(f"health listener: {host} has no address ({error.strerror}): see --healthz-ip") from error
    try:
        return bind_port(ip, port)
    except OSError as error:
        address = f"{ip}:{port}" if ip.version == 4 else f"[{ip}]:{port}"
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
