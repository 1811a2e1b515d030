"""Flannel's firewall rules as values: which ones, in which order, of which network, and leftovers of older versions.

Two sections, each with a chain that one jump leads into. The daemons of all networks of a host write their rules into
the same chains, so each rule belongs to a network: ``is_about`` tells, ``shared_chain`` plans. Where: flannel
``pkg/trafficmngr/iptables`` and ``pkg/trafficmngr/nftables`` (v0.28.9). The plain rules in the built-in chains:
``network/iptables.go`` (v0.11.0).
``iptables`` and ``nft`` next to this file write and read them.
"""

import enum
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from ipaddress import IPv4Network, IPv6Network

from pyflanneld.core import families
from pyflanneld.core.families import Network

RETURN, ACCEPT, MASQUERADE_TARGET = "RETURN", "ACCEPT", "MASQUERADE"
MARK = 0x4000
"""The mark of packets that kube-proxy masquerades itself; value and mask."""


class Family(enum.Enum):
    """An address family; the rules are the same in both."""

    IPV4 = "ipv4"
    IPV6 = "ipv6"

    @property
    def multicast(self) -> Network:
        """The destinations towards which nothing is masqueraded."""
        return IPv4Network("224.0.0.0/4") if self is Family.IPV4 else IPv6Network("ff00::/8")

    @classmethod
    def of(cls, network: Network) -> "Family":
        """Return the family of *network*."""
        return cls.IPV4 if network.version == 4 else cls.IPV6


@dataclass(frozen=True, slots=True)
class AddressMatch:
    """Matches a source or destination address: in *network*, or outside it when *negated*."""

    network: Network
    negated: bool = False


@dataclass(frozen=True, slots=True)
class Rule:
    """A rule of the few kinds that flannel uses.

    Attributes:
        target: ``RETURN``, ``ACCEPT``, ``MASQUERADE`` or the name of a chain.
        marked: matches only what carries ``MARK``.
        comment: what iptables shows with it; nft has none.
        random_fully: of a masquerading rule, whether source ports are chosen at random.
    """

    target: str
    source: AddressMatch | None = None
    destination: AddressMatch | None = None
    marked: bool = False
    comment: str = ""
    random_fully: bool = False

    @property
    def named(self) -> frozenset[Network]:
        """The networks that its addresses name."""
        return frozenset(side.network for side in (self.source, self.destination) if side is not None)


@dataclass(frozen=True, slots=True)
class Section:
    """A chain of flannel's and where it is entered.

    Attributes:
        table: of iptables, ``"nat"``.
        entrance: the built-in chain that the jump stands in, ``"POSTROUTING"``.
        chain: flannel's, ``"FLANNEL-POSTRTG"``.
        comment: what each rule there carries.
    """

    table: str
    entrance: str
    chain: str
    comment: str

    @property
    def jump(self) -> Rule:
        """The one rule in the built-in chain; it serves all networks."""
        return Rule(self.chain, comment=self.comment)

    @property
    def shared(self) -> tuple[Rule, ...]:
        """The rules of the chain that serve all networks."""
        return (Rule(RETURN, marked=True, comment=self.comment),) if self == MASQUERADE else ()


@dataclass(frozen=True, slots=True)
class Removal:
    """Rules of ours that are to go.

    Attributes:
        program: which one has them, ``"iptables"``.
        family: of the rules.
        text: the transaction, in the program's language.
        where: table and chain, for the log.
    """

    program: str
    family: Family
    text: str
    where: Mapping[str, str]


MASQUERADE = Section("nat", "POSTROUTING", "FLANNEL-POSTRTG", "flanneld masq")
FORWARD = Section("filter", "FORWARD", "FLANNEL-FWD", "flanneld forward")
SECTIONS = (FORWARD, MASQUERADE)
WantedRules = Mapping[Section, tuple[Rule, ...]]
"""The rules of each section, in order."""


def section_rules(section: Section, network: Network, subnet: Network, *, random_fully: bool) -> tuple[Rule, ...]:
    """Return what the section's chain holds, in order, on the node that leases *subnet* of *network*."""
    if section == FORWARD:
        return (
            Rule(ACCEPT, source=AddressMatch(network), comment=section.comment),
            Rule(ACCEPT, destination=AddressMatch(network), comment=section.comment),
        )
    inside, outside = AddressMatch(network), AddressMatch(network, negated=True)
    here, not_multicast = AddressMatch(subnet), AddressMatch(Family.of(network).multicast, negated=True)
    kept = ((here, inside), (inside, here), (outside, here))
    changed = ((inside, not_multicast), (outside, inside))
    return (
        *section.shared,
        *(Rule(RETURN, source, destination, comment=section.comment) for source, destination in kept),
        *(
            Rule(MASQUERADE_TARGET, source, destination, comment=section.comment, random_fully=random_fully)
            for source, destination in changed
        ),
    )


def is_about(named: Collection[Network], networks: Iterable[Network]) -> bool:
    """Return whether a rule that names *named* belongs to one of *networks*.

    It names the network, as each rule of flannel's does, and no address outside it but multicast.
    """
    return any(
        network in named
        and all(families.inside(one, network) or one == Family.of(network).multicast for one in named)
        for network in networks
    )


def is_legacy(rule: Rule, section: Section, networks: Collection[Network], *, plain: bool) -> bool:
    """Return whether *rule*, found in the section's built-in chain, is from a flanneld that had no chains of its own.

    Args:
        rule: what was found.
        section: where.
        networks: those that we speak for.
        plain: whether their rules of v0.11.0 count. They carry no comment, so they look like rules that an
            administrator may have written; the versions up to v0.19 put the comment, which is proof enough.
    """
    if rule.comment:
        return rule.comment == section.comment and is_about(rule.named, networks)
    return plain and not rule.marked and any(_is_plain(rule, section, network) for network in networks)


def _is_plain(rule: Rule, section: Section, network: Network) -> bool:
    """Return whether v0.11.0 would have put *rule* for *network*, whatever the node's subnet was."""
    inside, outside = AddressMatch(network), AddressMatch(network, negated=True)
    seen = (rule.target, rule.source, rule.destination)
    if section == FORWARD:
        return seen in {(ACCEPT, inside, None), (ACCEPT, None, inside)}
    if rule.target == RETURN and rule.source == outside and rule.destination is not None:
        return not rule.destination.negated and families.inside(rule.destination.network, network)
    not_multicast = AddressMatch(Family.of(network).multicast, negated=True)
    return seen in {
        (RETURN, inside, inside),
        (MASQUERADE_TARGET, inside, not_multicast),
        (MASQUERADE_TARGET, outside, inside),
    }
