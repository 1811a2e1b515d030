"""The members of ``Backend`` that only vxlan has, with their bounds.

Wire format: flannel ``pkg/backend/vxlan/vxlan.go`` (v0.28.9), which has no bounds: there a port of 70000 becomes 4464,
and a VNI of 10,000 in a dual-stack network leaves one device behind and ends the daemon.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from pyflanneld.core.invalid import Invalid

OVERHEAD_BYTES = {4: 50, 6: 70}
"""What vxlan adds to each packet, by the IP version that carries it: Ethernet, VXLAN, UDP and IP."""
DEFAULT_PORT = 8472
"""Linux' own; the port that IANA has given to vxlan is 4789."""
_LEAST_INNER_BYTES = {4: 68, 6: 1280}  # RFC 791, RFC 8200
_MOST_BYTES = 65535


@dataclass(frozen=True, slots=True)
class VxlanOptions:
    """How the network's packets are carried.

    Attributes:
        vni: the number of the virtual network.
        port: UDP, of all hosts.
        gbp: whether group policies are carried along; all hosts must agree.
        learning: whether the device learns where addresses are, beside what the leases say.
        direct_routing: whether hosts on one LAN route to each other without vxlan.
        mtu_bytes: of the link, as the operator has given it; ``None``: as the link has it.
    """

    vni: int = 1
    port: int = DEFAULT_PORT
    gbp: bool = False
    learning: bool = False
    direct_routing: bool = False
    mtu_bytes: int | None = None

    def mtu(self, link_mtu: int, *, version: int) -> int:
        """Return the largest packet, in bytes, that fits when IP of *version* carries it over a link of *link_mtu*."""
        outer = link_mtu if self.mtu_bytes is None else min(self.mtu_bytes, link_mtu)
        return outer - OVERHEAD_BYTES[version]


def parse_options(options: Mapping[str, object], *, ipv6: bool) -> VxlanOptions:
    """Read the members of ``Backend``.

    Args:
        options: by their names in lower case; unknown ones are ignored, as flannel does.
        ipv6: whether the network is dual-stack: its second device has a longer name.

    Raises:
        Invalid: names the field, the value and what would be right.
    """
    given = {name: value for name, value in options.items() if value is not None}  # Go leaves the default at null
    most = 9_999 if ipv6 else 9_999_999
    why = "the name of the second device of a dual-stack network" if ipv6 else "the device's name"
    mtu, inner = None, _LEAST_INNER_BYTES[6 if ipv6 else 4]
    if "mtu" in given:
        least = inner + OVERHEAD_BYTES[6 if ipv6 else 4]
        mtu = _number(given, "MTU", least, _MOST_BYTES, f": {inner} bytes have to fit inside")
    return VxlanOptions(
        vni=_number(given, "VNI", 0, most, f": {why} can hold no more digits", default=1),
        port=_number(given, "Port", 0, 65535, default=0) or DEFAULT_PORT,
        gbp=_boolean(given, "GBP"), learning=_boolean(given, "Learning"),
        direct_routing=_boolean(given, "DirectRouting"), mtu_bytes=mtu,
    )  # fmt: skip


def _number(
    given: Mapping[str, object], name: str, least: int, most: int, why: str = "", *, default: int = 0
) -> int:
    value = given.get(name.lower(), default)
    if type(value) is not int or not least <= value <= most:
        raise Invalid("bad_config", f"Backend.{name}", value, f"a whole number from {least} to {most}{why}")
    return value


def _boolean(given: Mapping[str, object], name: str) -> bool:
    value = given.get(name.lower(), False)
    if not isinstance(value, bool):
        raise Invalid("bad_config", f"Backend.{name}", value, "true or false")
    return value
