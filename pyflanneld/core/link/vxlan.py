"""The parameters of a vxlan device, as wanted and as the kernel reports them."""

from dataclasses import dataclass

from pyflanneld.core.families import Address


@dataclass(frozen=True, slots=True)
class Vxlan:
    """A vxlan device's own parameters.

    Attributes:
        mac: its hardware address.
        vni: the number of the virtual network.
        port: UDP.
        lower_index: of the link that carries its packets; 0: any.
        local: the address that they leave from; ``None``: any.
        learning: whether it learns where hardware addresses are.
        gbp: whether it carries group policies.
        plain: whether it has nothing else that flannel's has not: no default destination, no misses reported, no proxy.
        version: the IP version of its outer packets.
    """

    mac: str
    vni: int
    port: int
    lower_index: int
    local: Address | None
    learning: bool = False
    gbp: bool = False
    plain: bool = True
    version: int = 4

    def collides(self, other: "Vxlan") -> bool:
        """Return whether Linux refuses to have both."""
        return (self.vni, self.port, self.version) == (other.vni, other.port, other.version)
