"""The dates of certificates in PEM files. Shell side: reads files, nothing else.

The standard library tells the dates of a certificate only to a peer that shows it, so the few fields on the way there
are read here. Form: RFC 5280, section 4.1, in the encoding of X.690.
"""

import re
import ssl
from collections.abc import Iterator
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path

_PEM = re.compile(r"-----BEGIN CERTIFICATE-----.+?-----END CERTIFICATE-----", re.DOTALL)
_INTEGER, _SEQUENCE, _UTC_TIME, _GENERALIZED_TIME = 0x02, 0x30, 0x17, 0x18


def spans(path: Path) -> tuple[tuple[float, float], ...]:
    """Return the first and the last second of each certificate in *path*; those that cannot be read are left out."""
    try:
        return spans_of(path.read_bytes())
    except OSError:
        return ()


def spans_of(pem: bytes) -> tuple[tuple[float, float], ...]:
    """Return the first and the last second of each certificate in *pem*; those that cannot be read are left out."""
    found = []
    for block in _PEM.findall(pem.decode("ascii", "ignore")):
        with suppress(ValueError, IndexError):
            found.append(validity(ssl.PEM_cert_to_DER_cert(block)))
    return tuple(found)


def validity(der: bytes) -> tuple[float, float]:
    """Return the first and the last second of a certificate.

    Raises:
        ValueError, IndexError: that is none.
    """
    (_, certificate), *_ = _elements(der)
    (_, to_be_signed), *_ = _elements(certificate)
    fields = list(_elements(to_be_signed))
    # An optional version, the serial number, the signature's algorithm, the issuer, and then the validity.
    serial = next(place for place, (tag, _) in enumerate(fields) if tag == _INTEGER)
    tag, validity = fields[serial + 3]
    if tag != _SEQUENCE:
        raise ValueError("no validity where it should be")
    begin, end = _elements(validity)
    return _time_s(*begin), _time_s(*end)


def _elements(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Yield tag and content of the elements that follow each other in *data*."""
    at = 0
    while at < len(data):
        tag, length, at = data[at], data[at + 1], at + 2
        if length & 0x80:
            size = length & 0x7F
            length, at = int.from_bytes(data[at : at + size], "big"), at + size
        yield tag, data[at : at + length]
        at += length


def _time_s(tag: int, text: bytes) -> float:
    if tag not in (_UTC_TIME, _GENERALIZED_TIME):
        raise ValueError("no time where it should be")
    digits = text.decode("ascii").removesuffix("Z")
    if tag == _UTC_TIME:  # years of two digits are those from 1950 to 2049
        digits = ("19" if int(digits[:2]) >= 50 else "20") + digits
    return datetime.strptime(digits, "%Y%m%d%H%M%S").replace(tzinfo=UTC).timestamp()
