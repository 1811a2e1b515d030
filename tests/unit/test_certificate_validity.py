"""How long the certificates of a PEM file are valid, and that no start pays for knowing it."""

import subprocess
import sys
import warnings
from datetime import UTC, datetime
from pathlib import Path

import trustme

from pyflanneld.system.certificates import validity_in_file, validity_of

BEGIN, END = datetime(2020, 1, 2, 3, 4, 5, tzinfo=UTC), datetime(2061, 1, 2, 3, 4, 5, tzinfo=UTC)
JUNK = b"-----BEGIN CERTIFICATE-----\nMAA=\n-----END CERTIFICATE-----\n"

# Its serial number is 0, which RFC 5280 forbids; bundles of distributions hold such ones.
OLD = b"""-----BEGIN CERTIFICATE-----
MIIBWzCCAQKgAwIBAgIBADAKBggqhkjOPQQDAjAMMQowCAYDVQQDDAF4MCAXDTI2
MTEzMDEyMzQxNVoYDzIxMjYxMTA2MTIzNDE1WjAMMQowCAYDVQQDDAF4MFkwEwYH
KoZIzj0CAQYIKoZIzj0DAQcDQgAE+rYyzSzJluzpZKv7OC4DiewGJRi73Tp379/F
idLVf1Ue7SseTg0R0+a5AAjW2B4K/nTaaAAwGjzBDIgfcCOgoKNTMFEwHQYDVR0O
BBYEFHkO2Sll74yxQUcScHtEyF4pvR8zMB8GA1UdIwQYMBaAFHkO2Sll74yxQUcS
cHtEyF4pvR8zMA8GA1UdEwEB/wQFMAMBAf8wCgYIKoZIzj0EAwIDRwAwRAIgL2Mm
c7qn9Wa0m2GNrZU7zSKR6bUOiBtEJoCeQFQoP78CIDVKpGUIMBMBh14/aMGqA38q
hRpg5SIoOCIkYXF5tD3l
-----END CERTIFICATE-----
"""


def issued() -> bytes:
    cert = trustme.CA().issue_cert("a", not_before=BEGIN, not_after=END)
    return b"".join(pem.bytes() for pem in cert.cert_chain_pems)


def test_the_dates_are_those_of_the_certificates(tmp_path: Path) -> None:
    """Both forms of time in a certificate are read: two digits for the year before 2050, four from then on."""
    (tmp_path / "cert").write_bytes(issued())
    assert validity_in_file(tmp_path / "cert") == ((BEGIN.timestamp(), END.timestamp()),)
    assert validity_in_file(tmp_path / "absent") == ()


def test_every_certificate_of_a_file_is_read() -> None:
    """One that cannot be parsed is left out, and hides none of the others; so is what stands around them."""
    one, other = issued(), trustme.CA().cert_pem.bytes()
    assert len(validity_of(b"\xff# mine\n" + one + JUNK + b"\n" + other)) == 2
    assert validity_of(JUNK) == validity_of(b"") == ()


def test_an_old_certificate_is_no_warning_in_the_log() -> None:
    """What the library has to say about it is not the operator's business."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert len(validity_of(OLD)) == 1


def test_no_start_loads_the_library() -> None:
    """It takes 0.1 s: longer than a start without it."""
    program = (
        "import sys, pyflanneld.etcd.tls, pyflanneld.daemon.run, pyflanneld.daemon.servers, pyflanneld.daemon.wiring\n"
        "print('cryptography' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"
