"""Kernel objects as values: what is wanted, what the kernel has, and the difference between the two. Pure."""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Generic

from pyflanneld.core.families import Network
from pyflanneld.core.objects.kind import Identity, Kind, Owner, P, W


@dataclass(frozen=True, slots=True)
class Create(Generic[W]):
    """Add the object; fails if one with its identity exists."""

    object: W


@dataclass(frozen=True, slots=True)
class Replace(Generic[W]):
    """Replace the object that is there, in one step."""

    object: W


@dataclass(frozen=True, slots=True)
class Drop(Generic[P]):
    """Delete exactly this object, by all that is known of it; already gone is success."""

    object: P


KernelChange = Create[Any] | Replace[Any] | Drop[Any]


@dataclass(frozen=True, slots=True)
class Plan(Generic[W, P]):
    """The changes that make the kernel's objects of one kind what is wanted.

    Attributes:
        puts: creations and replacements.
        drops: objects of ours that nothing wants any more.
        blocked: where a foreign object stands in the way, and that object.
        frozen: objects of ours that nothing wants and that stay.
    """

    puts: tuple[Create[W] | Replace[W], ...]
    drops: tuple[Drop[P], ...]
    blocked: Mapping[Any, P]
    frozen: Collection[Identity] = field(default=(), compare=False)

    def left_after(self, done: Iterable[KernelChange]) -> set[Identity]:
        """Return where an object is not as wanted once these of the changes are *done*.

        The next plan can leave out all others that have not changed.
        """
        over = set(map(id, done))  # by identity: the hash of a network is what costs here
        left: set[Identity] = {one.object.identity for one in (*self.puts, *self.drops) if id(one) not in over}
        return left.union(self.blocked, self.frozen)


def plan(
    kind: Kind[W, P], wanted: Mapping[Any, W], present: Iterable[P], *, frozen: Collection[Network] = ()
) -> Plan[W, P]:
    """Compare what is wanted with what is there.

    Objects are independent, so *wanted* and *present* may be limited to those that are due. One of ours is replaced or
    dropped; a foreign one that may be adopted is replaced; any other foreign one is never touched.

    Args:
        kind: of the objects.
        wanted: by identity.
        present: in the kernel's order: all of ours, and the foreign ones where a creation has failed.
        frozen: subnets whose objects of ours stay, wanted or not.
    """
    owned: dict[Identity, P] = {}
    foreign: dict[Identity, P] = {}
    for one in present:
        owner = kind.owner(one)
        if owner is Owner.OURS:
            owned[one.identity] = one
        elif owner is Owner.FOREIGN:
            foreign.setdefault(one.identity, one)  # of several, a replacement would hit the first
    puts: list[Create[W] | Replace[W]] = []
    blocked: dict[Any, P] = {}
    for identity, want in wanted.items():
        there, blocker = owned.get(identity), foreign.get(identity)
        if there is not None and kind.is_as_wanted(want, there):
            continue
        if blocker is None:
            puts.append(Create(want) if there is None else Replace(want))
        elif kind.may_adopt(want, blocker):
            puts.append(Replace(want))
        else:
            blocked[identity] = blocker
    idle = {identity: one for identity, one in owned.items() if identity not in wanted and kind.concerns_us(one)}
    kept = {identity for identity, one in idle.items() if frozen and kind.subnet(one) in frozen}
    drops = (Drop(one) for identity, one in idle.items() if identity not in kept)
    return Plan(tuple(puts), tuple(drops), blocked, kept)
