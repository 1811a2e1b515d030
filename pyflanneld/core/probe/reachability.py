"""What is known of the way to each peer, and how it is told to an operator. Pure."""

import enum
from collections.abc import Mapping
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network

WINDOW = 10
"""How many of the last probes count."""


class State(enum.Enum):
    """What the probes of one peer amount to, the worst first."""

    SILENT = "silent"
    SUBNET_SILENT = "subnet silent"
    LOSSY = "lossy"
    MTU_SMALLER = "mtu smaller"
    UNKNOWN = "unknown"
    REACHABLE = "reachable"


_GOOD = frozenset({State.REACHABLE, State.UNKNOWN})


@dataclass(frozen=True, slots=True)
class Sample:
    """The last probes of one target.

    Attributes:
        count: how many of them there are, at most ``WINDOW``.
        loss: the part that was not answered, 0 to 1; ``None`` before the first.
        last_s: when it was last known whether one was answered, on the clock's scale.
        rtt_s: round trip of the last answer.
        smoothed_rtt_s: the same, averaged over some answers.
    """

    count: int = 0
    loss: float | None = None
    last_s: float | None = None
    rtt_s: float | None = None
    smoothed_rtt_s: float | None = None


@dataclass(frozen=True, slots=True)
class Reach:
    """What is known of the way to one peer.

    Attributes:
        gateway: the address that its lease carries.
        address: probes of that address.
        subnet: probes of the first address of its subnet.
        mtu: of the path to *gateway* in bytes, not above *link_mtu*; ``None`` as long as it is not known.
        link_mtu: what the containers here are told by ``subnet.env``.
    """

    gateway: IPv4Address
    address: Sample
    subnet: Sample
    state: State
    mtu: int | None
    link_mtu: int

    @property
    def is_good(self) -> bool:
        """Whether there is nothing to tell an operator."""
        return self.state in _GOOD


def reachability_facts(reach: Reach) -> dict[str, object]:
    """Return what a program or a table needs: the state, losses from 0 to 1, round trip in seconds, MTUs in bytes."""
    return {
        "state": reach.state.value, "loss": reach.address.loss, "rtt_s": reach.address.smoothed_rtt_s,
        "subnet_loss": reach.subnet.loss, "mtu": reach.mtu, "link_mtu": reach.link_mtu,
    }


_GRAVITY = {state: rank for rank, state in enumerate(State)}


def complaint(trouble: Mapping[IPv4Network, Reach]) -> tuple[State, str] | None:
    """Return the gravest state, and one sentence about its first peer and how many more there are; ``None``: all well.

    The count is of all peers in trouble, whatever it is.
    """
    if not trouble:
        return None
    subnet, reach = min(trouble.items(), key=lambda item: (_GRAVITY[item[1].state], item[0]))
    more = f" (and {len(trouble) - 1} more in trouble)" if len(trouble) > 1 else ""
    return reach.state, _sentence(subnet, reach) + more


def _sentence(subnet: IPv4Network, reach: Reach) -> str:
    match reach.state:
        case State.SILENT:
            return f"{reach.gateway}, the host of {subnet}, does not answer probes"
        case State.SUBNET_SILENT:
            bridge = subnet.network_address + 1
            return f"{reach.gateway} answers probes, but {bridge} behind it does not: is Docker's bridge up there?"
        case State.LOSSY:
            worst = max(reach.address, reach.subnet, key=lambda sample: sample.loss or 0.0)
            lost = round((worst.loss or 0.0) * worst.count)
            return f"probes to {reach.gateway}, the host of {subnet}, are lost: {lost} of the last {worst.count}"
        case _:
            return (
                f"packets to {reach.gateway}, the host of {subnet}, get through up to {reach.mtu} bytes only, but "
                f"subnet.env says {reach.link_mtu}"
            )
