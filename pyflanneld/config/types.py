"""The types of the settings, where pydantic alone does not say what is allowed. Pure: opens no file, resolves no name.

A parser raises ``ValueError`` whose message says what would be right ("a port from 1 to 65535"); whoever reads the
command line names the flag and shows the value. Each parser also takes what it has returned.
"""

import re
from contextlib import suppress
from ipaddress import IPv4Address, IPv6Address, ip_address
from pathlib import Path
from posixpath import normpath
from typing import Annotated, TypeVar

from pydantic import AfterValidator, BeforeValidator, Field

from pyflanneld.config.endpoints import is_host_name, parse_endpoints
from pyflanneld.core.families import unmapped
from pyflanneld.core.link.selection import LinkPattern

T = TypeVar("T")
AnyAddress = IPv4Address | IPv6Address  # pydantic's own type would load another ten modules

# What else puts numbers on routes (linux/rtnetlink.h). Two owners of one number delete each other's routes.
_PROTOCOL_OWNERS = {
    0: "none",
    1: "ICMP redirects",
    2: "the kernel",
    3: "boot scripts",
    4: "administrators (static)",
    8: "gated",
    9: "router advertisements",
    10: "mrtd",
    11: "zebra",
    12: "BIRD",
    13: "DNRouteD",
    14: "XORP",
    15: "netsukuku",
    16: "DHCP clients",
    17: "mrouted",
    18: "keepalived",
    42: "Babel",
    99: "Open/R",
    186: "BGP",
    187: "IS-IS",
    188: "OSPF",
    189: "RIP",
    192: "EIGRP",
}


def parse_prefix(text: str) -> str:
    """Read the root of the keys; empty parts, ``.`` and ``..`` are resolved as Go's ``path.Join`` does."""
    clean = normpath(text).lstrip("/")
    if not text.startswith("/") or not clean:
        raise ValueError("a key that starts with '/' is needed, such as /coreos.com/network")
    if not all("!" <= char <= "~" for char in clean) or len(clean) > 199:
        raise ValueError("at most 200 printable ASCII characters without spaces are needed")
    return f"/{clean}"


def parse_interface(text: str) -> str:
    """Read an interface name or an IPv4 address; empty is the interface of the default route, as in flanneld."""
    if re.fullmatch(r"::[Ff]{4}:.*|[0-9]+(\.[0-9]+){3}", text):
        return str(parse_ipv4(text))  # the kernel would take 1.2.3.400 as a name; nobody means that
    if not re.fullmatch(r"[!-.0-9;-~]{0,127}", text) or text.startswith("-") or text in {".", ".."}:
        raise ValueError("an interface name such as eth1 or an IPv4 address is needed")
    return text


def parse_ipv4(value: str | IPv4Address) -> IPv4Address:
    """Read an IPv4 address, or the IPv6 form of one (``::ffff:a.b.c.d``)."""
    with suppress(ValueError):
        address = unmapped(ip_address(str(value)))
        if address.version == 4:
            return address
    raise ValueError("an IPv4 address is needed, such as 192.168.14.21")


def parse_public_ip(value: str | IPv4Address) -> IPv4Address:
    """Read a unicast IPv4 address."""
    address = parse_ipv4(value)
    if address.is_loopback or address.is_multicast or address.is_reserved or address.packed[0] == 0:
        raise ValueError("an address of this host that the other nodes can reach is needed")
    return address


def parse_public_ipv6(value: str | IPv6Address) -> IPv6Address:
    """Read a global unicast IPv6 address."""
    try:
        address = IPv6Address(str(value))
    except ValueError:
        raise ValueError("an IPv6 address is needed, such as 2001:db8::21") from None
    if address.is_link_local or address.is_loopback or address.is_multicast or address.is_reserved:
        raise ValueError("a global address of this host that the other nodes can reach is needed")
    return address


def parse_listen_ip(value: str | AnyAddress) -> AnyAddress | str:
    """Read an IPv4 or IPv6 address, brackets allowed, or a host name; empty is every address, as in Go."""
    text = str(value) or "::"
    try:
        return unmapped(ip_address(text[1:-1] if text.startswith("[") and text.endswith("]") else text))
    except ValueError:
        if is_host_name(text):
            return text
        raise ValueError("an IP address or a host name is needed, such as 0.0.0.0 or localhost") from None


def parse_metrics_bind(value: str | tuple[AnyAddress, int] | None) -> tuple[AnyAddress, int] | None:
    """Read ``"127.0.0.1:2402"`` or ``"[::1]:2402"``; empty, ``0`` and ``off`` are none."""
    if not isinstance(value, str):
        return value
    if value in {"", "0", "off"}:
        return None
    match = re.fullmatch(r"(?:\[([0-9A-Fa-f:.]+)\]|([0-9.]+)):([0-9]{1,5})", value)
    try:
        address = (IPv6Address(match[1]) if match[1] else IPv4Address(match[2])) if match else None
    except ValueError:
        address = None
    if match is None or address is None or not 1 <= int(match[3]) <= 65535:
        raise ValueError("an address and a port are needed, such as 127.0.0.1:2402 or [::1]:2402, or off")
    return unmapped(address), int(match[3])


def parse_route_protocol(number: int) -> int:
    """Read a route protocol number that nobody else uses."""
    if not 0 <= number <= 255:
        raise ValueError("a number from 5 to 255 is needed")
    if owner := _PROTOCOL_OWNERS.get(number):
        raise ValueError(f"that number marks the routes of {owner}, which must not be taken for ours; 103 is free")
    return number


def parse_path(value: str | Path) -> Path:
    """Read the path of a file, absolute or relative to the working directory."""
    text = str(value)
    if "\0" in text or text.endswith("/") or Path(text).name in {"", ".."}:
        raise ValueError("the path of a file is needed")
    return Path(text)


def parse_directory(value: str | Path) -> Path:
    """Read the path of a directory, with or without a slash at its end."""
    path = Path(value)
    if "\0" in str(path) or path.name in {"", ".."}:
        raise ValueError("the path of a directory is needed, and not of / or a parent")
    return path


def parse_user_name(text: str) -> str:
    """Read a user name of etcd."""
    if not text.isprintable() or text != text.strip():
        raise ValueError("a name of printable characters without spaces around it is needed")
    return text


def _pattern(value: str | LinkPattern) -> LinkPattern:
    if isinstance(value, LinkPattern):
        return value
    from pyflanneld.config.go_regex import parse_go_regex  # few hosts have a pattern: the others start without it

    return parse_go_regex(value)


def _none_if_empty(value: object) -> object:
    return None if value == "" else value


def _at_least_0(number: int) -> int:
    return max(number, 0)


OrNone = Annotated[T | None, BeforeValidator(_none_if_empty)]
Endpoints = Annotated[tuple[str, ...], BeforeValidator(parse_endpoints)]
Prefix = Annotated[str, AfterValidator(parse_prefix)]
Interface = Annotated[str, AfterValidator(parse_interface)]
Pattern = Annotated[LinkPattern, BeforeValidator(_pattern)]
BridgeName = Annotated[str, Field(pattern=r"^[!-.0-9;-~]{0,15}$")]
Ipv4 = Annotated[IPv4Address, BeforeValidator(parse_ipv4)]
PublicIp = Annotated[IPv4Address, BeforeValidator(parse_public_ip)]
PublicIpv6 = Annotated[IPv6Address, BeforeValidator(parse_public_ipv6)]
ListenIp = Annotated[AnyAddress | str, BeforeValidator(parse_listen_ip)]
MetricsBind = Annotated[tuple[AnyAddress, int] | None, BeforeValidator(parse_metrics_bind)]
NotNegative = Annotated[int, AfterValidator(_at_least_0)]
Port = Annotated[int, Field(le=65535), AfterValidator(_at_least_0)]
RouteProtocol = Annotated[int, AfterValidator(parse_route_protocol)]
FilePath = Annotated[Path, BeforeValidator(parse_path)]
Directory = Annotated[Path, BeforeValidator(parse_directory)]
AccountName = Annotated[str, Field(pattern=r"^[A-Za-z0-9_][A-Za-z0-9_.-]*\$?(:[A-Za-z0-9_][A-Za-z0-9_.-]*)?$")]
UserName = Annotated[str, AfterValidator(parse_user_name)]
