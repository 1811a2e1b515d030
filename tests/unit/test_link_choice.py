"""Every row of flannel's rules for the interface and its address, and what stays put while the daemon runs."""

from dataclasses import replace
from ipaddress import IPv4Address, IPv4Interface

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyflanneld.config import go_regex
from pyflanneld.config.load import load
from pyflanneld.core.link.selection import Choice, Link, LinkRule, NoLink, Routing, choose_link
from pyflanneld.errors import UsageError


def link(index: int, name: str, *addresses: str, mtu: int = 1500, deprecated: str = "") -> Link:
    old = frozenset(map(IPv4Address, deprecated.split()))
    return Link(index, name, mtu, True, tuple(map(IPv4Interface, addresses)), old)


ETH0 = link(2, "eth0", "10.0.2.15/24")
ETH1 = link(3, "eth1", "192.168.14.21/24", "192.168.15.21/24")
BARE = link(4, "eth2")
DOCKER = link(5, "docker0", "172.7.21.1/24")
LINKS = (ETH0, ETH1, BARE, DOCKER)
BY_DEFAULT = Routing(default_index=2)
MATCH = "first match of --iface-regex="
WAY = "is on the kernel's route to --iface-can-reach=1.1.1.1"
FIRST, SECOND = ("eth1", "192.168.14.21"), ("eth1", "192.168.15.21")


def rule(iface: str = "", regex: str = "", reach: str = "", public: str = "") -> LinkRule:
    return LinkRule(
        tuple(name.strip("-") for name in iface.split()),
        tuple(go_regex.parse_go_regex(text.strip("-")) for text in regex.split()),
        IPv4Address(reach) if reach else None, IPv4Address(public) if public else None,
    )


def way(index: int, source: str) -> Routing:
    return Routing(to_target=(index, IPv4Address(source)))


def chosen(wanted: LinkRule, routing: Routing | None = BY_DEFAULT, links: tuple[Link, ...] = LINKS) -> tuple[str, str]:
    choice = choose_link(links, wanted, routing)
    return choice.link.name, str(choice.address)


@pytest.mark.parametrize(
    ("wanted", "routing", "found", "why"),
    [
        (rule(), BY_DEFAULT, ("eth0", "10.0.2.15"), "has the default route"),
        (rule(public="192.168.15.21"), BY_DEFAULT, SECOND, "carries --public-ip=192.168.15.21"),
        (rule("eth1"), BY_DEFAULT, FIRST, "matches --iface=eth1"),
        (rule("192.168.15.21"), BY_DEFAULT, SECOND, "matches --iface=192.168.15.21"),
        (rule("eth9 eth2 eth0"), BY_DEFAULT, ("eth0", "10.0.2.15"), "matches --iface=eth0"),
        (rule("eth1", public="10.0.2.15"), BY_DEFAULT, FIRST, "matches --iface=eth1"),
        (rule("eth1", "eth0", "1.1.1.1"), way(2, "10.0.2.15"), FIRST, "matches --iface=eth1"),
        (rule("eth9", "^eth[01]$"), BY_DEFAULT, ("eth0", "10.0.2.15"), MATCH + "^eth[01]$"),
        (rule("", "^enp ^eth1"), BY_DEFAULT, FIRST, MATCH + "^eth1"),
        (rule("", r"14\.21$", "1.1.1.1"), way(2, "10.0.2.15"), FIRST, MATCH + r"14\.21$"),
        (rule("eth9", "^enp", "1.1.1.1"), way(3, "192.168.15.21"), SECOND, WAY),
        (rule("-"), BY_DEFAULT, ("eth0", "10.0.2.15"), "has the default route"),
        (rule("- eth1", public="192.168.15.21"), BY_DEFAULT, ("eth0", "10.0.2.15"), "has the default route"),
        (rule("- eth1"), Routing(), FIRST, "matches --iface=eth1"),
        (rule("eth1 -"), BY_DEFAULT, FIRST, "matches --iface=eth1"),
        (rule("eth9", "- ^eth1"), BY_DEFAULT, ("eth0", "10.0.2.15"), "has the default route"),
        (rule("-", "", "1.1.1.1"), way(3, "192.168.15.21"), SECOND, WAY),
        (rule(reach="1.1.1.1", public="10.0.2.15"), way(3, "192.168.14.21"), FIRST, WAY),
    ],
)
def test_the_order_is_flannels(wanted: LinkRule, routing: Routing, found: tuple[str, str], why: str) -> None:
    """Names, patterns, the way to an address; without them the public address, or the default route; it says why."""
    choice = choose_link(LINKS, wanted, routing)
    assert ((choice.link.name, str(choice.address)), choice.why) == (found, why)


@pytest.mark.parametrize(
    ("wanted", "routing", "told"),
    [
        (rule(), Routing(), "no default route through an interface with an IPv4 address; name one with --iface"),
        (rule(), Routing(default_index=4), "no default route through an interface with an IPv4 address"),
        (rule(public="9.9.9.9"), BY_DEFAULT, "no interface with the address 9.9.9.9"),
        (rule("eth9 9.9.9.9"), BY_DEFAULT, "no interface eth9 or 9.9.9.9; this host has: eth0 (10.0.2.15/24), eth1"),
        (rule("eth9 -", "-"), Routing(), "no interface eth9 or with the default route or with the default route; this"),
        (rule("eth2"), BY_DEFAULT, "no interface eth2 with an IPv4 address (eth2 has none)"),
        (rule(regex="^enp"), BY_DEFAULT, "no interface matching ^enp; this host has"),
        (rule("eth9", "^enp", "1.1.1.1"), Routing(), "eth9 or matching ^enp or on the route to 1.1.1.1"),
        (rule(reach="1.1.1.1"), way(3, "10.0.2.15"), "no interface on the route to 1.1.1.1 with an address of its own"),
        (rule(reach="1.1.1.1"), way(9, "10.0.2.15"), "no interface on the route to 1.1.1.1"),
    ],
)
def test_where_nothing_fits_it_is_said_what_was_sought(wanted: LinkRule, routing: Routing, told: str) -> None:
    """What was asked for is never replaced by the default route; the message has the wish and all there is."""
    with pytest.raises(NoLink) as caught:
        choose_link(LINKS, wanted, routing)
    assert told in str(caught.value)


def test_a_pattern_is_tried_on_every_address_before_any_name() -> None:
    """An interface whose address matches beats an earlier one whose name does, and that address is the one given."""
    named_so = link(2, "lan15", "10.0.2.15/24")
    assert chosen(rule(regex="15.21"), links=(named_so, ETH1)) == ("eth1", "192.168.15.21")
    assert chosen(rule(regex="lan15"), links=(named_so, ETH1)) == ("lan15", "10.0.2.15")


def test_a_pattern_is_searched_for_anywhere() -> None:
    """As in Go, a pattern without anchors matches in the middle; an interface without an address is passed over."""
    assert chosen(rule(regex="ock")) == ("docker0", "172.7.21.1")
    assert chosen(rule(regex="th2|th1")) == ("eth1", "192.168.14.21")


@pytest.mark.parametrize(
    ("addresses", "deprecated", "best"),
    [
        (("169.254.3.4/16", "192.168.1.10/24", "192.168.1.11/24"), "", "192.168.1.10"),
        (("169.254.3.4/16",), "", "169.254.3.4"),
        (("192.168.1.10/24", "192.168.1.11/24"), "192.168.1.10", "192.168.1.11"),
        (("192.168.1.10/24", "169.254.3.4/16"), "192.168.1.10", "169.254.3.4"),
        (("127.0.0.5/8", "169.254.3.4/16"), "", "169.254.3.4"),
    ],
)
def test_the_address_of_a_link(addresses: tuple[str, ...], deprecated: str, best: str) -> None:
    """Global before link-local, else in the kernel port's order; a deprecated or a loopback one is no choice."""
    assert chosen(rule("eth7"), links=(link(7, "eth7", *addresses, deprecated=deprecated),)) == ("eth7", best)


def test_a_deprecated_address_is_taken_only_by_itself() -> None:
    """A link with nothing else has no address to give; one that is named outright is taken at the operator's word."""
    old = link(7, "eth7", "192.168.1.10/24", deprecated="192.168.1.10")
    for wanted in (rule("eth7"), rule(regex="^eth7$"), rule()):
        with pytest.raises(NoLink, match=r"an IPv4 address to publish \(eth7 has only 192.168.1.10 \(deprecated\)\)"):
            choose_link((old,), wanted, Routing(default_index=7))
    assert chosen(rule("192.168.1.10"), links=(old,)) == ("eth7", "192.168.1.10")
    assert chosen(rule(public="192.168.1.10"), links=(old,)) == ("eth7", "192.168.1.10")
    assert chosen(rule("eth7", public="192.168.1.10"), links=(old,)) == ("eth7", "192.168.1.10")


@pytest.mark.parametrize(
    ("addresses", "deprecated", "mtu", "wanted", "told"),
    [
        ("192.168.1.10/24", "192.168.1.10", 1500, rule("eth7"),
         "no interface eth7 with an IPv4 address to publish (eth7 has only 192.168.1.10 (deprecated)); "
         "this host has: eth7 (192.168.1.10/24 deprecated)"),
        ("127.0.0.5/8", "", 1500, rule(regex="^eth7"),
         "no interface matching ^eth7 with an IPv4 address to publish "
         "(eth7 has only 127.0.0.5 (loopback or multicast)); "
         "this host has: eth7 (127.0.0.5/8)"),
        ("", "", 1500, rule(regex="^eth7"),
         "no interface matching ^eth7 with an IPv4 address (eth7 has none); this host has: eth7 (no IPv4 address)"),
        ("192.168.1.10/24", "192.168.1.10", 1500, rule(regex="^192"),
         "no interface matching ^192 with an IPv4 address to publish (eth7 has only 192.168.1.10 (deprecated)); "
         "this host has: eth7 (192.168.1.10/24 deprecated)"),
        ("192.168.1.10/24", "192.168.1.10", 1500, rule(),
         "no default route through an interface with an IPv4 address to publish "
         "(eth7 has only 192.168.1.10 (deprecated)); name one with --iface; "
         "this host has: eth7 (192.168.1.10/24 deprecated)"),
        ("192.168.1.10/24", "", 0, rule("192.168.1.10"),
         "no interface 192.168.1.10 with an MTU (eth7 has none); this host has: eth7 (192.168.1.10/24)"),
        ("192.168.1.10/24", "", 0, rule(public="192.168.1.10"),
         "no interface with the address 192.168.1.10 with an MTU (eth7 has none); this host has: "
         "eth7 (192.168.1.10/24)"),
    ],
)  # fmt: skip
def test_no_message_contradicts_itself(
    addresses: str, deprecated: str, mtu: int, wanted: LinkRule, told: str
) -> None:
    """What is said to be missing is not listed a few words later; what cannot be used is listed with the reason."""
    there = link(7, "eth7", *addresses.split(), mtu=mtu, deprecated=deprecated)
    with pytest.raises(NoLink) as caught:
        choose_link((there,), wanted, Routing(default_index=7))
    assert str(caught.value) == f"there is {told}"


def test_a_link_without_mtu_is_no_choice() -> None:
    """MTU 0 is an error in flannel; the next one that is wanted is tried."""
    silent = link(7, "eth7", "192.168.1.10/24", mtu=0)
    assert chosen(rule("eth7 eth1"), links=(silent, ETH1)) == ("eth1", "192.168.14.21")
    with pytest.raises(NoLink, match=r"eth7 with an MTU \(eth7 has none\)"):
        chosen(rule("eth7"), links=(silent,))


@pytest.mark.parametrize("wanted", [rule(), rule(reach="1.1.1.1"), rule("eth9", reach="1.1.1.1")])
def test_what_the_routes_chose_stays(wanted: LinkRule) -> None:
    """While running, a link chosen by routes is found by its name, or by its index when renamed; no other one is."""
    current = Choice(ETH1, IPv4Address("192.168.14.21"), "has the default route")
    anew, renamed = replace(ETH1, index=9), replace(ETH1, name="wan0")
    for links, found in ((LINKS, ETH1), ((ETH0, anew), anew), ((ETH0, renamed), renamed)):
        assert choose_link(links, wanted, current=current) == replace(current, link=found)
    with pytest.raises(NoLink, match=r"there is no interface (eth9 or )?eth1; this host has"):
        choose_link((ETH0, DOCKER), wanted, current=current)
    with pytest.raises(NoLink, match=r"eth1 with an IPv4 address \(eth1 has none\)"):
        choose_link((ETH0, replace(ETH1, addresses=())), wanted, current=current)


def test_the_source_address_stays_while_the_link_has_it() -> None:
    """What --iface-can-reach chose as the address is kept, and given up for the link's best one when it has gone."""
    current = Choice(ETH1, IPv4Address("192.168.15.21"), "is on the kernel's route to --iface-can-reach=1.1.1.1")
    assert choose_link(LINKS, rule(reach="1.1.1.1"), current=current).address == current.address
    less = replace(ETH1, addresses=ETH1.addresses[:1])
    assert choose_link((ETH0, less), rule(reach="1.1.1.1"), current=current).address == IPv4Address("192.168.14.21")


def test_a_pattern_keeps_its_link() -> None:
    """A new interface of lower index that matches too does not draw the node away; with the old one gone it does."""
    current = choose_link(LINKS, rule(regex="^eth1|^docker"))
    newcomer = link(1, "docker1", "172.18.0.1/16")
    assert choose_link((newcomer, *LINKS), rule(regex="^eth1|^docker"), current=current) == current
    assert choose_link((newcomer, ETH0), rule(regex="^eth1|^docker"), current=current).link == newcomer


def test_a_pattern_keeps_its_address() -> None:
    """Of several matching addresses of the link, the one in use is kept while it matches."""
    wanted = rule(regex=r"^192\.168\.")
    current = Choice(ETH1, IPv4Address("192.168.15.21"), "first match of --iface-regex")
    assert choose_link(LINKS, wanted, current=current).address == IPv4Address("192.168.15.21")
    less = replace(ETH1, addresses=ETH1.addresses[:1])
    assert choose_link((less,), wanted, current=current).address == IPv4Address("192.168.14.21")


def test_an_empty_name_stays_with_the_link_that_it_has_chosen() -> None:
    """While running, the default route moves nothing: neither the link that had it, nor one that a name has chosen."""
    current = choose_link(LINKS, rule("eth9 -", "^eth1"), BY_DEFAULT)
    assert choose_link(LINKS, rule("eth9 -", "^eth1"), current=current) == current
    assert choose_link((ETH1,), rule("eth9 -", "^eth1"), current=current).link == ETH1
    named = choose_link(LINKS, rule("eth1 -"), BY_DEFAULT)
    with pytest.raises(NoLink, match="no interface eth1"):
        choose_link((ETH0,), rule("eth1 -"), current=named)


def test_names_keep_their_order() -> None:
    """A name that the operator put first is taken as soon as it is there."""
    current = choose_link((ETH0,), rule("eth1 eth0"))
    assert current.link == ETH0
    assert choose_link(LINKS, rule("eth1 eth0"), current=current).link == ETH1


@pytest.mark.parametrize(
    ("text", "yes", "no"),
    [
        ("eth1", "veth10", "eth0"),
        ("^(eth|en[ops])[0-9]+$", "enp3", "docker0"),
        (r"^192\.168\.(14|15)\.\d{1,3}$", "192.168.14.21", "192.168.16.21"),
        ("^[[:alpha:]]+[[:digit:]]$", "eth1", "eth12"),
        ("^[[:xdigit:].]+$", "10.0.0.1", "eth1"),
        ("^[[:^digit:]]+$", "lo", "eth1"),
        ("(?i)ETH", "eth0", "lan"),
        ("e(?i)TH|LO$", "elo", "ETH0"),
        ("(?i:E)th", "Eth0", "eTH0"),
        (r"(?i)^\W", "-x", "k"),
        ("eth{,2}", "eth{,2}", "eth"),
        ("eth{01}", "eth{01}", "eth"),
        (r"eth0\z", "eth0", "eth01"),
        (r"\Qeth0.14\E$", "eth0.14", "eth0x14"),
        (r"[\d-z]{3}", "1-z", "az1"),
        ("^[]e]th", "eth0", "veth"),
        ("(?P<lan>eth)[0-9](?<rest>x?)", "eth1", "eth"),
        ("(?:a{0}|^)*lo", "lo", "l0"),
        (r"\x65\x{74}\150", "eth0", "e"),
    ],
)
def test_patterns_mean_what_they_mean_in_go(text: str, yes: str, no: str) -> None:
    """As Go 1.26 answers: anchors, counts, classes, flags from where they stand; ``{,2}`` is text."""
    pattern = go_regex.parse_go_regex(text)
    assert (pattern.matches(yes), pattern.matches(no), str(pattern)) == (True, False, text)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("[", "missing closing ]"), ("[^]", "missing closing ]"), ("(", "missing closing )"),
        ("a)", "unexpected )"), ("*", "missing argument to repetition operator: *"), ("a|+", "operator: +"),
        ("(?=eth)", "invalid or unsupported Perl syntax: (?=e"), ("(?!eth)", "Perl syntax"),
        ("(?<=e)th", "Perl syntax"), ("(?>eth)", "Perl syntax"), ("(?#x)eth", "Perl syntax"), ("(?P=n)", "Perl syntax"),
        ("(?-)", "Perl syntax"),
        (r"(e)\1", "invalid escape sequence: \\1"), (r"\Z", "escape"), (r"\q", "escape"), (r"\x{110000}", "escape"),
        ("e++", "invalid nested repetition operator: ++"), ("e*+", "operator: *+"), ("e{2}{3}", "operator: {2}{3}"),
        ("a{2,1}", "invalid repeat count: {2,1}"), ("a{1001}", "repeat count"), ("(a{50}){50}", "repeat count"),
        ("[z-a]", "invalid character class range: z-a"), ("[[:nope:]]", "range: [:nope:]"), (r"[a-\d]", "escape"),
        ("e\\", "trailing backslash"), ("e\udcff", "invalid UTF-8"), (r"\pL", "not supported here"),
    ],
)  # fmt: skip
def test_what_go_refuses_is_refused_by_name(text: str, why: str) -> None:
    """A pattern that Go does not take is a usage error that shows it and says what is wrong, in Go's words."""
    with pytest.raises(UsageError) as caught:
        load([f"--iface-regex={text}", "--iface-regex=eth"], {})
    assert str(caught.value).startswith("--iface-regex: ")
    assert caught.value.exit_code == 2
    assert ascii(text) in str(caught.value)
    assert "regular expression" in str(caught.value)
    assert why in str(caught.value)


@given(st.text(max_size=20))
def test_no_pattern_breaks_the_parser(text: str) -> None:
    """Any text is a pattern, or a ValueError that says it is none."""
    told = "no regular expression"
    try:
        go_regex.parse_go_regex(text).matches("eth0")
    except ValueError as error:
        told = str(error)
    assert "regular expression" in told


def test_settings_of_the_new_flags() -> None:
    """Patterns keep their order and come from the variable as one; --iface-can-reach is an address or nothing."""
    settings = load(["--iface-regex=a", "-iface-regex", "b", "--iface-can-reach=10.0.0.1"], {})
    assert [str(pattern) for pattern in settings.iface_regex] == ["a", "b"]
    assert settings.iface_can_reach == IPv4Address("10.0.0.1")
    from_env = load(["--iface-can-reach="], {"FLANNELD_IFACE_REGEX": "a,b"})
    assert ([str(pattern) for pattern in from_env.iface_regex], from_env.iface_can_reach) == (["a,b"], None)
    with pytest.raises(UsageError, match="--iface-can-reach: 'eth1' is not usable: an IPv4 address is needed"):
        load(["--iface-can-reach=eth1"], {})
