"""What an operator reads about a next hop that the kernel would refuse."""

from ipaddress import IPv4Address, IPv4Interface, IPv4Network

import pytest

from pyflanneld.core.peers.validation import FamilyContext, Validator

CONTEXT = FamilyContext(
    network=IPv4Network("172.7.0.0/16"), own_subnet=IPv4Network("172.7.21.0/24"),
    link_addresses=(IPv4Interface("192.168.14.21/24"), IPv4Interface("10.1.0.1/16")),
)  # fmt: skip


@pytest.mark.parametrize("gateway", ["8.8.8.8", "192.168.14.255", "192.168.15.1"])
def test_a_next_hop_off_the_link_is_named(gateway: str) -> None:
    """With its address, the subnet that cannot be reached for it, and where it would have to be."""
    validator = Validator(CONTEXT, gateways_on_link=True)
    quarantine = validator.check(IPv4Network("172.7.22.0/24"), IPv4Address(gateway), 1)
    assert quarantine is not None
    assert quarantine.detail == (
        f"PublicIP {gateway} is no neighbour on the link (192.168.14.0/24, 10.1.0.0/16): nothing for 172.7.22.0/24 "
        "can be sent to it; host-gw needs a common LAN"
    )
