"""The firewall rules of one node: what to keep right, how to check it and how to write it.

A *job* is one transaction to keep right in a firewall program: the masquerading, the forwarding, or both where the
program writes them together. ``tasks/firewall/keep.py`` says when. No program is named here.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from pyflanneld.core.families import Network
from pyflanneld.core.firewall.rules import FORWARD, MASQUERADE, SECTIONS, Family, Removal, Section, section_rules
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
        before: what the network was before, in the last run or in this one.
    """

    network: Network
    subnet: Network
    before: tuple[Network, ...] = ()

    @property
    def family(self) -> Family:
        """The family of all three."""
        return Family.of(self.network)

    @property
    def networks(self) -> tuple[Network, ...]:
        """The networks that we may speak for."""
        return (self.network, *self.before)


def places_of(node: Node) -> tuple[Place, ...]:
    """Return the node's places, one for each family in use."""
    ipv4 = _place(node, node.subnet_range.network, node.lease.subnet)
    if node.subnet_range6 is None or node.lease.ipv6 is None:
        return (ipv4,)
    return (ipv4, _place(node, node.subnet_range6.network, node.lease.ipv6))


def _place(node: Node, network: Network, subnet: Network) -> Place:
    earlier = dict.fromkeys(node.membership.networks_before)
    return Place(network, subnet, tuple(one for one in earlier if one.version == network.version and one != network))


def asked_sections(context: Context) -> tuple[Section, ...]:
    """Return the sections whose rules the operator asks for."""
    asked = {FORWARD: context.settings.iptables_forward_rules, MASQUERADE: context.settings.ip_masq}
    return tuple(section for section in SECTIONS if asked[section])


class Job:
    """One transaction to keep right.

    Attributes:
        name: for messages, ``"masquerading"``.
        program: the name of the program.
        blocks: whether the node is not ready without these rules.
        placed: whether they are known to be in place.
    """

    def __init__(self, context: Context, program: str, place: Place, sections: Sequence[Section]) -> None:
        family = "" if place.family is Family.IPV4 else " (IPv6)"
        self.name = " and ".join(_WORDS[section] for section in sections) + family
        self.program = program
        self.blocks = MASQUERADE in sections
        self.placed = False
        self._firewall = context.ports.firewall[program]
        self._place = place
        random_fully = not context.settings.ip_masq_fully_random_disable
        self._wanted = {
            section: section_rules(section, place.network, place.subnet, random_fully=random_fully)
            for section in sections
        }

    async def keep(self, *, take_over: bool) -> bool:
        """Check, write what is wrong, and check again; return whether anything was wrong.

        Args:
            take_over: whether rules of v0.11.0, and of the network before, count as ours.

        Raises:
            FirewallError: ``ProgramMissing`` and ``Misread`` among them.
        """
        text = await self.check(take_over=take_over)
        self.placed = not text
        if not text:
            return False
        await self._apply(text, take_over=take_over)
        self.placed = True
        if left := await self.check(take_over=take_over):
            self.placed = not self._firewall.only_adds(left)
            if not self.placed:
                raise FirewallError("they have been written, and somebody has removed them at once")
            raise Misread("they read back differently from what has just been written")
        return True

    async def check(self, *, take_over: bool) -> str:
        """Return the transaction that is needed, empty when all is well; *take_over* and errors as for ``keep``."""
        networks = self._place.networks if take_over else (self._place.network,)
        return await self._firewall.needed(self._place.family, self._wanted, networks, take_over=take_over)

    async def _apply(self, text: str, *, take_over: bool) -> None:
        """Apply *text*; where others have changed the chain since the check, what is needed by now instead."""
        try:
            await self._firewall.apply(self._place.family, text)
        except ProgramMissing:
            raise
        except FirewallError:
            again = await self.check(take_over=take_over)
            if again == text:
                raise
            if again:
                await self._firewall.apply(self._place.family, again)


def jobs_of(context: Context, node: Node) -> list[Job]:
    """Return what this node has to keep right."""
    program, asked = node.membership.config.firewall_program, asked_sections(context)
    if not asked:
        return []
    together = context.ports.firewall[program].one_transaction
    groups = [asked] if together else [(section,) for section in asked]
    return [Job(context, program, place, group) for place in places_of(node) for group in groups]


def check_programs(context: Context, *, ipv6: bool, program: str) -> None:
    """Find out whether masquerading, which is asked for, can be had.

    Raises:
        ProgramMissing: it cannot.
    """
    try:
        for family in (Family.IPV4, Family.IPV6) if ipv6 else (Family.IPV4,):
            context.ports.firewall[program].require(family)
    except ProgramMissing as error:
        raise ProgramMissing(f"--ip-masq is asked for, but {error}; install it, or leave --ip-masq out") from error


async def remove_unasked(context: Context, node: Node) -> None:
    """Remove our rules that are not asked for any more: in the other programs, and of flags that are off.

    A program that is not there has none. Raises ``FirewallError``.
    """
    for place in places_of(node):
        for removal in await unasked(context, node, place):
            await remove(context, removal)
        if dropped := await dropped_forward(context, node, place):
            context.log.warning("firewall.forward_dropped", condition=dropped)


async def remove(context: Context, removal: Removal) -> None:
    """Remove them. Raises ``FirewallError``."""
    await context.ports.firewall[removal.program].apply(removal.family, removal.text)
    context.log.info("firewall.removed", program=removal.program, **removal.where)


async def unasked(context: Context, node: Node, place: Place) -> list[Removal]:
    """Return our rules that are not asked for any more; those that are asked for are taken to be in place."""
    used, asked = node.membership.config.firewall_program, asked_sections(context)
    found: list[Removal] = []
    for name, program in context.ports.firewall.items():
        sections = [section for section in SECTIONS if name != used or section not in asked]
        found += await program.removals(place.family, place.networks, sections, asked)
    return found


async def dropped_forward(context: Context, node: Node, place: Place) -> str:
    """Return why another program drops what our rules accept; ``""`` if none does."""
    if FORWARD not in asked_sections(context):
        return ""
    used = node.membership.config.firewall_program
    others = [program for name, program in context.ports.firewall.items() if name != used]
    reasons = [await program.drops_forward(place.family) for program in others]
    return "; ".join(filter(None, reasons))
