"""Links as values, and the choice of the one that carries the routes."""

from collections.abc import Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Interface, IPv6Address, IPv6Interface


@dataclass(frozen=True, slots=True)
class Link:
    """A network interface of this host.

    Attributes:
        up: administratively up *and* with carrier: the kernel will take a route through it.
        addresses: its IPv4 addresses with their prefix lengths, in kernel order.
        addresses6: its global IPv6 addresses that last: not temporary, deprecated or tentative.
    """

    index: int
    name: str
    mtu: int
    up: bool
    addresses: tuple[IPv4Interface, ...]
    addresses6: tuple[IPv6Interface, ...] = ()

    def carries(self, address: IPv4Address | IPv6Address) -> bool:
        """Say whether *address* is one of this link's own."""
        return address in [own.ip for own in self.addresses] + [own.ip for own in self.addresses6]

    @property
    def address6(self) -> IPv6Address | None:
        """The first IPv6 address that can be published."""
        return self.addresses6[0].ip if self.addresses6 else None

    @property
    def address(self) -> IPv4Address | None:
        """The first address, as flannel ranks them: global before link-local."""
        ranked = sorted(self.addresses, key=lambda own: own.is_link_local)
        return ranked[0].ip if ranked else None


class NoLink(ValueError):
    """No link fits; the message says what was looked for and what there is."""


def choose_link(
    links: Sequence[Link], wanted: Sequence[str], *, public_ip: IPv4Address | None, default_index: int | None
) -> Link:
    """Return the link that carries the routes, in current flannel's order of preference.

    Args:
        links: all links.
        wanted: interface names or addresses, in order; the first that exists and has an address wins.
        public_ip: looked up as an address when nothing is wanted by name.
        default_index: the link of the default route, the last resort.

    Raises:
        NoLink: none fits.
    """
    if wanted:
        found = next((link for name in wanted for link in links if _matches(link, name)), None)
        sought = "interface " + " or ".join(wanted)
    elif public_ip is not None:
        found = next((link for link in links if link.carries(public_ip)), None)
        sought = f"interface with the address {public_ip}"
    else:
        found = next((link for link in links if link.index == default_index and link.addresses), None)
        sought = "default route through an interface with an IPv4 address; name one with --iface"
    if found is None:
        raise NoLink(f"there is no {sought}{_but(links, wanted)}; this host has: {describe(links)}")
    return found


def _matches(link: Link, wanted: str) -> bool:
    try:
        return link.carries(IPv4Address(wanted))
    except ValueError:
        return link.name == wanted and bool(link.addresses)


def _but(links: Sequence[Link], wanted: Sequence[str]) -> str:
    bare = [link.name for link in links if link.name in wanted and not link.addresses]
    return f" with an IPv4 address ({', '.join(bare)} has none)" if bare else ""


def describe(links: Sequence[Link]) -> str:
    """Return the links with their addresses, for an operator to choose from."""
    return ", ".join(
        f"{link.name} ({', '.join(map(str, link.addresses)) or 'no IPv4 address'})" for link in links
    ) or "no interface but the loopback"
