"""The validity of the certificates in PEM files.

``cryptography`` takes 0.1 s and 12 MB to load. So nothing on the way to the first routes imports this module.
"""

import re
import warnings
from contextlib import suppress
from pathlib import Path

from cryptography import x509
from cryptography.utils import CryptographyDeprecationWarning

_PEM = re.compile(rb"-----BEGIN CERTIFICATE-----.+?-----END CERTIFICATE-----", re.DOTALL)


def validity_in_file(path: Path) -> tuple[tuple[float, float], ...]:
    """Return what ``validity_of`` returns for the content of *path*; nothing where it cannot be read."""
    try:
        return validity_of(path.read_bytes())
    except OSError:
        return ()


def validity_of(pem: bytes) -> tuple[tuple[float, float], ...]:
    """Return the first and the last second of each certificate in *pem*, in seconds since 1970.

    A certificate that cannot be parsed is left out. Each is parsed on its own, so that a bad one hides no other.
    """
    found = []
    with warnings.catch_warnings():
        # Bundles of distributions hold old certificates that break RFC 5280. Each would be a warning in the log.
        warnings.simplefilter("ignore", CryptographyDeprecationWarning)
        for block in _PEM.findall(pem):
            with suppress(ValueError, x509.InvalidVersion):
                one = x509.load_pem_x509_certificate(block)
                found.append((one.not_valid_before_utc.timestamp(), one.not_valid_after_utc.timestamp()))
    return tuple(found)
