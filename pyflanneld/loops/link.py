"""The link that carries the routes: chosen at start, and chosen again by the same rule whenever links change."""

from collections.abc import Sequence
from ipaddress import IPv4Address

from pyflanneld.backends import Backend
from pyflanneld.core.links import Link, NoLink, choose_link, describe
from pyflanneld.core.peers import Ground
from pyflanneld.errors import LinkUnusable, PublicIpNotOnLink
from pyflanneld.loops.node import Context, Node, Options, start_over


async def first_link(context: Context) -> tuple[Sequence[Link], Link]:
    """Return all links and the one to use.

    Raises:
        LinkUnusable: none fits.
        PublicIpNotOnLink: none is named, and none has the address to publish.
    """
    links, options = await context.kernel.links(), context.options
    try:
        link = choose_link(
            links, options.wanted_links, public_ip=options.public_ip, default_index=await _default_index(context)
        )
    except NoLink as error:
        if options.public_ip and not options.wanted_links:
            raise _not_on_link(options.public_ip, "any interface", describe(links)) from error
        raise LinkUnusable(str(error)) from error
    context.log.info("link.chosen", link=link.name, address=str(options.public_ip or link.address), mtu=link.mtu)
    return links, link


def check_public_ip(context: Context, link: Link, backend: Backend) -> None:
    """Check what the backend demands of the address to publish; it is known only with the configuration.

    Raises:
        PublicIpNotOnLink: it is not on the link, which this backend needs.
    """
    public_ip = context.options.public_ip
    if backend.needs_public_ip_on_link and public_ip is not None and not link.carries(public_ip):
        raise _not_on_link(public_ip, link.name, ", ".join(map(str, link.addresses)))


def _not_on_link(public_ip: IPv4Address, where: str, there: str) -> PublicIpNotOnLink:
    return PublicIpNotOnLink(
        f"--public-ip={public_ip} is not an address of {where}, which has: {there}; "
        "host-gw needs it on the link: your peers reach it without a router or NAT between"
    )


async def _default_index(context: Context) -> int | None:
    """Return the link of the default route, where the choice depends on it."""
    if context.options.wanted_links or context.options.public_ip:
        return None
    defaults = [route for route in await context.kernel.routes() if route.dst.prefixlen == 0 and route.link_index]
    return min(defaults, key=lambda route: route.metric).link_index if defaults else None


def _choose_again(options: Options, node: Node, links: Sequence[Link]) -> Link:
    """Apply the rule used at start; a link that came with the default route is known by its name from then on."""
    wanted = options.wanted_links or (() if options.public_ip else (node.link.name,))
    return choose_link(links, wanted, public_ip=options.public_ip, default_index=None)


def follow_link(context: Context, node: Node, links: Sequence[Link]) -> bool:
    """Take note of *links* as they are now; say whether routes can be placed."""
    node.links = links
    try:
        link = _choose_again(context.options, node, links)
    except NoLink as error:
        context.problems.report("link", "link.missing", f"routes cannot be placed: {error}")
        return False
    before, node.link = node.link, link
    if link.mtu != before.mtu:
        context.log.info("link.mtu_changed", link=link.name, was=before.mtu, now=link.mtu)
        node.file_outdated.set()
    if (link.index, link.address) != (before.index, before.address):
        context.log.warning(
            "link.changed", link=link.name, index=link.index, address=str(link.address), was=str(before.address)
        )
        start_over(context, node)
    return _report_state(context, link, node.backend)


def _report_state(context: Context, link: Link, backend: Backend) -> bool:
    public_ip = context.options.public_ip
    if not link.up:
        context.problems.report("link", "link.down", f"routes cannot be placed: {link.name} is down")
    elif backend.needs_public_ip_on_link and public_ip is not None and not link.carries(public_ip):
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
        backend_type=node.backend.lease_type,
        own_subnet=node.lease.subnet,
        link_addresses=node.link.addresses,
        own_addresses=frozenset(own.ip for own in addresses),
        connected=tuple(sorted(connected)),
        protected=context.options.protected,
        gateways_on_link=node.backend.needs_public_ip_on_link,
    )
