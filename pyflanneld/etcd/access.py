"""Where etcd is and who we are to it: plain values, importable without gRPC."""

from dataclasses import dataclass, field
from ipaddress import ip_address
from pathlib import Path
from urllib.parse import urlsplit

from pydantic import SecretStr

DEFAULT_PORT = 2379


@dataclass(frozen=True, slots=True)
class EtcdAccess:
    """How to reach one etcd cluster.

    Attributes:
        endpoints: ``http://host:port`` or ``https://host:port``, all of one scheme; host may be a name, an IPv4
            address or a bracketed IPv6 address.
        prefix: the key prefix, for example ``/coreos.com/network``.
        ca_file: PEM file with the authorities to trust for https; ``None`` means those of the system.
        cert_file: PEM file with the client certificate, together with *key_file*.
        key_file: PEM file with its private key, not encrypted.
        username: the etcd user; ``None`` or empty when etcd asks for none.
        password: the user's password; never shown.
        private_files: refuse a key that others than its owner can read.
    """

    endpoints: tuple[str, ...]
    prefix: str
    ca_file: Path | None = None
    cert_file: Path | None = None
    key_file: Path | None = None
    username: str | None = None
    password: SecretStr | str | None = field(default=None, repr=False)
    private_files: bool = False

    @property
    def secure(self) -> bool:
        """Whether the endpoints are https."""
        return any(urlsplit(endpoint).scheme == "https" for endpoint in self.endpoints)

    def password_text(self) -> str:
        """Return the password in the clear, for the one request that needs it."""
        if isinstance(self.password, SecretStr):
            return self.password.get_secret_value()
        return self.password or ""


def grpc_target(endpoint: str) -> str:
    """Return the gRPC name of *endpoint*, for example ``ipv4:192.168.14.12:2379`` or ``dns:///etcd1:2379``.

    The resolver is named outright, so that no environment variable and no guess decides how an address is read:
    https://github.com/grpc/grpc/blob/master/doc/naming.md
    """
    parts = urlsplit(endpoint)
    host, port = parts.hostname or "", parts.port or DEFAULT_PORT
    try:
        address = ip_address(host)
    except ValueError:
        return f"dns:///{host}:{port}"
    return f"ipv6:[{address}]:{port}" if address.version == 6 else f"ipv4:{address}:{port}"
