"""A network configuration under review: slips, what it comes to, what it does to leases; and ``config check``."""

import io
import json
from ipaddress import IPv4Interface
from pathlib import Path

import pytest
import structlog

from pyflanneld.cli import main
from pyflanneld.core.link.selection import Link
from pyflanneld.core.network.config import parse_config
from pyflanneld.core.network.review import LeaseFate, config_facts, crowded, differences, effects, remarks
from tests.support.strategies import raw

GOOD = b'{"Network":"172.7.0.0/16","Backend":{"Type":"host-gw"}}'
LEASE = b'{"PublicIP":"192.168.14.21","PublicIPv6":null,"BackendType":"host-gw"}'


def test_facts() -> None:
    """Defaults are filled in, and the numbers of hosts and containers are those of the range."""
    told = dict(config_facts(parse_config(b'{"Network":"10.5.0.0/16","SubnetLen":26,"SubnetMin":"10.5.4.0",'
                                   b'"SubnetMax":"10.5.5.0","Backend":{"Type":"host-gw"}}')))  # fmt: skip
    assert told["SubnetMax"] == "10.5.5.0"
    assert told["hosts, IPv4"] == "5 at most, with 61 containers each"
    assert told["EnableNFTables"] == "false"


def test_remarks() -> None:
    """Slips in names, a missing backend, and a network of this host inside the cluster's."""
    document = b'{"Network":"172.7.0.0/16","SubnetLenght":25,"Comment":"x"}'
    lan = Link(2, "eth1", 1500, True, (IPv4Interface("172.7.9.1/24"),))
    assert remarks(document, parse_config(document), [lan]) == [
        "'subnetlenght' is no key of a network configuration; did you mean SubnetLen?",
        "'comment' is no key of a network configuration; it has no effect",
        "Backend.Type is not given, so flannel takes 'udp'",
        "172.7.9.0/24 of eth1 on this host overlaps the network: a lease that is the same is rejected, "
        "and of others the longer prefix counts",
    ]
    assert remarks(GOOD, parse_config(GOOD), []) == []


def test_effects() -> None:
    """A lease that fits stays, a live one that does not moves, a reservation is stuck, junk stays junk."""
    records = [raw(b"172.7.21.0-24", LEASE, lease_id=1), raw(b"172.7.0.0-24", LEASE, lease_id=1),
               raw(b"172.7.21.0-25", LEASE, lease_id=0), raw(b"junk", LEASE)]  # fmt: skip
    found = effects(records, parse_config(GOOD))
    assert [one.fate for one in found] == [LeaseFate.STAYS, LeaseFate.MOVES, LeaseFate.STUCK, LeaseFate.UNREADABLE]
    assert found[1].text.startswith("172.7.0.0/24 of 192.168.14.21 does not fit: that host takes another")


def test_differences() -> None:
    """Only what becomes another, defaults included; without an earlier one, everything."""
    after = parse_config(GOOD.replace(b'"Backend"', b'"SubnetLen":25,"Backend"'))
    assert differences(parse_config(GOOD), after) == [
        "SubnetLen: 24 -> 25", "SubnetMin: 172.7.1.0 -> 172.7.0.128", "SubnetMax: 172.7.255.0 -> 172.7.255.128",
        "hosts, IPv4: 255 at most, with 253 containers each -> 511 at most, with 125 containers each",
    ]  # fmt: skip
    assert differences(parse_config(GOOD), parse_config(GOOD)) == []
    assert "Network: none -> 172.7.0.0/16" in differences(None, parse_config(GOOD))


def test_crowded() -> None:
    """Fewer subnets than hosts is said; several leases of one host count once."""
    small = parse_config(b'{"Network":"172.7.0.0/22","Backend":{"Type":"host-gw"}}')
    leases = [raw(b"172.7.%d.0-24" % n, LEASE.replace(b"21", b"%d" % n), lease_id=1) for n in range(1, 5)]
    assert crowded(effects(leases, small), small) == "3 subnets for the 4 hosts that hold a lease now"
    same = [raw(b"172.7.%d.0-24" % n, LEASE, lease_id=1) for n in range(1, 5)]
    assert crowded(effects(same, small), small) is None


class TestCheck:
    """``pyflanneld config check``: nobody is asked."""

    def check(self, *words: str) -> int:
        try:
            return main(["config", "check", *words])
        finally:
            structlog.reset_defaults()

    def test_good(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        """A valid document is exit code 0, with what it comes to."""
        (tmp_path / "net.json").write_bytes(GOOD + b"\n")
        assert self.check(str(tmp_path / "net.json")) == 0
        out = capsys.readouterr().out
        assert out.startswith(f"{tmp_path}/net.json: valid\n")
        assert "\n  SubnetLen       24\n" in out

    @pytest.mark.parametrize(
        ("document", "words"),
        [
            ('{"Network":"172.7.0.0/16","SubnetLen":"24","Backend":{"Type":"host-gw"}}', "SubnetLen: '24' is not"),
            ('{"Network":"172.7.0.0/16","Backend":{"Type":"ipip"}}', "asks for the backend 'ipip'; supported: "),
            ('{"Network":"172.7.0.0/16"', "not usable: network configuration"),
        ],
    )  # fmt: skip
    def test_bad(
        self, document: str, words: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """One that is not usable is exit code 1, with field, value and what would be right; - is standard input."""
        monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(document.encode())))
        assert self.check("-") == 1
        assert words in capsys.readouterr().out

    def test_json(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        """The same for programs."""
        (tmp_path / "net.json").write_bytes(GOOD)
        assert self.check(str(tmp_path / "net.json"), "--output=json") == 0
        told = json.loads(capsys.readouterr().out)
        assert (told["valid"], told["problem"], told["facts"]["Network"]) == (True, None, "172.7.0.0/16")

    def test_not_for_every_flanneld(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        """What this daemon takes and a Go daemon waits on for ever is not approved: exit code 1, and who and why."""
        (tmp_path / "net.json").write_bytes(GOOD.replace(b"{", b'{"IPv6SubnetLen":"64",', 1))
        assert self.check(str(tmp_path / "net.json")) == 1
        out = capsys.readouterr().out
        assert ': not for every flanneld: flanneld v0.28.9 cannot read IPv6SubnetLen: "64" should be' in out
        assert "\n  Network         172.7.0.0/16\n" in out
        assert self.check(str(tmp_path / "net.json"), "--output=json") == 1
        report = json.loads(capsys.readouterr().out)
        assert (report["valid"], report["facts"]["Network"]) == (False, "172.7.0.0/16")
        assert "v0.28.9" in report["problem"]

    def test_white_space_that_is_none_in_json(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        """A form feed around the document is a mistake in it, for Go as for us."""
        (tmp_path / "net.json").write_bytes(GOOD + b"\f\n")
        assert self.check(str(tmp_path / "net.json")) == 1
        assert "not usable" in capsys.readouterr().out

    @pytest.mark.parametrize("words", [[], ["check"], ["chek", "x"], ["check", "/no/such/file"], ["show", "x"]])
    def test_usage(self, words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
        """Wrong words, and a file that cannot be read, are exit code 2 and one line."""
        try:
            assert main(["config", *words]) == 2
        finally:
            structlog.reset_defaults()
        assert capsys.readouterr().err.count("\n") == 1
