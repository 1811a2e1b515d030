"""Which names of keys can stand for a subnet that overlaps another one, as ranges of names in etcd's order (of bytes).

A key's name begins with the address of its IPv4 subnet, in its one spelling (``codec``): ``10.5.1.0-24``, and in a
dual-stack network ``10.5.1.0-24&fd00::-64``. So for 10.5.1.0/24 these are

* what may cover it: one name for each shorter length, ``10.5.0.0-16``, with whatever IPv6 subnet behind it;
* what may lie in it, or be it: every name that begins with ``10.5.1.``.

A range may hold names that overlap nothing, or are no subnet's: a guard over it only refuses more often.
"""

from collections.abc import Iterator
from ipaddress import IPv4Network

NameRange = tuple[bytes, bytes]
"""The first name, and the first behind the last."""

MANY = 32
"""For more ranges than this of what lies inside, the whole block around the subnet is taken: two or four subnets."""


def overlapping_names(subnet: IPv4Network) -> Iterator[NameRange]:
    """Yield ranges that hold every name whose IPv4 subnet overlaps *subnet*; at most 64."""
    address = int(subnet.network_address)
    for length in range(subnet.prefixlen):
        covering = IPv4Network((address >> (32 - length) << (32 - length) if length else 0, length))
        name = f"{covering.network_address}-{length}".encode()
        yield name, name + b"'"  # the byte behind "&"
    for prefix in _beginnings(subnet):
        yield prefix, prefix[:-1] + bytes([prefix[-1] + 1])


def _beginnings(subnet: IPv4Network) -> Iterator[bytes]:
    """Yield with what the names begin of all that lies in *subnet*."""
    octets = subnet.network_address.packed
    whole, bits = divmod(subnet.prefixlen, 8)
    before = b"".join(b"%d." % octet for octet in octets[:whole])
    count = 1 << (8 - bits)
    if whole == 4:
        yield before[:-1] + b"-"
    elif count <= MANY:
        end = b"-" if whole == 3 else b"."
        yield from (before + b"%d" % octet + end for octet in range(octets[whole], octets[whole] + count))
    elif before:
        yield before
    else:
        yield from (b"%d" % digit for digit in range(10))
