"""The members of ``Backend`` that only vxlan has: what Go reads, with bounds and a sentence where it has none."""

import json

import pytest

from pyflanneld.core.invalid import Invalid
from pyflanneld.core.network.config import parse_config
from pyflanneld.core.vxlan.options import VxlanOptions, parse_options

NETWORK = {"Network": "172.7.0.0/16"}
DUAL = {"EnableIPv6": True, "IPv6Network": "fd00:7::/48"}


def options(backend: str, *, dual: bool = False) -> VxlanOptions:
    document = json.dumps(NETWORK | (DUAL if dual else {}))
    config = parse_config(f'{document[:-1]},"Backend":{backend}}}'.encode())
    return parse_options(config.backend_options, ipv6=config.ipv6 is not None)


@pytest.mark.parametrize(
    ("backend", "expected"),
    [
        ('{"Type":"vxlan"}', VxlanOptions()),
        ('{"type":"VxLAN","vni":5,"PORT":4789,"gBp":true,"Learning":true}', VxlanOptions(5, 4789, True, True)),
        ('{"Type":"VXLAN","Directrouting":true}', VxlanOptions(direct_routing=True)),
        ('{"Type":"vxlan","VNI":5,"vni":6}', VxlanOptions(6)),
        ('{"Type":"vxlan","VNI":0,"Port":0}', VxlanOptions(0)),
        ('{"Type":"vxlan","VNI":null,"Port":null,"MTU":null,"DirectRouting":null}', VxlanOptions()),
        ('{"Type":"vxlan","MTU":1400,"Unknown":[1]}', VxlanOptions(mtu_bytes=1400)),
        ('{"Type":"vxlan","VNI":9999999,"Port":65535,"MTU":118}', VxlanOptions(9_999_999, 65535, mtu_bytes=118)),
    ],
)
def test_what_go_reads(backend: str, expected: VxlanOptions) -> None:
    """Any case, the last of two, null for the default, unknown members ignored."""
    assert options(backend) == expected


@pytest.mark.parametrize(
    ("member", "told"),
    [
        ('"VNI":10000000', "Backend.VNI: 10000000 is not usable: a whole number from 0 to 9999999: the device's name"),
        ('"VNI":-1', "from 0 to 9999999"), ('"VNI":"1"', "Backend.VNI: '1'"), ('"VNI":1.0', "Backend.VNI: 1.0"),
        ('"VNI":true', "Backend.VNI: True"), ('"Port":70000', "from 0 to 65535"), ('"Port":-1', "Backend.Port: -1"),
        ('"MTU":117', "from 118 to 65535: 68 bytes have to fit inside"), ('"MTU":0', "Backend.MTU: 0"),
        ('"GBP":1', "Backend.GBP: 1 is not usable: true or false"), ('"DirectRouting":"true"', "true or false"),
        ('"Learning":0', "Backend.Learning"),
    ],
)  # fmt: skip
def test_what_is_refused(member: str, told: str) -> None:
    """With the field, the value, and what would be right."""
    with pytest.raises(Invalid) as caught:
        options(f'{{"Type":"vxlan",{member}}}')
    assert told in str(caught.value)


def test_both_families_have_narrower_bounds() -> None:
    """The name of the second device is longer, and IPv6 needs 1,280 bytes."""
    assert options('{"Type":"vxlan","VNI":9999,"MTU":1350}', dual=True) == VxlanOptions(9999, mtu_bytes=1350)
    for member, told in (('"VNI":10000', "0 to 9999: the name of the second device"), ('"MTU":1349', "1350 to 65535")):
        with pytest.raises(Invalid) as caught:
            options(f'{{"Type":"vxlan",{member}}}', dual=True)
        assert told in str(caught.value)


@pytest.mark.parametrize(
    ("given", "link", "four", "six"),
    [(None, 1500, 1450, 1430), (1400, 1500, 1350, 1330), (9000, 1500, 1450, 1430), (None, 9000, 8950, 8930)],
)
def test_what_fits_through_the_tunnels(given: int | None, link: int, four: int, six: int) -> None:
    """Never more than the interface has, whatever the configuration says."""
    there = VxlanOptions(mtu_bytes=given)
    assert (there.mtu(link, version=4), there.mtu(link, version=6)) == (four, six)
