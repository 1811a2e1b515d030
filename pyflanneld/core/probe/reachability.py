"""How well each peer can be reached, and how that is reported to an operator. Pure."""

import enum
from collections.abc import Mapping
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network

WINDOW = 10
"""How many of the last probes count."""


class ProbeState(enum.Enum):
    """The result of the probes of one peer, the worst first."""

    SILENT = "silent"
    SUBNET_SILENT = "subnet silent"
    LOSSY = "lossy"
    MTU_SMALLER = "mtu smaller"
    UNKNOWN = "unknown"
    REACHABLE = "reachable"


_GOOD = frozenset({ProbeState.REACHABLE, ProbeState.UNKNOWN})


@dataclass(frozen=True, slots=True)
class ProbeStats:
    """The last probes of one target.

    Attributes:
        count: how many there are, at most ``WINDOW``.
        loss: the share without a reply, 0 to 1; ``None`` before the first result.
        last_s: when the last result came, on the clock's scale.
        rtt_s: round trip of the last reply.
        smoothed_rtt_s: the same, averaged over some replies.
    """

    count: int = 0
    loss: float | None = None
    last_s: float | None = None
    rtt_s: float | None = None
    smoothed_rtt_s: float | None = None


@dataclass(frozen=True, slots=True)
class Reachability:
    """How well one peer can be reached.

    Attributes:
        gateway: the address that its lease carries.
        address: probes of that address.
        subnet: probes of the first address of its subnet.
        mtu: of the path to *gateway* in bytes, at most *link_mtu*; ``None`` while it is not known.
        link_mtu: of the link here: so large are the packets of containers, with vxlan's headers if they have any.
    """

    gateway: IPv4Address
    address: ProbeStats
    subnet: ProbeStats
    state: ProbeState
    mtu: int | None
    link_mtu: int

    @property
    def is_good(self) -> bool:
        """Whether there is nothing to report to an operator."""
        return self.state in _GOOD


def reachability_facts(reach: Reachability) -> dict[str, object]:
    """Return the JSON fields: the state, losses from 0 to 1, round trip in seconds, MTUs in bytes."""
    return {
        "state": reach.state.value, "loss": reach.address.loss, "rtt_s": reach.address.smoothed_rtt_s,
        "subnet_loss": reach.subnet.loss, "mtu": reach.mtu, "link_mtu": reach.link_mtu,
    }


_SEVERITY = {state: rank for rank, state in enumerate(ProbeState)}


def worst_trouble(trouble: Mapping[IPv4Network, Reachability]) -> tuple[ProbeState, str] | None:
    """Return the worst state, and one sentence about its first peer and how many more are in trouble, of any kind.

    Returns:
        ``None`` where there is no trouble.
    """
    if not trouble:
        return None
    subnet, reach = min(trouble.items(), key=lambda item: (_SEVERITY[item[1].state], item[0]))
    more = f" (and {len(trouble) - 1} more in trouble)" if len(trouble) > 1 else ""
    return reach.state, _sentence(subnet, reach) + more


def _sentence(subnet: IPv4Network, reach: Reachability) -> str:
    match reach.state:
        case ProbeState.SILENT:
            return f"{reach.gateway}, the host of {subnet}, does not answer probes"
        case ProbeState.SUBNET_SILENT:
            bridge = subnet.network_address + 1
            return f"{reach.gateway} answers probes, but {bridge} behind it does not: is Docker's bridge up there?"
        case ProbeState.LOSSY:
            worst = max(reach.address, reach.subnet, key=lambda sample: sample.loss or 0.0)
            lost = round((worst.loss or 0.0) * worst.count)
            return f"probes to {reach.gateway}, the host of {subnet}, are lost: {lost} of the last {worst.count}"
        case _:
            return (
                f"packets to {reach.gateway}, the host of {subnet}, get through up to {reach.mtu} bytes only, but "
                f"this host sends up to {reach.link_mtu}"
            )
