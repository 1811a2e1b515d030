"""What the network of a world is: its backend, and what its leases say."""

from dataclasses import dataclass
from ipaddress import IPv4Address

from pyflanneld.core.lease.codec import LeaseAttrs, encode_value
from tests.sim import spec
from tests.support.fakes.node import value

FAR = "10.77.0"
"""Where hosts are that are reached by a router only."""
_NETWORK = b'{"Network":"192.168.0.0/18","SubnetMin":"192.168.1.0","SubnetMax":"192.168.40.0","Backend":%s}'


@dataclass(frozen=True)
class Setup:
    """The network's configuration.

    Attributes:
        direct: whether hosts on one LAN reach each other by plain routes, with vxlan.
    """

    backend: str = "host-gw"
    direct: bool = False

    @property
    def config(self) -> bytes:
        """The configuration in etcd. The LAN of the hosts lies inside, and there are not many more subnets than wanted.

        It is written in one of the ways that flannel reads.
        """
        if self.tunnels:
            return _NETWORK % (b'{"Type":"vxlan","DirectRouting":%s}' % str(self.direct).lower().encode())
        return _NETWORK % b'{"Type":"host-gw"}'

    @property
    def tunnels(self) -> bool:
        """Whether hosts need devices of their own."""
        return self.backend == spec.VXLAN

    @property
    def other(self) -> str:
        """A backend that is not the network's."""
        return "host-gw" if self.tunnels else "vxlan"

    def value(self, address: str, mac: str = "") -> bytes:
        """Return the lease value of the host at *address*, whose device has *mac*, if not one by its address."""
        return lease_value(address, mac or mac_of(address)) if self.tunnels else value(address)

    def other_value(self, address: str) -> bytes:
        """Return that of a host with another backend."""
        return value(address, self.other)

    def home(self, number: int) -> str:
        """Return the address of somebody else's host: on the LAN, or, where packets get there all the same, not."""
        return f"{FAR if self.tunnels and number % 3 == 0 else '192.168.14'}.{number}"


def setup_of(seed: int) -> Setup:
    """Return the setup of a seed's world: of every four, two are host-gw, and one is vxlan with DirectRouting."""
    return Setup("vxlan", direct=seed % 4 == 3) if seed % 2 else Setup()


def mac_of(address: str) -> str:
    """Return the MAC address of the device of somebody else's host."""
    return "02:00:" + ":".join(f"{octet:02x}" for octet in IPv4Address(address).packed)


def lease_value(address: str, mac: str | None) -> bytes:
    """Return a vxlan lease that says *mac*, whatever that is; ``None``: nothing."""
    data = "" if mac is None else f'{{"VNI":1,"VtepMAC":"{mac}"}}'
    return encode_value(LeaseAttrs(IPv4Address(address), "vxlan", data=data))
