"""A kernel that watches the daemon's hands: each change is checked when it is asked for, and when it is made."""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from random import Random
from typing import Any, Protocol

from pyflanneld.core.families import Address, Network
from pyflanneld.core.link.selection import Link, Neighbour
from pyflanneld.core.neighbours import Entry, EntryListing, KernelEntry
from pyflanneld.core.objects.plan import Append, Create, Drop, KernelChange, Replace
from pyflanneld.core.routes import Blackhole, KernelRoute, Route, Way, usual_metric
from pyflanneld.core.vxlan.forwardings import Forwarding, ForwardingListing, KernelForwarding
from pyflanneld.ports import Change
from tests.support.fakes.kernel import FakeKernel

LAN_LINK = "eth1"
_ENTRIES = Entry | KernelEntry | Forwarding | KernelForwarding
_LISTED = _ENTRIES | Route | Blackhole | KernelRoute
EARLY_S = 0.05
"""Linux tells that a route is deleted before it is: by less than this."""


class Checker(Protocol):
    """Told of what the daemon does."""

    def asked(self, changes: Sequence[KernelChange], *, again: bool) -> None:
        """Look at what it is about to do; *again*: it has waited for the kernel since it decided that."""
        ...

    def waits(self) -> None:
        """Look at what it knows: it asks the kernel something before it goes on with that."""
        ...

    def made(self, change: KernelChange, there: KernelRoute | None, dropped: Sequence[Network]) -> None:
        """Look at a change that is made, the route that stood there, and what was dropped just before."""
        ...

    def asked_of_devices(self, changes: Sequence[KernelChange]) -> None:
        """Look at what it is about to do to devices and their addresses."""
        ...

    def made_entry(self, change: KernelChange, *, whole: bool) -> None:
        """Look at a change of a neighbour or forwarding entry; *whole* as ``SimKernel.is_as_seen``."""
        ...

    def refused(self, refusals: Mapping[KernelChange, int]) -> None:
        """Look at what it says right after it was refused something."""
        ...


class SimKernel(FakeKernel):
    """``FakeKernel`` with delays, and with checks, if it is given any.

    Attributes:
        looked: told of the links that it shows.
        touched: the kinds of listings that others have made untrue since they were last shown.
    """

    def __init__(self, *links: Link, rng: Random, checks: Checker | None = None, protocol: int = 103) -> None:
        super().__init__(*links, protocol=protocol)
        self._rng = rng
        self._checks = checks
        self._dropped: list[Network] = []
        self._looked_at_all = False
        self._unseen: set[Network] = set()  # where others have put a route since the last look
        self.looked: Callable[[tuple[Link, ...]], None] | None = None
        self.touched: set[type] = set()
        self._refuses = False  # something of what was asked for last
        self.awake = asyncio.Event()
        self.awake.set()

    async def links(self) -> tuple[Link, ...]:
        found = await super().links()
        if self.looked is not None:
            self.looked(found)
        return found

    async def route_to(self, address: Address) -> Way | None:
        if self._checks is not None:
            self._checks.waits()
        self._looked_at_all = True
        return await super().route_to(address)

    async def _called(self, name: str) -> None:
        await self.awake.wait()
        if self._rng.random() < 0.2:
            await asyncio.sleep(self._rng.uniform(0, 0.01))
        await super()._called(name)

    async def routes(self, *, protocol: int | None = None, version: int = 4) -> tuple[KernelRoute, ...]:
        found = await super().routes(protocol=protocol, version=version)
        self._unseen.clear()
        self._looked_at_all |= protocol is None
        if self._rng.random() < 0.05:  # what changes meanwhile is not in it
            await asyncio.sleep(self._rng.uniform(0, 0.02))
        return found

    async def objects(self, listing: object, *, patient: bool = False) -> tuple[Any, ...]:
        found = await super().objects(listing, patient=patient)
        self.touched.discard(type(listing))
        return found

    @property
    def is_as_seen(self) -> bool:
        """Whether the entries are as they were last shown, but for what was asked for since, and that was done."""
        return not self.touched and not self._refuses

    def touch(self, *, told: bool) -> None:
        """Take note that somebody has changed a device or its entries; Linux tells of it, or the event is lost."""
        self.touched |= {EntryListing, ForwardingListing}
        if told:
            self.wake(Change.ROUTES)

    async def apply(self, changes: Sequence[KernelChange]) -> Mapping[KernelChange, int]:
        checks = self._checks
        if checks is not None and changes and not isinstance(changes[0].object, _LISTED):
            checks.asked_of_devices(changes)
            return await super().apply(changes)
        again, self._looked_at_all = self._looked_at_all, False
        if checks is not None:
            checks.asked(changes, again=again)
        self._dropped, self._refuses = [], False
        refusals = await super().apply(changes)
        if checks is not None and refusals:
            asyncio.get_running_loop().call_soon(checks.refused, refusals)
        return refusals

    def add_foreign(self, route: KernelRoute) -> None:
        """Put a route as somebody else does."""
        self._unseen.add(route.dst)
        super().add_foreign(route)

    def _apply(self, change: KernelChange) -> int:
        if not isinstance(change.object, Route | Blackhole | KernelRoute):
            return self._apply_other(change)
        there = self.standing(change.object.dst)
        if change.object.dst in self._unseen:  # nobody looks and puts in one step
            there = None
        result = super()._apply(change)
        self._refuses |= bool(result)
        if result == 0 and self._checks is not None and isinstance(change, Create | Replace | Append | Drop):
            self._checks.made(change, there, self._dropped)
            if isinstance(change, Drop):
                self._dropped.append(change.object.dst)
        return result

    def _apply_other(self, change: KernelChange) -> int:
        """Make a change of an entry or a device."""
        result = super()._apply(change)
        self._refuses |= bool(result)
        if result == 0 and self._checks is not None and isinstance(change.object, _ENTRIES):
            self._checks.made_entry(change, whole=self.is_as_seen)
        return result

    def lan_link(self) -> Link:
        """Return the link on the LAN, whatever other there is."""
        return next(link for link in self._links.values() if link.name == LAN_LINK)

    def put_neighbour(self, link_index: int, neighbour: Neighbour) -> None:
        """Put a neighbour as somebody else does, in the place of the one with its address."""
        here = self._neighbours.setdefault(link_index, [])
        here[:] = [*(one for one in here if one.address != neighbour.address), neighbour]

    def next_index(self) -> int:
        """Return the index that the next link gets: no other ever had it."""
        return self._last_index + 1

    def has_link(self, name: str) -> bool:
        """Return whether there is a link of that name."""
        return any(link.name == name for link in self._links.values())

    def standing(self, dst: Network) -> KernelRoute | None:
        """Return the route for *dst* with the usual metric that a replacement would hit."""
        here = self._routes.get((dst, usual_metric(dst)), ())
        return next((route for route in here if route.tos == 0), None)

    def lose_route_early(self, dst: Network) -> None:
        """Tell that a route is gone, and take it away only then."""
        self.wake(Change.ROUTES)

        def lose() -> None:
            if (dst, usual_metric(dst)) in self._routes:
                self.lose_route(dst, metric=usual_metric(dst))

        asyncio.get_running_loop().call_later(EARLY_S, lose)

    def reboot(self, link: Link) -> None:
        """Begin with nothing but a link, as a machine that was switched on."""
        for index in list(self._links):
            del self._links[index]
        for table in (self._routes, self._neighbours, self._forwardings):
            table.clear()
        self.touch(told=False)
        self.set_link(link)
