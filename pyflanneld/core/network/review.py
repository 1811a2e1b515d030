"""Review of a network configuration: its effective values, likely mistakes, its effects on the leases. Pure."""

import enum
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from ipaddress import IPv4Network, IPv6Network
from itertools import zip_longest

from pyflanneld.core.etcd_types import Record
from pyflanneld.core.families import inside, overlap
from pyflanneld.core.invalid import shown
from pyflanneld.core.lease.codec import SubnetKey
from pyflanneld.core.link.selection import Link
from pyflanneld.core.network.config import NetworkConfig, SubnetRange
from pyflanneld.core.network.go_versions import FIELDS
from pyflanneld.core.status.dry_run import connected
from pyflanneld.core.strict_json import parse_object
from pyflanneld.core.vxlan.options import parse_options

_SIDE_BY_SIDE = {"host-gw", "vxlan"}  # see ``backends.backend.Backend.kin_type``
KNOWN = tuple(FIELDS["v0.28.9"])


def config_facts(config: NetworkConfig) -> list[tuple[str, str]]:
    """Return the effective values of the document, defaults included, as names and values."""
    found = [("Backend", config.backend_type), *_backend_facts(config)]
    for prefix, subnet_range in (("", config.ipv4), ("IPv6", config.ipv6)):
        if subnet_range is not None:
            found += _range_facts(prefix, subnet_range)
    found.append(("EnableNFTables", str(config.nftables).lower()))
    return found


def _backend_facts(config: NetworkConfig) -> list[tuple[str, str]]:
    """Return the effective options of the backend."""
    if config.backend_type != "vxlan":
        return []
    options = parse_options(config.backend_options, ipv6=config.ipv6 is not None)
    switches = {"GBP": options.gbp, "Learning": options.learning, "DirectRouting": options.direct_routing}
    return [
        ("VNI", str(options.vni)), ("Port", str(options.port)),
        ("MTU", str(options.mtu_bytes) if options.mtu_bytes is not None else "that of the interface"),
        *((name, str(value).lower()) for name, value in switches.items()),
    ]  # fmt: skip


def _range_facts(
    prefix: str, subnet_range: SubnetRange[IPv4Network] | SubnetRange[IPv6Network]
) -> list[tuple[str, str]]:
    bits = subnet_range.network.max_prefixlen - subnet_range.subnet_len
    hosts = (int(subnet_range.subnet_max) - int(subnet_range.subnet_min) >> bits) + 1
    # The network's address, the broadcast and the bridge's own are no container's; IPv6 has no broadcast.
    containers = (1 << bits) - (3 if subnet_range.network.version == 4 else 2)
    return [
        (f"{prefix}Network", str(subnet_range.network)),
        (f"{prefix}SubnetLen", str(subnet_range.subnet_len)),
        (f"{prefix}SubnetMin", str(subnet_range.subnet_min)),
        (f"{prefix}SubnetMax", str(subnet_range.subnet_max)),
        (f"hosts, IPv{subnet_range.network.version}", f"{hosts} at most, with {containers} containers each"),
    ]


def remarks(document: bytes, config: NetworkConfig, links: Iterable[Link]) -> list[str]:
    """Return what an operator should check although the document is valid.

    Args:
        document: the bytes as written.
        config: the same, parsed.
        links: of the host on which it is checked.
    """
    found = _unknown_keys(document)
    if "type" not in _backend(document):
        found.append(f"Backend.Type is not given, so flannel takes {config.backend_type!r}")
    for link in links:
        for there in connected(link):
            if any(overlap(there, network) for network in config.networks):
                found.append(
                    f"{there} of {link.name} on this host overlaps the network: a lease that is the same is rejected, "
                    "and of others the longer prefix counts"
                )
    return found


def _unknown_keys(document: bytes) -> list[str]:
    known = {name.lower(): name for name in KNOWN}
    return [_unknown(name, known) for name in parse_object(document, "network configuration") if name not in known]


def _unknown(name: str, known: dict[str, str]) -> str:
    near = get_close_matches(name, known, 1)
    hint = f"did you mean {known[near[0]]}?" if near else "it has no effect"
    return f"{shown(name)} is no key of a network configuration; {hint}"


def _backend(document: bytes) -> set[str]:
    backend = parse_object(document, "network configuration").get("backend")
    return {name.lower() for name in backend} if isinstance(backend, dict) else set()


class LeaseFate(enum.Enum):
    """The effect of another configuration on a lease."""

    STAYS = "stays"
    MOVES = "must move"
    STUCK = "does not fit"
    UNREADABLE = "cannot be read"


@dataclass(frozen=True, slots=True)
class Effect:
    """A lease, and the effect on it at its node's next start."""

    record: Record
    fate: LeaseFate

    @property
    def text(self) -> str:
        """One line for an operator."""
        lease = self.record.lease
        holder = f" of {lease.attrs.public_ip}" if lease.attrs else ""
        name = str(lease.key) if lease.key else shown(self.record.name)[2:-1]
        words = {
            LeaseFate.STAYS: "stays",
            LeaseFate.MOVES: "does not fit: that host takes another subnet at its next start, and Docker has to follow",
            LeaseFate.STUCK: "is a reservation that does not fit: no host takes it, release it",
            LeaseFate.UNREADABLE: "cannot be read, as before",
        }
        return f"{name}{holder} {words[self.fate]}"


def effects(records: Iterable[Record], config: NetworkConfig) -> list[Effect]:
    """Return the effect on each lease."""
    return [Effect(record, _fate(record, config)) for record in records]


def _fate(record: Record, config: NetworkConfig) -> LeaseFate:
    lease = record.lease
    if lease.key is None or lease.attrs is None:
        return LeaseFate.UNREADABLE
    if config.admits(lease.key.ipv4, lease.key.ipv6):
        return LeaseFate.STAYS
    return LeaseFate.MOVES if record.lease_id else LeaseFate.STUCK


def differences(before: NetworkConfig | None, after: NetworkConfig) -> list[str]:
    """Return the values that change, defaults included, one line each."""
    was = dict(config_facts(before)) if before is not None else {}
    now = dict(config_facts(after))
    names = [*now, *(name for name in was if name not in now)]
    pairs = [(name, was.get(name, "none"), now.get(name, "none")) for name in names]
    return [f"{name}: {before_} -> {after_}" for name, before_, after_ in pairs if before_ != after_]


def misfits(key: SubnetKey, before: NetworkConfig, after: NetworkConfig) -> list[str]:
    """Return the changes that move a node with *key* at its next start, one line each; none if it keeps *key*."""
    same_backend = before.backend_type == after.backend_type and _backend_facts(before) == _backend_facts(after)
    same_kind = _covers(after, before) and same_backend
    return [] if same_kind and after.admits(key.ipv4, key.ipv6) else differences(before, after)


def reaches_on(before: NetworkConfig, after: NetworkConfig) -> bool:
    """Return whether hosts with either configuration reach each other on one LAN, so that they can change in turn."""
    types = {before.backend_type, after.backend_type}
    return types == _SIDE_BY_SIDE and before.networks == after.networks


def _covers(after: NetworkConfig, before: NetworkConfig) -> bool:
    """Return whether each network lies in the one of its family that comes after it, and there is no other family."""
    pairs = zip_longest(before.networks, after.networks)
    return all(was is not None and now is not None and inside(was, now) for was, now in pairs)


def crowded(effects_: Sequence[Effect], config: NetworkConfig) -> str | None:
    """Return how many subnets and hosts there would be; ``None`` when every host with a lease now gets one."""
    subnet_range = config.ipv4
    if subnet_range is None:
        return None
    offered = sum(1 for _ in subnet_range.subnets())
    leases = [one.record.lease for one in effects_]
    holders = len({lease.attrs.public_ip for lease in leases if lease.attrs is not None})
    return f"{offered} subnets for the {holders} hosts that hold a lease now" if offered < holders else None
