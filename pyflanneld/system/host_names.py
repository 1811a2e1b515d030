"""The address that a name of this host stands for."""

import socket
from ipaddress import ip_address

from pyflanneld.core.families import Address


def address_of(host: Address | str) -> Address:
    """Return *host*, or of a name the address that Go's ``net.Listen`` takes: the first IPv4 one, else the first.

    Blocks while the name is looked up. Raises ``OSError``.
    """
    if not isinstance(host, str):
        return host
    found = [ip_address(address[0]) for *_, address in socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)]
    return next((address for address in found if address.version == 4), found[0])
