"""``--etcd-endpoints``, read as etcd's Go clients read it. Pure: resolves no name.

The first endpoint decides on TLS where others name no scheme (``clientv3``, v3.6.13). The path in front of the keys
counts with the v2 API only, as in v0.11.0. User, query and fragment are left out: current flannel does not use them.
"""

import re
from collections.abc import Sequence
from ipaddress import IPv4Address, IPv6Address, ip_address
from urllib.parse import urlsplit

from pyflanneld.core.families import unmapped

_DEFAULT_PORT = 2379
_SCHEMES = ("http", "https")
_HOST_NAME = re.compile(r"(?=.{1,253}$)([A-Za-z0-9_]([A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?)(\.[A-Za-z0-9_-]{1,63})*\.?")


def parse_endpoints(value: str | Sequence[str]) -> tuple[str, ...]:
    """Read ``"http://a:2379, b,"`` (or its items) as ``("http://a:2379", "http://b:2379")``, doubles dropped."""
    items = _items(value)
    if not items:
        raise ValueError("at least one endpoint such as http://127.0.0.1:2379 is needed")
    default = _scheme(items[0]) or "http"
    endpoints = tuple(dict.fromkeys(_endpoint(item, default) for item in items))
    if len({endpoint.partition("://")[0] for endpoint in endpoints}) > 1:
        raise ValueError("http and https are mixed: all endpoints have to be of one kind")
    return endpoints


def with_tls(value: str) -> str:
    """Return *value* for a client that has a certificate: it uses TLS where the first endpoint names no scheme."""
    items = _items(value)
    return ",".join([f"https://{items[0]}", *items[1:]]) if items and not _scheme(items[0]) else value


def left_out(value: str) -> list[str]:
    """Return a sentence for each kind of part of the endpoints that has no effect."""
    parts = [_parts(item) for item in _items(value)]
    found = []
    if any(user for user, *_ in parts):
        found.append("the user in an endpoint has no effect: use --etcd-username and --etcd-password-file")
    if any(rest for *_, rest in parts):
        found.append("what follows ? or # in an endpoint has no effect")
    return found


def endpoint_host(endpoint: str) -> str:
    """Return the host of ``"http://[::1]:2379"``: ``"::1"``."""
    return urlsplit(endpoint).hostname or ""


def is_host_name(text: str) -> bool:
    """Return whether *text* has the form of a host's name, and not that of an IPv4 address."""
    return _HOST_NAME.fullmatch(text) is not None and not re.fullmatch(r"[0-9.]+", text)


def is_loopback(host: str) -> bool:
    """Return whether *host* is this machine: ``localhost``, ``127.0.0.0/8`` or ``::1``."""
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host.lower().rstrip(".") == "localhost"


def _items(value: str | Sequence[str]) -> list[str]:
    items = value.split(",") if isinstance(value, str) else value
    return [item.strip() for item in items if item.strip()]


def _scheme(item: str) -> str:
    """Return what stands before ``://``; empty where nothing does."""
    scheme, found, _ = item.partition("://")
    return scheme.lower() if found else ""


def _parts(item: str) -> tuple[str, str, str, bool]:
    """Return user, host with port, and path of an endpoint, and whether something follows them."""
    url, *rest = re.split(r"[?#]", item[item.find("://") + 3 :] if _scheme(item) else item, maxsplit=1)
    authority, slash, path = url.partition("/")
    user, _, host = authority.rpartition("@")
    return user, host, f"{slash}{path}".rstrip("/"), bool(rest)


def _endpoint(item: str, default: str) -> str:
    scheme, (_, authority, path, _) = _scheme(item) or default, _parts(item)
    written = ascii(item.rpartition("@")[2][:80])  # without a password
    if scheme not in _SCHEMES:
        raise ValueError(f"{written} has to start with http:// or https://, or with the host")
    if not all("!" <= char <= "~" for char in path):
        raise ValueError(f"{written} has a path that is not of printable ASCII characters without spaces")
    return f"{scheme}://{_host_and_port(authority, written)}{path}"


def _host_and_port(text: str, written: str) -> str:
    """Read ``"[::1]:2379"`` or ``"etcd1"``; an IPv6 address keeps its brackets."""
    match = re.fullmatch(r"(\[[0-9A-Fa-f:.]+\]|[^\[\]:]+)(?::([0-9]{1,5}))?", text)
    if match is None:
        raise ValueError(f"{written} has to be scheme://host:port, with a path at most")
    port = int(match[2] or _DEFAULT_PORT)
    if not 1 <= port <= 65535:
        raise ValueError(f"{written} needs a port from 1 to 65535")
    host = _host(match[1])
    if not host:
        raise ValueError(f"{written} has no valid host name or address")
    return f"{host}:{port}"


def _host(text: str) -> str:
    """Return a host as it is used, an IPv4-mapped address as the IPv4 one; empty for what is none."""
    try:
        if text.startswith("["):
            address = unmapped(IPv6Address(text[1:-1]))
            return text if address.version == 6 else str(address)
        if re.fullmatch(r"[0-9.]+", text):
            return str(IPv4Address(text))
    except ValueError:
        return ""
    return text if is_host_name(text) else ""
