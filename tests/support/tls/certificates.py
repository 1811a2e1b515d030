"""Throw-away certificates for tests, in files that may be written anew while somebody uses them."""

from datetime import UTC, datetime, timedelta
from ipaddress import IPv4Address
from pathlib import Path

import trustme
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.asymmetric.types import CertificateIssuerPrivateKeyTypes

from tests.support.etcd.server import Files


def files_in(folder: Path) -> Files:
    """Return where a certificate, its key and the authorities to believe in are to stand, in a new folder."""
    folder.mkdir(parents=True)
    return Files(folder / "ca.pem", folder / "cert.pem", folder / "key.pem")


def write(files: Files, cert: trustme.LeafCert, *trusted: trustme.CA) -> None:
    """Put a certificate with its key, and the authorities to believe in, into *files*."""
    believe(files, *trusted)
    show(files, b"".join(pem.bytes() for pem in cert.cert_chain_pems), cert.private_key_pem.bytes())


def believe(files: Files, *trusted: trustme.CA) -> None:
    """Put the authorities to believe in into *files*."""
    files.ca.write_bytes(b"".join(ca.cert_pem.bytes() for ca in trusted))


def show(files: Files, cert: bytes, key: bytes) -> None:
    """Put a certificate and its key, PEM, into *files*; the key is its owner's alone."""
    files.key.unlink(missing_ok=True)
    files.key.touch(0o600)
    files.key.write_bytes(key)
    files.cert.write_bytes(cert)


def end_of(file: Path) -> float:
    """Return the last second of the first certificate in *file*."""
    return x509.load_pem_x509_certificates(file.read_bytes())[0].not_valid_after_utc.timestamp()


def self_signed(address: str, key: CertificateIssuerPrivateKeyTypes | None = None) -> tuple[bytes, bytes]:
    """Return a certificate that nobody but itself vouches for, and its key, PEM; of the kind of *key*."""
    key = key or ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, address)])
    now = datetime.now(UTC)
    builder = x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
    builder = builder.not_valid_before(now - timedelta(days=1)).not_valid_after(now + timedelta(days=365))
    names = x509.SubjectAlternativeName([x509.IPAddress(IPv4Address(address))])
    digest = None if isinstance(key, ed25519.Ed25519PrivateKey) else hashes.SHA256()
    cert = builder.add_extension(names, critical=False).sign(key, digest)
    form, plain = serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    pem = serialization.Encoding.PEM
    return cert.public_bytes(pem), key.private_bytes(pem, form, plain)
