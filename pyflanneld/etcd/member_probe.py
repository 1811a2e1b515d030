"""Probes one etcd member for ``pyflanneld doctor``: what fails, and in which step.

No port: the daemon never does this. The kind of request names the step, not the response: first a plain HTTP request
(name, connection, TLS, whether it is etcd at all), then the login, then one read of each kind of key.
"""

import asyncio
import contextlib
import random
import socket
import ssl
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace
from email.parser import BytesParser
from email.utils import parsedate_to_datetime
from typing import Any, Final
from urllib.parse import urlsplit

from pydantic import ValidationError
from structlog.typing import FilteringBoundLogger

from pyflanneld.core.etcd_types import MemberFault, MemberReport
from pyflanneld.errors import RegistryDenied, RegistryError
from pyflanneld.etcd.access import DEFAULT_PORT, EtcdAccess
from pyflanneld.etcd.tls import Tls
from pyflanneld.etcd.v2.registry import EtcdV2Registry, ServerVersion
from pyflanneld.etcd.v3 import rpc_pb2 as rpc
from pyflanneld.etcd.v3.calls import Tokens, metadata
from pyflanneld.etcd.v3.channel import Endpoint
from pyflanneld.etcd.v3.methods import STATUS
from pyflanneld.etcd.v3.registry import EtcdV3Registry

DEADLINE_S: Final = 4.0
_RESPONSE_BYTES: Final = 64 * 1024

# X509_V_ERR_* of OpenSSL, include/openssl/x509_vfy.h.
_VERIFY_FAULTS: Final = {
    9: MemberFault.NOT_YET, 10: MemberFault.EXPIRED, 62: MemberFault.NAME, 64: MemberFault.NAME,
    **dict.fromkeys((2, 18, 19, 20, 21), MemberFault.AUTHORITY),
}  # fmt: skip


async def probe_member(access: EtcdAccess, url: str, *, deadline_s: float = DEADLINE_S) -> MemberReport:
    """Request the version of a member, which needs no rights; report what fails: name, connection, TLS or response.

    Raises:
        UsageError: a TLS file is missing, unreadable or wrong.
    """
    context = Tls(access).context()
    host, port = urlsplit(url).hostname or "", urlsplit(url).port or DEFAULT_PORT
    connected = False
    try:
        async with asyncio.timeout(deadline_s):
            reader, writer = await asyncio.open_connection(host, port, ssl=context)
            connected = True
            try:
                until_s = _certificate_until_s(writer.get_extra_info("peercert"))
                writer.write(f"GET /version HTTP/1.0\r\nHost: {urlsplit(url).netloc}\r\n\r\n".encode())
                response = b""
                while len(response) < _RESPONSE_BYTES and (more := await reader.read(_RESPONSE_BYTES)):
                    response += more
            finally:
                writer.transport.abort()
    except (TimeoutError, OSError) as error:
        return MemberReport(
            url, _fault(error, secure=context is not None, connected=connected), _detail(error, deadline_s)
        )
    return _with_version(response, MemberReport(url, certificate_until_s=until_s))


def _with_version(response: bytes, member: MemberReport) -> MemberReport:
    head, _, body = response.partition(b"\r\n\r\n")
    status, _, fields = head.partition(b"\r\n")
    skew_s = _skew_s(BytesParser().parsebytes(fields).get("Date"))
    try:
        version = ServerVersion.model_validate_json(body).etcdserver
    except ValidationError:
        shown = ascii(b" ".join((status + b" " + body).split())[:120])[2:-1]
        return replace(member, fault=MemberFault.NO_ETCD, detail=shown or "it closes the connection", skew_s=skew_s)
    return replace(member, version=version, skew_s=skew_s)


def _fault(error: Exception, *, secure: bool, connected: bool) -> MemberFault:
    """Return what has failed: before the connection is there, in the TLS handshake, or after it."""
    match error:
        case ssl.SSLCertVerificationError():
            return _VERIFY_FAULTS.get(error.verify_code, MemberFault.TLS)
        case ssl.SSLError():
            return MemberFault.CLIENT if "ALERT" in (error.reason or "").upper() else MemberFault.TLS
        case TimeoutError():
            return MemberFault.TIMEOUT
        case socket.gaierror():
            return MemberFault.NO_NAME
        case ConnectionRefusedError():
            return MemberFault.REFUSED
        case ConnectionError() if secure:
            return MemberFault.CLIENT if connected else MemberFault.TLS
        case ConnectionError():
            return MemberFault.NO_ETCD
        case _:
            return MemberFault.UNREACHABLE


def _detail(error: Exception, deadline_s: float) -> str:
    match error:
        case ssl.SSLCertVerificationError():
            return ascii(error.verify_message)[1:-1]
        case ssl.SSLError():
            return str(error.reason or "").lower().replace("_", " ")
        case TimeoutError():
            return f"within {deadline_s:g} s"
        case ConnectionRefusedError():
            return ""
        case _:
            return ascii(getattr(error, "strerror", None) or str(error) or type(error).__name__)[1:-1]


def _skew_s(date: str | None) -> float | None:
    """Return how far the clock of a ``Date`` header, which has whole seconds, is ahead of ours."""
    if date is None:
        return None
    try:
        return parsedate_to_datetime(date).timestamp() + 0.5 - time.time()
    except ValueError:
        return None


def _certificate_until_s(certificate: Mapping[str, Any] | None) -> float | None:
    end = certificate.get("notAfter") if certificate else None
    return float(ssl.cert_time_to_seconds(end)) if end else None


async def rights(access: EtcdAccess, member: MemberReport, api: int, log: FilteringBoundLogger) -> MemberReport:
    """Report whether a member that answers serves us: the login, a read of the configuration, one of the leases."""
    alone = replace(access, endpoints=(member.url,))
    if api == 2:
        return await _try_reads(EtcdV2Registry(alone, rng=random.Random(), log=log), member)
    endpoint = Endpoint(member.url, Tls(alone))
    try:
        token = await Tokens(alone, rpc_timeout_s=DEADLINE_S, log=log).current(endpoint)
    except RegistryError as error:
        fault = MemberFault.LOGIN if isinstance(error, RegistryDenied) else MemberFault.BROKEN
        return replace(member, fault=fault, detail=_shortened(error, member))
    else:
        alarms = await _alarms(endpoint, token)
    finally:
        await endpoint.close()
    return replace(await _try_reads(EtcdV3Registry(alone, rng=random.Random(), log=log), member), alarms=alarms)


async def _try_reads(registry: EtcdV2Registry | EtcdV3Registry, member: MemberReport) -> MemberReport:
    steps: tuple[tuple[Callable[[], Awaitable[object]], MemberFault], ...] = (
        (registry.read_config, MemberFault.CONFIG_DENIED), (registry.list_subnets, MemberFault.SUBNETS_DENIED),
    )  # fmt: skip
    try:
        for read, fault in steps:
            try:
                await read()
            except RegistryDenied as error:
                return replace(member, fault=fault, detail=_shortened(error, member))
            except RegistryError as error:
                return replace(member, fault=MemberFault.BROKEN, detail=_shortened(error, member))
    finally:
        await registry.close()
    return member


def _shortened(error: RegistryError, member: MemberReport) -> str:
    return str(error).removeprefix(f"{member.url}: ")


async def _alarms(endpoint: Endpoint, token: str) -> tuple[str, ...] | None:
    """Return the alarms in a member's status; ``None`` when it does not report its status."""
    with contextlib.suppress(RegistryError):
        status = await endpoint.ask(STATUS, rpc.StatusRequest(), timeout_s=DEADLINE_S, metadata=metadata(token)[1:])
        return tuple(text for text in status.errors if "alarm" in text)
    return None
