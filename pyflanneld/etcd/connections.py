"""Connections to etcd members: name, address, TLS, in this order, and which of them has failed.

What fails is told by Python's own exception classes and codes. One cause comes late: in TLS 1.3 the handshake is over
for the client before the server has seen its certificate. A server that refuses it sends an alert and closes the
connection, and a request that is written meanwhile may find the closed connection before the alert is read. Then
``why_lost`` connects once more and says nothing, so that the alert can be read.
"""

import asyncio
import os
import socket
import ssl
from collections.abc import Callable
from functools import partial
from typing import Final, TypeVar

from aiohappyeyeballs import start_connection

from pyflanneld.errors import (
    ClientRefused,
    ConnectFailed,
    ConnectionCut,
    NameUnresolved,
    NoAnswer,
    NotEtcd,
    RegistryUnavailable,
    TlsFailed,
)
from pyflanneld.etcd.access import host_port
from pyflanneld.etcd.resolver import Resolver

P = TypeVar("P", bound=asyncio.BaseProtocol)

CONNECT_S: Final = 4.0
"""How long a connection may take to open; below the deadline of a call, so that the error names the step."""

_NEXT_ADDRESS_S: Final = 0.25  # RFC 8305, section 5
_ALERT_S: Final = 1.0

# The kernel gives a connection up 8 s after the last sign of life of its peer, whether it is idle or not.
_DEAD_PEER: Final = (
    (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
    (socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 4),
    (socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 2),
    (socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 2),
    (socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, 8000),
)

# The alerts of RFC 8446, section 6.2, that are about our certificate, by OpenSSL's names for them. A server with TLS
# 1.2 may send handshake_failure when there is none.
_ABOUT_OUR_CERTIFICATE: Final = frozenset(
    {
        "SSLV3_ALERT_HANDSHAKE_FAILURE",
        "SSLV3_ALERT_NO_CERTIFICATE",
        "SSLV3_ALERT_BAD_CERTIFICATE",
        "SSLV3_ALERT_UNSUPPORTED_CERTIFICATE",
        "SSLV3_ALERT_CERTIFICATE_REVOKED",
        "SSLV3_ALERT_CERTIFICATE_EXPIRED",
        "SSLV3_ALERT_CERTIFICATE_UNKNOWN",
        "TLSV1_ALERT_UNKNOWN_CA",
        "TLSV1_ALERT_ACCESS_DENIED",
        "TLSV1_ALERT_DECRYPT_ERROR",
        "TLSV13_ALERT_CERTIFICATE_REQUIRED",
    }
)
_NO_COMMON_PROTOCOL: Final = "TLSV1_ALERT_NO_APPLICATION_PROTOCOL"


async def connect(
    url: str,
    protocol_factory: Callable[[], P],
    context: ssl.SSLContext | None,
    *,
    resolver: Resolver | None = None,
    alpn: str | None = None,
    timeout_s: float = CONNECT_S,
) -> tuple[asyncio.Transport, P]:
    """Open a connection to the member at *url*; the addresses of a name are tried side by side (RFC 8305).

    Args:
        url: ``http://host:port`` or ``https://host:port``.
        protocol_factory: makes the protocol of the connection.
        context: for TLS; ``None`` for none.
        resolver: shared by the connections of one client, so that lookups that hang do not pile up.
        alpn: the protocol that the server must have chosen, of those that *context* offers.
        timeout_s: for all of it.

    Raises:
        NameUnresolved: the host has no address, or none is known in time.
        ConnectFailed: no address accepts the connection.
        TlsFailed: the handshake fails; ``ClientRefused`` when it is our certificate that fails.
        NotEtcd: the server does not speak *alpn*.
        NoAnswer: connection and handshake took longer than *timeout_s*.
    """
    host, port = host_port(url)
    late: RegistryUnavailable = NameUnresolved(f"{url}: no name server has answered within {timeout_s:.3g} s")
    try:
        async with asyncio.timeout(timeout_s):
            addresses = await (resolver or Resolver()).addresses(host, port)
            late = NoAnswer(f"{url}: no connection within {timeout_s:.3g} s")
            sock = await start_connection(addresses, happy_eyeballs_delay=_NEXT_ADDRESS_S)
            late = NoAnswer(f"{url}: no TLS handshake within {timeout_s:.3g} s")
            transport, protocol = await _wrapped(url, sock, protocol_factory, context, host)
    except TimeoutError as error:
        raise late from error
    except OSError as error:
        raise failure(url, error) from error
    chosen = transport.get_extra_info("ssl_object").selected_alpn_protocol() if context else alpn
    if chosen != alpn:
        transport.abort()
        raise NotEtcd(f"{url}: this server does not speak {alpn}")
    return transport, protocol


async def _wrapped(
    url: str, sock: socket.socket, protocol_factory: Callable[[], P], context: ssl.SSLContext | None, host: str
) -> tuple[asyncio.Transport, P]:
    """Return a transport on *sock*, after the TLS handshake where there is one."""
    for level, option, value in _DEAD_PEER:
        sock.setsockopt(level, option, value)
    loop = asyncio.get_running_loop()
    try:
        return await loop.create_connection(
            protocol_factory, sock=sock, ssl=context, server_hostname=host.rstrip(".") if context else None
        )
    except ConnectionError as error:
        raise TlsFailed(f"{url}: the server closed the connection in the TLS handshake") from error


def failure(url: str, error: OSError) -> RegistryUnavailable:
    """Return our error for what a connection to *url* raised, while it opened or later."""
    match error:
        case ssl.SSLCertVerificationError():
            return TlsFailed(f"{url}: {error.verify_message.rstrip('.')} ({error.reason})", error.verify_code)
        case ssl.SSLError(reason=reason) if reason in _ABOUT_OUR_CERTIFICATE:
            return ClientRefused(f"{url}: the server demands a client certificate, or another one ({reason})")
        case ssl.SSLError(reason=reason) if reason == _NO_COMMON_PROTOCOL:
            return NotEtcd(f"{url}: this server speaks no protocol that etcd has ({reason})")
        case ssl.SSLError():
            return TlsFailed(f"{url}: TLS failed: {error.reason or error}")
        case socket.gaierror():
            return NameUnresolved(f"{url}: {error.strerror or error}")
        case _:
            words = os.strerror(error.errno) if error.errno else str(error)
            closed = isinstance(error, ConnectionError) and not isinstance(error, ConnectionRefusedError)
            return (ConnectionCut if closed else ConnectFailed)(f"{url}: {words or 'connection lost'}")


async def why_lost(
    url: str, context: ssl.SSLContext | None, error: OSError | None, *, resolver: Resolver | None = None
) -> RegistryUnavailable:
    """Return why a connection to *url* ended before the server had sent anything: within a second, and never raises.

    Args:
        url: of the member.
        context: the connection's.
        error: what ended the connection; ``None`` when the server just closed it.
        resolver: as for ``connect``.
    """
    found = failure(url, error or ConnectionError("the server closed the connection"))
    if context is None or not isinstance(found, ConnectFailed):
        return found
    try:
        async with asyncio.timeout(_ALERT_S):
            reader = asyncio.StreamReader()
            make = partial(asyncio.StreamReaderProtocol, reader)
            transport, _ = await connect(url, make, context, resolver=resolver)
            try:
                await reader.read(1)
            finally:
                transport.abort()
    except TlsFailed as refused:
        return refused
    except ssl.SSLError as alert:
        return failure(url, alert)
    except (OSError, RegistryUnavailable):
        pass  # nothing that says more
    return found


def wrong_protocol(url: str, first: bytes) -> NotEtcd:
    """Return our error for a server that answers HTTP/2 with *first*, which is not HTTP/2."""
    if first.startswith(b"HTTP/1"):
        return NotEtcd(f"{url}: this server speaks HTTP/1 only; etcd's v3 API needs HTTP/2")
    if first.startswith(b"\x15\x03"):  # a TLS alert
        return NotEtcd(f"{url}: this server speaks TLS: it needs https://")
    return NotEtcd(f"{url}: this server does not speak HTTP/2")
