"""Kernel objects as values: what is wanted, what the kernel has, and the difference between the two. Pure."""

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from typing import Any, Generic

from pyflanneld.core.families import Network
from pyflanneld.core.objects.kind import GivesWay, Identity, Kind, Owner, P, W


@dataclass(frozen=True, slots=True)
class Create(Generic[W]):
    """Add the object; fails if one with its identity exists."""

    object: W


@dataclass(frozen=True, slots=True)
class Replace(Generic[W]):
    """Replace the object that is there, in one step."""

    object: W


@dataclass(frozen=True, slots=True)
class Append(Generic[W]):
    """Add the object behind those with its identity, which all stay."""

    object: W


@dataclass(frozen=True, slots=True)
class Drop(Generic[P]):
    """Delete exactly this object, by all that is known of it; already gone is success."""

    object: P


KernelChange = Create[Any] | Replace[Any] | Append[Any] | Drop[Any]


@dataclass(frozen=True, slots=True)
class Plan(Generic[W, P]):
    """The changes that make the kernel's objects of one kind what is wanted.

    Attributes:
        first: objects of ours that have to go before what takes their place can come.
        puts: what makes the wanted ones be there.
        extras: objects of ours that are one too many: another one with that identity is as wanted, or is among *puts*.
        drops: objects of ours that nothing wants any more.
        blocked: where a foreign object stands in the way, and that object.
        frozen: objects of ours that nothing wants and that stay.
    """

    puts: tuple[Create[W] | Replace[W] | Append[W], ...]
    drops: tuple[Drop[P], ...]
    blocked: Mapping[Any, P]
    extras: tuple[Drop[P], ...] = ()
    frozen: Collection[Identity] = field(default=(), compare=False)
    first: tuple[Drop[P], ...] = ()

    def without(self, identities: Collection[Identity]) -> "Plan[W, P]":
        """Return the plan without changes of these objects; they are left over."""
        if not identities:
            return self
        puts, extras, drops, first = (
            tuple(one for one in changes if one.object.identity not in identities)
            for changes in (self.puts, self.extras, self.drops, self.first)
        )
        return Plan(puts, drops, self.blocked, extras, {*self.frozen, *identities}, first)  # type: ignore[arg-type]

    def left_after(self, done: Iterable[KernelChange]) -> set[Identity]:
        """Return where an object is not as wanted once these of the changes are *done*.

        The next plan can leave out all others that have not changed.
        """
        over = set(map(id, done))  # by identity: the hash of a network is what costs here
        every = (*self.puts, *self.extras, *self.drops)
        left: set[Identity] = {one.object.identity for one in every if id(one) not in over}
        return left.union(self.blocked, self.frozen)


def plan(
    kind: Kind[W, P], wanted: Mapping[Any, W], present: Iterable[P], *, frozen: Collection[Network] = (),
    subnet: Callable[[P], Network | None] | None = None,
) -> Plan[W, P]:  # fmt: skip
    """Compare what is wanted with what is there.

    Objects are independent, so *wanted* and *present* may be limited to those that are due. One of ours is replaced or
    dropped; a foreign one that may be adopted is replaced; any other foreign one is never touched. Where a replacement
    would hit that one, ours is appended, and the old one dropped after it.

    Args:
        kind: of the objects.
        wanted: by identity.
        present: in the kernel's order: all of ours, and the foreign ones as far as they are known.
        frozen: subnets whose objects of ours stay, wanted or not; so does what may serve one of them.
        subnet: returns which one an object serves, where that is better known than to the kind.
    """
    alone, several = _standing(kind, present)
    puts: list[Create[W] | Replace[W] | Append[W]] = []
    extras: list[Drop[P]] = []
    first: list[Drop[P]] = []
    blocked: dict[Any, P] = {}
    for identity, want in wanted.items():
        one = alone.get(identity)
        if one is not None and kind.owner(one) is Owner.OURS and kind.is_as_wanted(want, one):
            continue
        here = [one] if one is not None else several.get(identity)
        if here is None:
            puts.append(Create(want))
            continue
        change, ours = _make_room(kind, want, here)
        if isinstance(change, Create | Replace | Append):
            puts.append(change)
            first += (Drop(held) for held in here if isinstance(change, Replace) and kind.goes_first(want, held))
        elif change is not None:
            blocked[identity] = change
        extras += map(Drop, ours)
    every = chain(alone.values(), chain.from_iterable(several.values()))
    idle = [one for one in every if one.identity not in wanted and kind.concerns_us(one) and _may_go(kind, one)]
    serves, stay = subnet or kind.subnet, {*frozen, None}
    kept = {one.identity for one in idle if frozen and serves(one) in stay}
    drops = (Drop(one) for one in idle if one.identity not in kept)
    return Plan(tuple(puts), tuple(drops), blocked, tuple(extras), kept, tuple(first))


def _standing(kind: Kind[W, P], present: Iterable[P]) -> tuple[dict[Any, P], dict[Any, list[P]]]:
    """Return the relevant objects by identity: where there is one, and where there are several."""
    alone: dict[Any, P] = {}
    several: dict[Any, list[P]] = {}
    for one in present:
        if kind.owner(one) is Owner.IRRELEVANT:
            continue
        identity = one.identity
        if identity in several:
            several[identity].append(one)
        elif (other := alone.setdefault(identity, one)) is not one:
            several[identity] = [other, one]
            del alone[identity]
    return alone, several


def _may_go(kind: Kind[W, P], one: P) -> bool:
    return kind.gives_way(one) is not GivesWay.NEVER


def _make_room(
    kind: Kind[W, P], want: W, here: Sequence[P]
) -> tuple[Create[W] | Replace[W] | Append[W] | P | None, list[P]]:
    """Return what makes *want* be there, and which of ours go then.

    The first is ``None`` if it is there, and the foreign object if that stands in the way.
    """
    here = [kind.claim(one, None, want) for one in here]
    ours = [one for one in here if kind.owner(one) is Owner.OURS]
    good = next((one for one in ours if kind.is_as_wanted(want, one)), None)
    if good is not None:
        return None, [one for one in ours if one is not good]
    hit = next((one for one in here if kind.is_hit_by_a_replacement(one)), None)
    if hit is None:
        return Create(want), ours
    if hit in ours:
        match kind.gives_way(hit):
            case GivesWay.IN_PLACE:
                return Replace(want), [one for one in ours if one is not hit]
            case GivesWay.BESIDE:
                return Append(want), ours
            case _:
                return hit, []
    if kind.may_adopt(want, hit):
        return Replace(want), ours
    return (Append(want), ours) if ours else (hit, [])
