"""What is settled before there is a lease, and the node that comes of it. Nothing is written here."""

from collections.abc import Sequence
from dataclasses import dataclass
from ipaddress import IPv4Network, IPv6Network

from pyflanneld.backends import BACKENDS, Backend
from pyflanneld.core.lease.allocation import SubnetRequest
from pyflanneld.core.lease.ownership import OwnLease
from pyflanneld.core.link.selection import Choice, Link
from pyflanneld.core.network.config import NetworkConfig, SubnetRange
from pyflanneld.core.peers.guard import WithdrawGuard
from pyflanneld.core.peers.table import PeerTable
from pyflanneld.state.node import Context, Node, publish
from pyflanneld.tasks.lease.acquire import LeaseRequest
from pyflanneld.tasks.link import check_public_ip
from pyflanneld.tasks.subnet_file import remembered_network, remembered_subnet, remembered_subnet6


@dataclass(frozen=True, slots=True)
class Bootstrap:
    """A node without its lease.

    Attributes:
        request: the lease that it wants.
        network_before: what ``subnet.env`` names as the network.
    """

    links: Sequence[Link]
    choice: Choice
    config: NetworkConfig
    backend: Backend
    request: LeaseRequest
    network_before: IPv4Network | None

    def node(self, context: Context, lease: OwnLease) -> Node:
        """Return the node that holds *lease*."""
        return Node(
            guard=WithdrawGuard(enabled=context.options.withdraw_guard),
            subnet_range=self.request.subnet_range, backend=self.backend, nftables=self.config.nftables,
            network_before=self.network_before, links=self.links, choice=self.choice, lease=lease,
            peers=PeerTable(lease.record.name), subnet_range6=self.config.ipv6, config=self.config.document,
        )


def prepare(
    context: Context, links: Sequence[Link], choice: Choice, config: NetworkConfig,
    subnet_range: SubnetRange[IPv4Network],
) -> Bootstrap:
    """Check what the configuration demands of this host, and say which lease is wanted.

    Raises:
        ProgramMissing: masquerading is asked for that cannot be had.
        PublicIpNotOnLink: an address to publish is not on the link, which this backend needs.
        LinkUnusable: the network is dual-stack, and the link has no IPv6 address to publish.
    """
    if context.options.ip_masq:
        from pyflanneld.tasks.firewall.jobs import check_programs  # late: the routes need none of it

        check_programs(context, ipv6=config.ipv6 is not None, nft=config.nftables)
    backend = BACKENDS[config.backend_type]
    check_public_ip(context, choice.link, backend, ipv6=config.ipv6 is not None)
    attrs = publish(context.options, choice, backend, ipv6=config.ipv6 is not None)
    assert attrs is not None  # noqa: S101 - first_link and check_public_ip have seen the addresses
    underlay = [own.network for own in choice.link.addresses]
    underlay += [IPv4Network(one) for one in context.options.protected]
    network_before = remembered_network(context)
    request = LeaseRequest(
        subnet_range, attrs, previous=remembered_subnet(context), underlay=tuple(underlay),
        ipv6=_request6(context, config.ipv6, choice.link),
    )
    return Bootstrap(links, choice, config, backend, request, network_before)


def _request6(
    context: Context, subnet_range: SubnetRange[IPv6Network] | None, link: Link
) -> SubnetRequest[IPv6Network] | None:
    if subnet_range is None:
        return None
    underlay = [own.network for own in link.addresses6]
    underlay += [IPv6Network(one) for one in context.options.protected6]
    return SubnetRequest(subnet_range, remembered_subnet6(context), tuple(underlay))
