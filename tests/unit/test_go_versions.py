"""What flanneld v0.11.0 and v0.28.9 cannot read in a configuration: the verdicts are those of their own Go code."""

import pytest
from hypothesis import given

from pyflanneld.core.invalid import Invalid
from pyflanneld.core.network.config import parse_config
from pyflanneld.core.network.go_versions import Refusal, refusals
from pyflanneld.tasks.network import usable_config
from tests.support import strategies
from tests.support.fakes.node import CONFIG, FakeNode
from tests.support.fakes.registry import FakeEtcd
from tests.support.fakes.virtual_time import run, until
from tests.unit.test_network_config import NAMES

# This daemon takes every document below; each was decoded with the types of both releases.
READ_BY_ALL = (
    r'{"Network":"10.5.0.0/16","SubnetLen":26,"Backend":{"Type":"host-gw"}}',
    r'{"Network":"10.5.0.0/16","SubnetLen":0,"Backend":{"Type":"host-gw"}}',
    r'{"Network":"10.5.0.0/16","SubnetLen":null,"Backend":{"Type":"host-gw"}}',
    r'{"Network":"10.5.0.0/16","SubnetMin":"10.5.4.0","Backend":{"Type":"host-gw"}}',
    r'{"Network":"10.5.0.0/16","SubnetMin":"0.0.0.0","Backend":{"Type":"host-gw"}}',
    r'{"Network":"10.5.0.0/16","SubnetMax":"10.5.9.0","Backend":{"Type":"host-gw"}}',
    r'{"Network":"10.5.0.0/16","\u017fubnetLen":26,"Backend":{"Type":"host-gw"}}',
    r'{"Network":"10.5.0.0/16","SubnetMin":"::ffff:10.5.4.0","SubnetMin":"10.5.4.0","Backend":{"Type":"host-gw"}}',
    r'{"Network":"10.5.0.0/16","SubnetMin":"10.5.4.0","SubnetMin":"10.5.8.0","Backend":{"Type":"host-gw"}}',
    r'{"Network":"10.5.0.0/16","SubnetLen":26,"SubnetLen":null,"Backend":{"Type":"host-gw"}}',
    r'{"Network":"::ffff:10.5.0.0/112","Network":"10.5.0.0/16","Backend":{"Type":"host-gw"}}',
    r'{"Network":"10.5.0.0/016","Network":"10.5.0.0/16","Backend":{"Type":"host-gw"}}',
    r'{"Network":"10.0.0.0/08","Backend":{"Type":"host-gw"}}',
    r'{"Network":"10.5.0.0/16","EnableIPv4":null,"Backend":{"Type":"host-gw"}}',
    r'{"Network":"10.5.0.0/16","EnableIPv4":true,"Backend":{"Type":"host-gw"}}',
    r'{"Network":"10.5.0.0/16","EnableIPv6":null,"Backend":{"Type":"host-gw"}}',
    r'{"Network":"10.5.0.0/16","EnableIPv6":false,"Backend":{"Type":"host-gw"}}',
    r'{"Network":"10.5.0.0/16","EnableIPv6":true,"EnableIPv6":null,"IPv6Network":"fc00::/48","Backend":{"Type":"host-gw"}}',
    r'{"Network":"10.5.0.0/16","EnableNFTables":null,"Backend":{"Type":"host-gw"}}',
    r'{"Network":"10.5.0.0/16","EnableNFTables":true,"EnableNFTables":null,"Backend":{"Type":"host-gw"}}',
    r'{"Network":"10.5.0.0/16","IPv6Network":"fc00::/48","Backend":{"Type":"host-gw"}}',
    r'{"Network":"10.5.0.0/16","IPv6Network":"fc00::/048","Backend":{"Type":"host-gw"}}',
    r'{"Network":"10.5.0.0/16","IPv6Network":"10.5.0.0/16","Backend":{"Type":"host-gw"}}',
    r'{"Network":"10.5.0.0/16","IPv6SubnetLen":null,"Backend":{"Type":"host-gw"}}',
    r'{"Network":"10.5.0.0/16","IPv6SubnetLen":64,"Backend":{"Type":"host-gw"}}',
    r'{"Network":"10.5.0.0/16","IPv6SubnetLen":18446744073709551615,"Backend":{"Type":"host-gw"}}',
    r'{"Network":"10.5.0.0/16","IPv6SubnetMin":null,"Backend":{"Type":"host-gw"}}',
    r'{"Network":"10.5.0.0/16","IPv6SubnetMin":"fc00:0:0:7::","Backend":{"Type":"host-gw"}}',
    r'{"Network":"10.5.0.0/16","IPv6SubnetMin":"10.5.4.0","Backend":{"Type":"host-gw"}}',
    r'{"Network":"10.5.0.0/16","IPv6SubnetMax":null,"Backend":{"Type":"host-gw"}}',
    r'{"Network":"10.5.0.0/16","IPv6SubnetMax":"1:2:3:4:5:6:7::","Backend":{"Type":"host-gw"}}',
    r'{"Network":"10.5.0.0/16","EnableIPv6":true,"IPv6Network":"fc00::/48","Backend":{"Type":"host-gw"}}',
    r'{"Network":"10.5.0.0/16","EnableIPv6":true,"IPv6Network":"fc00::/48","IPv6SubnetLen":60,"IPv6SubnetMin":"fc00:0:0:10::","IPv6SubnetMax":null,"Backend":{"Type":"host-gw"}}',
    r'{"Network":"10.5.0.0/16","BackendType":7,"Backend":{"Type":"host-gw"}}',
    r'{"Network":"10.5.0.0/16","Comment":{"Network":null},"Backend":{"Type":"host-gw"}}',
    r'{"Network":"10.5.0.0/16","Backend":7,"Backend":{"Type":"alloc"}}',
    r'{"Network":"10.5.0.0/16","Backend":{"Type":7},"Backend":{"Type":"host-gw"}}',
    r'{"Network":"10.5.0.0/16","Backend":{"Type":null,"Type":"host-gw"}}',
    r'{"Network":"10.5.0.0/16","Backend":{"TYPE":"Host-GW"}}',
    r'{"Network":"10.5.0.0/16","Backend":{"Type":"host\u002dgw","VNI":"x"}}',
)
REFUSED_BY_NEW = (
    r'{"Network":"10.5.0.0/16","EnableIPv4":"yes","EnableIPv4":true,"Backend":{"Type":"host-gw"}}',
    r'{"Network":"10.5.0.0/16","EnableIPv6":0,"EnableIPv6":false,"Backend":{"Type":"host-gw"}}',
    r'{"Network":"10.5.0.0/16","EnableNFTables":1,"EnableNFTables":false,"Backend":{"Type":"host-gw"}}',
    r'{"Network":"10.5.0.0/16","IPv6Network":null,"Backend":{"Type":"host-gw"}}',
    r'{"Network":"10.5.0.0/16","IPv6Network":"","Backend":{"Type":"host-gw"}}',
    r'{"Network":"10.5.0.0/16","IPv6Network":"x","Backend":{"Type":"host-gw"}}',
    r'{"Network":"10.5.0.0/16","IPv6Network":7,"Backend":{"Type":"host-gw"}}',
    r'{"Network":"10.5.0.0/16","IPv6Network":[],"Backend":{"Type":"host-gw"}}',
    r'{"Network":"10.5.0.0/16","IPv6Network":{},"Backend":{"Type":"host-gw"}}',
    r'{"Network":"10.5.0.0/16","IPv6Network":"fc00::","Backend":{"Type":"host-gw"}}',
    r'{"Network":"10.5.0.0/16","IPv6Network":"fc00::/129","Backend":{"Type":"host-gw"}}',
    r'{"Network":"10.5.0.0/16","IPv6Network":"fc00::%eth0/48","Backend":{"Type":"host-gw"}}',
    r'{"Network":"10.5.0.0/16","IPv6Network":"fc00::\/48","Backend":{"Type":"host-gw"}}',
    r'{"Network":"10.5.0.0/16","IPv6Network":"010.5.0.0/16","Backend":{"Type":"host-gw"}}',
    r'{"Network":"10.5.0.0/16","ipv6network":null,"Backend":{"Type":"host-gw"}}',
    r'{"Network":"10.5.0.0/16","IPv6SubnetLen":"64","Backend":{"Type":"host-gw"}}',
    r'{"Network":"10.5.0.0/16","IPv6SubnetLen":"x","Backend":{"Type":"host-gw"}}',
    r'{"Network":"10.5.0.0/16","IPv6SubnetLen":64.0,"Backend":{"Type":"host-gw"}}',
    r'{"Network":"10.5.0.0/16","IPv6SubnetLen":6e1,"Backend":{"Type":"host-gw"}}',
    r'{"Network":"10.5.0.0/16","IPv6SubnetLen":-64,"Backend":{"Type":"host-gw"}}',
    r'{"Network":"10.5.0.0/16","IPv6SubnetLen":-0,"Backend":{"Type":"host-gw"}}',
    r'{"Network":"10.5.0.0/16","IPv6SubnetLen":true,"Backend":{"Type":"host-gw"}}',
    r'{"Network":"10.5.0.0/16","IPv6SubnetLen":[],"Backend":{"Type":"host-gw"}}',
    r'{"Network":"10.5.0.0/16","IPv6SubnetLen":18446744073709551616,"Backend":{"Type":"host-gw"}}',
    r'{"Network":"10.5.0.0/16","IPV6SUBNETLEN":"64","Backend":{"Type":"host-gw"}}',
    r'{"Network":"10.5.0.0/16","IPv6\u017fubnetLen":"64","Backend":{"Type":"host-gw"}}',
    r'{"Network":"10.5.0.0/16","IPv6SubnetMin":"","Backend":{"Type":"host-gw"}}',
    r'{"Network":"10.5.0.0/16","IPv6SubnetMin":"fc00::%eth0","Backend":{"Type":"host-gw"}}',
    r'{"Network":"10.5.0.0/16","IPv6SubnetMin":"fc00::/48","Backend":{"Type":"host-gw"}}',
    r'{"Network":"10.5.0.0/16","IPv6SubnetMin":7,"Backend":{"Type":"host-gw"}}',
    r'{"Network":"10.5.0.0/16","IPv6SubnetMin":"\u003a:","Backend":{"Type":"host-gw"}}',
    r'{"Network":"10.5.0.0/16","IPv6SubnetMax":"1::2::3","Backend":{"Type":"host-gw"}}',
    r'{"Network":"10.5.0.0/16","IPv6SubnetMax":"12345::","Backend":{"Type":"host-gw"}}',
    r'{"Network":"10.5.0.0/16","IPv6SubnetMax":"::01.2.3.4","Backend":{"Type":"host-gw"}}',
    r'{"Network":"10.5.0.0/16","IPv6SubnetMax":false,"Backend":{"Type":"host-gw"}}',
    r'{"Network":"10.5.0.0/16","EnableIPv6":true,"IPv6Network":null,"IPv6Network":"fc00::/48","Backend":{"Type":"host-gw"}}',
    r'{"Network":"10.5.0.0/16","EnableIPv6":true,"IPv6Network":"fc00::/48","IPv6SubnetMin":"fc00:0:0:7:\u003a","Backend":{"Type":"host-gw"}}',
    r'{"Network":"10.5.0.0/16","EnableIPv6":true,"IPv6Network":"fc00::/48","IPv6SubnetLen":-0,"Backend":{"Type":"host-gw"}}',
)
REFUSED_BY_BOTH = (
    r'{"Network":"10.5.0.0/16","SubnetLen":-0,"Backend":{"Type":"host-gw"}}',
    r'{"Network":"10.5.0.0/16","SubnetMin":null,"Backend":{"Type":"host-gw"}}',
    r'{"Network":"10.5.0.0/16","SubnetMax":null,"Backend":{"Type":"host-gw"}}',
    r'{"Network":"10.5.0.0/16","subnetmin":null,"Backend":{"Type":"host-gw"}}',
    r'{"Network":"10.5.0.0/16","SUBNETMAX":null,"Backend":{"Type":"host-gw"}}',
    r'{"Network":"10.5.0.0/16","\u017fubnetMin":null,"Backend":{"Type":"host-gw"}}',
    r'{"Network":"10.5.0.0/16","SubnetMin":"10.5.4\u002e0","Backend":{"Type":"host-gw"}}',
    r'{"Network":"10.5.0.0/16","SubnetMax":"10.5.9.\u0030","Backend":{"Type":"host-gw"}}',
    r'{"Network":"10.5.0.0/16","SubnetMin":"x","SubnetMin":"10.5.4.0","Backend":{"Type":"host-gw"}}',
    r'{"Network":"10.5.0.0/16","SubnetMin":"","SubnetMin":"10.5.4.0","Backend":{"Type":"host-gw"}}',
    r'{"Network":"10.5.0.0/16","SubnetMin":7,"SubnetMin":"10.5.4.0","Backend":{"Type":"host-gw"}}',
    r'{"Network":"10.5.0.0/16","SubnetMin":"fc00::","SubnetMin":"10.5.4.0","Backend":{"Type":"host-gw"}}',
    r'{"Network":"10.5.0.0/16","SubnetLen":"26","SubnetLen":26,"Backend":{"Type":"host-gw"}}',
    r'{"Network":"10.5.0.0/16","SubnetLen":26.0,"SubnetLen":26,"Backend":{"Type":"host-gw"}}',
    r'{"Network":"10.5.0.0/16","SubnetLen":1e1,"SubnetLen":26,"Backend":{"Type":"host-gw"}}',
    r'{"Network":"10.5.0.0/16","SubnetLen":-1,"SubnetLen":26,"Backend":{"Type":"host-gw"}}',
    r'{"Network":null,"Network":"10.5.0.0/16","Backend":{"Type":"host-gw"}}',
    r'{"Network":"x","Network":"10.5.0.0/16","Backend":{"Type":"host-gw"}}',
    r'{"Network":"fc00::/48","Network":"10.5.0.0/16","Backend":{"Type":"host-gw"}}',
    r'{"Network":"::ffff:10.5.0.0/90","Network":"10.5.0.0/16","Backend":{"Type":"host-gw"}}',
    r'{"Network":"10.5.0.0/33","Network":"10.5.0.0/16","Backend":{"Type":"host-gw"}}',
    r'{"Network":"10.5.0.0\/16","Network":"10.5.0.0/16","Backend":{"Type":"host-gw"}}',
    r'{"Network":"10.5.0.0/16","Backend":{"Type":7,"Type":"host-gw"}}',
    r'{"Network":"10.5.0.0/16","Backend":{"type":[],"Type":"host-gw"}}',
)
NEW, BOTH = ("v0.28.9",), ("v0.11.0", "v0.28.9")
VERDICTS = [
    *((document, ()) for document in READ_BY_ALL), *((document, NEW) for document in REFUSED_BY_NEW),
    *((document, BOTH) for document in REFUSED_BY_BOTH),
]  # fmt: skip


@pytest.mark.parametrize(("document", "versions"), VERDICTS)
def test_who_cannot_read_it(document: str, versions: tuple[str, ...]) -> None:
    """Each document is one that this daemon takes, and the versions that refuse it are those that did."""
    usable_config(document.encode(), "it")
    found = refusals(document.encode())
    assert {version for one in found for version in one.versions} == set(versions)
    assert all(one.text.isprintable() for one in found)


def test_it_is_named_with_value_and_remedy() -> None:
    """The text names the versions, the member as flannel spells it, the value as it stands, and what would be right."""
    document = b'{"Network":"10.5.0.0/16","subnetmin":null,"IPV6subnetLen":"64","IPv6Network":[1,\n2]}'
    assert {one.text for one in refusals(document)} == {
        "flanneld v0.11.0 and v0.28.9 cannot read SubnetMin: null should be "
        'an address such as "172.7.1.0", without escapes, or left out',
        'flanneld v0.28.9 cannot read IPv6SubnetLen: "64" should be '
        "a whole number without quotes, such as 24, or left out",
        r"flanneld v0.28.9 cannot read IPv6Network: [1,\n2] should be "
        'a network such as "2001:db8:42::/56", without escapes, or left out',
    }
    assert len(Refusal("Network", "x" * 5000, "y", NEW).text) < 200


@pytest.mark.parametrize(
    ("name", "given_value"),
    [("SubnetLen", 26), ("IPv6SubnetLen", 80), *((f"Enable{what}", "true") for what in ("IPv4", "IPv6", "NFTables"))],
)
def test_null_leaves_what_was_there(name: str, given_value: object) -> None:
    """Go leaves a number or a boolean as it is when null follows; to read it otherwise would lease other subnets."""
    base = '{"Network":"10.5.0.0/16","IPv6Network":"fc00::/48",'
    base += "" if name == "EnableIPv6" else '"EnableIPv6":true,'
    once = parse_config(f'{base}"{name}":{given_value}}}'.encode())
    assert parse_config(f'{base}"{name}":{given_value},"{name.lower()}":null}}'.encode()) == once
    assert parse_config(f'{base}"{name}":null}}'.encode()) == parse_config(f'{base}"Comment":1}}'.encode())


@given(strategies.json_documents(*NAMES) | strategies.poison_values())
def test_any_document_has_an_answer(document: bytes) -> None:
    """Whatever is written there, nothing but Invalid is raised, and the texts are fit for a log."""
    try:
        found = refusals(document)
    except Invalid:
        return
    assert all(one.text.isprintable() and len(one.text) < 300 for one in found)


def test_a_length_with_thousands_of_digits() -> None:
    """Go reads it, zeros in front or not; Python's integers have a limit that must not show."""
    zeros = "0" * 5000
    document = f'{{"Network":"10.5.0.0/16","IPv6Network":"fc00::/{zeros}48","IPv6SubnetMin":"{zeros}"}}'
    assert [one.field for one in refusals(document.encode())] == ["IPv6SubnetMin"]


def test_the_daemon_starts_and_reports_who_does_not() -> None:
    """A condition that does not block, at the start and at a change; it is resolved when the document is right."""
    bad = CONFIG.replace(b"{", b'{"IPv6SubnetLen":"64",', 1)

    async def scenario() -> None:
        etcd = FakeEtcd()
        etcd.put_config(bad)
        node = FakeNode(etcd)

        def reported() -> str:
            return " ".join(one.text for one in node.conditions.open().values())

        async with node.running():
            assert "flanneld v0.28.9 cannot read IPv6SubnetLen" in reported()
            assert node.log.count("config.refused_by_flanneld") == 1
            etcd.put_config(CONFIG)
            await until(lambda: not reported(), 5)
            etcd.put_config(bad.replace(b"IPv6SubnetLen", b"IPv6Network"))
            await until(lambda: "cannot read IPv6Network" in reported(), 5)
            assert node.ready
            etcd.put_config(b"{")
            await until(lambda: "flanneld v0.28.9" not in reported() and reported(), 5)

    run(scenario())
