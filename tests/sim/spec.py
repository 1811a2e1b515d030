"""What must hold, said once more and naively: numbers and lists, nothing shared with the code that it checks.

Networks are pairs (first address, prefix length) of integers, addresses are integers. The numbers I1, I2, … are those
of the invariants in docs/dev/reliability.md.
"""

import json
import math
import re
from collections import deque
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

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
    """Return whether *inner* lies in *outer*, or is all of it."""
    return inner[1] >= outer[1] and inner[0] >> (32 - outer[1]) == outer[0] >> (32 - outer[1])


def overlap(one: Net, other: Net) -> bool:
    """Return whether the two share an address."""
    return contains(one, other) or contains(other, one)


CLUSTER, LAN = network("192.168.0.0/18"), network("192.168.14.0/24")
FAR = network("10.77.0.0/24")
"""Where other hosts are, behind a router."""
VXLAN = "vxlan"
ETCD = address("192.168.14.12")
LOWEST, HIGHEST = address("192.168.1.0"), address("192.168.40.0")
_MAC = re.compile(r"[0-9a-f]{2}(:[0-9a-f]{2}){5}")
_NAME = re.compile(rb"(\d{1,3})\.(\d{1,3})\.(\d{1,3})\.(\d{1,3})-(\d{1,2})(&fd00::-64)?")


@lru_cache(maxsize=4096)
def read_name(name: bytes) -> Net | None:
    """Return the subnet that a key's name stands for, if it is one of the cluster's; of a dual-stack name its half."""
    found = _NAME.fullmatch(name)
    if found is None:
        return None
    numbers = [int(part) for part in found.groups()[:5]]
    first, length = sum(part << shift for part, shift in zip(numbers, (24, 16, 8, 0), strict=False)), numbers[4]
    spelled = b"%d.%d.%d.%d-%d" % tuple(numbers) + (found[6] or b"")
    if spelled != name or max(numbers[:4]) > 255 or not CLUSTER[1] < length <= 30:
        return None
    aligned = first % (1 << (32 - length)) == 0
    return (first, length) if aligned and contains(CLUSTER, (first, length)) else None


class Said(NamedTuple):
    """What a lease says: gateway, backend, and the MAC address of its host's device, if it says one that can be.

    It is *plain* where its host has the other backend and is on the link of who reads it: both have plain routes.
    """

    gateway: int
    backend: str
    mac: str = ""
    plain: bool = False


@lru_cache(maxsize=4096)
def read_value(value: bytes) -> Said | None:
    """Return what a value says, if it is one that a host of this LAN or behind the router could have written."""
    try:
        document = json.loads(value)
        gateway, backend = address(document["PublicIP"]), document.get("BackendType", "")
    except (ValueError, TypeError, KeyError, AttributeError):
        return None
    there = is_host(gateway) or contains(FAR, (gateway, 32))
    return Said(gateway, backend, _read_mac(document)) if there else None


def _read_mac(document: Mapping[str, object]) -> str:
    data = document.get("BackendData")
    mac = str(data.get("VtepMAC", "")) if isinstance(data, dict) else ""
    usable = _MAC.fullmatch(mac) and not int(mac[:2], 16) & 1 and mac.strip("0:")
    return mac if usable else ""


_SIDE_BY_SIDE = {"host-gw", VXLAN}


def is_host(number: int) -> bool:
    """Return whether an address can be a host's of this LAN."""
    return contains(LAN, (number, 32)) and number & 255 not in (0, 255)


@dataclass(frozen=True)
class Key:
    """A key as etcd holds it."""

    name: bytes
    value: bytes
    created: int
    leased: bool = True


@dataclass(frozen=True)
class Host:
    """What decides how a host validates the others.

    Attributes:
        own: its subnet.
        address: the one that it publishes.
        length: the shortest prefix length of an address on its link.
        interfaces: all its addresses with their prefix lengths.
        on_link: those of its link.
        backend: of its network; *direct* with DirectRouting.
        mac: of its device.
    """

    own: Net
    address: int
    length: int = LAN[1]
    interfaces: tuple[tuple[int, int], ...] = ()
    on_link: tuple[tuple[int, int], ...] = ()
    backend: str = "host-gw"
    direct: bool = False
    mac: str = ""

    @property
    def addresses(self) -> frozenset[int]:
        """All of its addresses, and the one that it publishes."""
        return frozenset((self.address, *(one for one, _ in self.interfaces)))

    @property
    def connected(self) -> list[Net]:
        """The networks that it is on."""
        there = self.interfaces or ((self.address, self.length),)
        return [(one >> (32 - length) << (32 - length), length) for one, length in there]

    def reaches(self, gateway: int) -> bool:
        """Return whether a gateway is on the host's link."""
        return contains((self.address, self.length), (gateway, 32))

    def accepts(self, gateway: int) -> bool:
        """Return whether packets get to a gateway: without tunnels it has to be on the link."""
        return self.backend == VXLAN or self.reaches(gateway)

    def read(self, value: bytes) -> Said | None:
        """Return what a value says, if this host can use it: a tunnel needs a MAC address that is not its own."""
        said = self.understood(read_value(value))
        if said is None or self.backend != VXLAN or said.backend != VXLAN or said.gateway in self.addresses:
            return said
        return None if said.mac in ("", self.mac) and not said.plain else said

    def understood(self, said: Said | None) -> Said | None:
        """Return what a lease means here: one of the other backend is a peer's all the same, if it is on the link."""
        if said is None or {said.backend, self.backend} != _SIDE_BY_SIDE:
            return said
        near = any(contains((one, length), (said.gateway, 32)) for one, length in self.on_link)
        return Said(said.gateway, self.backend, plain=True) if near else said

    def tunnels_to(self, said: Said) -> bool:
        """Return whether packets to a peer go through the device."""
        near = self.direct and any(overlap((one, length), (said.gateway, 32)) for one, length in self.on_link)
        return self.backend == VXLAN and not near and not said.plain

    def next_hop(self, subnet: Net, said: Said) -> int:
        """Return over what the route to a peer leads: the first address of its subnet, in a tunnel."""
        return subnet[0] if self.tunnels_to(said) else said.gateway

    def loses(self, subnet: Net, hops: Iterable[int] = ()) -> bool:
        """Return whether a route to *subnet* takes a network of this host away, or an address that it needs.

        The kernel takes the longer prefix, so an address in a longer connected one is not lost.
        """
        if subnet in self.connected:
            return True
        kept = [net for net in self.connected if net[1] > subnet[1]]
        needed = {ETCD, *hops, *(one for one, _ in self.interfaces or ((self.address, 32),))}
        inside = [one for one in needed if contains(subnet, (one, 32))]
        return any(not any(contains(net, (one, 32)) for net in kept) for one in inside)

    def is_part_of_connected(self, subnet: Net) -> bool:
        """Return whether a connected network holds *subnet*: next hops may be in it."""
        return any(contains(net, subnet) for net in self.connected)


def wanted(keys: Iterable[Key], host: Host) -> dict[Net, int]:
    """Return the routes that a host should have, destination to gateway."""
    return {subnet: host.next_hop(subnet, said) for subnet, said in accepted(keys, host).items()}


def accepted(keys: Iterable[Key], host: Host) -> dict[Net, Said]:
    """Return the peers that a host should route to, and what their leases say."""
    peers: dict[Net, Said] = {}
    keys = tuple(keys)
    for key in sorted(keys, key=lambda key: (key.created, key.name)):
        subnet, said = read_name(key.name), host.read(key.value)
        if subnet is None or said is None or said.backend != host.backend or overlap(subnet, host.own):
            continue
        hops = {hop.gateway for one in keys if one.created < key.created and (hop := read_value(one.value)) is not None}
        if not host.accepts(said.gateway) or host.loses(subnet, hops - {said.gateway}):
            continue
        if said.gateway not in host.addresses and not any(rivals(subnet, said, *one) for one in peers.items()):
            peers[subnet] = said
    return peers


def rivals(subnet: Net, said: Said, other: Net, other_said: Said) -> bool:
    """Return whether only one of two leases can count: they overlap, or claim one MAC address."""
    return overlap(subnet, other) or (said.mac != "" and said.backend == VXLAN and said.mac == other_said.mac)


def _gateway(key: Key) -> int:
    said = read_value(key.value)
    return said.gateway if said is not None else 0


class History:
    """What etcd has held, and when; only as far back as anything is checked by it."""

    KEPT_S = 60.0

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

    def took(self, subnet: Net, published: int) -> bool:
        """Return whether lately another key than its own claimed a part of *subnet*, or its own another address."""
        return any(
            overlap(claimed, subnet)
            and (claimed != subnet or _gateway(key) != published)
            and (claimed == subnet or read_value(key.value) is not None)
            for _, keys in self._states for key in keys if (claimed := read_name(key.name)) is not None
        )  # fmt: skip


def check_created(new: Key, others: Iterable[Key], beside: Collection[tuple[bytes, int]]) -> None:
    """I2: a created key is one of the leasable subnets and overlaps none that is there.

    But it may be taken again beside one that cannot be read and was there, *beside* it, when it was lost.
    """
    subnet = read_name(new.name)
    if subnet is None or subnet[1] != 24 or not LOWEST <= subnet[0] <= HIGHEST or overlap(subnet, LAN):
        raise Violation(f"I2: created {new.name!r}, which is no leasable subnet")
    for other in others:
        claimed = read_name(other.name)
        if read_value(other.value) is None and (other.name, other.created) in beside:
            continue
        if claimed is not None and other.name != new.name and overlap(claimed, subnet):
            raise Violation(f"I2: created {new.name!r} beside {other.name!r}")


def check_written(
    before: Key, after: bytes | None, same_lease: bool, addresses: Collection[int], *, was_short: bool = False
) -> None:
    """I3: a key is changed or deleted only by the one whose address it carries, or whose lease it hangs on.

    I10: what is there already is not written again, but onto a lease of its own from one that *was_short*; and what an
    operator has reserved is not deleted (*after* is None).
    """
    said = read_value(before.value)
    if not same_lease and (said is None or said.gateway not in addresses):
        raise Violation(f"I3: wrote {before.name!r}, which says {before.value[:80]!r}")
    if after == before.value and not was_short:
        raise Violation(f"I10: wrote {before.name!r} again as it was")
    if after is None and not before.leased:
        raise Violation(f"I3: deleted {before.name!r}, which is a reservation")


def check_put(subnet: Net, gateway: int, host: Host) -> None:
    """I7: no route leads outside the cluster's network, into the own subnet, or over a gateway that is not one."""
    outside = not contains(CLUSTER, subnet) or subnet == CLUSTER
    if outside or overlap(subnet, host.own) or host.loses(subnet):
        raise Violation(f"I7: put a route to {subnet}")
    tunnel = host.backend == VXLAN and gateway == subnet[0]
    if (not tunnel and not is_host(gateway)) or gateway in host.addresses:
        raise Violation(f"I7: put a route over {gateway}")


RETURN_S, RENUMBERED_S, AT_ONCE_S, ROUNDING_S = 60.0, 1.0, 2.0, 0.001
Look = tuple[float, Mapping[int, int]]
"""When a daemon was shown its link, and with which addresses of which prefix lengths."""


def check_stays(published: int, before: int, looks: Sequence[Look], now_s: float) -> None:
    """I25: what came beside the first address is not published while that one is there, or can be back.

    That can be for a minute after the other one has come; but for a second only if the other came in the place of the
    one that was published *before*.
    """
    first = next(iter(looks[0][1]))
    if published == first:
        return
    if first in looks[-1][1]:
        raise Violation(f"I25: {published} is published, and {first} is there")
    held = [look for look in looks if before in look[1]]
    since = looks[looks.index(held[-1]) + 1 :] if held else ()  # several looks may be of one moment
    gone_s = since[0][0] if since else -math.inf
    came_s, length = next(
        ((at_s, there[published]) for at_s, there in since or looks if published in there), (math.inf, 0)
    )
    beside = any(published in there for _, there in held)
    replaced = held and not beside and came_s - gone_s <= AT_ONCE_S and length == held[-1][1][before]
    if now_s + ROUNDING_S < came_s + (RENUMBERED_S if replaced else RETURN_S):
        raise Violation(f"I25: {published} is published {now_s - came_s:.1f} s after it came; {before} can be back")


def check_disjoint(owners: Mapping[str, Net]) -> None:
    """I1: no two of those who have proved their lease hold one address."""
    names = sorted(owners)
    for position, one in enumerate(names):
        for other in names[position + 1 :]:
            if overlap(owners[one], owners[other]):
                raise Violation(f"I1: {one} and {other} both hold {owners[one]}")


@lru_cache(maxsize=4096)
def file_subnet(text: str) -> Net:
    """Return the subnet that the file names. Raises ``Violation`` (I16) unless it is whole."""
    lines = [line.partition("=") for line in text.splitlines()]
    if [name for name, _, _ in lines] != list(_FIELDS) or not text.endswith("\n"):
        raise Violation(f"I16: the file says {text!r}")
    values = {name: value for name, _, value in lines}
    if not all(re.fullmatch(pattern, values[name]) for name, pattern in _FIELDS.items()):
        raise Violation(f"I16: the file says {text!r}")
    first, length = network(values["FLANNEL_SUBNET"])
    return first - 1, length


def check_file(text: str | None, held: Collection[Net]) -> None:
    """I16: the file is absent, or whole and about a lease that was held."""
    if text is not None and (subnet := file_subnet(text)) not in held:
        raise Violation(f"I16: the file is about {subnet}, which was never held")


_SUBNET = r"\d+\.\d+\.\d+\.\d+/\d+"
_FIELDS = {
    "FLANNEL_NETWORK": _SUBNET, "FLANNEL_SUBNET": _SUBNET, "FLANNEL_MTU": r"\d+", "FLANNEL_IPMASQ": "true|false",
}  # fmt: skip
