"""gRPC's errors as ours, with a hint where the cause is known."""

import grpc
import pytest
from grpc.aio import AioRpcError, Metadata

from pyflanneld.errors import RegistryUnavailable
from pyflanneld.etcd.v3.channel import translate

HANDSHAKE = "failed to connect; last error: UNKNOWN: ipv4:192.0.2.1:2379: Tls handshake failed ({}): OK"
ALERT = "TSI_PROTOCOL_FAILURE): SSL_ERROR_SSL: error:10000412:SSL routines:OPENSSL_internal:"


def failed(details: str) -> AioRpcError:
    """Return what a call raises while no connection can be made."""
    return AioRpcError(grpc.StatusCode.UNAVAILABLE, Metadata(), Metadata(), details)


@pytest.mark.parametrize(
    "sign",
    [
        "TSI_DATA_CORRUPTED",
        f"{ALERT}SSLV3_ALERT_BAD_CERTIFICATE",
        f"{ALERT}TLSV1_ALERT_CERTIFICATE_REQUIRED",
        f"{ALERT}TLSV1_ALERT_UNKNOWN_CA",
    ],
    ids=["closed", "bad", "required", "unknown"],
)  # fmt: skip
def test_a_required_client_certificate_is_named(sign: str) -> None:
    """The server's alert may come in the handshake or after it."""
    error = translate(failed(HANDSHAKE.format(sign)), "https://192.0.2.1:2379")
    assert isinstance(error, RegistryUnavailable)
    assert str(error).endswith("closed the TLS connection: it may demand a client certificate, or another one")


def test_other_handshakes_are_not() -> None:
    """The certificate of the server is another matter."""
    details = HANDSHAKE.format(f"{ALERT}CERTIFICATE_VERIFY_FAILED: self-signed certificate")
    assert "client certificate" not in str(translate(failed(details), "https://192.0.2.1:2379"))
