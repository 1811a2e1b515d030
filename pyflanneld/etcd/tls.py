"""The certificate files: read and checked before the first connection, and again when they have changed.

One TLS context is made here for both APIs and for the members that ``doctor`` probes, so that all judge alike. It is
made at the start: a file that does not load, or does not belong to the other, is the operator's mistake and is reported
at once. Exactly these bytes are used later, because the files may be replaced at any time, and two of them not at the
same moment.
"""

import os
import ssl
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from pyflanneld.config import credentials
from pyflanneld.errors import UsageError
from pyflanneld.etcd.access import EtcdAccess
from pyflanneld.system.atomic_files import read_regular
from pyflanneld.system.disk import DiskLane

# Where distributions keep their bundle: Debian and Alpine, Red Hat, SUSE, and OpenSSL's own default.
_SYSTEM_BUNDLES = (
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/ssl/cert.pem",
)

_MAX_BYTES = 16 << 20


@dataclass(frozen=True, slots=True)
class TlsMaterial:
    """What the files hold, as PEM; never shown."""

    ca: bytes = field(repr=False)
    cert: bytes | None = field(default=None, repr=False)
    key: bytes | None = field(default=None, repr=False)


class Tls:
    """The certificates in use.

    Attributes:
        material: for the next connection; ``None`` for http endpoints.

    Raises:
        UsageError: a file is missing, unreadable, not what it should be, or the key does not belong to the
            certificate. The message names the file.
    """

    def __init__(self, access: EtcdAccess) -> None:
        self._access = access
        self._lane = DiskLane()
        self.material = load_tls(access)
        self._contexts: dict[tuple[str, ...], ssl.SSLContext] = {}

    async def reload(self) -> bool:
        """Use the files from now on if they hold anything new; return whether they do.

        Raises:
            UsageError: as at the start, or they do not answer in time; the former ones stay in use.
        """
        try:
            found = await self._lane.run(self._changed)
        except OSError as error:
            raise UsageError(f"the certificate files cannot be read: {error.strerror or error}") from error
        if found is None:
            return False
        self.material, self._contexts = found, {}
        return True

    def _changed(self) -> TlsMaterial | None:
        """Return what the files hold now, checked; ``None`` when that is in use already."""
        found = _read_all(self._access)
        if found is None or found == self.material:
            return None
        _check(self._access, found)
        return found

    def ends_s(self) -> Mapping[str, float]:
        """Return when the certificates in use expire, in seconds since 1970, by the name of the flag that named them.

        Of a client certificate and those that come with it, the first to expire counts; of the authorities the last
        one, because there are two of them while one replaces the other.
        """
        from pyflanneld.system.certificates import validity_of  # deferred: 0.1 s that no start needs

        access, material = self._access, self.material
        ends = {}
        if material is not None and access.ca_file is not None:
            ends["etcd-cafile"] = max((end for _, end in validity_of(material.ca)), default=0.0)
        if material is not None and material.cert is not None:
            ends["etcd-certfile"] = min((end for _, end in validity_of(material.cert)), default=0.0)
        return {name: end_s for name, end_s in ends.items() if end_s}

    def context(self, alpn: Sequence[str] = ()) -> ssl.SSLContext | None:
        """Return the TLS context for https, ``None`` for http; the same until there are other certificates.

        Args:
            alpn: the protocols to offer, for example ``("h2",)``.
        """
        if self.material is None:
            return None
        key = tuple(alpn)
        if key not in self._contexts:
            self._contexts[key] = context_of(self.material, key)
        return self._contexts[key]


def load_tls(access: EtcdAccess) -> TlsMaterial | None:
    """Read the files of *access* and check them; ``None`` for http endpoints. Raises as ``Tls``."""
    material = _read_all(access)
    if material is not None:
        _check(access, material)
    return material


def context_of(material: TlsMaterial, alpn: Sequence[str] = ()) -> ssl.SSLContext:
    """Return the TLS context with *material*: the server is always verified, and its name.

    Each certificate in the CA file is trusted by itself, as in Go: an intermediate alone is enough.

    Raises:
        ssl.SSLError, ValueError: these are not certificates, or not a pair.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    context.load_verify_locations(cadata=material.ca.decode("ascii", "ignore"))
    if material.cert is not None and material.key is not None:
        with _in_memory(material.cert) as cert, _in_memory(material.key) as key:
            context.load_cert_chain(cert, key, password=credentials.no_passphrase)
    if alpn:
        context.set_alpn_protocols(list(alpn))
    return context


def _read_all(access: EtcdAccess) -> TlsMaterial | None:
    if not access.secure:
        return None
    ca = _read(access.ca_file or _system_bundle())
    if access.cert_file is None and access.key_file is None:
        return TlsMaterial(ca)
    if access.cert_file is None or access.key_file is None:
        given = access.cert_file or access.key_file
        raise UsageError(f"a client certificate and its key go together, but only {given} was given")
    return TlsMaterial(ca, _read(access.cert_file), _read(access.key_file))


def _read(path: Path) -> bytes:
    try:
        content = read_regular(os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK), _MAX_BYTES)
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror or error}") from error
    if content is None:  # a FIFO would keep us waiting
        raise UsageError(f"cannot read {path}: it is not a regular file")
    return content


def _system_bundle() -> Path:
    candidates = (os.environ.get("SSL_CERT_FILE"), ssl.get_default_verify_paths().cafile, *_SYSTEM_BUNDLES)
    for candidate in candidates:
        if candidate and Path(candidate).is_file():
            return Path(candidate)
    raise UsageError("no bundle of certificate authorities was found on this system: name one with --etcd-cafile")


def _check(access: EtcdAccess, material: TlsMaterial) -> None:
    """Raise ``UsageError`` unless *material*, from the files of *access*, can be used."""
    try:
        context_of(TlsMaterial(material.ca))
    except (OSError, ValueError) as error:
        name = access.ca_file or "the system bundle"
        raise UsageError(f"{name} holds no certificate authority (PEM): {error}") from error
    cert, key = access.cert_file, access.key_file
    try:
        context_of(material)
    except credentials.EncryptedKeyError:
        raise UsageError(f"{key} is encrypted: a private key without a password is needed") from None
    except (OSError, ValueError) as error:
        raise UsageError(f"{cert} and {key} are not a certificate and its private key in PEM form: {error}") from error
    if access.private_files and key is not None and (exposed := credentials.exposure(key)):
        raise UsageError(exposed)


@contextmanager
def _in_memory(pem: bytes) -> Iterator[str]:
    """Provide *pem* as a file in memory: ``ssl`` loads a pair only from files."""
    descriptor = os.memfd_create("pem", os.MFD_CLOEXEC)
    try:
        with os.fdopen(os.dup(descriptor), "wb") as file:
            file.write(pem)
        yield f"/proc/self/fd/{descriptor}"
    finally:
        os.close(descriptor)
