"""The leases that the benchmark writes, and their bytes as flannel writes them. Pure.

    172.31.0.0/16     the LAN: .0.2 etcd, .0.10 and up the measured hosts, .1.0 and up the peers
    10.0.0.0/8        the cluster's network: peers from 10.1.0.0/24 on, leases that come and go from 10.128.0.0/24 on,
                      the measured hosts' own subnets from 10.255.0.0/24 on

The peers are keys in etcd and gateways on the LAN; nobody stands behind them, and no packet is sent to them.
"""

import json
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network

from pyflanneld.core.lease.codec import LeaseAttrs, encode_name, encode_value
from tests.bench.results import VXLAN

NETWORK = IPv4Network("10.0.0.0/8")
DEVICE = "flannel.1"
LAN = IPv4Network("172.31.0.0/16")
ETCD = IPv4Address("172.31.0.2")
MOST_PEERS = 16_000
MOST_NEWCOMERS = 10_000

_FIRST_HOST, _FIRST_GATEWAY, _FIRST_NEW_GATEWAY = (int(LAN[0]) + offset for offset in (10, 256, 1 << 15))


@dataclass(frozen=True, slots=True)
class Peer:
    """A subnet and the gateway to it."""

    subnet: IPv4Network
    gateway: IPv4Address

    @property
    def name(self) -> bytes:
        """The key's name below ``subnets/``."""
        return encode_name(self.subnet)

    @property
    def mac(self) -> str:
        """The MAC address of its vxlan device, which says the subnet."""
        return ":".join(f"{octet:02x}" for octet in (2, 0, *self.subnet.network_address.packed))

    def value(self, api: int, backend: str) -> bytes:
        """Return the value as flannel writes it with this API of etcd."""
        data = json.dumps({"VNI": 1, "VtepMAC": self.mac}) if backend == VXLAN else ""
        return encode_value(LeaseAttrs(self.gateway, backend, data=data), api)

    def route(self, protocol: int) -> str:
        """Return the command that makes ``ip -batch`` add the route."""
        return f"route add {self.subnet} via {self.gateway} dev eth1 proto {protocol}"


    def tunnel(self, protocol: int) -> tuple[str, str]:
        """Return the commands that make ``ip -batch`` add neighbour and route of vxlan."""
        first = self.subnet.network_address
        return (
            f"neigh add {first} lladdr {self.mac} dev {DEVICE} nud permanent",
            f"route add {self.subnet} via {first} dev {DEVICE} onlink proto {protocol}",
        )

    @property
    def forwarding(self) -> str:
        """The forwarding entry of vxlan, for ``bridge fdb``."""
        return f"{self.mac} dev {DEVICE} dst {self.gateway} self"


def config(backend: str) -> str:
    """Return the network's configuration."""
    return json.dumps({"Network": str(NETWORK), "SubnetLen": 24, "Backend": {"Type": backend}})


def _subnet(second: int, number: int) -> IPv4Network:
    return IPv4Network((int(NETWORK[0]) + (second << 16) + (number << 8), 24))


def peer(number: int) -> Peer:
    """Return a peer that is there all the time, 0 to ``MOST_PEERS`` - 1; each has a gateway of its own."""
    return Peer(_subnet(1, number), IPv4Address(_FIRST_GATEWAY + number))


def newcomer(number: int) -> Peer:
    """Return a peer that comes and goes while it is looked at, 0 to ``MOST_NEWCOMERS`` - 1."""
    return Peer(_subnet(128, number), IPv4Address(_FIRST_NEW_GATEWAY + number))


def measured_host(number: int) -> Peer:
    """Return address and subnet of a host on which a daemon is measured."""
    return Peer(_subnet(255, number), IPv4Address(_FIRST_HOST + number))
