"""Probes one etcd member for ``pyflanneld doctor``: what fails, and in which step.

No port: the daemon never does this. The kind of request names the step, not the response: first a plain HTTP request
(name, connection, TLS, whether it is etcd at all), then the login, then one read of each kind of key.
"""

import asyncio
import contextlib
import random
import ssl
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace
from email.parser import BytesParser
from email.utils import parsedate_to_datetime
from functools import partial
from typing import Any, Final
from urllib.parse import urlsplit

from pydantic import ValidationError
from structlog.typing import FilteringBoundLogger

from pyflanneld.core.etcd_types import ConfigRecord, MemberFault, MemberReport, Snapshot
from pyflanneld.errors import (
    ClientRefused,
    ConnectFailed,
    NameUnresolved,
    NoAnswer,
    RegistryDenied,
    RegistryError,
    RegistryUnavailable,
    TlsFailed,
)
from pyflanneld.etcd.access import EtcdAccess
from pyflanneld.etcd.connections import connect, why_lost
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
    try:
        return await _version(url, Tls(access).context(), deadline_s)
    except RegistryUnavailable as error:
        report = _report(error, MemberReport(url), _fault(error))
        return replace(report, detail="") if report.fault is MemberFault.REFUSED else report


async def _version(url: str, context: ssl.SSLContext | None, deadline_s: float) -> MemberReport:
    reader = asyncio.StreamReader()
    make = partial(asyncio.StreamReaderProtocol, reader)
    transport, _ = await connect(url, make, context, timeout_s=deadline_s)
    response = b""
    try:
        async with asyncio.timeout(deadline_s):
            transport.write(f"GET /version HTTP/1.0\r\nHost: {urlsplit(url).netloc}\r\n\r\n".encode())
            while len(response) < _RESPONSE_BYTES and (more := await reader.read(_RESPONSE_BYTES)):
                response += more
    except TimeoutError as error:
        raise NoAnswer(f"{url}: the connection is open, and no answer came within {deadline_s:g} s") from error
    except OSError as error:
        raise await why_lost(url, context, error) from error
    finally:
        transport.abort()
    until_s = _certificate_until_s(transport.get_extra_info("peercert"))
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


def _fault(error: RegistryUnavailable) -> MemberFault:
    match error:
        case NameUnresolved():
            return MemberFault.NO_NAME
        case ConnectFailed(__cause__=ConnectionRefusedError()):
            return MemberFault.REFUSED
        case ConnectFailed(__cause__=ConnectionError()):
            return MemberFault.NO_ETCD
        case ConnectFailed():
            return MemberFault.UNREACHABLE
        case ClientRefused():
            return MemberFault.CLIENT
        case TlsFailed():
            return _VERIFY_FAULTS.get(error.verify_code, MemberFault.TLS)
        case NoAnswer():
            return MemberFault.TIMEOUT
        case _:
            return MemberFault.NO_ETCD


def _report(error: RegistryError, member: MemberReport, fault: MemberFault) -> MemberReport:
    return replace(member, fault=fault, detail=str(error).removeprefix(f"{member.url}: "))


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
        return _report(error, member, MemberFault.LOGIN if isinstance(error, RegistryDenied) else MemberFault.BROKEN)
    else:
        alarms = await _alarms(endpoint, token)
    finally:
        await endpoint.close()
    return replace(await _try_reads(EtcdV3Registry(alone, rng=random.Random(), log=log), member), alarms=alarms)


async def _try_reads(registry: EtcdV2Registry | EtcdV3Registry, member: MemberReport) -> MemberReport:
    steps: tuple[tuple[Callable[[], Awaitable[ConfigRecord | Snapshot]], MemberFault], ...] = (
        (registry.read_config, MemberFault.CONFIG_DENIED), (registry.list_subnets, MemberFault.SUBNETS_DENIED),
    )  # fmt: skip
    cluster_id = None
    try:
        for read, fault in steps:
            try:
                answer = await read()
            except RegistryDenied as error:
                return _report(error, member, fault)
            except RegistryError as error:
                return _report(error, member, MemberFault.BROKEN)
            cluster_id = answer.cluster_id if isinstance(answer, Snapshot) else None
    finally:
        await registry.close()
    return replace(member, cluster_id=cluster_id)


async def _alarms(endpoint: Endpoint, token: str) -> tuple[str, ...] | None:
    """Return the alarms in a member's status; ``None`` when it does not report its status."""
    with contextlib.suppress(RegistryError):
        status = await endpoint.ask(STATUS, rpc.StatusRequest(), timeout_s=DEADLINE_S, metadata=metadata(token)[1:])
        return tuple(text for text in status.errors if "alarm" in text)
    return None
