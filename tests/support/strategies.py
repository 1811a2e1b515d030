"""What the property tests draw from: values that are right, values that are nearly right, and poison.

Networks are small where the laws are about overlaps, so that draws collide often.
"""

import json
from ipaddress import IPv4Address, IPv4Interface, IPv4Network, IPv6Address, IPv6Network

from hypothesis import strategies as st

from pyflanneld.core.etcd_types import Record
from pyflanneld.core.lease.codec import LeaseAttrs, encode_name, encode_value
from pyflanneld.core.network.config import SubnetRange
from pyflanneld.core.peers.validation import FamilyContext, ValidationContext
from pyflanneld.core.routes import BOOT, KernelRoute, Route

PROTOCOL = 103

NETWORK = IPv4Network("10.5.0.0/16")
LINK = IPv4Interface("192.168.1.10/24")
IPV4 = FamilyContext(
    network=NETWORK,
    own_subnet=IPv4Network("10.5.34.0/24"),
    link_addresses=(LINK,),
    own_addresses=frozenset({LINK.ip, IPv4Address("10.5.34.1")}),
    connected=(LINK.network,),
)
CONTEXT = ValidationContext("host-gw", IPV4)
"""A node like one of the walkthrough's: leases 10.5.34.0/24, LAN 192.168.1.0/24."""

POISON_NAMES: tuple[bytes, ...] = (
    b"", b"foo", b"10.5.1.0", b"10.5.1.0-", b"-24", b"10.5.1-24", b"10.5.1.0.0-24", b"10.5.1.0/24",
    b"10.5.1.0-24/x", b"10.5.1.0-24/10.5.1.0-24", b"../../config", b"x10.5.1.0-24", b"10.5.1.0-24x", b" 10.5.1.0-24",
    b"10.5.1.0-24\n", b"10x5x1x0-24",                                               # not anchored, not escaped in Go
    b"010.5.1.0-24", b"10.5.1.00-24", b"10.5.1.0-024", b"10.5.1.0-033",              # two spellings of one subnet
    b"10.5.1.7-24", b"10.5.1.0-16", b"10.5.256.0-24", b"10.5.1.0-33", b"10.5.1.0-99", b"10.5.1.0--1",
    b"10.5.1.0-24&", b"10.5.1.0-24&-64", b"10.5.1.0-24&fd00::", b"10.5.1.0-24&fd00:0::-64", b"10.5.1.0-24&FD00::-64",
    b"10.5.1.0-24&fd00::1-64", b"10.5.1.0-24&fd00::-129", b"10.5.1.0-24&fd00::-064", b"10.5.1.0-24&:::-64",
    b"&fd00::-64", b"fd00::-64",
    b"\x1b[31m10.5.1.0-24\x1b[0m", b"10.5.1.0-24\r\nlevel=error", b"%s%n%x-24", b"$(reboot)-24", b"10.5.1.0-24;id",
    b"\xff\xfe1\x000\x00", b"\x00" * 9, "10.5.1.0-2\u0664".encode(), "\u0661\u0660.5.1.0-24".encode(),
    b"1" * 129, b"10.5.1.0-" + b"2" * 4400, b"A" * 60_000,
)  # fmt: skip
"""Names of rows F50, F53, F55 and F59 that are no spelling of any lease."""

DUAL_STACK_NAME = b"10.5.3.0-24&fd00:0:0:3::-64"

_GOOD = b'{"PublicIP":"192.168.1.11","BackendType":"host-gw"'
POISON_VALUES: tuple[bytes, ...] = (
    b"", b" ", b"null", b"true", b"0", b"[]", b'"x"', b"{}", b"{", b"[{}]", b"{}{}", b'{"PublicIP"}', b"{'PublicIP':1}",
    _GOOD, _GOOD + b",}", _GOOD + b"}}", _GOOD + b'} {"a":1}', b"\xef\xbb\xbf" + _GOOD + b"}",
    _GOOD + b',"x":NaN}', _GOOD + b',"x":Infinity}', _GOOD + b',"x":-Infinity}', _GOOD + b',"x":1e999}',
    _GOOD + b',"x":[{"y":-1e999}]}', _GOOD + b',"x":' + b"7" * 4301 + b"}",
    (_GOOD + b"}").decode().encode("utf-16"), (_GOOD + b"}").decode().encode("utf-32"), _GOOD + b',"x":"\xed\xa0\x80"}',
    _GOOD + b',"x":"\xff"}', _GOOD + b',"x":"a\nb"}', _GOOD + b"}\x00", b"\x00" * 100, b"\x1b[2J" + _GOOD + b"}",
    b"[" * 100_000, b'{"a":' * 60_000, b'{"a":' * 257 + b"1" + b"}" * 257, b"[" * 10_000 + b"]" * 10_000,
    b'{"PublicIP":"' + b"1" * 1_400_000 + b'"}', _GOOD + b',"BackendData":"' + b"x" * 1_400_000 + b'"}',
    b'{"PublicIP":"' + b"\\u0000" * 1000 + b'"}', b'{"PublicIP":"\\ud800"}', b'{"PublicIP":"192.168.1.11\\n"}',
    b'{"PublicIP":null}', b'{"PublicIP":3232235787}', b'{"PublicIP":true}', b'{"PublicIP":["192.168.1.11"]}',
    b'{"PublicIP":{"a":1}}', b'{"PublicIP":""}', b'{"PublicIP":"192.168.1"}', b'{"PublicIP":"192.168.1.011"}',
    b'{"PublicIP":"192.168.1.11/24"}', b'{"PublicIP":" 192.168.1.11"}', b'{"PublicIP":"2001:db8::1"}',
    b'{"PublicIP":"::ffff:192.168.1.11"}', b'{"PublicIP":"$(reboot)"}', '{"PublicIP":"192.168.1.1\u0661"}'.encode(),
    b'{"PublicIP":1e999}', b'{"PublicIP":NaN}', b'{"BackendType":"host-gw"}', b'{"PublicIPv6":"2001:db8::1"}',
    b'{"PublicIP":"192.168.1.11","publicip":7}',
    b'{"PublicIP":"192.168.1.11","BackendType":7}', b'{"PublicIP":"192.168.1.11","BackendType":["host-gw"]}',
    b'{"PublicIP":"192.168.1.11","BackendType":false}', b'{"PublicIP":"192.168.1.11","PublicIPv6":7}',
    b'{"PublicIP":"192.168.1.11","PublicIPv6":""}', b'{"PublicIP":"192.168.1.11","PublicIPv6":"192.168.1.11"}',
    b'{"PublicIP":"192.168.1.11","PublicIPv6":"fe80::1%eth0"}',
)  # fmt: skip
"""Values of rows F51 to F53 that say nothing, or nothing that can be believed."""


def poison_names() -> st.SearchStrategy[bytes]:
    """Names that are no lease's: the known ones, and bytes that come near."""
    near = st.text("0123456789.-&:/afx \n%\x1b\u0662", max_size=40).map(str.encode)
    return st.sampled_from(POISON_NAMES) | near.filter(lambda name: not name[:1].isdigit()) | _raw()


def _raw() -> st.SearchStrategy[bytes]:
    return st.binary(max_size=40).filter(lambda name: b"-" not in name)


def poison_values() -> st.SearchStrategy[bytes]:
    """Values that cannot be read: the known ones, and bytes that are no JSON object at all."""
    no_object = st.binary(max_size=60).filter(lambda value: not value.strip().startswith(b"{"))
    return st.sampled_from(POISON_VALUES) | no_object


def json_values() -> st.SearchStrategy[object]:
    """Any JSON value, with the strings and numbers that parsers stumble over."""
    text = st.text(max_size=12) | st.sampled_from(("host-gw", "192.168.1.11", "10.5.0.0/16", "fe80::1%eth0", "\ud800"))
    leaf = st.none() | st.booleans() | st.integers() | st.floats() | text

    def nest(inner: st.SearchStrategy[object]) -> st.SearchStrategy[object]:
        return st.lists(inner, max_size=3) | st.dictionaries(text, inner, max_size=3)

    return st.recursive(leaf, nest, max_leaves=6)


@st.composite
def json_documents(draw: st.DrawFn, *names: str) -> bytes:
    """JSON objects whose members are mostly the known *names*, in any case, with any value."""
    spelling = st.sampled_from(names).flatmap(lambda name: st.sampled_from((name, name.lower(), name.upper())))
    members = draw(st.lists(st.tuples(spelling | st.text(max_size=6), json_values()), max_size=8))
    body = ",".join(f"{json.dumps(name)}:{json.dumps(value)}" for name, value in members)
    return f"{{{body}}}".encode()


def networks(shortest: int = 8, longest: int = 28) -> st.SearchStrategy[IPv4Network]:
    """Unicast networks that a configuration may name."""
    first = st.integers(1, 223).filter(lambda octet: octet != 127)
    return st.builds(
        lambda octet, rest, length: IPv4Network((octet << 24 | rest, length), strict=False),
        first, st.integers(0, (1 << 24) - 1), st.integers(shortest, longest),
    )


@st.composite
def subnets(draw: st.DrawFn, inside: IPv4Network, *, longest: int = 30) -> IPv4Network:
    """Proper parts of *inside*, of any length."""
    length = draw(st.integers(inside.prefixlen + 1, longest))
    index = draw(st.integers(0, (1 << (length - inside.prefixlen)) - 1))
    return IPv4Network((int(inside.network_address) + (index << (32 - length)), length))


@st.composite
def ranges(draw: st.DrawFn, *, bits: int = 8) -> SubnetRange[IPv4Network]:
    """Where leases come from: a network, a subnet length at most *bits* longer, and bounds somewhere inside."""
    network = draw(networks())
    length = draw(st.integers(network.prefixlen + 2, min(30, network.prefixlen + max(bits, 2))))
    last = (1 << (length - network.prefixlen)) - 1
    low = draw(st.integers(0, last))
    high = draw(st.integers(low, last))
    start, step = int(network.network_address), 1 << (32 - length)
    return SubnetRange(network, length, IPv4Address(start + low * step), IPv4Address(start + high * step))


def lease_attrs() -> st.SearchStrategy[LeaseAttrs]:
    """What a lease of any flannel may say."""
    backend = st.sampled_from(("host-gw", "", "vxlan", "Host-GW")) | st.text(max_size=8)
    return st.builds(
        LeaseAttrs, st.builds(IPv4Address, st.integers(0, 2**32 - 1)), backend,
        st.none() | st.builds(IPv6Address, st.integers(0, 2**128 - 1)),
    )


@st.composite
def dual_stack_names(draw: st.DrawFn) -> tuple[bytes, IPv4Network, IPv6Network]:
    """Names of dual-stack leases, and what they stand for."""
    ipv4 = draw(subnets(draw(networks()), longest=32))
    bits = draw(st.integers(0, 2**128 - 1).filter(lambda value: value >> 32 != 0xFFFF))  # mapped: spelt in two ways
    ipv6 = IPv6Network((bits, draw(st.integers(0, 128))), strict=False)
    return encode_name(ipv4) + f"&{ipv6.network_address}-{ipv6.prefixlen}".encode(), ipv4, ipv6


def lease(
    subnet: str | IPv4Network,
    gateway: str = "192.168.1.11",
    *,
    backend: str = "host-gw",
    created: int = 1,
    changed: int | None = None,
    lease_id: int = 77,
) -> Record:
    """Return a well-formed record."""
    value = encode_value(LeaseAttrs(IPv4Address(gateway), backend))
    return raw(encode_name(IPv4Network(subnet)), value, created=created, changed=changed, lease_id=lease_id)


def raw(name: bytes, value: bytes, *, created: int = 1, changed: int | None = None, lease_id: int = 77) -> Record:
    """Return a record of any bytes."""
    return Record(name, value, created, created if changed is None else changed, lease_id)


def gateways() -> st.SearchStrategy[IPv4Address]:
    """Addresses on and around the link of ``CONTEXT``, good and bad."""
    edge = (
        "0.1.2.3", "127.0.0.1", "224.0.0.5", "240.0.0.1", "255.255.255.255", "192.168.1.0", "192.168.1.10",
        "192.168.1.255", "192.168.2.1", "10.5.7.1", "10.5.34.1", "169.254.0.9", "8.8.8.8",
    )  # fmt: skip
    hosts = st.integers(1, 254).map(lambda host: LINK.network.network_address + host)
    return st.sampled_from([IPv4Address(0), *map(IPv4Address, edge)]) | hosts


@st.composite
def contexts(draw: st.DrawFn) -> FamilyContext:
    """Nodes with one or two LAN addresses, other links, and things to protect, some of them inside the network."""
    network = draw(networks(10, 24))
    inside = st.integers(0, network.num_addresses - 1).map(lambda offset: network.network_address + offset)
    own_subnet = draw(subnets(network))
    second = st.sampled_from((IPv4Interface("169.254.7.1/31"), IPv4Interface("8.8.8.9/29")))
    link = (LINK, *draw(st.lists(second, max_size=1)))
    other = st.builds(lambda ip, length: IPv4Interface((ip, length)), inside, st.integers(24, 32))
    addresses = (*link, *draw(st.lists(other, max_size=2)))
    return FamilyContext(
        network=network,
        own_subnet=own_subnet,
        link_addresses=link,
        own_addresses=frozenset(own.ip for own in addresses),
        connected=tuple(own.network for own in addresses if not own.network.overlaps(own_subnet)),
        protected=frozenset(draw(st.lists(inside, max_size=2))),
    )


def wanted_routes() -> st.SearchStrategy[dict[IPv4Network, Route]]:
    """What the peers ask for: a few destinations in and below 10.5.0.0/16."""
    route = st.builds(Route, _few_destinations(), _few_gateways(), st.integers(2, 3))
    return st.lists(route, max_size=6).map(lambda found: {one.dst: one for one in found if one.dst.subnet_of(NETWORK)})


def kernel_routes() -> st.SearchStrategy[KernelRoute]:
    """Routes of ours, of a Go flanneld, of an administrator, near and far, exact and not."""
    return st.builds(
        KernelRoute, _few_destinations(), st.none() | _few_gateways(), st.integers(2, 3),
        st.sampled_from((PROTOCOL, PROTOCOL, BOOT, BOOT, 4, 2)), st.sampled_from((0, 0, 0, 0, 100)),
        st.sampled_from((True, True, True, False)),
    )


def _few_destinations() -> st.SearchStrategy[IPv4Network]:
    texts = ("10.5.1.0/24", "10.5.2.0/24", "10.5.3.0/24", "10.5.2.0/25", "10.5.0.0/16", "10.6.1.0/24", "0.0.0.0/0")
    return st.sampled_from([IPv4Network(text) for text in texts])


def _few_gateways() -> st.SearchStrategy[IPv4Address]:
    return st.sampled_from([IPv4Address(text) for text in ("192.168.1.11", "192.168.1.12")])
