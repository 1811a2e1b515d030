"""The network configuration: flannel's table, defaults, bounds and words; and that nothing odd gets through."""

import json
import string
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyflanneld.core.invalid import Invalid
from pyflanneld.core.lease.subnet_env import render
from pyflanneld.core.network.config import NetworkConfig, SubnetRange, parse_config
from tests.support import strategies

NET = "10.5.0.0/16"


def parse(**members: object) -> NetworkConfig:
    return parse_config(json.dumps(members).encode())


def ipv4(**members: object) -> SubnetRange[IPv4Network]:
    config = parse(**{"Network": NET, **members})
    assert config.ipv4 is not None
    return config.ipv4


def ipv6(**members: object) -> SubnetRange[IPv6Network]:
    config = parse(**{"EnableIPv4": False, "EnableIPv6": True, "IPv6Network": "fc00::/48", **members})
    assert config.ipv6 is not None
    return config.ipv6


def refusal(**members: object) -> Invalid:
    with pytest.raises(Invalid) as caught:
        parse(**{"Network": NET, **members})
    return caught.value


@pytest.mark.parametrize(
    ("network", "asked", "length", "low", "high", "count"),
    [
        ("10.5.0.0/16", None, 24, "10.5.1.0", "10.5.255.0", 255),
        ("10.0.0.0/8", None, 24, "10.0.1.0", "10.255.255.0", 65535),
        ("10.5.0.0/21", None, 24, "10.5.1.0", "10.5.7.0", 7),
        ("10.5.0.0/22", None, 24, "10.5.1.0", "10.5.3.0", 3),
        ("10.5.0.0/23", None, 25, "10.5.0.128", "10.5.1.128", 3),
        ("10.5.0.0/24", None, 26, "10.5.0.64", "10.5.0.192", 3),
        ("10.5.0.0/28", None, 30, "10.5.0.4", "10.5.0.12", 3),
        ("10.3.0.0/16", 28, 28, "10.3.0.16", "10.3.255.240", 4095),
        ("172.7.0.0/16", 18, 18, "172.7.64.0", "172.7.192.0", 3),
        ("172.7.0.0/16", 30, 30, "172.7.0.4", "172.7.255.252", 16383),
    ],
)
def test_the_ipv4_table_holds(network: str, asked: int | None, length: int, low: str, high: str, count: int) -> None:
    """Each row of flannel's table: the length that results, the first and last subnet, and how many hosts fit."""
    found = ipv4(Network=network, **({} if asked is None else {"SubnetLen": asked}))
    assert found == SubnetRange(IPv4Network(network), length, IPv4Address(low), IPv4Address(high))
    assert sum(1 for _ in found.subnets()) == count


@pytest.mark.parametrize(
    ("network", "asked", "length", "low", "high", "count"),
    [
        ("2001:cafe:42::/56", None, 64, "2001:cafe:42:1::", "2001:cafe:42:ff::", 255),
        ("fc00::/48", None, 64, "fc00:0:0:1::", "fc00:0:0:ffff::", 65535),
        ("fc00::/62", None, 64, "fc00:0:0:1::", "fc00:0:0:3::", 3),
        ("fc00::/63", None, 65, "fc00:0:0:0:8000::", "fc00:0:0:1:8000::", 3),
        ("fc00::/124", None, 126, "fc00::4", "fc00::c", 3),
        ("fc00::/48", 80, 80, "fc00:0:0:0:1::", "fc00:0:0:ffff:ffff::", 2**32 - 1),
    ],
)
def test_the_ipv6_table_holds(network: str, asked: int | None, length: int, low: str, high: str, count: int) -> None:
    """The same for IPv6, where a subnet is a /64 if it can be."""
    found = ipv6(IPv6Network=network, **({} if asked is None else {"IPv6SubnetLen": asked}))
    assert found == SubnetRange(IPv6Network(network), length, IPv6Address(low), IPv6Address(high))
    assert ((int(found.subnet_max) - int(found.subnet_min)) >> (128 - length)) + 1 == count


def test_a_configuration_like_the_walkthroughs_is_read() -> None:
    """The smallest useful document: everything else has flannel's default."""
    config = parse_config(b'{"Network":"172.7.0.0/16","Backend":{"Type":"host-gw"}}')
    subnet_range = SubnetRange(IPv4Network("172.7.0.0/16"), 24, IPv4Address("172.7.1.0"), IPv4Address("172.7.255.0"))
    assert config == NetworkConfig(subnet_range, None, "host-gw", {}, nftables=False)


def test_both_families_are_read_side_by_side() -> None:
    """A dual-stack document yields both ranges, each with its own length."""
    config = parse(Network=NET, SubnetLen=26, EnableIPv6=True, IPv6Network="fc00::/48", EnableNFTables=True)
    assert config.ipv4 is not None
    assert config.ipv6 is not None
    assert (config.ipv4.subnet_len, config.ipv6.subnet_len, config.nftables) == (26, 64, True)


def test_the_first_subnet_is_leased_only_on_request() -> None:
    """By default flannel never uses the first subnet; SubnetMin can say otherwise."""
    assert IPv4Network("10.5.0.0/24") not in list(ipv4().subnets())
    assert next(iter(ipv4(SubnetMin="10.5.0.0").subnets())) == IPv4Network("10.5.0.0/24")


def test_the_bounds_are_inclusive() -> None:
    """SubnetMin and SubnetMax are both leased; they may be one and the same."""
    assert [str(one) for one in ipv4(SubnetMin="10.5.10.0", SubnetMax="10.5.12.0").subnets()] == [
        "10.5.10.0/24", "10.5.11.0/24", "10.5.12.0/24",
    ]  # fmt: skip
    assert list(ipv4(SubnetMin="10.5.10.0", SubnetMax="10.5.10.0").subnets()) == [IPv4Network("10.5.10.0/24")]
    found = ipv6(IPv6SubnetMin="fc00:0:0:7::", IPv6SubnetMax="fc00:0:0:9::")
    assert (found.subnet_min, found.subnet_max) == (IPv6Address("fc00:0:0:7::"), IPv6Address("fc00:0:0:9::"))


def test_only_what_lies_between_the_bounds_is_admitted() -> None:
    """A subnet of another length, or beyond a bound, is none that may be leased."""
    subnet_range = ipv4(SubnetMin="10.5.10.0", SubnetMax="10.5.12.0")
    right = ("10.5.10.0/24", "10.5.12.0/24")
    wrong = ("10.5.9.0/24", "10.5.13.0/24", "10.5.10.0/25", "10.5.10.0/23", "10.6.11.0/24")
    assert all(subnet_range.admits(IPv4Network(text)) for text in right)
    assert not any(subnet_range.admits(IPv4Network(text)) for text in wrong)


@pytest.mark.parametrize(
    ("members", "words"),
    [
        (
            {"SubnetMax": "10.5.0.0"},
            "SubnetMax: '10.5.0.0' is not usable: an address not below 10.5.1.0, the default of SubnetMin",
        ),
        (
            {"SubnetMin": "0.0.0.0", "SubnetMax": "10.5.0.0"},  # noqa: S104 - Go takes it for an absent one
            "SubnetMax: '10.5.0.0' is not usable: an address not below 10.5.1.0, the default of SubnetMin",
        ),
        (
            {"SubnetMin": "10.5.9.0", "SubnetMax": "10.5.8.0"},
            "SubnetMin: '10.5.9.0' is not usable: an address not above SubnetMax",
        ),
        (
            {"EnableIPv6": True, "IPv6Network": "fc00::/48", "IPv6SubnetMax": "fc00::"},
            "IPv6SubnetMax: 'fc00::' is not usable: an address not below fc00:0:0:1::, the default of IPv6SubnetMin",
        ),
        (
            {"Network": "10.5.0.0/29", "SubnetLen": 30},
            "Network: '/29' is not usable: network must be able to accommodate at least four subnets: /28 or shorter",
        ),
        (
            {"Network": "10.5.0.0/32", "SubnetLen": 24},
            "Network: '/32' is not usable: network must be able to accommodate at least four subnets: /28 or shorter",
        ),
        (
            {"Network": "10.5.0.0/28", "SubnetLen": 29},
            "SubnetLen: 29 is not usable: network must be able to accommodate at least four subnets: /30 or longer",
        ),
        (
            {"EnableIPv6": True, "IPv6Network": "fc00::/125", "IPv6SubnetLen": 126},
            "IPv6Network: '/125' is not usable: "
            "network must be able to accommodate at least four subnets: /124 or shorter",
        ),
    ],
)
def test_what_is_refused_is_what_the_document_says(members: dict[str, object], words: str) -> None:
    """The line names a field that is there, its value, and what would be taken in its place."""
    assert str(refusal(**members)) == words


@given(strategies.ranges())
def test_a_range_yields_what_it_admits(subnet_range: SubnetRange[IPv4Network]) -> None:
    """Every subnet that a range yields is admitted, in order and without overlap; both ends are among them."""
    found = list(subnet_range.subnets())
    assert all(subnet_range.admits(subnet) for subnet in found)
    assert all(int(a.broadcast_address) < int(b.network_address) for a, b in pairwise(found))
    assert (found[0].network_address, found[-1].network_address) == (subnet_range.subnet_min, subnet_range.subnet_max)


@pytest.mark.parametrize("network", ["fe80::/48", "ff00::/8", "::/48", "::/0", "::1/124", "2000::/7", "::ffff:0:0/96"])
def test_an_ipv6_network_that_routes_nothing_is_refused(network: str) -> None:
    """Link-local, multicast and unspecified networks, and larger ones than a /8, are no place for pods."""
    with pytest.raises(Invalid, match="IPv6Network"):
        ipv6(IPv6Network=network)


def test_only_ipv6_subnets_between_the_bounds_are_admitted() -> None:
    """The same for IPv6 as for IPv4."""
    subnet_range = ipv6(IPv6SubnetMin="fc00:0:0:7::", IPv6SubnetMax="fc00:0:0:9::")
    assert all(subnet_range.admits(IPv6Network(text)) for text in ("fc00:0:0:7::/64", "fc00:0:0:9::/64"))
    wrong = ("fc00:0:0:6::/64", "fc00:0:0:a::/64", "fc00:0:0:8::/65", "fc00:0:0:8::/63", "fc01:0:0:8::/64")
    assert not any(subnet_range.admits(IPv6Network(text)) for text in wrong)


def test_host_bits_are_masked_away() -> None:
    """Network and IPv6Network may carry host bits, as in flannel."""
    assert ipv4(Network="10.5.6.7/16").network == IPv4Network(NET)
    assert ipv6(IPv6Network="fc00::1:2/48").network == IPv6Network("fc00::/48")


@pytest.mark.parametrize("spell", [str.lower, str.upper, str.swapcase])
def test_names_are_matched_without_regard_to_case(spell: type[str]) -> None:
    """Members are known by their names in any case, the Backend's too; the type's value is lowered as flannel does."""
    members = {
        "Network": NET, "SubnetLen": 26, "SubnetMin": "10.5.8.0", "SubnetMax": "10.5.9.0", "EnableIPv4": True,
        "EnableIPv6": True, "IPv6Network": "fc00::/48", "IPv6SubnetLen": 60, "IPv6SubnetMin": "fc00:0:0:20::",
        "IPv6SubnetMax": "fc00:0:0:30::", "EnableNFTables": True, "Backend": {"Type": "Host-GW"},
    }  # fmt: skip
    expected = parse(**members)
    members["Backend"] = {spell("Type"): "HOST-GW"}
    assert parse(**{spell(name): value for name, value in members.items()}) == expected
    assert expected.backend_type == "host-gw"
    assert expected.ipv4 == SubnetRange(IPv4Network(NET), 26, IPv4Address("10.5.8.0"), IPv4Address("10.5.9.0"))


def test_unknown_members_are_ignored() -> None:
    """Members that we do not know change nothing, and those of the other family are not looked at."""
    plain = parse(Network=NET)
    assert parse(Network=NET, Comment="x", Extra=[1, {"Network": 7}], IPv6Network=7, IPv6SubnetLen="x") == plain
    assert parse(EnableIPv4=False, Network=7, SubnetLen="x").ipv4 is None


def test_the_last_of_several_spellings_counts() -> None:
    """A member given twice has its last value, as in Go."""
    config = parse_config(b'{"Network":"10.1.0.0/16","network":"10.2.0.0/16","Network":"10.3.0.0/16"}')
    assert config.ipv4 is not None
    assert config.ipv4.network == IPv4Network("10.3.0.0/16")
    twice = b'{"Network":"10.1.0.0/16","Backend":{"Type":"a","type":"b","Type":"host-gw"}}'
    assert parse_config(twice).backend_type == "host-gw"


def test_null_means_absent() -> None:
    """A null leaves the default in place, as in Go."""
    nothing = dict.fromkeys(("SubnetLen", "SubnetMin", "SubnetMax", "EnableIPv4", "EnableIPv6", "EnableNFTables"))
    assert parse(Network=NET, **nothing) == parse(Network=NET)


def test_zero_means_absent() -> None:
    """Go cannot tell a zero from an absent member: length 0 and address 0.0.0.0 stand for the default."""
    assert ipv4(SubnetLen=0, SubnetMin="0.0.0.0", SubnetMax="0.0.0.0") == ipv4()  # noqa: S104 - no socket in sight
    assert ipv6(IPv6SubnetLen=0, IPv6SubnetMin="::", IPv6SubnetMax="::") == ipv6()


def test_without_a_backend_it_is_udp() -> None:
    """flannel's code takes udp where Backend is absent, and nothing at all where it has no Type."""
    assert parse(Network=NET).backend_type == "udp"
    assert parse(Network=NET, Backend={}).backend_type == ""
    assert parse(Network=NET, Backend={"Port": 8285}).backend_type == ""


def test_the_backends_options_are_kept() -> None:
    """All members of Backend but its type are there for the backend, with names in lower case."""
    config = parse(Network=NET, Backend={"Type": "VXLAN", "VNI": 7, "DirectRouting": True, "Nested": {"A": 1}})
    assert config.backend_type == "vxlan"
    assert config.backend_options == {"vni": 7, "directrouting": True, "nested": {"A": 1}}


@pytest.mark.parametrize("backend", [None, "host-gw", 7, True, [], ["host-gw"]])
def test_a_backend_that_is_no_object_is_refused(backend: object) -> None:
    """Backend holds its type inside an object; null is none."""
    assert refusal(Backend=backend).field == "Backend"


@pytest.mark.parametrize("kind", [None, 7, False, ["host-gw"], {"host-gw": 1}])
def test_a_backend_type_that_is_no_text_is_refused(kind: object) -> None:
    """The type is text and nothing that could be made into it."""
    assert refusal(Backend={"Type": kind}).field == "Backend.Type"


@pytest.mark.parametrize(
    ("members", "text"),
    [
        ({"SubnetLen": 31}, "SubnetLen must be less than /31"),
        ({"SubnetLen": 32}, "SubnetLen must be less than /31"),
        ({"SubnetLen": 10**6}, "SubnetLen must be less than /31"),
        ({"SubnetLen": 17}, "network must be able to accommodate at least four subnets"),
        ({"SubnetLen": 1}, "network must be able to accommodate at least four subnets"),
        ({"Network": "10.5.0.0/29"}, "network is too small. Minimum useful network prefix is /28"),
        ({"Network": "10.5.0.0/32"}, "network is too small. Minimum useful network prefix is /28"),
        ({"Network": "10.5.0.0/29", "SubnetLen": 30}, "network must be able to accommodate at least four subnets"),
        ({"SubnetMin": "10.6.1.0"}, "SubnetMin is not in the range of the Network"),
        ({"SubnetMin": "10.4.255.0"}, "SubnetMin is not in the range of the Network"),
        ({"SubnetMax": "10.6.0.0"}, "SubnetMax is not in the range of the Network"),
        ({"SubnetMax": "255.255.255.255"}, "SubnetMax is not in the range of the Network"),
        ({"SubnetMin": "10.5.1.1"}, "SubnetMin is not on a SubnetLen boundary: 10.5.1.1"),
        ({"SubnetMax": "10.5.255.128"}, "SubnetMax is not on a SubnetLen boundary: 10.5.255.128"),
        ({"SubnetLen": 20, "SubnetMin": "10.5.8.0"}, "SubnetMin is not on a SubnetLen boundary: 10.5.8.0"),
    ],
)
def test_bounds_are_refused_in_flannels_words(members: dict[str, object], text: str) -> None:
    """Each rule that a length or an edge can break is named as flannel names it."""
    assert text in str(refusal(**members))


@pytest.mark.parametrize(
    ("members", "text"),
    [
        ({"IPv6SubnetLen": 127}, "IPv6SubnetLen must be less than /127"),
        ({"IPv6SubnetLen": 49}, "network must be able to accommodate at least four subnets"),
        ({"IPv6Network": "fc00::/125"}, "network is too small. Minimum useful network prefix is /124"),
        ({"IPv6SubnetMin": "fd00::"}, "IPv6SubnetMin is not in the range of the IPv6Network"),
        ({"IPv6SubnetMax": "fc00:0:1::"}, "IPv6SubnetMax is not in the range of the IPv6Network"),
        ({"IPv6SubnetMin": "fc00::1"}, "IPv6SubnetMin is not on a IPv6SubnetLen boundary: fc00::1"),
        ({"IPv6SubnetMax": "fc00:0:0:2:8000::"}, "IPv6SubnetMax is not on a IPv6SubnetLen boundary: fc00:0:0:2:8000::"),
        ({"IPv6SubnetMin": "fc00:0:0:9::", "IPv6SubnetMax": "fc00:0:0:8::"}, "not above IPv6SubnetMax"),
        ({"IPv6SubnetMin": "10.5.1.0"}, "IPv6SubnetMin"),
        ({"IPv6SubnetMin": "fc00:0:0:1::%eth0"}, "IPv6SubnetMin"),
        ({"IPv6SubnetMin": "fc00:0:0:1::1%\n\x1b[2J$(reboot)"}, "IPv6SubnetMin"),
        ({"IPv6Network": None}, "IPv6Network"),
        ({"IPv6Network": "fc00::"}, "IPv6Network"),
        ({"IPv6Network": "fc00::/129"}, "IPv6Network"),
        ({"IPv6Network": "fc00::%eth0/48"}, "IPv6Network"),
        ({"IPv6Network": "10.5.0.0/16"}, "IPv6Network"),
        ({"IPv6Network": 7}, "IPv6Network"),
    ],
)
def test_ipv6_is_refused_by_the_same_rules(members: dict[str, object], text: str) -> None:
    """The IPv6 forms of the rules, with a text fit for a log whatever the value was."""
    error = refusal(**{"EnableIPv6": True, "IPv6Network": "fc00::/48", **members})
    assert text in str(error)
    assert str(error).isprintable()


@pytest.mark.parametrize(
    "network",
    [
        None, 167772160, 10.5, True, [], {}, "", "10.5.0.0", "10.5.0.0/", "/16", "10.5/16", "10.5.0.0/33",
        "10.0.0.0/-8", "10.5.0.0/255.255.0.0", "10.5.0.0/0.0.255.255", "10.5.0.0/16/8", "10.5.0.0/1e1", "10.5.0.0/+16",
        "10.5.0.256/16", "010.5.0.0/16", "0xa.5.0.0/16", " 10.5.0.0/16", "10.5.0.0/16\n", "10.5.0.0 /16",
        "10.5.0.0/16,10.6.0.0/16", "fc00::/48", "::ffff:10.5.0.0/112",
        "$(reboot)", "10.5.0.0/16;reboot", "`id`/16", "10.5.0.0/1\u0666",
        "1\u0660.5.0.0/16", "\x1b[2J", "0.0.0.0/0", "10.0.0.0/7", "0.0.0.0/8", "0.5.0.0/16", "127.0.0.0/8",
        "127.5.0.0/16", "224.0.0.0/8", "239.1.0.0/16",
    ],
)  # fmt: skip
def test_a_network_that_is_none_is_refused(network: object) -> None:
    """Row F60: what is no IPv4 network as text, or not unicast, or larger than a /8, is refused by name."""
    error = refusal(Network=network)
    assert (error.reason, error.field) == ("bad_config", "Network")


def test_a_network_is_required() -> None:
    """Without Network there is no IPv4, and without IPv6Network no IPv6; each is named."""
    for document, field in ((b"{}", "Network"), (b'{"EnableIPv4":false,"EnableIPv6":true}', "IPv6Network")):
        with pytest.raises(Invalid) as caught:
            parse_config(document)
        assert caught.value.field == field


def test_both_families_may_be_off() -> None:
    """A document without any family is well formed; what it means is the daemon's to say."""
    config = parse(EnableIPv4=False)
    assert (config.ipv4, config.ipv6) == (None, None)


@pytest.mark.parametrize("value", [-1, 1e3, 24.0, "24", "", True, False, [], {}, [24], 1 << 70])
@pytest.mark.parametrize("name", ["SubnetLen", "IPv6SubnetLen"])
def test_a_length_is_a_whole_number_and_nothing_like_it(name: str, value: object) -> None:
    """Row F60: text, fractions, booleans and numbers below zero or beyond all bounds are no length."""
    error = refusal(EnableIPv6=True, IPv6Network="fc00::/48", **{name: value})
    assert error.field == name


@pytest.mark.parametrize("value", [7, True, [], {}, "", "10.5.1", "10.5.1.0/24", "fc00::", "010.5.1.0", "10.5.1.0\n"])
@pytest.mark.parametrize("name", ["SubnetMin", "SubnetMax"])
def test_an_edge_is_an_ipv4_address_as_text(name: str, value: object) -> None:
    """Row F60: an edge of another type or family, or in another spelling, is refused by name."""
    assert refusal(**{name: value}).field == name


def test_a_minimum_above_the_maximum_is_refused() -> None:
    """flannel takes it and reports an exhausted network later; we say it at once, for a default edge too."""
    assert "not above SubnetMax" in str(refusal(SubnetMin="10.5.9.0", SubnetMax="10.5.8.0"))
    assert "not below 10.5.1.0" in str(refusal(SubnetMax="10.5.0.0"))


@pytest.mark.parametrize("value", [0, 1, "true", "", [], {}])
@pytest.mark.parametrize("name", ["EnableIPv4", "EnableIPv6", "EnableNFTables"])
def test_a_switch_is_a_boolean(name: str, value: object) -> None:
    """A number or a text is neither on nor off."""
    assert refusal(**{name: value}).field == name


@pytest.mark.parametrize(
    "document", [b"", b"null", b"[]", b'"10.5.0.0/16"', b'{"Network":"10.5.0.0/16"', b"\xff", b"[" * 10**5]
)
def test_a_document_that_is_no_object_is_refused(document: bytes) -> None:
    """Broken text is refused as what it is: the network configuration."""
    with pytest.raises(Invalid, match=r"^network configuration: "):
        parse_config(document)


NAMES = (
    "Network", "SubnetLen", "SubnetMin", "SubnetMax", "EnableIPv4", "EnableIPv6", "IPv6Network", "IPv6SubnetLen",
    "IPv6SubnetMin", "IPv6SubnetMax", "EnableNFTables", "Backend",
)  # fmt: skip


@given(strategies.json_documents(*NAMES) | strategies.poison_values())
def test_any_document_is_taken_or_refused_in_one_line(document: bytes) -> None:
    """Nothing but Invalid is raised, and its message is one printable ASCII line of bounded length."""
    text = ""
    try:
        parse_config(document)
    except Invalid as error:
        text = str(error)
    assert text.isascii()
    assert text.isprintable()
    assert len(text) < 400


@given(
    strategies.networks(0, 32).map(str) | st.text("0123456789./ \n$`\u0661", max_size=20),
    st.none() | st.integers(-2, 34) | st.booleans() | st.text("0123", max_size=2),
    st.none() | strategies.networks(32, 32).map(lambda one: str(one.network_address)) | st.just("10.5.4.0"),
    st.none() | strategies.networks(32, 32).map(lambda one: str(one.network_address)) | st.just("10.5.8.0"),
)
def test_what_is_taken_obeys_every_rule(network: object, length: object, low: object, high: object) -> None:
    """An independent check by integers of each accepted range, and of the bytes that it would put into subnet.env."""
    try:
        config = parse(Network=network, SubnetLen=length, SubnetMin=low, SubnetMax=high)
    except Invalid:
        return
    assert config.ipv4 is not None
    subnet_range = config.ipv4
    start, first, last = (
        int(subnet_range.network.network_address),
        int(subnet_range.subnet_min),
        int(subnet_range.subnet_max),
    )
    end, step = start + 2 ** (32 - subnet_range.network.prefixlen), 2 ** (32 - subnet_range.subnet_len)
    assert subnet_range.network.prefixlen + 2 <= subnet_range.subnet_len <= 30
    assert start <= first <= last <= end - step
    assert first % step == last % step == start % step == 0
    assert start >> 24 not in {0, 127, *range(224, 240)}
    if type(length) is int and length:
        assert subnet_range.subnet_len == length
    if low is not None:
        assert str(subnet_range.subnet_min) == low
    text = render(subnet_range.network, next(subnet_range.subnets()), 1500)
    assert set(text) <= set(string.ascii_letters + string.digits + "._/=\n")
