"""The firewall rules of one node: what to keep right, how to check it and how to write it.

A *job* is one thing to keep right on the ``Firewall`` port: the masquerading or the forwarding in iptables, or both in
one table of nft. ``tasks/firewall/keep.py`` says when.
"""

from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from pyflanneld.core.families import Network
from pyflanneld.core.firewall import iptables
from pyflanneld.core.firewall import nft as nftables
from pyflanneld.core.firewall.rules import FORWARD, MASQUERADE, SECTIONS, Family, Rule, Section, section_rules
from pyflanneld.errors import FirewallError, ProgramMissing
from pyflanneld.state.context import Context
from pyflanneld.state.node import Node

_WORDS = {FORWARD: "forwarding", MASQUERADE: "masquerading"}


class Misread(FirewallError):
    """The rules are written, but read back differently."""


@dataclass(frozen=True, slots=True)
class Place:
    """What the rules of one family are about.

    Attributes:
        network: the whole of it.
        subnet: this node's share.
        before: the network of the run before, if it is known and was another.
    """

    network: Network
    subnet: Network
    before: Network | None = None

    @property
    def family(self) -> Family:
        """The family of all three."""
        return Family.of(self.network)

    @property
    def networks(self) -> tuple[Network, ...]:
        """The networks that we may speak for."""
        return (self.network,) if self.before is None else (self.network, self.before)


def places_of(node: Node) -> tuple[Place, ...]:
    """Return the node's places, one for each family in use."""
    network, before = node.subnet_range.network, node.membership.network_before
    ipv4 = Place(network, node.lease.subnet, before if before != network else None)
    if node.subnet_range6 is None or node.lease.ipv6 is None:
        return (ipv4,)
    return (ipv4, Place(node.subnet_range6.network, node.lease.ipv6))


def asked_sections(context: Context) -> tuple[Section, ...]:
    """Return the sections whose rules the operator asks for."""
    asked = {FORWARD: context.settings.iptables_forward_rules, MASQUERADE: context.settings.ip_masq}
    return tuple(section for section in SECTIONS if asked[section])


class Job(ABC):
    """One thing to keep right.

    Attributes:
        name: for messages, ``"masquerading"``.
        program: which one does it.
        blocks: whether the node is of no use without these rules.
        placed: whether they are known to be in place.
    """

    program: str

    def __init__(self, context: Context, place: Place, sections: Sequence[Section]) -> None:
        family = "" if place.family is Family.IPV4 else " (IPv6)"
        self.name = " and ".join(_WORDS[section] for section in sections) + family
        self.blocks = MASQUERADE in sections
        self.placed = False
        self._context = context
        self._place = place
        self._sections = sections

    async def keep(self, *, take_over: bool) -> bool:
        """Check, write what is wrong, and check again; return whether anything was wrong.

        Args:
            take_over: whether rules of v0.11.0 count as ours.

        Raises:
            FirewallError: ``ProgramMissing`` and ``Misread`` among them.
        """
        text = await self.check(take_over=take_over)
        self.placed = not text
        if not text:
            return False
        await self._write(text)
        self.placed = True
        if await self.check(take_over=take_over):
            raise Misread("they read back differently from what has just been written")
        return True

    async def check(self, *, take_over: bool) -> str:
        """Return the transaction that is needed, empty when all is well; *take_over* and errors as for ``keep``."""
        return await self._needed(self._place.networks if take_over else ())

    @abstractmethod
    async def _needed(self, plain: Collection[Network]) -> str:
        """Return the transaction that is needed, rules of v0.11.0 about *plain* being left over."""

    @abstractmethod
    async def _write(self, text: str) -> None:
        """Make the transaction."""

    def _rules(self, section: Section, *, can_randomize: bool) -> tuple[Rule, ...]:
        return section_rules(
            section, self._place.network, self._place.subnet,
            random_fully=can_randomize and not self._context.settings.ip_masq_fully_random_disable,
        )


class IptablesJob(Job):
    """One section in iptables."""

    program = "iptables"

    async def _needed(self, plain: Collection[Network]) -> str:
        firewall, family, (section,) = self._context.ports.firewall, self._place.family, self._sections
        firewall.need_iptables(family)
        can_randomize = section == MASQUERADE and await firewall.can_randomize(family)
        found = iptables.read(await firewall.save(family, section.table), section)
        return iptables.repair(section, found, self._rules(section, can_randomize=can_randomize), plain)

    async def _write(self, text: str) -> None:
        await self._context.ports.firewall.restore(self._place.family, text)


class NftJob(Job):
    """All sections in one table of nft, where v0.11.0 has left nothing."""

    program = "nft"

    async def _needed(self, plain: Collection[Network]) -> str:  # noqa: ARG002 - of iptables
        self._context.ports.firewall.need_nft()
        wanted = {section: self._rules(section, can_randomize=True) for section in self._sections}
        return nftables.repair(self._place.family, await nft_table(self._context, self._place.family), wanted)

    async def _write(self, text: str) -> None:
        await self._context.ports.firewall.load(text)


def jobs_of(context: Context, node: Node) -> list[Job]:
    """Return what this node has to keep right."""
    asked = asked_sections(context)
    if node.membership.config.nftables:
        return [NftJob(context, place, asked) for place in places_of(node) if asked]
    return [IptablesJob(context, place, (section,)) for place in places_of(node) for section in asked]


async def nft_table(context: Context, family: Family) -> nftables.Table | None:
    """Return our table, ``None`` when there is none. Raises ``FirewallError``."""
    listing = await context.ports.firewall.list_table(family, nftables.table_name(family))
    try:
        return None if listing is None else nftables.read(listing)
    except ValueError as error:
        raise FirewallError(f"nft's listing cannot be read: {error}") from error


def check_programs(context: Context, *, ipv6: bool, nft: bool) -> None:
    """Find out whether masquerading, which is asked for, can be had.

    Raises:
        ProgramMissing: it cannot.
    """
    try:
        if nft:
            context.ports.firewall.need_nft()
            return
        context.ports.firewall.need_iptables(Family.IPV4)
        if ipv6:
            context.ports.firewall.need_iptables(Family.IPV6)
    except ProgramMissing as error:
        raise ProgramMissing(f"--ip-masq is asked for, but {error}; install it, or leave --ip-masq out") from error


@dataclass(frozen=True, slots=True)
class Removal:
    """Rules of ours that are to go.

    Attributes:
        text: the transaction.
        where: table and chain, for the log.
    """

    program: str
    family: Family
    text: str
    where: Mapping[str, str]


async def remove_unasked(context: Context, node: Node) -> None:
    """Remove our rules that are not asked for any more: in the other program, and of flags that are off.

    A program that is not there has none. Raises ``FirewallError``.
    """
    for place in places_of(node):
        for removal in await unasked(context, node, place):
            await remove(context, removal)
        if await forward_is_dropped(context, node, place):
            context.log.warning("firewall.forward_dropped", condition=FORWARD_DROPPED)


async def remove(context: Context, removal: Removal) -> None:
    """Remove them. Raises ``FirewallError``."""
    if removal.program == "nft":
        await context.ports.firewall.load(removal.text)
    else:
        await context.ports.firewall.restore(removal.family, removal.text)
    context.log.info("firewall.removed", program=removal.program, **removal.where)


async def unasked(context: Context, node: Node, place: Place) -> list[Removal]:
    """Return our rules that are not asked for any more; those that are asked for are taken to be in place."""
    asked = asked_sections(context)
    sections = [section for section in SECTIONS if node.membership.config.nftables or section not in asked]
    found = await iptables_removals(context, place.family, place.networks, sections, asked)
    if not (node.membership.config.nftables and asked):
        found += await nft_removals(context, place.family, place.networks)
    return found


async def iptables_removals(
    context: Context,
    family: Family,
    networks: Sequence[Network],
    sections: Collection[Section],
    taken_over: Collection[Section] = (),
) -> list[Removal]:
    """Return the rules in iptables that are ours.

    Args:
        context: the ports.
        family: of the networks.
        networks: those that we may speak for.
        sections: whose rules are to go.
        taken_over: those of them where the rules of v0.11.0 are to go as well.
    """
    try:
        context.ports.firewall.need_iptables(family)
    except ProgramMissing:
        return []
    saved = await context.ports.firewall.save(family, None) if sections else ""
    found = []
    for section in sections:
        plain = networks if section in taken_over else ()
        text = iptables.removal(section, iptables.read(saved, section), networks, plain)
        if text:
            found.append(Removal("iptables", family, text, {"table": section.table, "chain": section.chain}))
    return found


async def nft_removals(context: Context, family: Family, networks: Sequence[Network]) -> list[Removal]:
    """Return our table in nft, if it is about one of *networks*."""
    try:
        context.ports.firewall.need_nft()
    except ProgramMissing:
        return []
    found = await nft_table(context, family)
    if found is None or not found.names(networks):
        return []
    return [Removal("nft", family, nftables.removal(family) + "\n", {"table": nftables.table_name(family)})]


async def forward_is_dropped(context: Context, node: Node, place: Place) -> bool:
    """Return whether iptables drops what our rules, which are in nft, accept."""
    if not node.membership.config.nftables or FORWARD not in asked_sections(context):
        return False
    try:
        context.ports.firewall.need_iptables(place.family)
    except ProgramMissing:
        return False
    return iptables.read(await context.ports.firewall.save(place.family, None), FORWARD).policy == "DROP"


FORWARD_DROPPED = (
    "iptables drops what no rule of its own accepts (the policy of FORWARD is DROP), and the accept rules that are set "
    "by nft cannot overrule that: take EnableNFTables out of the network configuration, or change the policy"
)
