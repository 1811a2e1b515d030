"""What the reconciler knows of a kernel object: an identity, a wanted and a present form, and whose it is. Pure.

A *kind* (routes, neighbour entries) answers what depends on it. It is a value: a backend makes it for this host.
"""

import enum
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

from pyflanneld.core.families import Network

Identity = Hashable
"""What the kernel can have only once within a kind: for a route its destination."""


class Wanted(Protocol):
    """An object as it is wanted; a value."""

    @property
    def identity(self) -> Identity:
        """What the kernel can have only once."""
        ...

    @property
    def subnet(self) -> Network:
        """The peer's subnet that needs it."""
        ...


class Present(Protocol):
    """An object as the kernel reports it; a value."""

    @property
    def identity(self) -> Identity:
        """As that of the wanted one."""
        ...


class Owner(enum.Enum):
    """Whose an object is."""

    OURS = enum.auto()
    FOREIGN = enum.auto()
    IRRELEVANT = enum.auto()  # it neither is ours nor can stand in the way of what is


class GivesWay(enum.Enum):
    """How an object of ours can go."""

    IN_PLACE = enum.auto()  # another one takes its place in one step
    BESIDE = enum.auto()  # it is dropped exactly, after another one has been put beside it
    NEVER = enum.auto()  # what is ours in it cannot be named


@dataclass(frozen=True, slots=True)
class Events:
    """What the log calls what becomes of objects of a kind; the last four are conditions.

    Where there is one object for each identity, and a foreign one is adopted, nothing is shadowed or in conflict.
    """

    put: str
    dropped: str
    adopted: str
    changed: str
    changed_by_others: str
    contested: str
    failed: str
    shadowed: str = ""
    conflict: str = ""


W = TypeVar("W", bound=Wanted)
P = TypeVar("P", bound=Present)


class Kind(Protocol[W, P]):
    """One kind of kernel objects, on this host and for its network.

    Attributes:
        name: of one, for messages.
        plural: of many.
        events: their names in the log.
        wanted_type: the class of the wanted objects.
    """

    @property
    def name(self) -> str: ...  # noqa: D102 - see above

    @property
    def plural(self) -> str: ...  # noqa: D102

    @property
    def events(self) -> Events: ...  # noqa: D102

    @property
    def wanted_type(self) -> type[W]: ...  # noqa: D102

    def listings(self, *, foreign: bool) -> Sequence[object]:
        """Return what ``ports.Kernel.objects`` has to list to find all of ours; with *foreign* those of others too."""
        ...

    def owner(self, present: P) -> Owner:
        """Return whose it is."""
        ...

    def is_hit_by_a_replacement(self, present: P) -> bool:
        """Return whether a ``Replace`` may take its place: of all that may, the first in the kernel's order goes."""
        ...

    def gives_way(self, present: P) -> GivesWay:
        """Return how one that is ours can go without taking anything of anybody else's along."""
        ...

    def goes_first(self, wanted: W, present: P) -> bool:
        """Return whether one that is ours has to be dropped before *wanted* can take its place."""
        ...

    def claim(self, present: P, before: P | None, wanted: W | None) -> P:
        """Return *present*, whose part that is ours is named if it has what was there *before*, or what is *wanted*."""
        ...

    def concerns_us(self, present: P) -> bool:
        """Return whether it is ours, and belongs to this daemon and not to another one on this host."""
        ...

    def is_as_wanted(self, wanted: W, present: P) -> bool:
        """Return whether it is as wanted, whoever put it."""
        ...

    def may_adopt(self, wanted: W, present: P) -> bool:
        """Return whether a foreign one may be replaced by *wanted*, because flannel has left it or it was learned."""
        ...

    def shadows(self, wanted: Mapping[Any, W], present: Iterable[P]) -> Mapping[Any, P]:
        """Return, by identity, what the kernel uses for packets, or for some of them, although *wanted* is there.

        *present* has all objects, of everybody, in the kernel's order.
        """
        ...

    def subnet(self, present: P) -> Network | None:
        """Return the subnet that it serves, whether or not anybody wants it; ``None`` where it does not say that."""
        ...

    def as_placed(self, wanted: W) -> P:
        """Return what the kernel reports once *wanted* is put."""
        ...

    def order(self, identity: Any) -> tuple[int, ...]:
        """Return by what an identity is sorted."""
        ...

    def shown(self, identity: Any) -> str:
        """Return an identity as an operator knows it."""
        ...

    def fields(self, one: W | P) -> Mapping[str, Any]:
        """Return what a log line says of one."""
        ...
