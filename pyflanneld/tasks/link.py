"""The link that carries the routes: chosen at start, and chosen again by the same rule whenever links change.

What the default route or the route to ``--iface-can-reach`` chose at start stays the choice while the daemon runs:
routes come and go, and our address must not change with them. Nor does it change with other addresses that come and go
beside it: ``core.link.published`` says when another one is published.
"""

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from ipaddress import IPv4Address, IPv6Address
from typing import TypeVar, cast
from urllib.parse import urlsplit

from pyflanneld.backends import Backend
from pyflanneld.config.settings import Settings
from pyflanneld.core.families import Address, Network, in_order
from pyflanneld.core.link.published import Published
from pyflanneld.core.link.selection import (
    Choice,
    Link,
    LinkRule,
    NoLink,
    Routing,
    choose_link,
    describe_addresses,
    describe_links,
    still_fits,
)
from pyflanneld.core.peers.validation import FamilyContext, ValidationContext
from pyflanneld.core.routes import RouteListing, default_links
from pyflanneld.errors import LinkUnusable, PublicIpNotOnLink
from pyflanneld.state.context import Context
from pyflanneld.state.node import Node, addresses_to_publish, start_over


async def first_link(context: Context) -> tuple[Sequence[Link], Choice]:
    """Return all links and the choice of the one to use.

    Raises:
        LinkUnusable: none fits.
        PublicIpNotOnLink: none is named, and none has the address to publish.
    """
    links, rule = await context.kernel.links(), _rule(context.settings)
    routing = await _routing(context, rule)
    try:
        choice = choose_link(links, rule, routing)
    except NoLink as error:
        if rule.public_ip and not rule.is_explicit:
            raise _not_on_link(rule.public_ip, "any interface", describe_links(links)) from error
        raise LinkUnusable(str(error)) from error
    address = str(rule.public_ip or choice.address)
    context.log.info("link.chosen", link=choice.link.name, address=address, mtu=choice.link.mtu, why=choice.why)
    through = {routing.default_index, *routing.beside_default} - {choice.link.index}
    if choice.by_default_route and (others := [link.name for link in links if link.index in through]):
        text = f"the default route goes through {', '.join(others)} as well; choose one with --iface"
        context.log.warning("link.default_route_shared", link=choice.link.name, warning=text)
    if rule.public_ip and not choice.link.carries(rule.public_ip):
        # Whether it is an error depends on the configuration, which etcd may be unable to deliver for a long time.
        warning = str(_not_on_link(rule.public_ip, choice.link.name, ", ".join(describe_addresses(choice.link))))
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
            there = ", ".join((*describe_addresses(link), *describe_addresses(link, 6)))
            raise _not_on_link(public_ip, link.name, there)
    if ipv6 and settings.public_ipv6 is None and link.address6 is None:
        old = ", ".join(describe_addresses(link, 6))
        raise LinkUnusable(
            f"the network configuration has EnableIPv6, and {link.name} has no global IPv6 address that lasts"
            f"{old and f', but {old}'}; give it one, or name one with --public-ipv6"
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
    index, *beside = default_links(await context.kernel.routes()) or (None,)
    return Routing(index, to_target, tuple(beside))


def follow_link(context: Context, node: Node, links: Sequence[Link]) -> bool:
    """Record *links* as they are now; return whether routes can be placed."""
    node.links = links
    rule, was = _rule(context.settings), node.choice
    _keep_published(context, node)
    try:
        found = choose_link(links, rule, current=was, first=[one.first for one in node.published.values()])
    except NoLink as error:
        _look(node, dict.fromkeys(node.published))
        context.conditions.report("link", "link.missing", f"routes cannot be placed: {error}")
        return False
    choice = _follow_addresses(node, found, by_order=found.address != was.address and still_fits(links, rule, was))
    _move(context, node, choice)
    _report_ipv6(context, node)
    return _report_state(context, node, found.link)


def _keep_published(context: Context, node: Node) -> None:
    """Begin to follow the addresses that no flag has fixed."""
    if node.published:
        return
    settings, choice = context.settings, node.choice
    if settings.public_ip is None:
        node.published[4] = Published(choice.address, choice.address)
    if node.subnet_range6 is not None and settings.public_ipv6 is None and choice.address6 is not None:
        node.published[6] = Published(choice.address6, choice.address6)


def _look(node: Node, fit: Mapping[int, Address | None], *, moved: bool = False, for_good: bool = True) -> None:
    """Note what the rule selects of each family; *moved*: it selects another link, and that at once.

    *for_good*: the operator has named it before the address of the start, which is not gone.
    """
    now_s = asyncio.get_running_loop().time()
    for version in node.published.keys() & fit.keys():
        published, address = node.published[version], fit[version]
        if moved and address is not None:
            node.published[version] = published.moved(node.links, address, for_good=for_good)
        else:
            node.published[version] = published.seen(node.links, address, now_s)


def _follow_addresses(node: Node, found: Choice, *, by_order: bool) -> Choice:
    """Return the choice that counts now that the rule selects *found*, with the addresses to publish.

    While the published address is waited for, the routes stay on its link. *by_order*: it is there, but the operator
    has named something else before it.
    """
    was = node.choice
    _look(node, {4: found.address}, moved=by_order)
    same, choice = was.is_through(found.link), found
    if not same and node.waits_for(4):
        choice = replace(was, link=next((link for link in node.links if was.is_through(link)), was.link))
        kept = was.address6 if was.address6 is not None and choice.link.carries(was.address6) else None
        _look(node, {6: kept})
    else:
        _look(node, {6: found.address6}, moved=not same, for_good=by_order)
    address, address6 = (node.published.get(version) for version in (4, 6))
    return replace(
        choice,
        address=cast(IPv4Address, address.address) if address else choice.address,
        address6=cast(IPv6Address, address6.address) if address6 else choice.address6,
    )


def _move(context: Context, node: Node, choice: Choice) -> None:
    """Take over *choice*; where the link or an address to publish is another one, begin anew."""
    was, node.choice = node.choice, choice
    if choice.link.mtu != was.link.mtu:
        context.log.info("link.mtu_changed", link=choice.link.name, was=was.link.mtu, now=choice.link.mtu)
        node.wake.file.set()
    ipv6 = node.subnet_range6 is not None
    now, before = (addresses_to_publish(context.settings, one, ipv6=ipv6) for one in (choice, was))
    fields = {"address": str(now[0]), "was": str(before[0])}
    if ipv6:
        fields |= {"address6": str(now[1]), "was6": str(before[1])}
    if (choice.link.index, now) != (was.link.index, before):
        context.log.warning("link.changed", link=choice.link.name, index=choice.link.index, **fields, why=choice.why)
        start_over(context, node)


def _report_ipv6(context: Context, node: Node) -> None:
    """Report that a dual-stack node has lost its IPv6 address; the IPv4 half works on."""
    link, given, published = node.link, context.settings.public_ipv6, node.published.get(6)
    if node.subnet_range6 is not None and given is not None and _is_missing(node, given):
        text = f"--public-ipv6={given} is no longer an address of {link.name}"
        context.conditions.report("link6", "link.address_missing", text)
    elif published is not None and published.other is not None:
        _report_gone(context, "link6", published, link)
    elif published is not None and published.gone_s is not None:
        text = f"{link.name} has no global IPv6 address any more: IPv6 routes cannot be placed"
        if old := describe_addresses(link, 6):
            text = f"{link.name} has no global IPv6 address any more that lasts, but {', '.join(old)}"
        context.conditions.report("link6", "link.no_ipv6", text)
    else:
        context.conditions.resolve("link6", link=link.name)


def _report_state(context: Context, node: Node, found: Link) -> bool:
    """Report what is wrong with the link or with the IPv4 address; return whether routes can be placed."""
    link, public_ip, published = node.link, context.settings.public_ip, node.published.get(4)
    if not link.up:
        context.conditions.report("link", "link.down", f"routes cannot be placed: {link.name} is down")
    elif public_ip is not None and _is_missing(node, public_ip):
        text = f"--public-ip={public_ip} is no longer an address of {link.name}"
        context.conditions.report("link", "link.address_missing", text)
    elif published is not None and published.other is not None:
        _report_gone(context, "link", published, link)
    else:
        context.conditions.resolve("link", link=link.name)
    return link.up and node.choice.is_through(found)


def _is_missing(node: Node, public_ip: Address) -> bool:
    return node.backend.needs_public_ip_on_link and not node.link.carries(public_ip)


def _report_gone(context: Context, topic: str, published: Published, link: Link) -> None:
    """Report that the published address is waited for."""
    text = (
        f"the address {published.address} that this host publishes is gone from {link.name}; "
        f"waiting {published.wait_s:g} s for it, before {published.other} is published"
    )
    context.conditions.report(topic, "link.address_gone", text, cause=str(published.other))


def validation_context(context: Context, node: Node) -> ValidationContext:
    """Return what peers' leases are validated against, on this host as it is now."""
    lease, range6, loopback = node.lease, node.subnet_range6, context.kernel.loopback
    protected = etcd_addresses(context, IPv4Address)
    ipv4, ipv6 = _family_context(node, node.subnet_range.network, lease.subnet, protected, loopback), None
    if range6 is not None and lease.ipv6 is not None:
        ipv6 = _family_context(node, range6.network, lease.ipv6, etcd_addresses(context, IPv6Address), loopback)
    backend = node.backend
    return ValidationContext(
        backend.lease_type, ipv4, ipv6, gateways_on_link=backend.needs_public_ip_on_link,
        data_rules=backend.data_rules(node.host), kin_type=backend.kin_type,
    )  # fmt: skip


def _family_context(
    node: Node, network: Network, own_subnet: Network, protected: frozenset[Address], loopback: frozenset[Address]
) -> FamilyContext:
    addresses = [own for link in node.links for own in link.interfaces(network.version)]
    connected = {own.network for own in addresses}
    published = node.choice.address if network.version == 4 else node.choice.address6
    return FamilyContext(
        network, own_subnet,
        link_addresses=node.link.interfaces(network.version),
        own_addresses=frozenset(own.ip for own in addresses) | ({published} if published is not None else set()),
        loopback=frozenset(own for own in loopback if own.version == network.version),
        connected=tuple(in_order(connected)),
        protected=protected,
        published=published,
    )


async def foreign_next_hops(context: Context, node: Node) -> frozenset[Address]:
    """Return the next hops of everybody else's routes that a peer's subnet may contain.

    They are needed only where a connected network is ``shared``.
    """
    listings = [RouteListing(network.version, None, over=(network,)) for network in node.networks]
    found = [route for listing in listings for route in await context.kernel.objects(listing, patient=True)]
    return frozenset(route.gateway for route in found if route.protocol != context.settings.route_protocol)


def next_hops(node: Node, foreign: Iterable[Address]) -> dict[Address, int]:
    """Return the addresses in the networks that leases publish, with the revision since when; *foreign*: for ever."""
    since: dict[Address, int] = {}
    networks = node.networks
    for record in node.peers.records():
        for address in record.lease.attrs.addresses if record.lease.attrs is not None else ():
            if any(address in network for network in networks):
                since[address] = min(since.get(address, record.create_revision), record.create_revision)
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
