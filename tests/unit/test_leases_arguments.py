"""``pyflanneld leases``: what is understood and what is not; no etcd is asked."""

import pytest

from pyflanneld.cli import main
from pyflanneld.commands.leases import as_table, lease_row
from pyflanneld.commands.output import json_text
from pyflanneld.core.etcd_types import Record, TimeToLive
from pyflanneld.core.lease.codec import parse_key_name
from tests.support.strategies import POISON_NAMES, POISON_VALUES, lease, raw


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (["frobnicate"], "there is: list, reserve, release"),
        (["list", "more"], "'list'"),
        (["reserve"], "reserve needs: SUBNET PUBLIC_IP"),
        (["reserve", "172.7.21.0/24"], "reserve needs: SUBNET PUBLIC_IP"),
        (["reserve", "172.7.21.7/24", "192.168.14.21"], "172.7.21.7/24"),
        (["reserve", "172.7.21.0", "192.168.14.21"], "no prefix length"),
        (["reserve", "172.7.21.0/24", "127.0.0.1"], "127.0.0.1"),
        (["reserve", "172.7.21.0/24", ""], "public address"),
        (["reserve", "172.7.21.0/24,172.7.22.0/24", "192.168.14.21"], "2001:db8:0:7::/64"),
        (["reserve", "172.7.21.0/24,fd00::/64", "192.168.14.21,fe80::1"], "global address"),
        (["release", "x"], "'x' is not a subnet"),
        (["list", "--output=xml"], "table or json"),
        (["list", "--iface=eth0"], "unknown flag"),
        (["list", "--etcd-prefix=x"], "--etcd-prefix"),
        (["list", "--force=maybe"], "--force"),
    ],
)
def test_wrong_words_are_refused(words: list[str], why: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Wrong usage is exit code 2 and one line that says what would be right."""
    assert main(["leases", *words]) == 2
    told = capsys.readouterr()
    assert told.out == ""
    assert told.err.count("\n") == 1
    assert why in told.err


def test_help_names_every_word(capsys: pytest.CaptureFixture[str]) -> None:
    """``--help`` tells the words and the flags of etcd, and no daemon's flag."""
    with pytest.raises(SystemExit) as ended:
        main(["leases", "--help"])
    assert ended.value.code == 0
    told = capsys.readouterr().out
    assert all(word in told for word in ("list", "reserve", "release", "--force", "--output", "--etcd-cafile"))
    assert "--iface" not in told


POISON = [raw(name, b"{}") for name in POISON_NAMES] + [raw(b"10.5.1.0-24", value) for value in POISON_VALUES]


@pytest.mark.parametrize("record", POISON)
def test_poison_is_one_printable_row(record: Record) -> None:
    """Whatever stands in etcd, its row is one line of printable characters that says what is wrong."""
    one = lease_row(record, None)
    lines = as_table([one]).splitlines()
    assert len(lines) == 2
    assert lines[1].isprintable()
    assert "not usable" in lines[1]
    assert json_text([one]).isascii()


def test_times() -> None:
    """What is left and how long ago it was renewed are told in hours and minutes, or in minutes and seconds."""
    record = lease("10.5.1.0/24", "192.168.1.11")
    line = as_table([lease_row(record, TimeToLive(86000.0, 86400.0))]).splitlines()[1]
    assert line.split() == ["10.5.1.0/24", "192.168.1.11", "host-gw", "23h53m", "6m40s", "ago", "1"]


def test_a_dual_stack_lease_is_one_row() -> None:
    """Both halves stand in one row."""
    name = b"10.5.3.0-24&fd00:0:0:3::-64"
    assert parse_key_name(name).ipv6 is not None
    value = b'{"PublicIP":"192.168.1.11","PublicIPv6":"2001:db8::11","BackendType":"host-gw"}'
    line = as_table([lease_row(raw(name, value), None)]).splitlines()[1]
    assert line.startswith("10.5.3.0/24 & fd00:0:0:3::/64  192.168.1.11 & 2001:db8::11  host-gw")
