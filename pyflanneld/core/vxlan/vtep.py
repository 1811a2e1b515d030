"""What a lease says of its host's end of the tunnels: ``BackendData`` and ``BackendV6Data``.

Wire format: flannel ``pkg/backend/vxlan/vxlan.go`` (v0.28.9): ``{"VNI":1,"VtepMAC":"aa:bb:cc:00:00:22"}``; v0.11.0
writes no ``VNI``. What Go's ``net.ParseMAC`` takes for six bytes is taken here.
"""

import json
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from hashlib import sha256

from pyflanneld.core.families import Network
from pyflanneld.core.invalid import Invalid

_EXPECTED = 'the MAC address of one host, such as "aa:bb:cc:00:00:22"'
_AS_WRITTEN = re.compile(r'\{(?:"VNI":\d+,)?"VtepMAC":"((?:[0-9a-f]{2}:){5}[0-9a-f]{2})"\}', re.ASCII)
_VNI = re.compile(r'"VNI":(\d{1,10})\b', re.ASCII | re.IGNORECASE)
_MAC = re.compile(
    r"[0-9a-f]{2}(?::[0-9a-f]{2}){5}|[0-9a-f]{2}(?:-[0-9a-f]{2}){5}|[0-9a-f]{4}(?:\.[0-9a-f]{4}){2}", re.ASCII
)


def parse_mac(data: str, field: str = "BackendData") -> str:
    """Return the MAC address in what a lease says for its backend, as ``aa:bb:cc:00:00:22``.

    Raises:
        Invalid: there is none to which packets can be sent; *field* is where *data* stood.
    """
    if (written := _AS_WRITTEN.fullmatch(data)) is not None and _is_one_host(written[1]):
        return written[1]
    value = _member(data, field, "VtepMAC")
    if not isinstance(value, str) or not _MAC.fullmatch(value.lower()):
        raise Invalid("bad_value", f"{field}.VtepMAC", value, _EXPECTED)
    digits = value.lower().translate({ord(char): None for char in ":-."})
    mac = ":".join(digits[place : place + 2] for place in range(0, 12, 2))
    if not _is_one_host(mac):
        raise Invalid("bad_value", f"{field}.VtepMAC", value, _EXPECTED)
    return mac


def _is_one_host(mac: str) -> bool:
    """Return whether a frame to *mac* goes to one host: it is neither a group's, broadcast among them, nor zero."""
    return mac[1] in "02468ace" and mac != "00:00:00:00:00:00"


def _member(data: str, field: str, name: str) -> object:
    document = json.loads(data) if data else None
    if not isinstance(document, dict):
        raise Invalid("bad_value", field, document, f'an object such as {{"{name}":"aa:bb:cc:00:00:22"}}')
    found = [value for member, value in document.items() if member.lower() == name.lower()]
    return found[-1] if found else None


@dataclass(frozen=True, slots=True)
class VtepRules:
    """What is demanded of the peers' leases, see ``core.peers.validation.DataRules``: a MAC address for each of them.

    Attributes:
        own_macs: of this host's devices.
        vni: of the network; a peer with another one drops what it gets.
    """

    own_macs: Collection[str]
    vni: int

    def claim(self, subnet: Network, data: str) -> str:
        """Return the MAC address, which no other peer may have. Raises ``Invalid``."""
        field = "BackendData" if subnet.version == 4 else "BackendV6Data"
        mac = parse_mac(data, field)
        if mac in self.own_macs:
            raise Invalid("bad_value", f"{field}.VtepMAC", mac, "another one than that of this host")
        return mac


    def remark(self, data: str) -> str:
        """Return that a lease says another VNI; v0.11.0 says none."""
        found = _VNI.search(data)
        return f"VNI {found[1]}" if found is not None and int(found[1]) != self.vni else ""


def derived_mac(*parts: object) -> str:
    """Return the MAC address that a device gets whose host is described by *parts*: always the same one.

    So it survives a reboot, a deleted device and a lost lease, and the peers have nothing to learn. It is a local,
    unicast one; the other 46 bits differ by chance alone, and a peer with the same is told.
    """
    octets = bytearray(sha256("\n".join(map(str, parts)).encode()).digest()[:6])
    octets[0] = octets[0] & 0xFE | 0x02
    return ":".join(f"{octet:02x}" for octet in octets)


def vtep_data(mac: str, vni: int | None) -> Mapping[str, object]:
    """Return what a lease says, in flannel's order."""
    return {"VtepMAC": mac} if vni is None else {"VNI": vni, "VtepMAC": mac}
