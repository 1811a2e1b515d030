"""The link that carries the routes: chosen at start, and chosen again by the same rule whenever links change.

What the default route or the way to ``--iface-can-reach`` chose at start stays the choice while the daemon runs: routes
come and go, and peers must not see our address wander with them.
"""

from collections.abc import Sequence
from ipaddress import IPv4Address

from pyflanneld.core.links import Choice, Link, LinkRule, NoLink, Routing, choose_link, describe
from pyflanneld.core.peers import Ground
from pyflanneld.errors import LinkUnusable, PublicIpNotOnLink
from pyflanneld.loops.node import Context, Node, Options, start_over


async def first_link(context: Context) -> tuple[Sequence[Link], Choice]:
    """Return all links and the choice of the one to use.

    Raises:
        LinkUnusable: none fits.
        PublicIpNotOnLink: the address to publish is not on it, which host-gw needs.
    """
    links, rule = await context.kernel.links(), _rule(context.options)
    try:
        choice = choose_link(links, rule, await _routing(context, rule))
    except NoLink as error:
        if rule.public_ip and not rule.is_explicit:
            raise _not_on_link(rule.public_ip, "any interface", describe(links)) from error
        raise LinkUnusable(str(error)) from error
    link, public_ip = choice.link, rule.public_ip
    if public_ip is not None and not link.carries(public_ip):
        raise _not_on_link(public_ip, link.name, ", ".join(map(str, link.addresses)))
    address = str(public_ip or choice.address)
    context.log.info("link.chosen", link=link.name, address=address, mtu=link.mtu, why=choice.why)
    return links, choice


def _not_on_link(public_ip: IPv4Address, where: str, there: str) -> PublicIpNotOnLink:
    return PublicIpNotOnLink(
        f"--public-ip={public_ip} is not an address of {where}, which has: {there}; "
        "host-gw needs it on the link: your peers reach it without a router or NAT between"
    )


def _rule(options: Options) -> LinkRule:
    return LinkRule(options.wanted_links, options.link_patterns, options.can_reach, options.public_ip)


async def _routing(context: Context, rule: LinkRule) -> Routing:
    """Return what the kernel's routes say, as far as the choice may depend on it."""
    if rule.can_reach:
        return Routing(way=await context.kernel.route_to(rule.can_reach))
    if not rule.needs_default_route:
        return Routing()
    defaults = [route for route in await context.kernel.routes() if route.dst.prefixlen == 0 and route.link_index]
    return Routing(min(defaults, key=lambda route: route.metric).link_index if defaults else None)


def follow_link(context: Context, node: Node, links: Sequence[Link]) -> bool:
    """Take note of *links* as they are now; say whether routes can be placed."""
    node.links = links
    try:
        choice = choose_link(links, _rule(context.options), current=node.choice)
    except NoLink as error:
        context.problems.report("link", "link.missing", f"routes cannot be placed: {error}")
        return False
    was, node.choice = node.choice, choice
    before, link = was.link, choice.link
    if link.mtu != before.mtu:
        context.log.info("link.mtu_changed", link=link.name, was=before.mtu, now=link.mtu)
        node.file_outdated.set()
    if (link.index, choice.address) != (before.index, was.address):
        context.log.warning(
            "link.changed", link=link.name, index=link.index, address=str(choice.address), was=str(was.address),
            why=choice.why,
        )
        start_over(context, node)
    return _report_state(context, link)


def _report_state(context: Context, link: Link) -> bool:
    public_ip = context.options.public_ip
    if not link.up:
        context.problems.report("link", "link.down", f"routes cannot be placed: {link.name} is down")
    elif public_ip is not None and not link.carries(public_ip):
        text = f"--public-ip={public_ip} is no longer an address of {link.name}"
        context.problems.report("link", "link.address_missing", text)
    else:
        context.problems.resolve("link", link=link.name)
    return link.up


def ground_of(context: Context, node: Node) -> Ground:
    """Return what peers are judged against, on this host as it is now."""
    addresses = tuple(own for link in node.links for own in link.addresses)
    connected = {own.network for own in addresses if not own.network.overlaps(node.lease.subnet)}
    return Ground(
        network=node.among.network,
        backend_type=node.backend,
        own_subnet=node.lease.subnet,
        link_addresses=node.link.addresses,
        own_addresses=frozenset(own.ip for own in addresses),
        connected=tuple(sorted(connected)),
        protected=context.options.protected,
    )
