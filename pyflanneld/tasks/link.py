"""The link that carries the routes: chosen at start, and chosen again by the same rule whenever links change.

What the default route or the route to ``--iface-can-reach`` chose at start stays the choice while the daemon runs:
routes come and go, and our address must not change with them.
"""

from collections.abc import Iterable, Sequence
from contextlib import suppress
from ipaddress import IPv4Address, IPv6Address
from typing import TypeVar
from urllib.parse import urlsplit

from pyflanneld.backends import Backend
from pyflanneld.config.settings import Settings
from pyflanneld.core.families import Address, Network, in_order
from pyflanneld.core.link.selection import Choice, Link, LinkRule, NoLink, Routing, choose_link, describe_links
from pyflanneld.core.peers.validation import FamilyContext, ValidationContext
from pyflanneld.errors import LinkUnusable, PublicIpNotOnLink
from pyflanneld.state.context import Context
from pyflanneld.state.node import Node, start_over


async def first_link(context: Context) -> tuple[Sequence[Link], Choice]:
    """Return all links and the choice of the one to use.

    Raises:
        LinkUnusable: none fits.
        PublicIpNotOnLink: none is named, and none has the address to publish.
    """
    links, rule = await context.kernel.links(), _rule(context.settings)
    try:
        choice = choose_link(links, rule, await _routing(context, rule))
    except NoLink as error:
        if rule.public_ip and not rule.is_explicit:
            raise _not_on_link(rule.public_ip, "any interface", describe_links(links)) from error
        raise LinkUnusable(str(error)) from error
    address = str(rule.public_ip or choice.address)
    context.log.info("link.chosen", link=choice.link.name, address=address, mtu=choice.link.mtu, why=choice.why)
    if rule.public_ip and not choice.link.carries(rule.public_ip):
        # Whether it is an error depends on the configuration, which etcd may be unable to deliver for a long time.
        warning = str(_not_on_link(rule.public_ip, choice.link.name, ", ".join(map(str, choice.link.addresses))))
        context.log.warning("link.public_ip_elsewhere", warning=warning)
    return links, choice


def check_public_ip(context: Context, link: Link, backend: Backend, *, ipv6: bool) -> None:
    """Check what backend and network demand of the addresses to publish; they are known only with the configuration.

    Raises:
        PublicIpNotOnLink: one is not on the link, which this backend needs.
        LinkUnusable: the network is dual-stack, and the link has no IPv6 address to publish.
    """
    settings = context.settings
    given = [settings.public_ip, settings.public_ipv6 if ipv6 else None]
    for public_ip in given if backend.needs_public_ip_on_link else ():
        if public_ip is not None and not link.carries(public_ip):
            raise _not_on_link(public_ip, link.name, ", ".join(map(str, (*link.addresses, *link.addresses6))))
    if ipv6 and settings.public_ipv6 is None and link.address6 is None:
        raise LinkUnusable(
            f"the network configuration has EnableIPv6, and {link.name} has no global IPv6 address that lasts; "
            "give it one, or name one with --public-ipv6"
        )


def _not_on_link(public_ip: IPv4Address | IPv6Address, where: str, there: str) -> PublicIpNotOnLink:
    flag = "--public-ip" if public_ip.version == 4 else "--public-ipv6"
    return PublicIpNotOnLink(
        f"{flag}={public_ip} is not an address of {where}, which has: {there}; "
        "host-gw needs it on the link: your peers reach it without a router or NAT between"
    )


def _rule(settings: Settings) -> LinkRule:
    return LinkRule(settings.iface, settings.iface_regex, settings.iface_can_reach, settings.public_ip)


async def _routing(context: Context, rule: LinkRule) -> Routing:
    """Return what the kernel's routes say, as far as the choice may depend on it."""
    way = await context.kernel.route_to(rule.can_reach) if rule.can_reach else None
    to_target = way and (way.link_index, IPv4Address(way.source))
    if not rule.needs_default_route:
        return Routing(to_target=to_target)
    defaults = [route for route in await context.kernel.routes() if route.dst.prefixlen == 0 and route.link_index]
    return Routing(min(defaults, key=lambda route: route.metric).link_index if defaults else None, to_target)


def follow_link(context: Context, node: Node, links: Sequence[Link]) -> bool:
    """Record *links* as they are now; return whether routes can be placed."""
    node.links = links
    try:
        choice = choose_link(links, _rule(context.settings), current=node.choice)
    except NoLink as error:
        context.conditions.report("link", "link.missing", f"routes cannot be placed: {error}")
        return False
    was, node.choice = node.choice, choice
    before, link = was.link, choice.link
    if link.mtu != before.mtu:
        context.log.info("link.mtu_changed", link=link.name, was=before.mtu, now=link.mtu)
        node.wake.file.set()
    moved = node.subnet_range6 is not None and link.address6 != before.address6
    if moved or (link.index, choice.address) != (before.index, was.address):
        context.log.warning(
            "link.changed", link=link.name, index=link.index, address=str(choice.address), was=str(was.address),
            why=choice.why,
        )
        start_over(context, node)
    _report_ipv6(context, node, link)
    return _report_state(context, link, node.backend)


def _report_ipv6(context: Context, node: Node, link: Link) -> None:
    """Report that a dual-stack node has lost its IPv6 address; the IPv4 half works on."""
    if node.subnet_range6 is not None and not link.addresses6:
        text = f"{link.name} has no global IPv6 address any more: IPv6 routes cannot be placed"
        context.conditions.report("link6", "link.no_ipv6", text)
    else:
        context.conditions.resolve("link6", link=link.name)


def _report_state(context: Context, link: Link, backend: Backend) -> bool:
    public_ip = context.settings.public_ip
    if not link.up:
        context.conditions.report("link", "link.down", f"routes cannot be placed: {link.name} is down")
    elif backend.needs_public_ip_on_link and public_ip is not None and not link.carries(public_ip):
        text = f"--public-ip={public_ip} is no longer an address of {link.name}"
        context.conditions.report("link", "link.address_missing", text)
    else:
        context.conditions.resolve("link", link=link.name)
    return link.up


def validation_context(context: Context, node: Node) -> ValidationContext:
    """Return what peers' leases are validated against, on this host as it is now."""
    lease, range6, loopback = node.lease, node.subnet_range6, context.kernel.loopback
    protected = etcd_addresses(context, IPv4Address)
    ipv4, ipv6 = _family_context(node, node.subnet_range.network, lease.subnet, protected, loopback), None
    if range6 is not None and lease.ipv6 is not None:
        ipv6 = _family_context(node, range6.network, lease.ipv6, etcd_addresses(context, IPv6Address), loopback)
    backend = node.backend
    return ValidationContext(backend.lease_type, ipv4, ipv6, gateways_on_link=backend.needs_public_ip_on_link)


def _family_context(
    node: Node, network: Network, own_subnet: Network, protected: frozenset[Address], loopback: frozenset[Address]
) -> FamilyContext:
    addresses = [own for link in node.links for own in link.interfaces(network.version)]
    connected = {own.network for own in addresses}
    return FamilyContext(
        network, own_subnet,
        link_addresses=node.link.interfaces(network.version),
        own_addresses=frozenset(own.ip for own in addresses),
        loopback=frozenset(own for own in loopback if own.version == network.version),
        connected=tuple(in_order(connected)),
        protected=protected,
    )


async def foreign_next_hops(context: Context, node: Node) -> frozenset[Address]:
    """Return the next hops of everybody else's routes; needed only where a connected network ``is_shared``."""
    ours = context.settings.route_protocol
    found = [route for network in node.networks for route in await context.kernel.routes(version=network.version)]
    return frozenset(route.gateway for route in found if route.gateway is not None and route.protocol != ours)


def next_hops(node: Node, foreign: Iterable[Address]) -> dict[Address, int]:
    """Return the addresses that leases publish, by the revision since when, and those of *foreign* routes: for ever."""
    since: dict[Address, int] = {}
    for record in sorted(node.peers.records(), key=lambda record: record.create_revision):
        if (attrs := record.lease.attrs) is not None:
            for address in (attrs.public_ip, attrs.public_ipv6):
                if address is not None:
                    since.setdefault(address, record.create_revision)
    return since | dict.fromkeys(foreign, 0)


A = TypeVar("A", IPv4Address, IPv6Address)


def etcd_addresses(context: Context, kind: type[A]) -> frozenset[A]:
    """Return the addresses of etcd's members of this *kind*, and those of their names: no route may capture them."""
    hosts = {urlsplit(endpoint).hostname or "" for endpoint in context.settings.etcd_endpoints}
    found = set()
    for host in hosts.union(context.registry.addresses):
        with suppress(ValueError):
            found.add(kind(host))
    return frozenset(found)
