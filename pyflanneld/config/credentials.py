"""Check the files and the login for etcd's TLS and authentication before anything is contacted. Reads files only.

The functions that read one file raise ``ValueError``, which says what is wrong with it and what would be right.
"""

import ssl
import stat
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TypeVar

from pydantic import SecretStr

from pyflanneld.config.endpoints import endpoint_host, is_loopback
from pyflanneld.config.go_flags import Given, unusable
from pyflanneld.config.settings import Settings
from pyflanneld.errors import UsageError

T = TypeVar("T")

_MAX_PASSWORD_BYTES = 4096


def check(settings: Settings, given: Mapping[str, Given]) -> SecretStr | None:
    """Check the TLS files and the login; return the password, wherever it comes from.

    Raises:
        UsageError: a file or a part of the login is missing, wrong, given twice or exposed; names the flag.
    """
    _check_tls(settings, given)
    password = _check_login(settings, given)
    if settings.refuse_exposed_keys and (exposed := _exposed(settings, given)):
        raise UsageError(f"{exposed[0]}, or leave --refuse-exposed-keys out")
    return password


def warnings(settings: Settings, given: Mapping[str, Given]) -> list[str]:
    """Return a sentence for each secret that others on this host can read."""
    found = _exposed(settings, given)
    if given["etcd-password"].in_argv and settings.etcd_password:
        found.append("--etcd-password on the command line can be read by everyone here; use --etcd-password-file")
    return found


def _check_tls(settings: Settings, given: Mapping[str, Given]) -> None:
    """Refuse half a client pair, TLS files that no endpoint would use, and files that cannot be read or are not PEM."""
    ca, cert, key = settings.etcd_cafile, settings.etcd_certfile, settings.etcd_keyfile
    if cert and not key:
        raise UsageError(f"{given['etcd-certfile'].written} is given without --etcd-keyfile: both are needed")
    if key and not cert:
        raise UsageError(f"{given['etcd-keyfile'].written} is given without --etcd-certfile: both are needed")
    if not _uses_tls(settings):
        _refuse_tls_files(settings, given)
        return
    if ca:
        _read(given["etcd-cafile"], check_ca, ca)
    if cert and key:
        _read(given["etcd-certfile"], check_readable, cert)
        _read(given["etcd-keyfile"], check_readable, key)
        _read(given["etcd-keyfile"], check_pair, cert, key)


def _uses_tls(settings: Settings) -> bool:
    return settings.etcd_endpoints[0].startswith("https://")


def _refuse_tls_files(settings: Settings, given: Mapping[str, Given]) -> None:
    for name in ("etcd-cafile", "etcd-certfile", "etcd-keyfile"):
        if given[name].value:
            raise UsageError(
                f"{given[name].written} is given, but {given['etcd-endpoints'].written} is "
                f"{','.join(settings.etcd_endpoints)}: TLS files need https:// endpoints"
            )


def _check_login(settings: Settings, given: Mapping[str, Given]) -> SecretStr | None:
    """Return the password; refuse what is incomplete, doubled, or would travel in clear text."""
    user, flag, file = given["etcd-username"], given["etcd-password"], given["etcd-password-file"]
    if flag.value and file.value:
        raise UsageError(f"{flag.written} and {file.written} are both given: one of them is enough")
    if (flag.value or file.value) and not user.value:
        written = (flag if flag.value else file).written
        raise UsageError(f"{written} is given without --etcd-username: a password needs its user")
    if not user.value:
        return None
    if not (flag.value or file.value):
        raise UsageError(f"{user.written} is given without --etcd-password-file or --etcd-password")
    _refuse_plaintext(settings, user)
    path = settings.etcd_password_file
    return SecretStr(_read(file, read_password, path)) if path else settings.etcd_password


def _refuse_plaintext(settings: Settings, user: Given) -> None:
    if _uses_tls(settings) or settings.allow_plaintext_auth:
        return
    for endpoint in settings.etcd_endpoints:
        if not is_loopback(endpoint_host(endpoint)):
            raise UsageError(
                f"{user.written}: user and password would cross the network in clear text to {endpoint}: "
                "use https:// endpoints, or say --allow-plaintext-auth"
            )


def _exposed(settings: Settings, given: Mapping[str, Given]) -> list[str]:
    """Return a sentence for each secret file that others than its owner can read."""
    files = {"etcd-keyfile": settings.etcd_keyfile, "etcd-password-file": settings.etcd_password_file}
    exposed = {name: exposure(path) for name, path in files.items() if path}
    return [f"{given[name].written}: {text}" for name, text in exposed.items() if text]


def _read(item: Given, read: Callable[..., T], *paths: Path) -> T:
    """Return what *read* makes of the files; a ``ValueError`` becomes one that names the flag."""
    try:
        return read(*paths)
    except ValueError as error:
        raise unusable(item.written, item.value, str(error)) from None


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
        if stat.S_ISFIFO(path.stat().st_mode):
            raise ValueError("it is a FIFO, which can be read only once: a regular file is needed")
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
    """Return a text when others than the owner can read *path*, with how to fix it; ``None`` when all is well."""
    try:
        mode = path.stat().st_mode
    except OSError:
        return None
    if not stat.S_ISREG(mode) or not mode & 0o044:
        return None
    return f"{path} can be read by group or others (mode {mode & 0o777:04o}); chmod 600 fixes it"


class EncryptedKeyError(Exception):
    """A private key needs a passphrase."""


def no_passphrase() -> str:
    """Raise ``EncryptedKeyError``, as ``load_cert_chain``'s *password*: OpenSSL would ask on the terminal, and wait."""
    raise EncryptedKeyError


def _unreadable(error: OSError) -> str:
    return f"the file cannot be read: {error.strerror or error}"
