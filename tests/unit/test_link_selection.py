"""Which link carries the routes, and what is said where none fits."""

from ipaddress import IPv4Address, IPv4Interface

import pytest

from pyflanneld.core.link.selection import Link, LinkRule, NoLink, Routing, choose_link, describe_links


def link(index: int, name: str, *addresses: str, up: bool = True) -> Link:
    return Link(index, name, 1500, up, tuple(IPv4Interface(text) for text in addresses))


ETH0 = link(2, "eth0", "192.168.1.10/24", "192.168.1.110/24")
ETH1 = link(3, "eth1", "10.0.0.5/8")
BARE = link(4, "wlan0")
LINKS = (ETH0, ETH1, BARE)


def choose(
    *wanted: str, links: tuple[Link, ...] = LINKS, public_ip: str | None = None, default: int | None = 2
) -> Link:
    address = IPv4Address(public_ip) if public_ip else None
    return choose_link(links, LinkRule(wanted, public_ip=address), Routing(default)).link


def refusal(
    *wanted: str, links: tuple[Link, ...] = LINKS, public_ip: str | None = None, default: int | None = 2
) -> str:
    with pytest.raises(NoLink) as caught:
        choose(*wanted, links=links, public_ip=public_ip, default=default)
    return str(caught.value)


@pytest.mark.parametrize(
    ("wanted", "found"),
    [
        (("eth1",), ETH1),
        (("10.0.0.5",), ETH1),
        (("192.168.1.110",), ETH0),
        (("eth9", "eth1", "eth0"), ETH1),
        (("10.9.9.9", "wlan0", "eth0"), ETH0),
        (("eth1", "eth0"), ETH1),
        (("192.168.1.10", "eth1"), ETH0),
    ],
)
def test_the_first_wanted_link_that_exists_wins(wanted: tuple[str, ...], found: Link) -> None:
    """Names and addresses are tried in order; one that is absent or has no address is passed over."""
    assert choose(*wanted) == found


def test_what_is_wanted_by_name_goes_before_all_else() -> None:
    """Neither the public address nor the default route matter where a link is named."""
    assert choose("eth1", public_ip="192.168.1.10", default=2) == ETH1


def test_the_public_address_goes_before_the_default_route() -> None:
    """As in current flannel, the public address is looked up as if it were named."""
    assert choose(public_ip="10.0.0.5", default=2) == ETH1


def test_the_default_route_is_the_last_resort() -> None:
    """Without any wish it is the link of the default route."""
    assert choose(default=3) == ETH1


def test_a_link_that_is_down_can_be_chosen() -> None:
    """Its state is the reconciler's business, not the choice's."""
    down = link(7, "eth7", "192.168.7.1/24", up=False)
    assert choose("eth7", links=(down,)) == down


def test_a_missing_link_is_named_along_with_what_exists() -> None:
    """The message says what was looked for and lists every link with its addresses."""
    assert refusal("eth9", "10.9.9.9") == (
        "there is no interface eth9 or 10.9.9.9; this host has: "
        "eth0 (192.168.1.10/24, 192.168.1.110/24), eth1 (10.0.0.5/8), wlan0 (no IPv4 address)"
    )


def test_a_link_without_an_address_is_said_to_have_none() -> None:
    """A link that exists and cannot be used is not called missing."""
    assert refusal("eth9", "wlan0").startswith(
        "there is no interface eth9 or wlan0 with an IPv4 address (wlan0 has none); this host has: "
    )


def test_a_missing_public_address_is_named() -> None:
    """The message says which address no link has."""
    text = refusal(public_ip="10.9.9.9")
    assert text.startswith("there is no interface with the address 10.9.9.9; this host has: eth0")


@pytest.mark.parametrize("default", [None, 4, 99])
def test_without_a_usable_default_route_a_name_is_asked_for(default: int | None) -> None:
    """No default route, one through a link without an address, or through one that is gone: name one."""
    text = refusal(default=default)
    assert "no default route through an interface with an IPv4 address; name one with --iface;" in text
    assert "eth1 (10.0.0.5/8)" in text


def test_a_host_without_links_is_described() -> None:
    """The list is never empty text."""
    assert describe_links(()) == "no interface but the loopback"
    assert refusal("eth0", links=()).endswith("this host has: no interface but the loopback")


def test_an_address_is_matched_whole() -> None:
    """An address matches no prefix, and a name no part of a name."""
    assert "10.0.0.50" in refusal("10.0.0.50")
    assert "eth" in refusal("eth")


@pytest.mark.parametrize(
    ("addresses", "address"),
    [
        (("192.168.1.10/24", "10.0.0.5/8"), "192.168.1.10"),
        (("169.254.3.4/16", "192.168.1.10/24", "192.168.1.11/24"), "192.168.1.10"),
        (("169.254.3.4/16", "169.254.3.5/16"), "169.254.3.4"),
    ],
)
def test_the_address_of_a_link_is_its_first_global_one(addresses: tuple[str, ...], address: str) -> None:
    """flannel's order: the kernel's, but link-local ones last."""
    assert link(2, "eth0", *addresses).address == IPv4Address(address)


def test_a_link_without_addresses_has_none() -> None:
    """No address is an answer."""
    assert BARE.address is None
    assert not BARE.carries(IPv4Address("192.168.1.10"))


def test_a_link_carries_each_of_its_addresses() -> None:
    """Every address counts, its network does not."""
    assert ETH0.carries(IPv4Address("192.168.1.10"))
    assert ETH0.carries(IPv4Address("192.168.1.110"))
    assert not ETH0.carries(IPv4Address("192.168.1.11"))
