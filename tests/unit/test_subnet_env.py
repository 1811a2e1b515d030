"""The subnet file: flannel's bytes, safe to source, and read back with suspicion."""

import re
from ipaddress import IPv4Network, IPv6Network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyflanneld.core.invalid import Invalid
from pyflanneld.core.lease.subnet_env import previous_subnet, previous_subnet6, render
from tests.support import strategies

NETWORK, SUBNET = IPv4Network("172.7.0.0/16"), IPv4Network("172.7.21.0/24")
LINE = re.compile(r"FLANNEL_[A-Z0-9_]+=([0-9a-fA-F.:/]+|true|false)")


def test_the_bytes_are_flannels() -> None:
    """Four lines in flannel's order; the subnet is written with its first host address."""
    assert render(NETWORK, SUBNET, 1500) == (
        "FLANNEL_NETWORK=172.7.0.0/16\nFLANNEL_SUBNET=172.7.21.1/24\nFLANNEL_MTU=1500\nFLANNEL_IPMASQ=false\n"
    )
    assert render(NETWORK, SUBNET, 8951, ip_masq=True).endswith("FLANNEL_MTU=8951\nFLANNEL_IPMASQ=true\n")


def test_the_bytes_of_dual_stack_are_flannels() -> None:
    """Two more lines behind the IPv4 ones, and both subnets are read back."""
    ipv6 = IPv6Network("2001:cafe:42::/56"), IPv6Network("2001:cafe:42:7::/64")
    text = render(NETWORK, SUBNET, 1500, ipv6=ipv6)
    assert text == (
        "FLANNEL_NETWORK=172.7.0.0/16\nFLANNEL_SUBNET=172.7.21.1/24\n"
        "FLANNEL_IPV6_NETWORK=2001:cafe:42::/56\nFLANNEL_IPV6_SUBNET=2001:cafe:42:7::1/64\n"
        "FLANNEL_MTU=1500\nFLANNEL_IPMASQ=false\n"
    )
    assert (previous_subnet(text), previous_subnet6(text)) == (SUBNET, ipv6[1])


@pytest.mark.parametrize("value", ["x", "2001:db8::1", "10.5.1.1/24", "fe80::1%eth0/64", "::1/129", "::1/64,::2/64"])
def test_a_spoiled_ipv6_subnet_is_refused(value: str) -> None:
    """What is no IPv6 address with a length is named; an absent or empty one is none."""
    with pytest.raises(Invalid, match="FLANNEL_IPV6_SUBNET"):
        previous_subnet6(f"FLANNEL_IPV6_SUBNET={value}\n")
    assert previous_subnet6("FLANNEL_IPV6_SUBNET=\n") is None
    assert previous_subnet6("") is None


@given(st.data(), st.integers(68, 65536), st.booleans())
def test_every_value_is_of_the_fixed_charset(data: st.DataObject, mtu: int, ip_masq: bool) -> None:
    """Invariant I16: root's shell sources it, so each line is a plain assignment of a number, an address or a word."""
    network = data.draw(strategies.networks())
    text = render(network, data.draw(strategies.subnets(network)), mtu, ip_masq=ip_masq)
    assert text.endswith("\n")
    assert all(LINE.fullmatch(line) for line in text[:-1].split("\n"))


@given(st.data(), st.integers(68, 65536))
def test_the_subnet_is_read_back(data: st.DataObject, mtu: int) -> None:
    """previous_subnet(render(x)) == x."""
    network = data.draw(strategies.networks())
    subnet = data.draw(strategies.subnets(network))
    assert previous_subnet(render(network, subnet, mtu)) == subnet


@pytest.mark.parametrize(
    "text",
    [
        "FLANNEL_SUBNET=172.7.21.1/24",
        "FLANNEL_SUBNET=172.7.21.0/24\n",
        "FLANNEL_SUBNET=172.7.21.99/24\n",
        "  FLANNEL_SUBNET = 172.7.21.1/24  \n",
        "export FLANNEL_SUBNET=172.7.21.1/24\n",
        'FLANNEL_SUBNET="172.7.21.1/24"\n',
        "FLANNEL_SUBNET='172.7.21.1/24'\n",
        "FLANNEL_NETWORK=172.7.0.0/16\r\nFLANNEL_SUBNET=172.7.21.1/24\r\n",
        "# FLANNEL_SUBNET=10.0.0.1/24\n#FLANNEL_SUBNET=10.0.0.1/24\nFLANNEL_SUBNET=172.7.21.1/24\n\n# end",
        "FLANNEL_SUBNET=10.0.0.1/24\nFLANNEL_SUBNET=172.7.21.1/24\n",
        "FLANNEL_SUBNET=172.7.21.1/24 # of host 21 # since May\n",
        "FLANNEL_SUBNET=172.7.21.1/24\t#",
        "FLANNEL_SUBNET='172.7.21.1/24' # of host 21\n",
        'export FLANNEL_SUBNET="172.7.21.1/24"#',
        "FLANNEL_SUBNET=172.7.21.1/24,\n",
        "FLANNEL_SUBNET=,172.7.21.1/24,172.7.22.1, 172.7.23.1/24\n",
        "garbage\nFLANNEL_SUBNET\n=\nFLANNEL_SUBNET=172.7.21.1/24\nFLANNEL_SUBNET_X=1\n",
    ],
)
def test_a_dotenv_file_is_understood(text: str) -> None:
    """Quotes, export, comments, blanks and host bits are read as a dotenv file's; the last assignment counts."""
    assert previous_subnet(text) == SUBNET


@pytest.mark.parametrize(
    "text", ["", "\n", "\x00", "FLANNEL_NETWORK=172.7.0.0/16\n", "FLANNEL_SUBNET=\n", 'FLANNEL_SUBNET=""\n',
     "FLANNEL_SUBNET= # none yet\n", "FLANNEL_SUBNET='' # 172.7.21.1/24\n"],
)  # fmt: skip
def test_a_file_that_names_no_subnet_is_no_error(text: str) -> None:
    """Nothing remembered is not something wrong."""
    assert previous_subnet(text) is None


@pytest.mark.parametrize(
    "value",
    [
        "172.7.21.1", "172.7.21.1/", "172.7.21.1/33", "172.7.21.1/-1", "172.7.21.1/24/24", "172.7.21.256/24",
        "172.7.21/24", "172.7.021.1/24", "172.7.21.1/24,172.7.22.1/24", "2001:cafe:42:7::1/64", "$(reboot)",
        "172.7.21.1/24;reboot", "172.7.21.1/24#x",
        '"172.7.21.1/24" x # y', ",", "x", "\x1b[2J", "172.7.21.1/2\u0664", "\ud800", "1" * 5000,
    ],
)  # fmt: skip
def test_a_subnet_that_is_none_is_refused_with_one_line(value: str) -> None:
    """Row F49: garbage raises Invalid and nothing else, with a line fit for a log."""
    with pytest.raises(Invalid) as caught:
        previous_subnet(f"FLANNEL_SUBNET={value}\n")
    assert caught.value.field == "FLANNEL_SUBNET"
    assert str(caught.value).isascii()
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 300


def test_of_several_subnets_none_is_taken() -> None:
    """A list with more than one usable entry names none, as with current flannel, and the line says why."""
    with pytest.raises(Invalid, match="one address, and not several"):
        previous_subnet("FLANNEL_SUBNET=172.7.21.1/24,172.7.22.1/24\n")
    with pytest.raises(Invalid, match="one address, and not several"):
        previous_subnet6("FLANNEL_IPV6_SUBNET=2001:db8:0:7::1/64,2001:db8:0:8::1/64\n")
    assert previous_subnet6("FLANNEL_IPV6_SUBNET=x,2001:db8:0:7::1/64 # of host 21\n") == IPv6Network(
        "2001:db8:0:7::/64"
    )


@given(st.text() | st.text("FLANNEL_SUBNET=10.5/24\n#'\"x ", max_size=60).map(lambda tail: f"FLANNEL_SUBNET={tail}"))
def test_any_text_gives_a_subnet_nothing_or_invalid(text: str) -> None:
    """No file, however spoilt, raises anything else."""
    try:
        found = previous_subnet(text)
    except Invalid:
        return
    assert found is None or isinstance(found, IPv4Network)
