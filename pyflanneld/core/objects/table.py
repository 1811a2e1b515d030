"""What is wanted and what is known of each object of a kind: present or not, why not, and since when.

Every object is planned for itself, so only those have to be planned at which a difference is possible: they are *due*.
At first, and after every uncertainty, all are. One lease more costs the same with ten peers and with thousands.
"""

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Generic

from pyflanneld.core.families import Network
from pyflanneld.core.objects.change_reasons import ChangeReason, change_reason
from pyflanneld.core.objects.kind import GivesWay, Identity, Kind, Owner, P, W
from pyflanneld.core.objects.plan import Drop, KernelChange, Plan, plan


@dataclass(slots=True)
class ObjectState(Generic[P]):
    """The state of one object.

    Attributes:
        present: ours, as it was last read or put.
        foreign: that of somebody else with the same identity, as far as it is known.
        ahead: whether the kernel has that one before ours.
        refusal: the errno with which the kernel refused the last change; 0: none.
        lost: why ours was lost, until it is there again.
        waiting_since_s: since when the wanted one cannot be had; ``None``: it is there, or not wanted.
    """

    present: P | None = None
    foreign: P | None = None
    ahead: bool = False
    refusal: int = 0
    lost: ChangeReason | None = None
    waiting_since_s: float | None = None

    @property
    def blocked(self) -> bool:
        """Whether a foreign object keeps ours out."""
        return self.waiting_since_s is not None and not self.refusal


@dataclass(frozen=True, slots=True)
class Difference(Generic[P]):
    """Where our objects are not as they were left: *before* was expected, *now* was read."""

    identity: Any
    before: P | None
    now: P | None


class ObjectTable(Generic[W, P]):
    """All objects of one kind that we have, or want.

    Attributes:
        kind: the kind; another value, with the same name, once the host has changed.
        present: how many objects of ours the kernel has.
        version: another number after each change.
        shadowed: what the kernel uses for packets although ours is there, by identity, as it was last looked for.
    """

    def __init__(self, kind: Kind[W, P]) -> None:
        self.kind = kind
        self.present = 0
        self.version = 0
        self._wanted: dict[Any, W] = {}
        self._wanted_for: dict[Network, tuple[Identity, ...]] = {}
        self._serves: dict[Identity, Network] = {}  # for which subnet an object was last wanted
        self._at: dict[Any, ObjectState[P]] = {}
        self._waiting: set[Identity] = set()
        self._lost: set[Identity] = set()
        self._with_foreign: set[Identity] = set()
        self._parked: dict[Any, P] = {}
        self._left_over: set[Identity] = set()  # what the first plan has parked, and nobody has wanted since
        self._extras: dict[Any, tuple[P, ...]] = {}  # more of ours, where one is enough
        self.shadowed: Mapping[Any, P] = {}
        self._noted: Sequence[P] = ()  # everybody's objects as last noted, if nothing that they mean has changed since
        self._due: set[Identity] | None = None  # None: all
        self._compared: set[Identity] | None = None  # what was due for the plan that is under way

    def objects(self) -> Iterator[P]:
        """Return our objects."""
        return (one.present for one in self._at.values() if one.present is not None)

    def has(self, identity: Identity) -> bool:
        """Return whether an object of ours is there."""
        known = self._at.get(identity)
        return known is not None and known.present is not None

    def subnet(self, present: P) -> Network | None:
        """Return the subnet that an object of ours serves, as far as that is known."""
        return self._serves.get(present.identity) or self.kind.subnet(present)

    def waiting(self) -> dict[Any, ObjectState[P]]:
        """Return the wanted objects that cannot be had, by identity."""
        return {identity: self._at[identity] for identity in self._waiting}

    def blocked(self) -> dict[Any, P]:
        """Return the foreign objects that keep ours out, by identity."""
        return {key: one.foreign for key, one in self.waiting().items() if one.blocked and one.foreign is not None}

    def refused(self) -> dict[Any, int]:
        """Return the errno of each change that the kernel has refused, by identity."""
        return {identity: one.refusal for identity, one in self.waiting().items() if one.refusal}

    def parked(self) -> Collection[P]:
        """Return the objects that nothing wants and that may not be dropped yet; no plan has them."""
        return self._parked.values()

    # What is wanted

    @property
    def wanted(self) -> Mapping[Any, W]:
        """What is wanted, by identity; goes on changing."""
        return self._wanted

    def want(self, objects: Iterable[W], subnets: Collection[Network] | None) -> None:
        """Take over what is wanted for *subnets*, and that nothing else is wanted for these; ``None``: for all.

        What is wanted for one subnet has other identities than what is wanted for another one.
        """
        self._noted = ()
        if subnets is None:
            self._wanted, self._wanted_for = {}, {}
            self._serves = {identity: subnet for identity, subnet in self._serves.items() if identity in self._at}
        due = [identity for subnet in subnets or () for identity in self._wanted_for.pop(subnet, ())]
        for identity in due:
            self._wanted.pop(identity, None)
            if identity not in self._at:
                self._serves.pop(identity, None)
        for one in objects:
            identity, subnet = one.identity, one.subnet
            self._wanted[identity] = one
            self._wanted_for[subnet] = (*self._wanted_for.get(subnet, ()), identity)
            if identity is not subnet:
                self._serves[identity] = subnet
            due.append(identity)
            if self._parked:
                self._parked.pop(identity, None)
            if self._left_over:
                self._left_over.discard(identity)
        self.add_due(None if subnets is None else due)

    def add_due(self, identities: Collection[Identity] | None) -> None:
        """Have the next plan compare these as well; ``None``: all."""
        self._due = None if self._due is None or identities is None else self._due.union(identities)

    def unpark(self) -> None:
        """Have the next plan compare what is parked."""
        self.add_due(self._parked)
        self._parked = {}

    def plan(self, frozen: Collection[Network] = (), *, only_missing: bool = False) -> Plan[W, P]:
        """Compare what is wanted with what is there, where it is due.

        Args:
            frozen: subnets whose objects of ours stay, wanted or not.
            only_missing: all objects of ours stay as they are.
        """
        wanted = self._due_wanted()
        if not only_missing:
            return plan(self.kind, wanted, self._due_present(), frozen=frozen, subnet=self.subnet)
        missing = {identity: one for identity, one in wanted.items() if not self.has(identity)}
        return replace(plan(self.kind, missing, self._due_present()), drops=())

    def _due_wanted(self) -> Mapping[Any, W]:
        wanted = self._wanted
        return wanted if self._due is None else {key: wanted[key] for key in self._due if key in wanted}

    def _due_present(self) -> Iterator[P]:
        """Return what stands where something is due: our objects, and foreign ones where they are known."""
        at = self._at
        for identity in at if self._due is None else self._due & at.keys():
            known = at[identity]
            if known.foreign is not None and known.ahead:
                yield known.foreign
            if known.present is not None:
                yield known.present
            yield from self._extras.get(identity, ())
            if known.foreign is not None and not known.ahead:
                yield known.foreign

    # What the kernel has

    def take_over(self, objects: Iterable[P]) -> list[Difference[P]]:
        """Take over our objects as they were just read; where they are not as they were left is due.

        What does not concern us may be among *objects*.
        """
        at, kept = self._at, set[int]()  # by identity: the hash of a network is what costs here
        others: dict[Any, list[P]] = {}
        for one in objects:
            known = at.get(one.identity)
            if known is not None and (known.present is one or known.present == one):
                known.present = one  # the next comparison is one of identity
                kept.add(id(known))
                continue
            mine = self._claimed(one, known)
            if known is not None and known.present == mine:
                kept.add(id(known))
            elif self.kind.concerns_us(mine):
                others.setdefault(one.identity, []).append(mine)
        found = []
        if len(kept) < self.present:
            gone = (key for key, one in at.items() if one.present is not None and id(one) not in kept)
            found = [Difference(key, at[key].present, None) for key in gone if key not in others]
        for identity, some in others.items():
            known = at.get(identity)
            if known is None or id(known) not in kept:
                best = self._take_best(identity, some)
                found.append(Difference(identity, known.present if known is not None else None, best))
        for difference in found:
            self._set(difference.identity, difference.now)
        self._take_extras({key: tuple(some) for key, some in others.items() if some})
        self.add_due([one.identity for one in found])
        self.version += bool(found)
        return found

    def _claimed(self, one: P, known: ObjectState[P] | None) -> P:
        """Return *one* with the part that is ours named."""
        if self.kind.gives_way(one) is GivesWay.IN_PLACE:
            return one
        return self.kind.claim(one, known.present if known is not None else None, self._wanted.get(one.identity))

    def _take_best(self, identity: Identity, some: list[P]) -> P:
        """Take the best of *some* objects of ours with one identity out of them; it is the one that counts."""
        if len(some) == 1:
            return some.pop()
        want = self._wanted.get(identity)
        best = next((one for one in some if want is not None and self.kind.is_as_wanted(want, one)), some[0])
        some.remove(best)
        return best

    def _take_extras(self, extras: dict[Any, tuple[P, ...]]) -> None:
        if extras != self._extras:
            self.add_due([*extras, *self._extras])
            self._extras = extras

    def _set(self, identity: Identity, present: P | None, known: ObjectState[P] | None = None) -> None:
        if known is None:
            known = self._state(identity)
        self._noted = ()
        if self._parked:
            self._parked.pop(identity, None)
        self.present += (present is not None) - (known.present is not None)
        known.present = present
        if present is not None:
            known.lost = None
        else:
            self._prune(identity)

    def _state(self, identity: Identity) -> ObjectState[P]:
        known = self._at.get(identity)
        if known is None:
            known = self._at[identity] = ObjectState()
        return known

    def _prune(self, identity: Identity) -> None:
        """Forget an object of which nothing is known any more."""
        if self._at[identity] == _NOTHING:
            del self._at[identity]
            if identity not in self._wanted:
                self._serves.pop(identity, None)

    def note_losses(self, lost: Mapping[Any, ChangeReason]) -> None:
        """Remember why our objects were lost, until they are there again or not wanted any more."""
        self._lost.update(lost)
        for identity, reason in lost.items():
            self._state(identity).lost = reason

    def note_all(self, objects: Sequence[P]) -> None:
        """Remember the foreign objects with an identity of ours: *objects* has all there are, in the kernel's order.

        Of several, a replacement would hit the first.
        """
        if objects == self._noted and not (self._waiting or self._with_foreign):
            return
        self._noted = objects
        self._forget(self._with_foreign)
        ours: set[Identity] = set()
        for one in objects:
            identity = one.identity
            known = self._at.get(identity)
            owner = self.kind.owner(self._claimed(one, known))
            if owner is Owner.OURS:
                ours.add(identity)
            elif owner is Owner.FOREIGN and known is not None and known.foreign is None:
                known.foreign, known.ahead = one, identity not in ours
                self._with_foreign.add(identity)
        self.shadowed = self.kind.shadows(self._wanted, objects)

    def forget_foreign(self) -> None:
        """Forget the foreign objects that are in the way: they may have gone."""
        self._forget(self._waiting)

    def _forget(self, identities: Iterable[Identity]) -> None:
        for identity in tuple(identities):
            if (known := self._at.get(identity)) is not None:
                known.foreign, known.ahead = None, False
                self._prune(identity)
            self._with_foreign.discard(identity)

    # What was done

    def begin(self) -> None:
        """Take everything for due until ``settle``: changes are on their way to the kernel, and it may fail."""
        self._compared, self._due = self._due, None

    def settle(
        self,
        todo: Plan[W, P],
        done: Sequence[KernelChange],
        refused: Mapping[KernelChange, int],
        *,
        now_s: float,
        first: bool,
    ) -> list[tuple[KernelChange, ChangeReason]]:
        """Take over what became of a plan, which ``begin`` has announced.

        Args:
            todo: the plan, for all objects that were due.
            done: its changes that have succeeded, the same objects.
            refused: those that the kernel has refused, with the errno.
            now_s: the time, for how long an object is waiting.
            first: whether it is the first plan of all.

        Returns:
            What was done, each change with its reason. Drops that are neither done nor refused are parked.
        """
        extras, cleared = set(map(id, todo.extras)), set(map(id, todo.first))
        reasons = [
            (change, ChangeReason.DUPLICATE if id(change) in extras else self._done(change, first=first))
            for change in done if id(change) not in cleared
        ]  # fmt: skip
        over = set(map(id, done))
        self._settle_extras((*todo.extras, *todo.first), over)
        left = todo.left_after(done)
        self._end_losses(left)
        waiting = dict.fromkeys(todo.blocked, 0) | {change.object.identity: code for change, code in refused.items()}
        self._settle_waiting(waiting, now_s)
        waits = (drop.object for drop in todo.drops if id(drop) not in over and drop not in refused)
        self._parked |= {one.identity: one for one in waits}
        if first:
            self._left_over = set(self._parked)
        self._due = left - self._parked.keys() if self._parked else left
        self.version += 1
        return reasons

    def _settle_extras(self, extras: Sequence[Drop[P]], over: Collection[int]) -> None:
        """Forget objects that were one too many; one that counted is gone if what was to be beside it was refused."""
        for change in extras:
            identity = change.object.identity
            self._extras.pop(identity, None)
            known = self._at.get(identity)
            if id(change) in over and known is not None and known.present == change.object:
                self._set(identity, None, known)

    def _settle_waiting(self, waiting: Mapping[Any, int], now_s: float) -> None:
        """Take over which wanted objects cannot be had, each with its errno; 0: something foreign is in the way."""
        for identity in self._waiting - waiting.keys():
            known = self._state(identity)
            known.foreign, known.ahead, known.refusal, known.waiting_since_s = None, False, 0, None
            self._with_foreign.discard(identity)
            self._prune(identity)
        for identity, code in waiting.items():
            known = self._state(identity)
            known.refusal = code
            known.waiting_since_s = now_s if known.waiting_since_s is None else known.waiting_since_s
        self._waiting = set(waiting)

    def _done(self, change: KernelChange, *, first: bool) -> ChangeReason:
        """Take over that *change* was made; return why."""
        identity = change.object.identity
        known = self._state(identity)
        adopted, waited = known.foreign is not None, known.waiting_since_s is not None
        first = first or identity in self._left_over
        reason = change_reason(change, first=first, adopted=adopted, lost=known.lost, waited=waited)
        self._set(identity, None if isinstance(change, Drop) else self.kind.as_placed(change.object), known)
        return reason

    def _end_losses(self, different: Collection[Identity]) -> None:
        """Forget the losses where objects were compared and are as they are wanted."""
        for identity in tuple(self._lost):
            known = self._at.get(identity)
            if known is None or known.lost is None:
                self._lost.discard(identity)
            elif (self._compared is None or identity in self._compared) and identity not in different:
                known.lost = None
                self._lost.discard(identity)
                self._prune(identity)


_NOTHING: ObjectState[Any] = ObjectState()
