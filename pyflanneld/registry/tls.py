"""The certificate files, read and checked before anything is dialled.

gRPC reports a bad file only as a failing handshake, long after the start, so the files are tried on the standard
library's ``ssl`` first: what does not load, or does not fit together, is the operator's mistake and said at once.
"""

import os
import ssl
from dataclasses import dataclass, field
from pathlib import Path

from pyflanneld.errors import UsageError
from pyflanneld.registry.access import EtcdAccess

# Where distributions keep their bundle: Debian and Alpine, Red Hat, SUSE, and OpenSSL's own default.
_SYSTEM_BUNDLES = (
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/ssl/cert.pem",
)


@dataclass(frozen=True, slots=True)
class TlsMaterial:
    """PEM bytes for gRPC; the private key is never shown."""

    ca: bytes = field(repr=False)
    cert: bytes | None = field(default=None, repr=False)
    key: bytes | None = field(default=None, repr=False)


def load_tls(access: EtcdAccess) -> TlsMaterial | None:
    """Read the files of *access*; ``None`` for http endpoints.

    Raises:
        UsageError: a file is missing, unreadable, not what it should be, or the key does not belong to the
            certificate. The message names the file.
    """
    if not access.secure:
        return None
    authorities = _read(access.ca_file or _system_bundle())
    _check_authorities(authorities, access.ca_file)
    if access.cert_file is None and access.key_file is None:
        return TlsMaterial(ca=authorities)
    if access.cert_file is None or access.key_file is None:
        given = access.cert_file or access.key_file
        raise UsageError(f"a client certificate and its key go together, but only {given} was given")
    material = TlsMaterial(ca=authorities, cert=_read(access.cert_file), key=_read(access.key_file))
    _check_pair(access.cert_file, access.key_file)
    return material


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror or error}") from error


def _system_bundle() -> Path:
    candidates = (os.environ.get("SSL_CERT_FILE"), ssl.get_default_verify_paths().cafile, *_SYSTEM_BUNDLES)
    for candidate in candidates:
        if candidate and Path(candidate).is_file():
            return Path(candidate)
    raise UsageError("no bundle of certificate authorities was found on this system: name one with --etcd-cafile")


def _check_authorities(pem: bytes, path: Path | None) -> None:
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(cadata=pem.decode("ascii", "ignore"))
    except (ssl.SSLError, ValueError) as error:
        raise UsageError(f"{path or 'the system bundle'} holds no certificate authority (PEM): {error}") from error


def _check_pair(cert: Path, key: Path) -> None:
    def no_password() -> str:
        raise UsageError(f"{key} is encrypted: a private key without a password is needed")

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    try:
        context.load_cert_chain(cert, key, password=no_password)
    except ssl.SSLError as error:
        raise UsageError(f"{cert} and {key} are not a certificate and its private key in PEM form: {error}") from error
