"""What kinds have in common of which the kernel has one object for each identity, on links of ours alone. Pure."""

from collections.abc import Iterable, Mapping
from typing import Any, Protocol, TypeVar

from pyflanneld.core.objects.kind import GivesWay, Owner


class Lasting(Protocol):
    """An object on a link: somebody has put it for good, or the kernel has learned it."""

    @property
    def link_index(self) -> int: ...  # noqa: D102 - see above

    @property
    def permanent(self) -> bool: ...  # noqa: D102


L = TypeVar("L", bound=Lasting)


class SoleKind:
    """The answers of such a kind; see ``Kind``. What was learned is adopted, and a replacement hits the one there is.

    Attributes:
        link_indexes: of the links.
    """

    __slots__ = ()
    link_indexes: tuple[int, ...]

    def owner(self, present: Lasting) -> Owner:
        """Return whose it is: what was learned is foreign."""
        if present.link_index not in self.link_indexes:
            return Owner.IRRELEVANT
        return Owner.OURS if present.permanent else Owner.FOREIGN

    def is_hit_by_a_replacement(self, present: Lasting) -> bool:  # noqa: ARG002 - here and below: the protocol's
        """Return that it is."""
        return True

    def gives_way(self, present: Lasting) -> GivesWay:  # noqa: ARG002
        """Return that it is replaced."""
        return GivesWay.IN_PLACE

    def goes_first(self, wanted: Any, present: Lasting) -> bool:  # noqa: ARG002
        """Return that it does not."""
        return False

    def claim(self, present: L, before: L | None, wanted: Any) -> L:  # noqa: ARG002
        """Return it as it is."""
        return present

    def shadows(self, wanted: Mapping[Any, Any], present: Iterable[L]) -> Mapping[Any, L]:  # noqa: ARG002
        """Return nothing."""
        return {}

    def may_adopt(self, wanted: Any, present: Lasting) -> bool:  # noqa: ARG002
        """Return whether it was learned."""
        return not present.permanent

    def subnet(self, present: Lasting) -> None:
        """Return ``None``: it does not say for which subnet it was put."""
