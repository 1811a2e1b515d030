"""Looks at the files that etcd's TLS and authentication need, before anything is contacted. Reads files, nothing else.

``ValueError`` from here says what is wrong with a file and what would be right; the caller names the flag.
"""

import ssl
import stat
from pathlib import Path

_MAX_PASSWORD_BYTES = 4096


def read_password(path: Path) -> str:
    """Return the only line of *path*, without its line end.

    Raises:
        ValueError: not readable, empty, more than one line, or not UTF-8.
    """
    try:
        with path.open("rb") as file:
            data = file.read(_MAX_PASSWORD_BYTES + 1)
    except OSError as error:
        raise ValueError(_unreadable(error)) from None
    if len(data) > _MAX_PASSWORD_BYTES:
        raise ValueError(f"the file is longer than {_MAX_PASSWORD_BYTES} bytes")
    try:
        text = data.decode()
    except UnicodeDecodeError:
        raise ValueError("the file is not UTF-8 text") from None  # never show what is in it
    text = text.removesuffix("\n").removesuffix("\r")
    if not text:
        raise ValueError("the file is empty")
    if "\n" in text or "\0" in text:
        raise ValueError("the file has to hold the password on one line and nothing else")
    return text


def check_readable(path: Path) -> None:
    """Raise ``ValueError`` unless *path* is a file that this process can read."""
    try:
        with path.open("rb") as file:
            file.read(1)
    except OSError as error:
        raise ValueError(_unreadable(error)) from None


def check_ca(path: Path) -> None:
    """Raise ``ValueError`` unless *path* holds at least one CA certificate in PEM."""
    check_readable(path)
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(cafile=path)
    except (ssl.SSLError, OSError):
        raise ValueError("the file holds no certificate in PEM form") from None


def check_pair(cert: Path, key: Path) -> None:
    """Raise ``ValueError`` unless *cert* and *key* (PEM, not encrypted) belong together."""
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_cert_chain(cert, key, password=no_passphrase)
    except EncryptedKeyError:
        raise ValueError("the key is encrypted; it has to be stored without a passphrase") from None
    except ssl.SSLError as error:
        if error.reason == "KEY_VALUES_MISMATCH":
            raise ValueError(f"the key does not belong to the certificate {cert}") from None
        raise ValueError(f"this and {cert} are not a key and a certificate in PEM form") from None
    except OSError as error:
        raise ValueError(_unreadable(error)) from None


def exposure(path: Path) -> str | None:
    """Say that others than the owner can read *path*, and how to mend that; ``None`` when all is well."""
    try:
        mode = path.stat().st_mode
    except OSError:
        return None
    if not stat.S_ISREG(mode) or not mode & 0o044:
        return None
    return f"{path} can be read by group or others (mode {mode & 0o777:04o}); chmod 600 mends it"


class EncryptedKeyError(Exception):
    """A private key needs a passphrase."""


def no_passphrase() -> str:
    """Raise ``EncryptedKeyError``, as ``load_cert_chain``'s *password*: OpenSSL would ask on the terminal, and wait."""
    raise EncryptedKeyError


def _unreadable(error: OSError) -> str:
    return f"the file cannot be read: {error.strerror or error}"
