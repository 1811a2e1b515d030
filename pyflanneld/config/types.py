"""How the text of each setting becomes a typed value. Pure: no file is opened and no name resolved here.

Each parser raises ``ValueError`` whose message says what would be right ("a port from 1 to 65535"); the caller names
the flag and shows the value. ``TypeError`` is a mistake in the program, never in the operator's text.
"""

import re
from collections.abc import Sequence
from ipaddress import IPv4Address, IPv6Address, ip_address
from pathlib import Path
from typing import Annotated, Literal
from urllib.parse import urlsplit

from pydantic import BeforeValidator

from pyflanneld.config import go_regex
from pyflanneld.core.link.selection import LinkPattern

DEFAULT_ETCD_PORT = 2379

_HOST_NAME = re.compile(r"(?=.{1,253}$)([A-Za-z0-9_]([A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?)(\.[A-Za-z0-9_-]{1,63})*\.?")
_KERNEL_PROTOCOLS = {0: "none", 1: "ICMP redirects", 2: "the kernel", 3: "boot scripts", 4: "administrators (static)"}
# What other daemons put on their routes (linux/rtnetlink.h). Two owners of one number delete each other's routes.
_DAEMON_PROTOCOLS = {
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


def parse_endpoints(value: object) -> tuple[str, ...]:
    """Read ``"http://a:2379, http://b"`` (or its items) as ``("http://a:2379", "http://b:2379")``, doubles dropped."""
    items = value.split(",") if isinstance(value, str) else _texts(value)
    if items == [""] or not items:
        raise ValueError("at least one endpoint such as http://127.0.0.1:2379 is needed")
    if not all(item.strip() for item in items):
        raise ValueError("there is an empty item between the commas")
    endpoints = tuple(dict.fromkeys(_endpoint(item.strip()) for item in items))
    if len({endpoint.partition("://")[0] for endpoint in endpoints}) > 1:
        raise ValueError("http and https are mixed: all endpoints have to be of one kind")
    return endpoints


def endpoint_host(endpoint: str) -> str:
    """Return the host of ``"http://[::1]:2379"``: ``"::1"``."""
    return urlsplit(endpoint).hostname or ""


def is_loopback(host: str) -> bool:
    """Say whether *host* is this machine: ``localhost``, ``127.0.0.0/8`` or ``::1``."""
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host.lower().rstrip(".") == "localhost"


def parse_prefix(value: object) -> str:
    """Read the root of the keys, without the trailing slash."""
    text = _text(value).rstrip("/")
    if not text.startswith("/"):
        raise ValueError("a key that starts with '/' is needed, such as /coreos.com/network")
    if not all("!" <= char <= "~" for char in text) or len(text) > 200:
        raise ValueError("at most 200 printable ASCII characters without spaces are needed")
    if any(part in {"", ".", ".."} for part in text[1:].split("/")):
        raise ValueError("a part between two slashes is empty, '.' or '..'")
    return text


def parse_iface(value: object) -> tuple[str, ...]:
    """Read interface names or IPv4 addresses."""
    names = tuple(_texts(value))
    for name in names:
        if re.fullmatch(r"[0-9]+(\.[0-9]+){3}", name):
            _ipv4(name)  # the kernel would take 1.2.3.400 as a name; nobody means that
        elif not re.fullmatch(r"[!-.0-9;-~]{1,127}", name) or name.startswith("-") or name in {".", ".."}:
            raise ValueError("an interface name such as eth1 or an IPv4 address is needed")
    return names


def parse_iface_regex(value: object) -> tuple[LinkPattern, ...]:
    """Read regular expressions."""
    if isinstance(value, tuple) and all(isinstance(item, LinkPattern) for item in value):
        return value
    return tuple(go_regex.parse_go_regex(text) for text in _texts(value))


def parse_can_reach(value: object) -> IPv4Address | None:
    """Read the IPv4 address to be reached; empty is none."""
    if value is None or value == "":
        return None
    return value if isinstance(value, IPv4Address) else _ipv4(_text(value))


def parse_bridge(value: object) -> str:
    """Read the name of a bridge; empty is none."""
    text = _text(value)
    if text and not re.fullmatch(r"[!-.0-9;-~]{1,15}", text):
        raise ValueError("the name of a bridge such as docker0 is needed, or nothing")
    return text


def parse_public_ip(value: object) -> IPv4Address | None:
    """Read a unicast IPv4 address; empty is none."""
    if value is None or value == "":
        return None
    address = value if isinstance(value, IPv4Address) else _ipv4(_text(value))
    if address.is_loopback or address.is_multicast or address.is_reserved or address.packed[0] == 0:
        raise ValueError("an address of this host that the other nodes can reach is needed")
    return address


def parse_public_ipv6(value: object) -> IPv6Address | None:
    """Read a global unicast IPv6 address; empty is none."""
    if value is None or value == "":
        return None
    try:
        address = value if isinstance(value, IPv6Address) else IPv6Address(_text(value))
    except ValueError:
        raise ValueError("an IPv6 address is needed, such as 2001:db8::21") from None
    if address.is_link_local or address.is_loopback or address.is_multicast or address.is_reserved:
        raise ValueError("a global address of this host that the other nodes can reach is needed")
    return address


def parse_listen_ip(value: object) -> IPv4Address | IPv6Address:
    """Read the address to listen on, IPv4 or IPv6 (brackets allowed)."""
    if isinstance(value, IPv4Address | IPv6Address):
        return value
    text = _text(value)
    try:
        return ip_address(text[1:-1] if text.startswith("[") and text.endswith("]") else text)
    except ValueError:
        raise ValueError("an IP address is needed, such as 0.0.0.0 or 127.0.0.1") from None


def parse_port(value: object) -> int:
    """Read a port; 0 or less is 0, which means off, as in flanneld."""
    number = _number(value)
    if number > 65535:
        raise ValueError("a port from 1 to 65535 is needed, or 0 for none")
    return max(number, 0)


def parse_metrics_bind(value: object) -> tuple[IPv4Address | IPv6Address, int] | None:
    """Read ``"127.0.0.1:2402"`` or ``"[::1]:2402"``; empty, ``0`` and ``off`` are none."""
    if value is None or isinstance(value, tuple):
        return value
    text = _text(value)
    if text in {"", "0", "off"}:
        return None
    match = re.fullmatch(r"(?:\[([0-9A-Fa-f:.]+)\]|([0-9.]+)):([0-9]{1,5})", text)
    try:
        address, port = ip_address(match[1] or match[2] if match else ""), int(match[3] if match else 0)
    except ValueError:
        address, port = None, 0
    if address is None or not 1 <= port <= 65535 or (address.version == 6) is not bool(match and match[1]):
        raise ValueError("an address and a port are needed, such as 127.0.0.1:2402 or [::1]:2402, or off")
    return address, port


def parse_verbosity(value: object) -> int:
    """Read the log level; negative is 0."""
    return max(_number(value), 0)


def parse_route_protocol(value: object) -> int:
    """Read a route protocol number that nobody else uses."""
    number = _number(value)
    if not 0 <= number <= 255:
        raise ValueError("a number from 5 to 255 is needed")
    owner = (_KERNEL_PROTOCOLS | _DAEMON_PROTOCOLS).get(number)
    if owner:
        raise ValueError(f"that number marks the routes of {owner}, which must not be taken for ours; 103 is free")
    return number


def parse_path(value: object) -> Path:
    """Read the path of a file, absolute or relative to the working directory."""
    text = str(value) if isinstance(value, Path) else _text(value)
    if "\0" in text or text.endswith("/") or Path(text).name in {"", ".."}:
        raise ValueError("the path of a file is needed")
    return Path(text)


def parse_optional_path(value: object) -> Path | None:
    """Read a path; empty is none."""
    return None if value is None or value == "" else parse_path(value)


def parse_optional_directory(value: object) -> Path | None:
    """Read the path of a directory, a slash at its end or not; empty is none."""
    if value is None or value == "":
        return None
    text = str(value) if isinstance(value, Path) else _text(value)
    path = Path(text)
    if "\0" in text or path.name in {"", ".."}:
        raise ValueError("the path of a directory is needed, and not of / or a parent")
    return path


def parse_log_format(value: object) -> str:
    """Read ``console`` or ``json``."""
    if value not in {"console", "json"}:
        raise ValueError("console or json is needed")
    return str(value)


def parse_etcd_api(value: object) -> str:
    """Read ``auto``, ``3`` or ``2``."""
    if value not in {"auto", "3", "2"}:
        raise ValueError("auto, 3 or 2 is needed")
    return str(value)


def parse_user_name(value: object) -> str | None:
    """Read a user name; empty is none."""
    if value is None or value == "":
        return None
    text = _text(value)
    if not text.isprintable() or text != text.strip():
        raise ValueError("a name of printable characters without spaces around it is needed")
    return text


def parse_account(value: object) -> str | None:
    """Read a user of this host and, behind a colon, a group; empty is none."""
    if value is None or value == "":
        return None
    text = _text(value)
    if not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.-]*\$?(:[A-Za-z0-9_][A-Za-z0-9_.-]*)?", text):
        raise ValueError("a user by name or number is needed, with :GROUP behind it for another than its own group")
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
    host = match[1]
    port = int(match[2]) if match[2] else DEFAULT_ETCD_PORT
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


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError("text is needed")
    return value


def _texts(value: object) -> list[str]:
    if isinstance(value, str) or not isinstance(value, Sequence):
        raise TypeError("a list of texts is needed")
    return [_text(item) for item in value]


def _number(value: object) -> int:
    if not isinstance(value, int) or isinstance(value, bool):
        raise TypeError("a whole number is needed")
    return value


Endpoints = Annotated[tuple[str, ...], BeforeValidator(parse_endpoints)]
Prefix = Annotated[str, BeforeValidator(parse_prefix)]
Interfaces = Annotated[tuple[str, ...], BeforeValidator(parse_iface)]
Patterns = Annotated[tuple[LinkPattern, ...], BeforeValidator(parse_iface_regex)]
CanReach = Annotated[IPv4Address | None, BeforeValidator(parse_can_reach)]
BridgeName = Annotated[str, BeforeValidator(parse_bridge)]
PublicIp = Annotated[IPv4Address | None, BeforeValidator(parse_public_ip)]
PublicIpv6 = Annotated[IPv6Address | None, BeforeValidator(parse_public_ipv6)]
ListenIp = Annotated[IPv4Address | IPv6Address, BeforeValidator(parse_listen_ip)]
MetricsBind = Annotated[tuple[IPv4Address | IPv6Address, int] | None, BeforeValidator(parse_metrics_bind)]
Port = Annotated[int, BeforeValidator(parse_port)]
Verbosity = Annotated[int, BeforeValidator(parse_verbosity)]
RouteProtocol = Annotated[int, BeforeValidator(parse_route_protocol)]
FilePath = Annotated[Path, BeforeValidator(parse_path)]
OptionalPath = Annotated[Path | None, BeforeValidator(parse_optional_path)]
OptionalDirectory = Annotated[Path | None, BeforeValidator(parse_optional_directory)]
LogFormat = Annotated[Literal["console", "json"], BeforeValidator(parse_log_format)]
EtcdApi = Annotated[Literal["auto", "3", "2"], BeforeValidator(parse_etcd_api)]
Account = Annotated[str | None, BeforeValidator(parse_account)]
UserName = Annotated[str | None, BeforeValidator(parse_user_name)]
