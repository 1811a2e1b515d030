"""The firewall rules of one node: what there is to keep right, how to look at it and how to write it.

A *job* is one thing to keep right on the ``Firewall`` port: the masquerading or the forwarding in iptables, or both in
one table of nft. ``loops/firewall.py`` says when.
"""

from abc import ABC, abstractmethod
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from pyflanneld.core import iptables, nftables
from pyflanneld.core.firewall import FORWARD, MASQUERADE, SECTIONS, Family, Network, Rule, Section, section_rules
from pyflanneld.errors import FirewallError, ProgramMissing
from pyflanneld.loops.node import Context, Node

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
    network, before = node.among.network, node.network_before
    ipv4 = Place(network, node.lease.subnet, before if before != network else None)
    if node.among6 is None or node.lease.ipv6 is None:
        return (ipv4,)
    return (ipv4, Place(node.among6.network, node.lease.ipv6))


def asked_sections(context: Context) -> tuple[Section, ...]:
    """Return the sections whose rules the operator asks for."""
    asked = {FORWARD: context.options.forward_rules, MASQUERADE: context.options.ip_masq}
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
        """Look, write what is wrong, and look again; say whether anything was wrong.

        Args:
            take_over: whether rules of v0.11.0 count as ours.

        Raises:
            FirewallError: ``ProgramMissing`` and ``Misread`` among them.
        """
        plain = self._place.networks if take_over else ()
        text = await self._look(plain)
        self.placed = not text
        if not text:
            return False
        await self._write(text)
        self.placed = True
        if await self._look(plain):
            raise Misread("they read back differently from what has just been written")
        return True

    @abstractmethod
    async def _look(self, plain: Collection[Network]) -> str:
        """Return the transaction that is needed, empty when all is well."""

    @abstractmethod
    async def _write(self, text: str) -> None:
        """Make the transaction."""

    def _rules(self, section: Section, *, can_randomize: bool) -> tuple[Rule, ...]:
        return section_rules(
            section, self._place.network, self._place.subnet,
            random_fully=can_randomize and not self._context.options.random_fully_disabled,
        )


class IptablesJob(Job):
    """One section in iptables."""

    program = "iptables"

    async def _look(self, plain: Collection[Network]) -> str:
        firewall, family, (section,) = self._context.firewall, self._place.family, self._sections
        firewall.need_iptables(family)
        can_randomize = section == MASQUERADE and await firewall.can_randomize(family)
        found = iptables.read(await firewall.save(family, section.table), section)
        return iptables.repair(section, found, self._rules(section, can_randomize=can_randomize), plain)

    async def _write(self, text: str) -> None:
        await self._context.firewall.restore(self._place.family, text)


class NftJob(Job):
    """All sections in one table of nft, where v0.11.0 has left nothing."""

    program = "nft"

    async def _look(self, plain: Collection[Network]) -> str:  # noqa: ARG002 - of iptables
        self._context.firewall.need_nft()
        wanted = {section: self._rules(section, can_randomize=True) for section in self._sections}
        return nftables.repair(self._place.family, await nft_table(self._context, self._place.family), wanted)

    async def _write(self, text: str) -> None:
        await self._context.firewall.load(text)


def jobs_of(context: Context, node: Node) -> list[Job]:
    """Return what this node has to keep right."""
    asked = asked_sections(context)
    if node.nftables:
        return [NftJob(context, place, asked) for place in places_of(node) if asked]
    return [IptablesJob(context, place, (section,)) for place in places_of(node) for section in asked]


async def nft_table(context: Context, family: Family) -> nftables.Table | None:
    """Return our table, ``None`` when there is none. Raises ``FirewallError``."""
    listing = await context.firewall.list_table(family, nftables.table_name(family))
    try:
        return None if listing is None else nftables.read(listing)
    except ValueError as error:
        raise FirewallError(f"nft's listing cannot be read: {error}") from error


def check_programs(context: Context, families: Collection[Family], *, nft: bool) -> None:
    """Find out whether masquerading is asked for that cannot be had.

    Raises:
        ProgramMissing: so it is.
    """
    if not context.options.ip_masq:
        return
    try:
        if nft:
            context.firewall.need_nft()
        for family in () if nft else families:
            context.firewall.need_iptables(family)
    except ProgramMissing as error:
        raise ProgramMissing(f"--ip-masq is asked for, but {error}; install it, or leave --ip-masq out") from error


async def remove_unasked(context: Context, node: Node) -> None:
    """Remove the rules of ours that nobody asks for now: in the other program, and of flags that are off.

    A program that is not there has none. Raises ``FirewallError``.
    """
    for place in places_of(node):
        try:
            context.firewall.need_iptables(place.family)
            await _clear_iptables(context, node, place)
        except ProgramMissing:
            pass
        try:
            context.firewall.need_nft()
            if not (node.nftables and asked_sections(context)):
                await _clear_nft(context, place)
        except ProgramMissing:
            pass


async def _clear_iptables(context: Context, node: Node, place: Place) -> None:
    asked = asked_sections(context)
    unasked = [section for section in SECTIONS if node.nftables or section not in asked]
    saved = await context.firewall.save(place.family, None) if unasked else ""
    for section in unasked:
        found = iptables.read(saved, section)
        text = iptables.removal(section, found, place.networks, place.networks if section in asked else ())
        if text:
            await context.firewall.restore(place.family, text)
            context.log.info("firewall.removed", program="iptables", table=section.table, chain=section.chain)
        if section == FORWARD and section in asked and found.policy == "DROP":
            context.log.warning("firewall.forward_dropped", problem=_DROPPED)


async def _clear_nft(context: Context, place: Place) -> None:
    found = await nft_table(context, place.family)
    if found is not None and found.names(place.networks):
        await context.firewall.load(nftables.removal(place.family) + "\n")
        context.log.info("firewall.removed", program="nft", table=nftables.table_name(place.family))


_DROPPED = (
    "iptables drops what no rule of its own accepts (the policy of FORWARD is DROP), and the accept rules that are set "
    "by nft cannot overrule that: take EnableNFTables out of the network configuration, or change the policy"
)
