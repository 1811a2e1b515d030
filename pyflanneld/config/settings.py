"""The daemon's settings: one frozen value, complete and checked before anything is contacted.

Reads the command line, the environment and the files they name; imports nothing that talks to etcd or the kernel.
"""

import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from ipaddress import IPv4Address
from pathlib import Path
from typing import TypeVar

from pydantic import BaseModel, ConfigDict, Field, SecretStr, ValidationError

from pyflanneld import __version__
from pyflanneld.config import credentials, deprecated, usage
from pyflanneld.config.flags import FLAGS, FLANNELD_ONLY
from pyflanneld.config.go_flags import (
    Flag,
    Given,
    HelpAsked,
    fill_in,
    read_argv,
    read_mixed,
    refuse_words,
    unread_variables,
)
from pyflanneld.config.types import (
    Account,
    BridgeName,
    CanReach,
    Endpoints,
    EtcdApi,
    FilePath,
    Interfaces,
    ListenIp,
    LogFormat,
    MetricsBind,
    OptionalDirectory,
    OptionalPath,
    Patterns,
    Port,
    Prefix,
    PublicIp,
    PublicIpv6,
    RouteProtocol,
    UserName,
    Verbosity,
    endpoint_host,
    is_loopback,
)
from pyflanneld.core.invalid import shown
from pyflanneld.errors import UsageError

T = TypeVar("T")

_ALL_FLAGS = (*FLAGS, *deprecated.RETIRED, *deprecated.KUBERNETES)

_TITLE = """\
pyflanneld {version}: leases a subnet from etcd and keeps host-gw routes to its peers, in flanneld's place.

Usage: {forms}

Flags are written -x v, -x=v, --x v or --x=v. Each can be set by the variable shown; the command line wins.
"""


class Settings(BaseModel):
    """What the operator wants. Field names are the flags'; durations are in seconds.

    Attributes:
        etcd_endpoints: ``("https://10.0.0.1:2379", …)``, port always present, all http or all https.
        etcd_prefix: ``"/coreos.com/network"``, no trailing slash.
        etcd_password: from the flag, the variable or the password file; never shown by ``repr``.
        iface: interface names or IPv4 addresses, in the operator's order.
        healthz_port: 0 when there is to be no listener.
        metrics_bind: address and port of the metrics and the page; ``None``: no listener.
        verbosity: ``-v``.
        user: whom to become, ``"NAME[:GROUP]"``; ``None``: nobody else.
        warnings: what the operator should mend although it works, one sentence each; to be logged at start.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, hide_input_in_errors=True)

    etcd_endpoints: Endpoints = ("http://127.0.0.1:4001", "http://127.0.0.1:2379")
    etcd_prefix: Prefix = "/coreos.com/network"
    etcd_api: EtcdApi = "auto"
    etcd_cafile: OptionalPath = None
    etcd_certfile: OptionalPath = None
    etcd_keyfile: OptionalPath = None
    etcd_username: UserName = None
    etcd_password: SecretStr | None = None
    etcd_password_file: OptionalPath = None
    allow_plaintext_auth: bool = False
    refuse_exposed_keys: bool = False
    iface: Interfaces = ()
    iface_regex: Patterns = ()
    iface_can_reach: CanReach = None
    public_ip: PublicIp = None
    public_ipv6: PublicIpv6 = None
    subnet_file: FilePath = Path("/run/flannel/subnet.env")
    subnet_lease_renew_margin_s: float = Field(default=3600.0, ge=60.0, le=1439 * 60.0)
    state_dir: OptionalDirectory = None
    docker_bridge: BridgeName = "docker0"
    route_protocol: RouteProtocol = 103
    withdraw_guard: bool = True
    ip_masq: bool = False
    ip_masq_fully_random_disable: bool = False
    iptables_forward_rules: bool = True
    iptables_resync_s: float = Field(default=5.0, ge=1.0, le=86400.0)
    ip_blackhole_route: bool = False
    probe: bool = False
    probe_interval_s: float = Field(default=30.0, ge=5.0, le=3600.0)
    healthz_ip: ListenIp = IPv4Address("0.0.0.0")  # noqa: S104 - flannel's default
    healthz_port: Port = 2401
    metrics_bind: MetricsBind = (IPv4Address("127.0.0.1"), 2402)
    metrics_textfile: OptionalPath = None
    log_format: LogFormat = "console"
    verbosity: Verbosity = 0
    user: Account = None
    warnings: tuple[str, ...] = ()


def _daemon_form() -> Sequence[str]:
    return ("pyflanneld [flags]",)


def load(
    argv: Sequence[str], environ: Mapping[str, str], *, forms: Callable[[], Sequence[str]] = _daemon_form
) -> Settings:
    """Read the settings from *argv* (without the program's name) and *environ*.

    Args:
        argv: the words of the command line.
        environ: the environment.
        forms: returns the lines on how to use the program, for ``--help``.

    Raises:
        UsageError: one line that names the flag or variable as it was written, its value, and what would be right.
        SystemExit: 0, after ``--help`` or ``--version`` was answered on stdout.
    """
    with _helping(lambda: _TITLE.format(version=__version__, forms="\n       ".join(forms())), FLAGS):
        on_line, rest = read_argv(argv, _ALL_FLAGS, FLANNELD_ONLY)
    if "version" in on_line and on_line["version"].value:  # before the environment is read, as in flanneld
        sys.stdout.write(f"pyflanneld {__version__}\n")
        raise SystemExit(0)
    refuse_words(rest, FLAGS)
    given, remarks = deprecated.apply_deprecated(fill_in(on_line, environ, _ALL_FLAGS))
    return _checked(given, environ, remarks)


def load_some(
    argv: Sequence[str], environ: Mapping[str, str], *, title: str, flags: Sequence[Flag]
) -> tuple[Settings, dict[str, Given]]:
    """Read a sub-command's flags: at least those of etcd, some of the daemon's, and some of its own.

    Returns:
        The settings, with defaults for what the sub-command has no flag for, and all flags as they were given.

    Raises:
        UsageError: as for ``load``.
        SystemExit: 0, after ``--help`` was answered on stdout.
    """
    words, settings, given = load_words(argv, environ, title=title, flags=flags)
    refuse_words(words, flags)
    return settings, given


def load_words(
    argv: Sequence[str], environ: Mapping[str, str], *, title: str, flags: Sequence[Flag]
) -> tuple[list[str], Settings, dict[str, Given]]:
    """Read the flags of a sub-command that takes words among them; return the words, and the rest as ``load_some``."""
    with _helping(lambda: title, flags):
        on_line, words = read_mixed(argv, flags)
    given = fill_in(on_line, environ, flags)
    ours = {flag.name for flag in FLAGS}
    return words, _checked({name: item for name, item in given.items() if name in ours}, environ), given


def load_as_daemon(
    argv: Sequence[str], environ: Mapping[str, str], *, title: str, own: Sequence[Flag]
) -> tuple[Settings, dict[str, Given]]:
    """Read a daemon's flags and variables, as ``load`` does, for a sub-command that has some flags of its *own*.

    Returns and raises as ``load_some``.
    """
    flags = (*own, *_ALL_FLAGS)
    with _helping(lambda: title, (*own, *FLAGS)):
        on_line, rest = read_argv(argv, flags, FLANNELD_ONLY)
    refuse_words(rest, flags)
    given = fill_in(on_line, environ, flags)
    names = {flag.name for flag in _ALL_FLAGS}
    ours, remarks = deprecated.apply_deprecated({name: item for name, item in given.items() if name in names})
    return _checked(ours, environ, remarks), given


@contextmanager
def _helping(title: Callable[[], str], flags: Sequence[Flag]) -> Iterator[None]:
    """Answer ``--help`` where it is asked for, and end."""
    try:
        yield
    except HelpAsked:
        sys.stdout.write(usage.usage(title(), flags))
        raise SystemExit(0) from None


def _checked(given: Mapping[str, Given], environ: Mapping[str, str], remarks: tuple[str, ...] = ()) -> Settings:
    settings = _typed(given)
    _check_tls(settings, given)
    password = _check_auth(settings, given)
    if settings.refuse_exposed_keys and (exposed := _exposed(settings, given)):
        raise UsageError(f"{exposed[0]}, or leave --refuse-exposed-keys out")
    update = {"etcd_password": password, "warnings": remarks + _warnings(settings, given, environ)}
    return settings.model_copy(update=update)


def flag_table_markdown() -> str:
    """Return the table of all flags for ``docs/configuration.md``, between ``<!-- flags -->`` and its end mark."""
    return usage.markdown(FLAGS)


def _typed(given: Mapping[str, Given]) -> Settings:
    """Build the settings field by field; the first bad one is reported in the operator's words."""
    values: dict[str, object] = {}
    for name, item in given.items():
        if name not in {"help", "version"} and not item.is_default:
            values[_FIELDS.get(name, name.replace("-", "_"))] = item.value
    _convert(values, given)
    try:
        return Settings.model_validate(values)
    except ValidationError as error:
        raise _usage_error(error, given) from None


def _convert(values: dict[str, object], given: Mapping[str, Given]) -> None:
    """Put minutes, seconds and the secret into their fields' own types."""
    margin = values.get("subnet_lease_renew_margin_s")
    if isinstance(margin, int):
        if not 1 <= margin <= 1439:
            raise _unusable(given["subnet-lease-renew-margin"], "minutes from 1 to 1439 are needed")
        values["subnet_lease_renew_margin_s"] = margin * 60.0
    for field, (least, longest) in _SECONDS.items():
        seconds = values.get(field)
        if isinstance(seconds, int):
            if not least <= seconds <= longest:
                raise _unusable(given[_NAMES[field]], f"seconds from {least} to {longest} are needed")
            values[field] = float(seconds)
    if "etcd_password" in values:
        password = str(values["etcd_password"])
        values["etcd_password"] = SecretStr(password) if password else None


_FIELDS = {
    "v": "verbosity",
    "subnet-lease-renew-margin": "subnet_lease_renew_margin_s",
    "iptables-resync": "iptables_resync_s",
    "probe-interval": "probe_interval_s",
}
_SECONDS = {"iptables_resync_s": (1, 86400), "probe_interval_s": (5, 3600)}
_NAMES = {field: name for name, field in _FIELDS.items()}


def _usage_error(error: ValidationError, given: Mapping[str, Given]) -> UsageError:
    first = error.errors()[0]
    field = str(first["loc"][0])
    expected = str(first.get("ctx", {}).get("error", first["msg"]))
    return _unusable(given[_NAMES.get(field, field.replace("_", "-"))], expected)


def _unusable(item: Given, expected: str) -> UsageError:
    value = ",".join(item.value) if isinstance(item.value, tuple) else item.value
    without_login = re.sub(r"://[^/,]*@", "://***@", value) if isinstance(value, str) else value
    return UsageError(f"{item.written}: {shown(without_login)} is not usable: {expected}")


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
        _look_at(given["etcd-cafile"], credentials.check_ca, ca)
    if cert and key:
        _look_at(given["etcd-certfile"], credentials.check_readable, cert)
        _look_at(given["etcd-keyfile"], credentials.check_readable, key)
        _look_at(given["etcd-keyfile"], credentials.check_pair, cert, key)


def _uses_tls(settings: Settings) -> bool:
    return settings.etcd_endpoints[0].startswith("https://")


def _refuse_tls_files(settings: Settings, given: Mapping[str, Given]) -> None:
    for name in ("etcd-cafile", "etcd-certfile", "etcd-keyfile"):
        if given[name].value:
            raise UsageError(
                f"{given[name].written} is given, but {given['etcd-endpoints'].written} is "
                f"{','.join(settings.etcd_endpoints)}: TLS files need https:// endpoints"
            )


def _check_auth(settings: Settings, given: Mapping[str, Given]) -> SecretStr | None:
    """Return the password, from wherever it is; refuse what is incomplete, doubled, or would travel in clear text."""
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
    return SecretStr(_look_at(file, credentials.read_password, path)) if path else settings.etcd_password


def _refuse_plaintext(settings: Settings, user: Given) -> None:
    if _uses_tls(settings) or settings.allow_plaintext_auth:
        return
    for endpoint in settings.etcd_endpoints:
        if not is_loopback(endpoint_host(endpoint)):
            raise UsageError(
                f"{user.written}: user and password would cross the network in clear text to {endpoint}: "
                "use https:// endpoints, or say --allow-plaintext-auth"
            )


def _look_at(item: Given, check: Callable[..., T], *paths: Path) -> T:
    try:
        return check(*paths)
    except ValueError as error:
        raise _unusable(item, str(error)) from None


def _exposed(settings: Settings, given: Mapping[str, Given]) -> list[str]:
    """Return what to say of each secret file that others than its owner can read."""
    files = {"etcd-keyfile": settings.etcd_keyfile, "etcd-password-file": settings.etcd_password_file}
    told = {name: credentials.exposure(path) for name, path in files.items() if path}
    return [f"{given[name].written}: {text}" for name, text in told.items() if text]


def _warnings(settings: Settings, given: Mapping[str, Given], environ: Mapping[str, str]) -> tuple[str, ...]:
    strays = unread_variables(environ, _ALL_FLAGS)
    found = [f"{name} is set, but there is no such flag: it has no effect" for name in strays]
    found += _exposed(settings, given)
    if given["etcd-password"].in_argv and settings.etcd_password:
        found.append("--etcd-password on the command line can be read by everyone here; use --etcd-password-file")
    return tuple(found)
