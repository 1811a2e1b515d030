"""The address that this host publishes: it stays while it is there, and is waited for when it has gone. Pure.

A host may have several addresses on its link, and some come and go: a virtual one (keepalived), or the host's own at a
DHCP renewal or while somebody sets the interface down and up. Peers send to the published one, so one that another host
may hold in a minute must not take its place. An interface that is renumbered is to be followed soon, though.

* While the published address is there, nothing changes, whatever comes beside it, and whichever the kernel has first.
* When it is gone and another one would do, it is waited for: ``RETURN_S``, from when that other one is there. The wait
  is only ``RENUMBERED_S`` if the other came in its place: at the same moment, with the same prefix length, and was
  never seen beside it.
* The address of the start, or the one that the operator has named before it and that came later, is published again
  as soon as it is back.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import inf

from pyflanneld.core.families import Address
from pyflanneld.core.link.selection import Link

RETURN_S = 60.0
RENUMBERED_S = 1.0
AT_ONCE_S = 2.0
"""Between the end of an address and the beginning of the one that takes its place, in seconds."""


@dataclass(frozen=True, slots=True)
class Published:
    """The published address of one family, and what was seen of it and of others.

    Attributes:
        first: the one of the start, or the one that the operator would rather have and that came later.
        address: the one that is published.
        length: its prefix length when it was last there; ``None``: not seen yet.
        beside: what was there with it.
        gone_s: since when it is gone; ``None``: it is there.
        other: what would be published in its place, and *due_s* when it will be.
        wait_s: how long it is waited for in all.
    """

    first: Address
    address: Address
    length: int | None = None
    beside: frozenset[Address] = frozenset()
    gone_s: float | None = -inf
    other: Address | None = None
    due_s: float = inf
    wait_s: float = RETURN_S

    def seen(self, links: Sequence[Link], fit: Address | None, now_s: float) -> "Published":
        """Return it after a look at the links.

        Args:
            links: all of them.
            fit: what the operator's rule selects now; of several the first one, or else the published one if it is
                there; ``None``: nothing.
            now_s: the time in seconds, on a clock that only runs on.
        """
        there = _lengths(links, self.address.version)
        if fit in (self.first, self.address):
            return self._now(fit, there)
        gone_s = now_s if self.gone_s is None else self.gone_s
        if fit is None:
            return replace(self, gone_s=gone_s, other=None, due_s=inf)
        if fit != self.other:
            wait_s = RENUMBERED_S if self._replaced_by(fit, there, now_s - gone_s) else RETURN_S
            return replace(self, gone_s=gone_s, other=fit, due_s=now_s + wait_s, wait_s=wait_s)
        return self if now_s < self.due_s else self._now(fit, there)

    def moved(self, links: Sequence[Link], address: Address, *, for_good: bool) -> "Published":
        """Return it with *address*, which the operator wants now; *for_good*: more than that of the start."""
        first = address if for_good else self.first
        return replace(self, first=first)._now(address, _lengths(links, address.version))

    def _now(self, address: Address, there: dict[Address, int]) -> "Published":
        beside = self.beside | (there.keys() - {address, self.first})
        return Published(self.first, address, there.get(address), beside, gone_s=None)

    def _replaced_by(self, other: Address, there: dict[Address, int], gone_for_s: float) -> bool:
        return gone_for_s <= AT_ONCE_S and other not in self.beside and there.get(other) == self.length


def _lengths(links: Sequence[Link], version: int) -> dict[Address, int]:
    """Return the addresses of all *links* with their prefix lengths."""
    return {own.ip: own.network.prefixlen for link in links for own in link.interfaces(version)}
