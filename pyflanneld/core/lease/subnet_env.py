"""The text of ``subnet.env``, which Docker's start scripts source as shell.

Format: flannel ``pkg/subnet/subnet.go`` (v0.28.9) and ``main.go`` (v0.11.0): four lines for IPv4, in this order,
and with dual stack two more behind the second.
"""

import re
from collections.abc import Callable
from ipaddress import IPv4Interface, IPv4Network, IPv6Interface, IPv6Network
from typing import TypeVar

from pyflanneld.core.families import Network
from pyflanneld.core.invalid import Invalid

_N = TypeVar("_N", IPv4Network, IPv6Network)


def render(
    network: IPv4Network,
    subnet: IPv4Network,
    mtu: int,
    *,
    ip_masq: bool = False,
    ipv6: tuple[IPv6Network, IPv6Network] | None = None,
) -> str:
    """Return the file's text; ``FLANNEL_SUBNET`` is the subnet's first host address with the prefix length.

    Args:
        network: the cluster's network.
        subnet: ours.
        mtu: of the link.
        ip_masq: ``--ip-masq``.
        ipv6: network and subnet of the IPv6 part of a dual-stack lease.
    """
    return (
        f"{_lines('', network, subnet)}"
        f"{_lines('IPV6_', *ipv6) if ipv6 else ''}"
        f"FLANNEL_MTU={mtu}\n"
        f"FLANNEL_IPMASQ={'true' if ip_masq else 'false'}\n"
    )


def _lines(family: str, network: Network, subnet: Network) -> str:
    host = f"{subnet.network_address + 1}/{subnet.prefixlen}"
    return f"FLANNEL_{family}NETWORK={network}\nFLANNEL_{family}SUBNET={host}\n"


def previous_subnet(text: str) -> IPv4Network | None:
    """Return the subnet that an earlier file names, host bits masked away; ``None`` when it names none.

    Raises:
        Invalid: ``FLANNEL_SUBNET`` is there but is no IPv4 network.
    """
    expected = "an address such as 172.7.21.1/24"
    return _previous(text, "FLANNEL_SUBNET", lambda value: IPv4Interface(value).network, expected)


def previous_subnet6(text: str) -> IPv6Network | None:
    """Return the IPv6 subnet that an earlier file names, as ``previous_subnet`` does; zones are refused.

    Raises:
        Invalid: ``FLANNEL_IPV6_SUBNET`` is there but is no IPv6 network.
    """
    expected = "an address such as 2001:db8:0:7::1/64"
    return _previous(text, "FLANNEL_IPV6_SUBNET", lambda value: IPv6Interface(value).network, expected)


def _previous(text: str, name: str, parse: Callable[[str], _N], expected: str) -> _N | None:
    """Return the only entry of a list that can be read, as current flannel does (``main.go``, v0.28.9)."""
    value = assignments(text).get(name)
    if not value:
        return None
    found = [subnet for entry in value.split(",") if (subnet := _subnet(entry, parse)) is not None]
    if len(found) != 1:
        raise Invalid("bad_subnet_file", name, value, expected if not found else "one address, and not several")
    return found[0]


def _subnet(entry: str, parse: Callable[[str], _N]) -> _N | None:
    if "/" not in entry or "%" in entry:  # no prefix length, or a zone
        return None
    try:
        return parse(entry)
    except ValueError:
        return None


def previous_network(text: str) -> IPv4Network | None:
    """Return the network that an earlier file names; ``None`` when it names none that can be understood."""
    try:
        return IPv4Network(assignments(text).get("FLANNEL_NETWORK", ""), strict=False)
    except ValueError:
        return None


def assignments(text: str) -> dict[str, str]:
    """Return the variables that the file sets; of a name that comes twice, the last counts.

    ``export``, comments and quotes are understood as in a dotenv file.
    """
    found = {}
    for line in text.splitlines():
        name, equals, value = line.strip().removeprefix("export ").partition("=")
        if equals and not name.startswith("#"):
            found[name.strip()] = _value(value)
    return found


def _value(text: str) -> str:
    """Return a value without its quotes and the comment behind it; a ``#`` within quotes or a word begins none."""
    if quoted := re.fullmatch(r"\s*([\"'])(.*?)\1\s*(?:#.*)?", text):
        return quoted[2].strip()
    return re.split(r"\s#", text, maxsplit=1)[0].strip().strip("\"'")
