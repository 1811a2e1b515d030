"""The kernel's knowledge of who answers on a link (ARP, NDP)."""

from dataclasses import dataclass

from pyflanneld.core.families import Address

STATES = ("incomplete", "reachable", "stale", "delay", "probe", "failed", "noarp", "permanent", "none")
"""In the words of ``ip neighbour``."""


@dataclass(frozen=True, slots=True)
class Neighbour:
    """One entry.

    Attributes:
        state: one of ``STATES``.
        mac: the hardware address, ``"aa:bb:cc:dd:ee:ff"``; ``None`` while it is not known.
    """

    address: Address
    state: str
    mac: str | None
