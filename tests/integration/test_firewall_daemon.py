"""The command itself, with a real etcd: what the firewall flags do from the command line to the kernel and back."""

import contextlib
import itertools
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from pyflanneld.lab.cluster import Lab
from pyflanneld.lab.node import DAEMON, LabHost
from pyflanneld.lab.run import until

pytestmark = [pytest.mark.etcd, pytest.mark.netns]

NFT_CONFIG = '{"EnableNFTables":true,"Network":"172.7.0.0/16","Backend":{"Type":"host-gw"}}'
_numbers = itertools.count(2001)


@pytest.fixture
def lab(tmp_path: Path) -> Iterator[Lab]:
    """One host and etcd with its configuration, no daemon yet."""
    if os.geteuid() != 0:
        pytest.skip("network namespaces need root")
    with Lab(f"t{os.getpid()}-{next(_numbers)}", 1, tmp_path / "lab") as made:
        made.build()
        yield made


def hide(*programs: str) -> tuple[str, ...]:
    """Return the daemon's command on a host without *programs*."""
    hidden = "; ".join(f'for d in /usr/sbin /usr/bin /usr/local/sbin; do f=$(readlink -f $d/{name}); '
                       f'[ ! -f "$f" ] || mount --bind /dev/null "$f"; done' for name in programs)  # fmt: skip
    return ("unshare", "--mount", "--propagation", "private", "sh", "-c", f'{hidden}; exec "$@"', "sh", *DAEMON)


@contextlib.contextmanager
def started_without(lab: Lab, programs: tuple[str, ...], *flags: str) -> Iterator[LabHost]:
    """Run the daemon where *programs* are not installed, for the length of the block."""
    node = LabHost(lab.name, 1, lab.nodes[0].process.folder, hide(*programs))
    node.start(*flags)
    try:
        yield node
    finally:
        node.kill()


def ended(node: LabHost) -> int:
    """Wait for the daemon's own end and return its exit code."""
    until(lambda: node.process.exit_code() is not None, "the daemon ends", 20)
    code = node.process.exit_code()
    assert code is not None
    return code


def rules(node: LabHost) -> list[str]:
    lines = node.exec("iptables-save").splitlines()
    return [line for line in lines if line.startswith("-A")]


def test_from_the_command_line_to_the_kernel_and_back(lab: Lab) -> None:
    """--ip-masq: all rules and FLANNEL_IPMASQ=true at readiness; repaired; untouched by stop, kill and start."""
    (node,) = lab.nodes
    node.start("--ip-masq", "--iptables-resync=1")
    node.wait_ready()
    before = rules(node)
    assert len([line for line in before if "FLANNEL-POSTRTG" in line]) == 7
    assert len([line for line in before if "FLANNEL-FWD" in line]) == 3
    assert node.env()["FLANNEL_IPMASQ"] == "true"
    node.exec("iptables", "-t", "nat", "-F", "FLANNEL-POSTRTG")
    until(lambda: rules(node) == before, "repaired", 5)
    assert node.stop() == 0
    assert rules(node) == before
    node.start("--ip-masq")
    node.wait_ready()
    node.kill()
    assert rules(node) == before
    node.start()
    node.wait_ready()
    assert node.env()["FLANNEL_IPMASQ"] == "false"
    until(lambda: not any("POSTRTG" in line for line in rules(node)), "--ip-masq is off now", 5)
    assert node.stop(signal.SIGQUIT) == 0


def test_masquerading_without_iptables_ends_the_start(lab: Lab) -> None:
    """Exit code 1 and one sentence that names flag and program; no lease was taken, subnet.env is as it was."""
    text = lab.nodes[0].subnet_file.read_text()
    with started_without(lab, ("iptables",), "--ip-masq") as node:
        assert ended(node) == 1
        assert "--ip-masq is asked for, but there is no program iptables in PATH" in node.process.last_log_line()
        assert lab.etcdctl("get", "--prefix", "--keys-only", "/coreos.com/network/subnets").strip() == ""
        assert node.subnet_file.read_text() == text


def test_masquerading_without_nft_ends_the_start(lab: Lab) -> None:
    """The same with EnableNFTables, where iptables is of no use."""
    lab.etcdctl("put", "/coreos.com/network/config", NFT_CONFIG)
    with started_without(lab, ("nft",), "--ip-masq") as node:
        assert ended(node) == 1
        assert "there is no program nft in PATH" in node.process.last_log_line()


def test_forwarding_without_iptables_is_a_warning(lab: Lab) -> None:
    """The default on a host without iptables and nft: ready, and one line in the log says what is not set."""
    with started_without(lab, ("iptables", "nft")) as node:
        node.wait_ready()
        log = node.process.log.read_text()
        assert log.count("firewall.program_missing") == 1
        assert "install it, or set --iptables-forward-rules=false" in log
        assert log.count('"level": "warning"') == 1
        assert node.stop() == 0


def test_nothing_is_said_where_nothing_is_asked(lab: Lab) -> None:
    """Without the flags, missing programs are no matter at all."""
    with started_without(lab, ("iptables", "nft"), "--iptables-forward-rules=false") as node:
        node.wait_ready()
        assert "firewall" not in node.process.log.read_text()
        assert node.stop() == 0


def test_nft_without_iptables(lab: Lab) -> None:
    """EnableNFTables needs no iptables, unlike with flanneld."""
    lab.etcdctl("put", "/coreos.com/network/config", NFT_CONFIG)
    with started_without(lab, ("iptables", "ip6tables"), "--ip-masq") as node:
        node.wait_ready()
        assert "masquerade fully-random" in node.exec("nft", "list", "table", "ip", "flannel-ipv4")
        assert node.stop() == 0
