"""The options that put Docker's bridge on the leased subnet, in three forms. Pure.

The environment file is byte for byte what flannel's ``dist/mk-docker-opts.sh`` writes (the same in v0.11.0 and
v0.28.9), except that what a shell would expand inside the quotes is escaped here. Docker does not start with a bad
option, and starts on a wrong subnet without one, so an unusable value is an error.

Docker 28 and direct routing (Docker's documentation, "Port publishing and mapping"; release notes of 28.0.0, 28.0.2
and 28.2.0; moby pull requests 48597, 48724, 49325, 49621 and 49832). Since 28.0.0 packets that come from outside the
host and are addressed to a container are dropped in the table ``raw``, and those to a port that is not published at
the end of the chain ``DOCKER`` as well. What turns that off:

* the first, since 28.2.0: the daemon's option ``allow-direct-routing``, and for networks made with
  ``docker network create`` the bridge option ``com.docker.network.bridge.trusted_host_interfaces`` (names separated by
  colons);
* both, since 28.0.0: the bridge option ``com.docker.network.bridge.gateway_mode_ipv4`` with the value
  ``nat-unprotected``. The default bridge does not take it: there a rule in the chain ``DOCKER-USER`` has to open the
  ports that are not published.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Interface, IPv4Network
from typing import Self

from pyflanneld.core.families import Network, inside
from pyflanneld.core.invalid import Invalid
from pyflanneld.core.link.selection import Link

EXTRA_PREFIX = "DOCKER_OPT_"
_BRIDGE = "com.docker.network.bridge."
_LONGEST_SUBNET = 30
_MTU_MIN, _MTU_MAX = 68, 65535
_SHELL_SPECIAL = re.compile(r'(["$`\\])')


@dataclass(frozen=True, slots=True, order=True)
class DockerVersion:
    """A version of Docker, such as 28.2.2; a suffix does not count."""

    major: int
    minor: int
    patch: int

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read ``"28.2.2"``, ``"v28.2"``, ``"20.10.24+dfsg1"`` or ``"Docker version 28.2.2, build e6534b4"``.

        Raises:
            Invalid: there is no version in it.
        """
        found = re.search(r"(?<![\w.])v?(\d{1,4})(?:\.(\d{1,4}))?(?:\.(\d{1,4}))?", text)
        if found is None:
            raise Invalid("bad_version", "Docker's version", text, "numbers such as 28.2.2")
        return cls(*(int(number or 0) for number in found.groups()))

    def __str__(self) -> str:
        return f"{self.major}.{self.minor}.{self.patch}"


FIRST_FILTERING = DockerVersion(28, 0, 0)
"""The first that drops packets from outside to a container's address, and that has ``nat-unprotected``."""

FIRST_ALLOWING = DockerVersion(28, 2, 0)
"""The first with ``allow-direct-routing`` and ``trusted_host_interfaces``."""


@dataclass(frozen=True, slots=True)
class Leased:
    """The leased subnet, as the subnet file describes it; ``None`` for what is not in the file.

    Attributes:
        bridge: the bridge's address with the length of the subnet, ``172.7.21.1/24``.
        network: the whole cluster's network.
        mtu: in bytes.
        ip_masq: whether the daemon masquerades, so that Docker need not.
    """

    bridge: IPv4Interface
    network: IPv4Network | None
    mtu: int | None
    ip_masq: bool | None

    @classmethod
    def read(cls, values: Mapping[str, str]) -> Self:
        """Read the ``FLANNEL_*`` variables; an empty one counts as absent. Raises ``Invalid``."""
        subnet, network = values.get("FLANNEL_SUBNET", ""), values.get("FLANNEL_NETWORK", "")
        mtu, ip_masq = values.get("FLANNEL_MTU", ""), values.get("FLANNEL_IPMASQ", "")
        if mtu and not (mtu.isascii() and mtu.isdigit() and _MTU_MIN <= int(mtu[:9]) <= _MTU_MAX):
            raise Invalid("bad_mtu", "FLANNEL_MTU", mtu, f"a number from {_MTU_MIN} to {_MTU_MAX}")
        if ip_masq not in {"", "true", "false"}:
            raise Invalid("bad_ipmasq", "FLANNEL_IPMASQ", ip_masq, "true or false")
        return cls(
            bridge=_bridge(subnet),
            network=_network(network) if network else None,
            mtu=int(mtu) if mtu else None,
            ip_masq=ip_masq == "true" if ip_masq else None,
        )


def _bridge(text: str) -> IPv4Interface:
    expected = "the bridge's address and length, such as 172.7.21.1/24"
    try:
        bridge = IPv4Interface(text)
    except ValueError:
        raise Invalid("bad_subnet", "FLANNEL_SUBNET", text, expected) from None
    if "/" not in text or bridge.network.prefixlen > _LONGEST_SUBNET or bridge.ip == bridge.network.network_address:
        raise Invalid("bad_subnet", "FLANNEL_SUBNET", text, expected)
    return bridge


def _network(text: str) -> IPv4Network:
    try:
        return IPv4Network(text, strict=False)
    except ValueError:
        raise Invalid("bad_network", "FLANNEL_NETWORK", text, "a network such as 172.7.0.0/16") from None


@dataclass(frozen=True, slots=True)
class Option:
    """One option of dockerd: *key* and *value* for ``daemon.json``, *name* and *flag* for the environment file."""

    key: str
    value: str | int | bool
    name: str

    @property
    def flag(self) -> str:
        """The option on dockerd's command line."""
        value = str(self.value).lower() if isinstance(self.value, bool) else self.value
        return f"--{self.key}={value}"


def docker_options(leased: Leased, version: DockerVersion | None) -> tuple[Option, ...]:
    """Return dockerd's options.

    Args:
        leased: from the subnet file.
        version: Docker's; ``None`` (unknown, or no direct routing) gives only the options that every version has.
    """
    found = [Option("bip", str(leased.bridge), "BIP")]
    if leased.mtu is not None:
        found.append(Option("mtu", leased.mtu, "MTU"))
    if leased.ip_masq is not None:
        found.append(Option("ip-masq", not leased.ip_masq, "IPMASQ"))
    if version is not None and version >= FIRST_ALLOWING:
        found.append(Option("allow-direct-routing", True, "ALLOW_DIRECT_ROUTING"))
    return tuple(found)


def environment_text(
    wanted: Iterable[Option], values: Mapping[str, str], key: str, *, single: bool, combined: bool
) -> str:
    """Return the environment file, as ``mk-docker-opts.sh`` writes it.

    Args:
        wanted: the options.
        values: environment and subnet file. Each ``DOCKER_OPT_*`` in it is copied, and the value of *key* is put in
            front of the combined options.
        key: the variable for the combined options, ``DOCKER_OPTS``.
        single: write one variable for each option.
        combined: write the variable with all options.
    """
    flags = {name: " ".join(value.split()) for name, value in values.items() if name.startswith(EXTRA_PREFIX)}
    flags |= {EXTRA_PREFIX + option.name: option.flag for option in wanted}
    before = values.get(key, "")
    whole = f"{before} " if before else ""
    whole += "".join(f" {flags[name]}" for name in sorted(flags))
    lines = [_assignment(name, flags[name]) for name in sorted(flags)] if single else []
    return "".join([*lines, _assignment(key, whole)] if combined else lines)


def _assignment(name: str, value: str) -> str:
    escaped = _SHELL_SPECIAL.sub(r"\\\1", value)
    return f'{name}="{escaped}"' + "\n"


def merged(document: Mapping[str, object], wanted: Iterable[Option], leased: Leased) -> dict[str, object]:
    """Return *document*, the content of a ``daemon.json``, with the options; every other key stays.

    Raises:
        Invalid: it has a key with which Docker would not start, or would not use the leased subnet.
    """
    bridge, fixed = document.get("bridge"), document.get("fixed-cidr")
    if bridge:
        raise Invalid("bridge_given", "bridge", bridge, "no such key next to bip: Docker accepts only one of them")
    if fixed and not _inside(fixed, leased.bridge.network):
        raise Invalid("fixed_cidr_outside", "fixed-cidr", fixed, f"a part of the leased subnet {leased.bridge.network}")
    return {**document, **{option.key: option.value for option in wanted}}


def _inside(text: object, network: IPv4Network) -> bool:
    try:
        return isinstance(text, str) and IPv4Network(text, strict=False).subnet_of(network)
    except ValueError:
        return False


def network_arguments(leased: Leased, version: DockerVersion | None, trusted: Sequence[str] = ()) -> list[str]:
    """Return the arguments of ``docker network create`` for a second bridge, on the leased subnet.

    Args:
        leased: from the subnet file.
        version: Docker's, as for ``docker_options``.
        trusted: interfaces whose packets reach published ports; without any, every port is open to all hosts.
    """
    arguments = ["--driver=bridge", f"--subnet={leased.bridge.network}", f"--gateway={leased.bridge.ip}"]
    if leased.mtu is not None:
        arguments.append(f"--opt=com.docker.network.driver.mtu={leased.mtu}")
    if leased.ip_masq is not None:
        arguments.append(f"--opt={_BRIDGE}enable_ip_masquerade={str(not leased.ip_masq).lower()}")
    if version is not None and version >= FIRST_ALLOWING and trusted:
        arguments.append(f"--opt={_BRIDGE}trusted_host_interfaces={':'.join(trusted)}")
    elif version is not None and version >= FIRST_FILTERING:
        arguments.append(f"--opt={_BRIDGE}gateway_mode_ipv4=nat-unprotected")
    return arguments


def direct_routing_hint(leased: Leased, version: DockerVersion | None) -> str | None:
    """Return how other nodes reach the default bridge; ``None`` where nothing stops them."""
    if version is None:
        return "Docker's version is not known, and from 28 on it drops packets of other nodes: give --docker-version"
    if version < FIRST_FILTERING:
        return None
    if version < FIRST_ALLOWING:
        return f"Docker {version} drops packets of other nodes to its containers; 28.2 is the first to have an option"
    match = f"-s {leased.network} -d {leased.network}" if leased.network else f"-d {leased.bridge.network}"
    return (
        f"Docker {version} lets other nodes reach published ports; for all ports: "
        f"iptables -I DOCKER-USER {match} -j ACCEPT"
    )


def bridge_complaint(
    links: Iterable[Link], bridge: str, subnet: IPv4Network, others: Iterable[Network] = ()
) -> str | None:
    """Return a message if Docker's bridge exists and has addresses, but none in the leased *subnet*; else ``None``.

    A bridge in one of the networks of *others*, which other daemons of this host serve, is not ours to complain of.
    """
    addresses = [own for link in links if link.name == bridge for own in link.addresses]
    if not addresses or any(own.network == subnet for own in addresses):
        return None
    if any(inside(own.network, other) for other in others for own in addresses):
        return None
    return (
        f"{bridge} has {', '.join(map(str, addresses))}, but the leased subnet is {subnet}: other nodes do not reach "
        f"containers there; start Docker with --bip={subnet.network_address + 1}/{subnet.prefixlen} (see pyflanneld "
        "docker-opts), or name the right bridge with --docker-bridge"
    )
