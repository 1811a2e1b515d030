"""What is decided before there is a lease, and the node that comes of it. Nothing is written here."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_network
from typing import Any, TypeVar

from pyflanneld.backends import BACKENDS
from pyflanneld.core.families import Address, Interface
from pyflanneld.core.host import overlapping
from pyflanneld.core.lease.allocation import SubnetRequest
from pyflanneld.core.lease.codec import parse_value
from pyflanneld.core.lease.ownership import OwnLease
from pyflanneld.core.lease.saved_state import SavedState
from pyflanneld.core.link.selection import Choice, Link
from pyflanneld.core.network.config import NetworkConfig, SubnetRange, fits
from pyflanneld.core.peers.guard import WithdrawGuard
from pyflanneld.core.peers.table import PeerTable
from pyflanneld.daemon import deferred
from pyflanneld.state.context import Context
from pyflanneld.state.node import Membership, Node, publish
from pyflanneld.tasks.lease.acquire import LeaseRequest
from pyflanneld.tasks.link import check_public_ip, etcd_addresses
from pyflanneld.tasks.saved_state import saved_key
from pyflanneld.tasks.subnet_file import Remembered, remembered

_N = TypeVar("_N", IPv4Network, IPv6Network)


@dataclass(frozen=True, slots=True)
class Bootstrap:
    """A node without its lease.

    Attributes:
        request: the lease that it wants.
    """

    links: Sequence[Link]
    choice: Choice
    membership: Membership
    request: LeaseRequest

    def node(self, context: Context, lease: OwnLease, *, saved_at_s: float | None = None) -> Node:
        """Return the node that holds *lease*; *saved_at_s* as for ``Membership``."""
        membership = replace(self.membership, saved_at_s=saved_at_s)
        return Node(
            membership=membership, links=self.links, choice=self.choice, lease=lease,
            peers=PeerTable(lease.record.name), guard=WithdrawGuard(enabled=context.settings.withdraw_guard),
            tables=membership.tables(self.choice, self.links),
        )


async def prepare(
    context: Context, links: Sequence[Link], choice: Choice, config: NetworkConfig,
    subnet_range: SubnetRange[IPv4Network], saved: SavedState | None = None,
) -> Bootstrap:  # fmt: skip
    """Check what the configuration demands of this host, and decide which lease to request.

    Where the node is to be restored, *saved* says what it was.

    Raises:
        ProgramMissing: masquerading is asked for that cannot be had.
        PublicIpNotOnLink: an address to publish is not on the link, which this backend needs.
        LinkUnusable: the network is dual-stack, and the link has no IPv6 address to publish.
    """
    if context.settings.ip_masq:
        deferred.firewall_check()(context, ipv6=config.ipv6 is not None, program=config.firewall_program)
    backend = BACKENDS[config.backend_type].configured(config)
    check_public_ip(context, choice.link, backend, ipv6=config.ipv6 is not None)
    settings, before = context.settings, await remembered(context)
    networks = () if before.network in (None, subnet_range.network) else (before.network,)
    if networks and overlapping(networks, context.ports.host_networks.others()) is not None:
        networks = ()  # another daemon serves it by now: its rules are not ours to take over
    ours = [one for one in (choice.address, choice.address6, settings.public_ip, settings.public_ipv6) if one]
    said = parse_value(saved.own.value) if saved is not None else None
    macs = backend.macs(links, said, f"{settings.etcd_prefix} {settings.public_ip or choice.address}", ours)
    api = saved.api if saved is not None else context.registry.api
    membership = Membership(config, subnet_range, backend, settings.route_protocol, macs, api, networks)
    attrs = publish(settings, membership, choice, links)
    underlay, around = _spared(choice.link.addresses, etcd_addresses(context, IPv4Address), subnet_range.subnet_len)
    before, named_by = await _or_saved(context, config, before, attrs.public_ip)
    request = LeaseRequest(
        subnet_range, attrs, previous=before.subnet, underlay=underlay, around=around,
        ipv6=_request6(context, config.ipv6, before.subnet6, choice.link), named_by=named_by,
    )
    return Bootstrap(links, choice, membership, request)


async def _or_saved(
    context: Context, config: NetworkConfig, before: Remembered, public_ip: IPv4Address
) -> tuple[Remembered, str]:
    """Return *before*, with the subnets of the saved state where the file names none, and which of them named it."""
    key = await saved_key(context, public_ip) if before.subnet is None else None
    if key is None:
        return before, "the subnet file"
    subnet, subnet6 = _fitting(config.ipv4, key.ipv4), _fitting(config.ipv6, key.ipv6)
    return Remembered(before.network, subnet, subnet6), "the saved state"


def _fitting(subnet_range: SubnetRange[_N] | None, subnet: _N | None) -> _N | None:
    """Return *subnet* if it may be leased: the network may have changed since it was saved."""
    return subnet if fits(subnet_range, subnet) else None


def _request6(
    context: Context, subnet_range: SubnetRange[IPv6Network] | None, previous: IPv6Network | None, link: Link
) -> SubnetRequest[IPv6Network] | None:
    if subnet_range is None:
        return None
    spared = _spared(link.addresses6, etcd_addresses(context, IPv6Address), subnet_range.subnet_len)
    return SubnetRequest(subnet_range, previous, *spared)


def _spared(
    own: Sequence[Interface], etcd: Iterable[Address], subnet_len: int
) -> tuple[tuple[Any, ...], tuple[Any, ...]]:
    """Return the networks that no lease may overlap, and the wider ones of our link that it should not be a part of."""
    around = tuple(one.network for one in own if one.network.prefixlen < subnet_len)
    near = (one.network for one in own if one.network not in around)
    return (*near, *map(ip_network, (*(one.ip for one in own), *etcd))), around
