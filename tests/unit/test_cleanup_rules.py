"""What is ours on a host that is to be left."""

from ipaddress import IPv4Address, IPv4Network, IPv6Network

from pyflanneld.core.lease.cleanup_rules import NotOurs, Ours, known_networks, our_lease, our_routes
from pyflanneld.core.network.config import parse_config
from pyflanneld.core.routes import KernelRoute
from tests.support.strategies import raw

US, SUBNET = IPv4Address("192.168.14.21"), IPv4Network("172.7.21.0/24")
VALUE = b'{"PublicIP":"192.168.14.21","BackendType":"host-gw"}'


def test_networks_are_those_that_somebody_names() -> None:
    """Etcd's, both of the subnet file, the operator's; each once; none where nobody knows."""
    config = parse_config(b'{"Network":"172.7.0.0/16","Backend":{"Type":"host-gw"}}')
    text = "FLANNEL_NETWORK=10.9.0.0/16\nFLANNEL_IPV6_NETWORK=2001:db8:42::/56\n"
    assert known_networks(config, text, [IPv4Network("172.7.0.0/16")]) == (
        IPv4Network("10.9.0.0/16"), IPv4Network("172.7.0.0/16"), IPv6Network("2001:db8:42::/56")
    )  # fmt: skip
    assert known_networks(None, "junk", []) == ()


def test_routes_with_our_mark_outside_the_networks_are_others() -> None:
    """The mark alone proves nothing: a second daemon on this host may serve another network with it."""
    routes = [
        KernelRoute(IPv4Network(dst), None, 2, protocol, 0, True)
        for dst, protocol in (("172.7.22.0/24", 103), ("172.7.23.0/24", 4), ("10.9.1.0/24", 103))
    ]
    assert our_routes(routes, 103, [IPv4Network("172.7.0.0/16")]) == ([routes[0]], [routes[2]])
    assert our_routes(routes, 103, []) == ([], [routes[0], routes[2]])


def test_the_lease_is_ours_only_by_address_and_file() -> None:
    """Both have to say so, and it must not be a reservation."""
    mine = raw(b"172.7.21.0-24", VALUE)
    assert our_lease([mine], US, SUBNET) == Ours(mine, SUBNET)
    for records, subnet, gone in (
        ([], SUBNET, True), ([], None, True), ([mine], None, False),
        ([raw(b"172.7.21.0-24", VALUE.replace(b"21", b"22"))], SUBNET, False),
        ([raw(b"172.7.21.0-24", b"junk")], SUBNET, False), ([raw(b"172.7.21.0-24", VALUE, lease_id=0)], SUBNET, False),
    ):  # fmt: skip
        found = our_lease(records, US, subnet)
        assert isinstance(found, NotOurs)
        assert found.gone == gone, found.why
