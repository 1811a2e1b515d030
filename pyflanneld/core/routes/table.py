"""What is known of each destination: our route in the kernel, why a wanted route is not there, and since when.

Every destination is planned for itself, so only those have to be planned at which a difference is possible: they are
*due*. At first, and after every uncertainty, all are. One lease more costs the same with ten peers and with thousands.
"""

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

from pyflanneld.core.families import Network, inside
from pyflanneld.core.routes.change_reasons import ChangeReason, change_reason
from pyflanneld.core.routes.plan import Drop, KernelRoute, PeerChange, Plan, usual_metric

T = TypeVar("T")


@dataclass(slots=True)
class Destination:
    """One destination.

    Attributes:
        present: our route, as it was last read or put.
        foreign: the route of somebody else that stands where ours should.
        refusal: the errno with which the kernel refused the last change; 0: none.
        lost: why our route was lost, until it is there again.
        waiting_since_s: since when the wanted route cannot be had; ``None``: it is there, or not wanted.
    """

    present: KernelRoute | None = None
    foreign: KernelRoute | None = None
    refusal: int = 0
    lost: ChangeReason | None = None
    waiting_since_s: float | None = None

    @property
    def blocked(self) -> bool:
        """Whether a foreign route keeps ours out."""
        return self.waiting_since_s is not None and not self.refusal


@dataclass(frozen=True, slots=True)
class Difference:
    """Where our routes are not as they were left: *before* was expected, *now* was read."""

    dst: Network
    before: KernelRoute | None
    now: KernelRoute | None


class RouteTable:
    """All destinations at which we have, or want, a route.

    Args:
        protocol: the number that marks a route as ours.
        networks: the cluster's; routes of ours outside them belong to another daemon.

    Attributes:
        present: how many routes of ours the kernel has.
        version: another number after each change.
    """

    def __init__(self, protocol: int, networks: Sequence[Network]) -> None:
        self.present = 0
        self.version = 0
        self._protocol = protocol
        self._networks = networks
        self._at: dict[Network, Destination] = {}
        self._waiting: set[Network] = set()
        self._due: set[Network] | None = None  # None: all
        self._compared: set[Network] | None = None  # what was due for the plan that is under way

    def routes(self) -> Iterator[KernelRoute]:
        """Return our routes."""
        return (one.present for one in self._at.values() if one.present is not None)

    def has(self, dst: Network) -> bool:
        """Return whether a route of ours is there."""
        known = self._at.get(dst)
        return known is not None and known.present is not None

    def waiting(self) -> dict[Network, Destination]:
        """Return the destinations whose wanted route cannot be had."""
        return {dst: self._at[dst] for dst in self._waiting}

    def blocked(self) -> dict[Network, KernelRoute]:
        """Return the foreign routes that keep ours out, by destination."""
        return {dst: one.foreign for dst, one in self.waiting().items() if one.blocked and one.foreign is not None}

    def refused(self) -> dict[Network, int]:
        """Return the errno of each change that the kernel has refused, by destination."""
        return {dst: one.refusal for dst, one in self.waiting().items() if one.refusal}

    # What is due

    def add_due(self, destinations: Collection[Network] | None) -> None:
        """Have the next plan compare these as well; ``None``: all."""
        self._due = None if self._due is None or destinations is None else self._due.union(destinations)

    def only_due(self, values: Mapping[Network, T]) -> Mapping[Network, T]:
        """Return those of *values* that are due."""
        return values if self._due is None else {dst: values[dst] for dst in self._due if dst in values}

    def due_routes(self) -> Iterator[KernelRoute]:
        """Return what stands at the destinations that are due: our routes, and foreign ones where they are known."""
        at = self._at
        for dst in at if self._due is None else self._due & at.keys():
            known = at[dst]
            if known.present is not None:
                yield known.present
            if known.foreign is not None:
                yield known.foreign

    # What the kernel has

    def take_over(self, routes: Iterable[KernelRoute]) -> list[Difference]:
        """Take over our routes as they were just read; where they are not as they were left is due."""
        at, kept = self._at, set[int]()  # by identity: the hash of a network is what costs here
        changed: dict[Network, KernelRoute | None] = {}
        for route in routes:
            known = at.get(route.dst)
            if known is not None and (known.present is route or known.present == route):
                known.present = route  # the next comparison is one of identity
                kept.add(id(known))
                if changed:
                    changed.pop(route.dst, None)
            elif self._concerns_us(route):
                changed[route.dst] = route
        if len(kept) < self.present:
            gone = (dst for dst, one in at.items() if one.present is not None and id(one) not in kept)
            changed = dict.fromkeys(gone) | changed
        found = [Difference(dst, self._present_at(dst), now) for dst, now in changed.items()]
        found = [one for one in found if one.before != one.now]
        for one in found:
            self._set(one.dst, one.now)
        self.add_due([one.dst for one in found])
        self.version += bool(found)
        return found

    def _concerns_us(self, route: KernelRoute) -> bool:
        return route.metric == usual_metric(route.dst) and any(inside(route.dst, network) for network in self._networks)

    def _present_at(self, dst: Network) -> KernelRoute | None:
        known = self._at.get(dst)
        return None if known is None else known.present

    def _set(self, dst: Network, route: KernelRoute | None) -> None:
        known = self._at.setdefault(dst, Destination())
        self.present += (route is not None) - (known.present is not None)
        known.present = route
        if route is not None:
            known.lost = None
        self._prune(dst)

    def _prune(self, dst: Network) -> None:
        """Forget a destination of which nothing is known any more."""
        if self._at[dst] == _NOTHING:
            del self._at[dst]

    def note_losses(self, lost: Mapping[Network, ChangeReason]) -> None:
        """Remember why our routes were lost, until they are there again or not wanted any more."""
        for dst, reason in lost.items():
            self._at.setdefault(dst, Destination()).lost = reason

    def note_foreign(self, routes: Iterable[KernelRoute]) -> None:
        """Remember whose routes stand where a creation was refused; of several, a replacement would hit the first."""
        for route in routes:
            known = self._at.get(route.dst)
            foreign = route.protocol != self._protocol and route.metric == usual_metric(route.dst)
            if known is not None and known.refusal and foreign and known.foreign is None:
                known.foreign = route

    def forget_foreign(self) -> None:
        """Forget the foreign routes: they may have gone."""
        for dst in self._waiting:
            self._at[dst].foreign = None

    # What was done

    def begin(self) -> None:
        """Take everything for due until ``settle``: changes are on their way to the kernel, and it may fail."""
        self._compared, self._due = self._due, None

    def settle(
        self, todo: Plan, done: Sequence[PeerChange], refused: Mapping[PeerChange, int], *, now_s: float, first: bool
    ) -> list[tuple[PeerChange, ChangeReason]]:
        """Take over what became of a plan, which ``begin`` has announced.

        Args:
            todo: the plan, for all destinations that were due.
            done: its changes that have succeeded.
            refused: those that the kernel has refused, with the errno.
            now_s: the time, for how long a destination is waiting.
            first: whether it is the first plan of all.

        Returns:
            What was done, each change with its reason.
        """
        reasons = [(change, self._reason(change, first=first)) for change in done]
        for change in done:
            self._set(change.route.dst, None if isinstance(change, Drop) else change.route.placed(self._protocol))
        self._end_losses(todo.destinations)
        waiting = dict.fromkeys(todo.blocked, 0) | {change.route.dst: code for change, code in refused.items()}
        for dst in self._waiting - waiting.keys():
            known = self._at[dst]
            known.foreign, known.refusal, known.waiting_since_s = None, 0, None
            self._prune(dst)
        for dst, code in waiting.items():
            known = self._at.setdefault(dst, Destination())
            known.refusal = code
            known.waiting_since_s = now_s if known.waiting_since_s is None else known.waiting_since_s
        self._waiting = set(waiting)
        self._due = todo.destinations.difference(change.route.dst for change in done)
        self.version += 1
        return reasons

    def _reason(self, change: PeerChange, *, first: bool) -> ChangeReason:
        known = self._at.get(change.route.dst) or _NOTHING
        adopted = known.foreign is not None
        return change_reason(
            change, first=first, adopted=adopted, lost=known.lost, waited=known.waiting_since_s is not None
        )

    def _end_losses(self, different: Collection[Network]) -> None:
        """Forget the losses at destinations that were compared and are as they are wanted."""
        for dst in tuple(self._at) if self._compared is None else self._compared:
            known = self._at.get(dst)
            if known is not None and known.lost is not None and dst not in different:
                known.lost = None
                self._prune(dst)


_NOTHING = Destination()
