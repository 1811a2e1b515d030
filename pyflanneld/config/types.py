"""The types of the settings, where pydantic alone does not say what is allowed. Pure: opens no file, resolves no name.

A parser raises ``ValueError`` whose message says what would be right ("a port from 1 to 65535"); whoever reads the
command line names the flag and shows the value. Each parser also takes what it has returned.
"""

import re
from collections.abc import Sequence
from ipaddress import IPv4Address, IPv6Address, ip_address
from pathlib import Path
from typing import Annotated, TypeVar
from urllib.parse import urlsplit

from pydantic import AfterValidator, BeforeValidator, Field

from pyflanneld.config.go_regex import parse_go_regex
from pyflanneld.core.link.selection import LinkPattern

T = TypeVar("T")
AnyAddress = IPv4Address | IPv6Address  # pydantic's own type would load another ten modules

_DEFAULT_ETCD_PORT = 2379
_HOST_NAME = re.compile(r"(?=.{1,253}$)([A-Za-z0-9_]([A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?)(\.[A-Za-z0-9_-]{1,63})*\.?")
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


def parse_endpoints(value: str | Sequence[str]) -> tuple[str, ...]:
    """Read ``"http://a:2379, http://b"`` (or its items) as ``("http://a:2379", "http://b:2379")``, doubles dropped."""
    items = [item.strip() for item in (value.split(",") if isinstance(value, str) else value)]
    if items in ([], [""]):
        raise ValueError("at least one endpoint such as http://127.0.0.1:2379 is needed")
    if not all(items):
        raise ValueError("there is an empty item between the commas")
    endpoints = tuple(dict.fromkeys(_endpoint(item) for item in items))
    if len({endpoint.partition("://")[0] for endpoint in endpoints}) > 1:
        raise ValueError("http and https are mixed: all endpoints have to be of one kind")
    return endpoints


def endpoint_host(endpoint: str) -> str:
    """Return the host of ``"http://[::1]:2379"``: ``"::1"``."""
    return urlsplit(endpoint).hostname or ""


def is_loopback(host: str) -> bool:
    """Return whether *host* is this machine: ``localhost``, ``127.0.0.0/8`` or ``::1``."""
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host.lower().rstrip(".") == "localhost"


def parse_prefix(text: str) -> str:
    """Read the root of the keys, without the trailing slash."""
    text = text.rstrip("/")
    if not text.startswith("/"):
        raise ValueError("a key that starts with '/' is needed, such as /coreos.com/network")
    if not all("!" <= char <= "~" for char in text) or len(text) > 200:
        raise ValueError("at most 200 printable ASCII characters without spaces are needed")
    if any(part in {"", ".", ".."} for part in text[1:].split("/")):
        raise ValueError("a part between two slashes is empty, '.' or '..'")
    return text


def parse_interface(text: str) -> str:
    """Read an interface name or an IPv4 address."""
    if re.fullmatch(r"[0-9]+(\.[0-9]+){3}", text):
        _ipv4(text)  # the kernel would take 1.2.3.400 as a name; nobody means that
    elif not re.fullmatch(r"[!-.0-9;-~]{1,127}", text) or text.startswith("-") or text in {".", ".."}:
        raise ValueError("an interface name such as eth1 or an IPv4 address is needed")
    return text


def parse_public_ip(value: str | IPv4Address) -> IPv4Address:
    """Read a unicast IPv4 address."""
    address = _ipv4(str(value))
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


def parse_listen_ip(value: str | AnyAddress) -> AnyAddress:
    """Read an IPv4 or IPv6 address, brackets allowed."""
    text = str(value)
    try:
        return ip_address(text[1:-1] if text.startswith("[") and text.endswith("]") else text)
    except ValueError:
        raise ValueError("an IP address is needed, such as 0.0.0.0 or 127.0.0.1") from None


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
    return address, int(match[3])


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


def _endpoint(item: str) -> str:
    scheme, found, rest = item.partition("://")
    if not found or scheme.lower() not in {"http", "https"}:
        raise ValueError(f"{item[:80]!a} has to start with http:// or https://")
    if "@" in rest:
        raise ValueError("user and password do not belong into an endpoint: use --etcd-username")
    host, port = _host_and_port(rest.removesuffix("/"), item)
    return f"{scheme.lower()}://{host}:{port}"


def _host_and_port(rest: str, item: str) -> tuple[str, int]:
    """Split ``"[::1]:2379"`` or ``"etcd1"``; the host keeps its brackets."""
    match = re.fullmatch(r"(\[[0-9A-Fa-f:.]+\]|[^\[\]:/?#]+)(?::([0-9]{1,5}))?", rest)
    if match is None:
        raise ValueError(f"{item[:80]!a} has to be scheme://host:port and no more")
    host, port = match[1], int(match[2] or _DEFAULT_ETCD_PORT)
    if not 1 <= port <= 65535:
        raise ValueError(f"{item[:80]!a} needs a port from 1 to 65535")
    if not _is_host(host):
        raise ValueError(f"{item[:80]!a} has no valid host name or address")
    return host, port


def _is_host(host: str) -> bool:
    try:
        if host.startswith("["):
            return bool(IPv6Address(host[1:-1]))
        if re.fullmatch(r"[0-9.]+", host):
            return bool(IPv4Address(host))
    except ValueError:
        return False
    return _HOST_NAME.fullmatch(host) is not None


def _ipv4(text: str) -> IPv4Address:
    try:
        return IPv4Address(text)
    except ValueError:
        raise ValueError("an IPv4 address is needed, such as 192.168.14.21") from None


def _pattern(value: str | LinkPattern) -> LinkPattern:
    return value if isinstance(value, LinkPattern) else parse_go_regex(value)


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
PublicIp = Annotated[IPv4Address, BeforeValidator(parse_public_ip)]
PublicIpv6 = Annotated[IPv6Address, BeforeValidator(parse_public_ipv6)]
ListenIp = Annotated[AnyAddress, BeforeValidator(parse_listen_ip)]
MetricsBind = Annotated[tuple[AnyAddress, int] | None, BeforeValidator(parse_metrics_bind)]
NotNegative = Annotated[int, AfterValidator(_at_least_0)]
Port = Annotated[int, Field(le=65535), AfterValidator(_at_least_0)]
RouteProtocol = Annotated[int, AfterValidator(parse_route_protocol)]
FilePath = Annotated[Path, BeforeValidator(parse_path)]
Directory = Annotated[Path, BeforeValidator(parse_directory)]
AccountName = Annotated[str, Field(pattern=r"^[A-Za-z0-9_][A-Za-z0-9_.-]*\$?(:[A-Za-z0-9_][A-Za-z0-9_.-]*)?$")]
UserName = Annotated[str, AfterValidator(parse_user_name)]
