"""Plan the rules of one network in a chain that it shares: other networks' daemons and administrators write there too.

A rule is *ours* when it names our network and no address outside it, whoever wrote it: what should not be there goes.
A rule that flannel writes once for all networks (the mark's) is *shared*: it is put where it is missing, and goes last.
All other rules stay, in their order.

Where ours stand:

* a rule that is shared comes first;
* a rule of ours that returns packets stands before every rule that masquerades, one that masquerades behind every rule
  of a network that returns. So what one network exempts no other one masquerades, whichever daemon came first;
* all of ours stand before a rule that takes every packet: behind it they would have no effect.

These are conditions and not places, so that several daemons agree on a chain and none writes again. A Go flanneld
(v0.28.9) looks for the presence of its own rules and of the mark's only, so that it agrees with each of these orders.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from pyflanneld.core.families import Network
from pyflanneld.core.firewall.rules import MASQUERADE_TARGET, RETURN, Rule, is_about

_EXEMPTS, _MASQUERADES = 0, 1


@dataclass(frozen=True, slots=True)
class ChainRule:
    """A rule as it stands in a chain.

    Attributes:
        key: what the program deletes it by.
        rule: what it says; ``None`` for one that flanneld cannot have written.
        named: the networks that its addresses name.
        shared: one that flannel writes for all networks, or what the program has made of it.
        unconditional: takes every packet.
    """

    key: str
    rule: Rule | None
    named: frozenset[Network] = frozenset()
    shared: bool = False
    unconditional: bool = False

    def belongs_to(self, networks: Collection[Network]) -> bool:
        """Return whether it is a rule of one of *networks*."""
        return is_about(self.named, networks)


@dataclass(frozen=True, slots=True)
class Insertion:
    """A rule to insert.

    Attributes:
        rule: what it says.
        place: from 0, when the deletions and the earlier insertions are done.
        before: the rule that is there, which comes behind it; ``None`` at the end of the chain.
    """

    rule: Rule
    place: int
    before: ChainRule | None


@dataclass(frozen=True, slots=True)
class ChainChange:
    """What to do with a chain: first the deletions, then the insertions in order; nothing when it is as wanted."""

    deletions: tuple[ChainRule, ...] = ()
    insertions: tuple[Insertion, ...] = ()


def change(chain: Sequence[ChainRule], wanted: Sequence[Rule], networks: Collection[Network]) -> ChainChange:
    """Return what makes the rules of *networks* in *chain*, and those that are shared, the *wanted* ones.

    Args:
        chain: all rules that stand there, in order.
        wanted: in order; a rule that names no network is shared.
        networks: those that we speak for.
    """
    shared = tuple(rule for rule in wanted if not rule.named)
    own = tuple(rule for rule in wanted if rule.named)
    kept, layout = list(chain), list[ChainRule | Rule]()
    if not _leads(chain, shared):
        kept = [one for one in kept if not one.shared]
        layout += shared
    if _in_place(kept, own, networks):
        layout += kept
    else:
        kept = [one for one in kept if not one.belongs_to(networks)]
        layout += _with(kept, own)
    left = set(kept)
    return ChainChange(tuple(one for one in chain if one not in left), _insertions(layout))


def deletions(chain: Sequence[ChainRule], networks: Collection[Network]) -> tuple[ChainRule, ...] | None:
    """Return the rules of *networks* in *chain*; ``None`` where nothing but these and shared ones is there."""
    ours = tuple(one for one in chain if one.belongs_to(networks))
    return ours if any(not one.shared for one in chain if one not in ours) else None


def _leads(chain: Sequence[ChainRule], shared: tuple[Rule, ...]) -> bool:
    """Return whether the *shared* rules are there once, before all rules whose order matters."""
    start = _first([one.unconditional or _rank(one) is not None for one in chain])
    leading = tuple(one.rule for one in chain[:start] if one.shared)
    return leading == shared and not any(one.shared for one in chain[start:])


def _rank(one: ChainRule) -> int | None:
    """Return ``_EXEMPTS``, ``_MASQUERADES``, or ``None`` for a rule whose order does not matter."""
    if one.rule is None or one.shared:
        return None
    if one.rule.target == MASQUERADE_TARGET:
        return _MASQUERADES
    return _EXEMPTS if one.rule.target == RETURN and one.rule.source and one.rule.destination else None


def _in_place(chain: Sequence[ChainRule], own: tuple[Rule, ...], networks: Collection[Network]) -> bool:
    """Return whether *own* are there, once, in order, and rightly ordered with the other rules."""
    ours = [one.belongs_to(networks) for one in chain]
    end = _first([one.unconditional for one in chain])
    if tuple(one.rule for one, mine in zip(chain, ours, strict=True) if mine) != own or any(ours[end:]):
        return False
    highest = {True: _EXEMPTS, False: _EXEMPTS}
    for one, mine in zip(chain[:end], ours, strict=False):
        rank = _rank(one)
        if rank is not None:
            if rank < highest[not mine]:
                return False
            highest[mine] = max(highest[mine], rank)
    return True


def _with(kept: Sequence[ChainRule], own: tuple[Rule, ...]) -> list[ChainRule | Rule]:
    """Return *kept* with *own* at their places."""
    end = _first([one.unconditional for one in kept])
    start = _first([_rank(one) == _MASQUERADES for one in kept[:end]])
    first = [rule for rule in own if rule.target != MASQUERADE_TARGET]
    last = [rule for rule in own if rule.target == MASQUERADE_TARGET]
    return [*kept[:start], *first, *kept[start:end], *last, *kept[end:]]


def _first(flags: Sequence[bool]) -> int:
    """Return the place of the first that is true, the length when none is."""
    return flags.index(True) if True in flags else len(flags)


def _insertions(layout: Sequence[ChainRule | Rule]) -> tuple[Insertion, ...]:
    found, behind = list[Insertion](), None
    for place, one in reversed(list(enumerate(layout))):
        if isinstance(one, Rule):
            found.append(Insertion(one, place, behind))
        else:
            behind = one
    return tuple(reversed(found))
