"""A lease on the wire: flannel's bytes, read back as they were written, and one spelling only."""

import json
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyflanneld.core.invalid import Invalid
from pyflanneld.core.lease.codec import (
    MAX_NAME_BYTES,
    TTL_S,
    LeaseAttrs,
    SubnetKey,
    encode_name,
    encode_value,
    parse_key_name,
    parse_value,
)
from tests.support import strategies

ADDRESS = IPv4Address("192.168.1.10")


def refusal_of_name(name: bytes) -> Invalid:
    with pytest.raises(Invalid) as caught:
        parse_key_name(name)
    return caught.value


def refusal_of_value(value: bytes) -> Invalid:
    with pytest.raises(Invalid) as caught:
        parse_value(value)
    return caught.value


def assert_one_line(error: Invalid) -> None:
    text = str(error)
    assert text.isascii()
    assert text.isprintable()
    assert len(text) <= 300


@pytest.mark.parametrize(
    ("attrs", "value"),
    [
        (LeaseAttrs(ADDRESS, "host-gw"), b'{"PublicIP":"192.168.1.10","PublicIPv6":null,"BackendType":"host-gw"}'),
        (LeaseAttrs(ADDRESS, ""), b'{"PublicIP":"192.168.1.10","PublicIPv6":null}'),
        (
            LeaseAttrs(ADDRESS, "host-gw", IPv6Address("2001:db8::10")),
            b'{"PublicIP":"192.168.1.10","PublicIPv6":"2001:db8::10","BackendType":"host-gw"}',
        ),
    ],
)
def test_the_bytes_are_current_flannels(attrs: LeaseAttrs, value: bytes) -> None:
    """Field order, spaces and nulls are exactly those that flannel writes into etcd v3, and are read back."""
    assert encode_value(attrs) == value
    assert parse_value(value) == attrs


@pytest.mark.parametrize(
    ("attrs", "value"),
    [
        (LeaseAttrs(ADDRESS, "host-gw"), b'{"PublicIP":"192.168.1.10","BackendType":"host-gw"}'),
        (LeaseAttrs(ADDRESS, ""), b'{"PublicIP":"192.168.1.10"}'),
    ],
)
def test_the_bytes_are_flannel_0_11s_on_v2(attrs: LeaseAttrs, value: bytes) -> None:
    """On v2 they are exactly those of flannel v0.11.0, which has no ``PublicIPv6``, and are read back."""
    assert encode_value(attrs, api=2) == value
    assert parse_value(value) == attrs


@given(strategies.lease_attrs())
def test_a_value_is_read_as_it_was_written(attrs: LeaseAttrs) -> None:
    """decode(encode(x)) == x for every value."""
    assert parse_value(encode_value(attrs)) == attrs


@given(strategies.networks(0, 32))
def test_a_name_is_read_as_it_was_written(subnet: IPv4Network) -> None:
    """decode(encode(x)) == x for every subnet."""
    assert parse_key_name(encode_name(subnet)) == SubnetKey(subnet, None)


def test_a_name_is_the_subnet_with_a_dash() -> None:
    """The key's form is flannel's."""
    assert encode_name(IPv4Network("10.5.34.0/24")) == b"10.5.34.0-24"
    assert encode_name(IPv4Network("0.0.0.0/0")) == b"0.0.0.0-0"


@given(strategies.dual_stack_names())
def test_a_dual_stack_name_is_understood(drawn: tuple[bytes, IPv4Network, IPv6Network]) -> None:
    """Both halves of a dual-stack key are read."""
    name, ipv4, ipv6 = drawn
    assert parse_key_name(name) == SubnetKey(ipv4, ipv6)


def test_a_dual_stack_name_like_flannels_is_understood() -> None:
    """The example of flannel's own form."""
    expected = SubnetKey(IPv4Network("10.5.34.0/24"), IPv6Network("2001:cafe:42:7::/64"))
    assert parse_key_name(b"10.5.34.0-24&2001:cafe:42:7::-64") == expected


@pytest.mark.parametrize("name", strategies.POISON_NAMES)
def test_a_name_in_any_other_spelling_is_refused(name: bytes) -> None:
    """Rows F50, F53, F55 and F59: junk, leading zeros, host bits, control characters; the reason is one clean line."""
    error = refusal_of_name(name)
    assert error.reason == "bad_key"
    assert_one_line(error)


@given(strategies.poison_names() | st.text("0123456789.-&:af", max_size=36).map(str.encode))
def test_a_name_that_is_taken_is_canonical(name: bytes) -> None:
    """Whatever bytes are taken for a key spell it in the one way that an encoder would."""
    try:
        key = parse_key_name(name)
    except Invalid as error:
        assert_one_line(error)
        return
    tail = f"&{key.ipv6.network_address}-{key.ipv6.prefixlen}".encode() if key.ipv6 else b""
    assert encode_name(key.ipv4) + tail == name


@given(
    st.lists(st.integers(0, 300).map(str), min_size=4, max_size=4).map(".".join), st.integers(0, 40),
    st.sampled_from(("", "0")), st.sampled_from(("", "0")),
)
def test_a_name_is_taken_only_where_integers_agree(quad: str, length: int, zero: str, zeros: str) -> None:
    """An independent reading by integers: octets below 256, length up to 32, no host bits, no leading zeros."""
    octets = [int(part) for part in quad.split(".")]
    number = int.from_bytes(bytes(min(octet, 255) for octet in octets), "big")
    right = max(octets) < 256 and length <= 32 and number % 2 ** (32 - min(length, 32)) == 0 and not zero + zeros
    try:
        taken = parse_key_name(f"{zero}{quad}-{zeros}{length}".encode())
    except Invalid:
        assert not right
    else:
        assert right
        assert int(taken.ipv4.network_address) == number


def test_the_longest_name_is_bounded() -> None:
    """No name above the limit is even looked at."""
    assert len(b"255.255.255.255-32&ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff-128") < MAX_NAME_BYTES
    assert refusal_of_name(b"10.5.1.0-24&" + b"0:" * 60 + b"-64").reason == "bad_key"


@pytest.mark.parametrize(
    ("value", "attrs"),
    [
        (b'{"PublicIP":"192.168.1.10","BackendType":"host-gw"}', LeaseAttrs(ADDRESS, "host-gw")),
        (b'{"PublicIP":"192.168.1.10"}', LeaseAttrs(ADDRESS, "")),
        (
            b'{"PublicIP":"10.37.7.195","BackendType":"vxlan","BackendData":{"VtepMAC":"82:4b:b6:2f:54:4e"}}',
            LeaseAttrs(IPv4Address("10.37.7.195"), "vxlan", data='{"VtepMAC":"82:4b:b6:2f:54:4e"}'),
        ),
        (
            b'{"PublicIP":"192.168.64.3","PublicIPv6":null,"BackendType":"vxlan","BackendData":{"VNI":1,"VtepMAC":"c6"}}',
            LeaseAttrs(IPv4Address("192.168.64.3"), "vxlan", data='{"VNI":1,"VtepMAC":"c6"}'),
        ),
    ],
)
def test_values_of_every_flannel_are_read(value: bytes, attrs: LeaseAttrs) -> None:
    """Old values without PublicIPv6, and those of other backends, are read."""
    assert parse_value(value) == attrs


def test_what_a_lease_says_for_its_backend_is_written_as_flannel_does() -> None:
    """The data of each family, in the order of its members, after the type; nothing where there is none."""
    attrs = LeaseAttrs(ADDRESS, "vxlan", None, '{"VNI":1,"VtepMAC":"c6"}', '{"VNI":2}')
    written = encode_value(attrs)
    assert written == (
        b'{"PublicIP":"192.168.1.10","PublicIPv6":null,"BackendType":"vxlan",'
        b'"BackendData":{"VNI":1,"VtepMAC":"c6"},"BackendV6Data":{"VNI":2}}'
    )
    assert parse_value(written) == attrs


@given(st.dictionaries(st.text(max_size=8).map(lambda name: "x" + name), strategies.json_values(), max_size=4))
def test_unknown_fields_are_ignored(extra: dict[str, object]) -> None:
    """Fields that we do not know change nothing (unless they are no JSON at all)."""
    value = json.dumps({"PublicIP": str(ADDRESS), "BackendType": "host-gw", **extra}).encode()
    if b"NaN" not in value and b"Infinity" not in value:
        assert parse_value(value) == LeaseAttrs(ADDRESS, "host-gw")


@pytest.mark.parametrize("spell", [str.lower, str.upper, str.swapcase])
def test_field_names_are_matched_without_regard_to_case(spell: type[str]) -> None:
    """As in Go, a field is known by its name in any case; its value is taken as it is."""
    document = {"PublicIP": "192.168.1.10", "PublicIPv6": "2001:db8::10", "BackendType": "Host-GW"}
    value = json.dumps({spell(name): text for name, text in document.items()}).encode()
    assert parse_value(value) == LeaseAttrs(ADDRESS, "Host-GW", IPv6Address("2001:db8::10"))


def test_the_last_of_several_spellings_counts() -> None:
    """A field given more than once has its last value, as in Go."""
    value = b'{"PublicIP":"192.168.1.1","publicip":"192.168.1.2","PublicIP":"192.168.1.3"}'
    assert parse_value(value).public_ip == IPv4Address("192.168.1.3")


@pytest.mark.parametrize("value", strategies.POISON_VALUES)
def test_a_value_that_says_nothing_is_refused(value: bytes) -> None:
    """Rows F51 to F53: broken, huge, deep or of the wrong types; the reason is one clean line."""
    error = refusal_of_value(value)
    assert error.reason in {"too_large", "not_json", "not_an_object", "bad_value"}
    assert_one_line(error)


@given(strategies.poison_values() | strategies.json_documents("PublicIP", "PublicIPv6", "BackendType", "BackendData"))
def test_any_bytes_give_a_lease_or_one_clean_line(value: bytes) -> None:
    """Nothing but Invalid is ever raised, and what is taken can be written again."""
    try:
        attrs = parse_value(value)
    except Invalid as error:
        assert_one_line(error)
    else:
        assert parse_value(encode_value(attrs)) == attrs


@pytest.mark.parametrize("zone", ["eth0", "1", "\n$(reboot)"])
def test_an_ipv6_zone_is_refused(zone: str) -> None:
    """Python takes any text after a percent sign for a zone; flannel takes none, and nothing may ride in on it."""
    error = refusal_of_value(json.dumps({"PublicIP": "192.168.1.10", "PublicIPv6": f"fe80::1%{zone}"}).encode())
    assert (error.reason, error.field) == ("bad_value", "PublicIPv6")


def test_a_lease_lives_a_day() -> None:
    """The time to live is flannel's constant."""
    assert TTL_S == 86400


SPOILERS = (b"", b"0", b"7", b".", b'"', b"\\", b"}")


@given(strategies.lease_attrs(), st.sampled_from((2, 3)), st.sampled_from(SPOILERS), st.data())
def test_what_needs_no_parser_says_what_the_parser_says(
    attrs: LeaseAttrs, api: int, spoiler: bytes, data: st.DataObject
) -> None:
    """A value as flannel writes it, also one byte off, is the same with a blank behind it, which needs the parser."""
    value = encode_value(attrs, api)
    at = data.draw(st.integers(0, len(value)))
    value = value[:at] + spoiler + value[at:]

    def read(text: bytes) -> LeaseAttrs | str:
        try:
            return parse_value(text)
        except Invalid as error:
            return error.reason

    assert read(value) == read(value + b" ")


@pytest.mark.parametrize("vni", ["", '"VNI":0,', '"VNI":1,', '"VNI":9999999,', '"VNI":07,', '"VNI":100000000,'])
@pytest.mark.parametrize("mac", ["aa:bb:cc:00:00:22", "AA:bb:cc:00:00:22", "zz"])
def test_a_vxlan_lease_is_read_the_same_whatever_reads_it(vni: str, mac: str) -> None:
    """As flannel writes it, without a parser, or with white space, through one."""
    text = f'{{"PublicIP":"192.168.14.22","BackendType":"vxlan","BackendData":{{{vni}"VtepMAC":"{mac}"}}}}'

    def read(value: str) -> LeaseAttrs | str:
        try:
            return parse_value(value.encode())
        except Invalid as error:
            return error.reason

    assert read(text) == read(text.replace('{"PublicIP"', '{ "PublicIP"'))
