"""What must hold, said once more and naively: numbers and lists, nothing shared with the code that it judges.

Networks are pairs (first address, prefix length) of integers, addresses are integers. The numbers I1, I2, … are those
of the invariants in docs/reliability.md.
"""

import json
import re
from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache

Net = tuple[int, int]


class Violation(AssertionError):
    """An invariant does not hold."""


@lru_cache(maxsize=4096)
def address(text: str) -> int:
    """Return an IPv4 address as a number."""
    parts = [int(part) for part in text.split(".")]
    return sum(part << shift for part, shift in zip(parts, (24, 16, 8, 0), strict=True))


@lru_cache(maxsize=4096)
def network(text: str) -> Net:
    """Return ``"a.b.c.d/len"`` as numbers."""
    first, length = text.split("/")
    return address(first), int(length)


def contains(outer: Net, inner: Net) -> bool:
    """Say whether *inner* lies in *outer*, or is all of it."""
    return inner[1] >= outer[1] and inner[0] >> (32 - outer[1]) == outer[0] >> (32 - outer[1])


def overlap(one: Net, other: Net) -> bool:
    """Say whether the two share an address."""
    return contains(one, other) or contains(other, one)


CLUSTER, LAN = network("172.7.0.0/16"), network("192.168.14.0/24")
LOWEST, HIGHEST = address("172.7.1.0"), address("172.7.255.0")
_NAME = re.compile(rb"(\d{1,3})\.(\d{1,3})\.(\d{1,3})\.(\d{1,3})-(\d{1,2})")


@lru_cache(maxsize=4096)
def read_name(name: bytes) -> Net | None:
    """Return the subnet that a key's name stands for, if it is one of the cluster's."""
    found = _NAME.fullmatch(name)
    if found is None:
        return None
    numbers = [int(part) for part in found.groups()]
    first, length = sum(part << shift for part, shift in zip(numbers, (24, 16, 8, 0), strict=False)), numbers[4]
    if b"%d.%d.%d.%d-%d" % tuple(numbers) != name or max(numbers[:4]) > 255 or not 17 <= length <= 30:
        return None
    aligned = first % (1 << (32 - length)) == 0
    return (first, length) if aligned and contains(CLUSTER, (first, length)) else None


@lru_cache(maxsize=4096)
def read_value(value: bytes) -> tuple[int, str] | None:
    """Return gateway and backend of a lease's value, if it is one that a host of this LAN could have written."""
    try:
        document = json.loads(value)
        gateway, backend = address(document["PublicIP"]), document.get("BackendType", "")
    except (ValueError, TypeError, KeyError, AttributeError):
        return None
    return (gateway, backend) if is_host(gateway) else None


def is_host(number: int) -> bool:
    """Say whether an address can be a host's of this LAN."""
    return contains(LAN, (number, 32)) and number & 255 not in (0, 255)


@dataclass(frozen=True)
class Key:
    """A key as etcd holds it."""

    name: bytes
    value: bytes
    created: int


@dataclass(frozen=True)
class Host:
    """What decides how a host judges the others."""

    own: Net
    address: int


def wanted(keys: Iterable[Key], host: Host) -> dict[Net, int]:
    """Return the routes that a host should have, destination to gateway."""
    routes: dict[Net, int] = {}
    for key in sorted(keys, key=lambda key: (key.created, key.name)):
        subnet, said = read_name(key.name), read_value(key.value)
        if subnet is None or said is None or said[1] != "host-gw" or overlap(subnet, host.own):
            continue
        if said[0] != host.address and not any(overlap(subnet, other) for other in routes):
            routes[subnet] = said[0]
    return routes


def unreadable(keys: Iterable[Key], subnet: Net) -> bool:
    """Say whether a key stands for *subnet* whose value says nothing."""
    return any(read_name(key.name) == subnet and read_value(key.value) is None for key in keys)


class History:
    """What etcd has held, and when; only as far back as a route may be removed for it."""

    KEPT_S = 900.0

    def __init__(self) -> None:
        self._states: deque[tuple[float, tuple[Key, ...]]] = deque([(0.0, ())])

    @property
    def now(self) -> tuple[Key, ...]:
        """The keys as they are."""
        return self._states[-1][1]

    def add(self, now_s: float, keys: tuple[Key, ...]) -> None:
        """Take note of a new state."""
        self._states.append((now_s, keys))
        while len(self._states) > 1 and self._states[1][0] < now_s - self.KEPT_S:
            self._states.popleft()

    def proves(self, subnet: Net, gateway: int, host: Host) -> bool:
        """Say whether at any time a route to *subnet* over *gateway* was unwanted for a reason that counts (I9)."""
        return any(
            wanted(keys, host).get(subnet) != gateway and not unreadable(keys, subnet) for _, keys in self._states
        )


def check_created(new: Key, others: Iterable[Key]) -> None:
    """I2: a created key is one of the leasable subnets and overlaps none that is there."""
    subnet = read_name(new.name)
    if subnet is None or subnet[1] != 24 or not LOWEST <= subnet[0] <= HIGHEST:
        raise Violation(f"I2: created {new.name!r}, which is no leasable subnet")
    for other in others:
        claimed = read_name(other.name)
        if claimed is not None and other.name != new.name and overlap(claimed, subnet):
            raise Violation(f"I2: created {new.name!r} beside {other.name!r}")


def check_written(before: Key, same_lease: bool, addresses: Iterable[int]) -> None:
    """I3: a key is changed or deleted only by the one whose address it carries, or whose lease it hangs on."""
    said = read_value(before.value)
    if not same_lease and (said is None or said[0] not in addresses):
        raise Violation(f"I3: wrote {before.name!r}, which says {before.value[:80]!r}")


def check_put(subnet: Net, gateway: int, host: Host) -> None:
    """I7: no route leads outside the cluster's network, into the own subnet, or over a gateway that is not one."""
    if not contains(CLUSTER, subnet) or subnet == CLUSTER or overlap(subnet, host.own):
        raise Violation(f"I7: put a route to {subnet}")
    if not is_host(gateway) or gateway == host.address:
        raise Violation(f"I7: put a route over {gateway}")


def check_disjoint(owners: Mapping[str, Net]) -> None:
    """I1: no two of those who have proved their lease hold one address."""
    names = sorted(owners)
    for position, one in enumerate(names):
        for other in names[position + 1 :]:
            if overlap(owners[one], owners[other]):
                raise Violation(f"I1: {one} and {other} both hold {owners[one]}")


def check_file(text: str | None, held: Iterable[Net]) -> None:
    """I16: the file is absent, or whole and about a lease that was held."""
    if text is None:
        return
    values = dict(line.split("=", 1) for line in text.splitlines())
    if list(values) != ["FLANNEL_NETWORK", "FLANNEL_SUBNET", "FLANNEL_MTU", "FLANNEL_IPMASQ"] or text[-1] != "\n":
        raise Violation(f"I16: the file says {text!r}")
    first, length = network(values["FLANNEL_SUBNET"])
    if (first - 1, length) not in set(held):
        raise Violation(f"I16: the file is about {values['FLANNEL_SUBNET']}, which was never held")
