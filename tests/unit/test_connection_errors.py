"""Which of our errors a failed connection is, by the class and the code of Python's own."""

import errno
import socket
import ssl

import pytest

from pyflanneld.errors import (
    ClientRefused,
    ConnectFailed,
    ConnectionCut,
    NameUnresolved,
    NotEtcd,
    RegistryUnavailable,
    TlsFailed,
)
from pyflanneld.etcd.connections import failure, wrong_protocol

URL = "https://etcd1.example:2379"


def alert(reason: str) -> ssl.SSLError:
    error = ssl.SSLError(1, f"[SSL: {reason}] words of OpenSSL (_ssl.c:1006)")
    error.reason = reason
    return error


def unverified(code: int, words: str) -> ssl.SSLCertVerificationError:
    error = ssl.SSLCertVerificationError(1, "certificate verify failed")
    error.reason, error.verify_code, error.verify_message = "CERTIFICATE_VERIFY_FAILED", code, words
    return error


@pytest.mark.parametrize(
    ("error", "kind", "words"),
    [
        (socket.gaierror(socket.EAI_NONAME, "Name or service not known"), NameUnresolved, "Name or service not known"),
        (ConnectionRefusedError(errno.ECONNREFUSED, "Connect call failed"), ConnectFailed, "Connection refused"),
        (OSError(errno.EHOSTUNREACH, "Connect call failed"), ConnectFailed, "No route to host"),
        (OSError("Multiple exceptions: one, another"), ConnectFailed, "Multiple exceptions: one, another"),
        (ConnectionResetError(), ConnectionCut, "connection lost"),
        (BrokenPipeError(errno.EPIPE, "x"), ConnectionCut, "Broken pipe"),
        (ConnectionError("the server closed the connection"), ConnectionCut, "the server closed the connection"),
        (TimeoutError(errno.ETIMEDOUT, "x"), ConnectFailed, "Connection timed out"),
        (unverified(10, "certificate has expired"), TlsFailed, "certificate has expired (CERTIFICATE_VERIFY_FAILED)"),
        (
            alert("TLSV13_ALERT_CERTIFICATE_REQUIRED"), ClientRefused,
            "the server demands a client certificate, or another one (TLSV13_ALERT_CERTIFICATE_REQUIRED)",
        ),
        (alert("WRONG_VERSION_NUMBER"), TlsFailed, "TLS failed: WRONG_VERSION_NUMBER"),
        (alert("TLSV1_ALERT_PROTOCOL_VERSION"), TlsFailed, "TLS failed: TLSV1_ALERT_PROTOCOL_VERSION"),
        (
            alert("TLSV1_ALERT_NO_APPLICATION_PROTOCOL"), NotEtcd,
            "this server speaks no protocol that etcd has (TLSV1_ALERT_NO_APPLICATION_PROTOCOL)",
        ),
    ],
)  # fmt: skip
def test_each_failure(error: OSError, kind: type[RegistryUnavailable], words: str) -> None:
    """Each has its class, and words that name the member and the reason."""
    found = failure(URL, error)
    assert type(found) is kind
    assert str(found) == f"{URL}: {words}"


def test_the_code_of_a_certificate() -> None:
    """OpenSSL's code is kept, so that nobody has to read the words."""
    found = failure(URL, unverified(64, "IP address mismatch, certificate is not valid for '192.0.2.1'."))
    assert isinstance(found, TlsFailed)
    assert found.verify_code == 64
    assert str(found).endswith("certificate is not valid for '192.0.2.1' (CERTIFICATE_VERIFY_FAILED)")


@pytest.mark.parametrize(
    ("first", "words"),
    [
        (b"HTTP/1.1 400 Bad Request\r\n", "HTTP/1 only"),
        (b"\x15\x03\x01\x00\x02\x02\x16", "needs https://"),
        (b"SSH-2.0-OpenSSH_9.2\r\n", "does not speak HTTP/2"),
        (b"", "does not speak HTTP/2"),
    ],
)
def test_another_protocol(first: bytes, words: str) -> None:
    """What answers HTTP/2 with other bytes is named where they show what it is."""
    assert words in str(wrong_protocol("http://192.0.2.1:2379", first))
