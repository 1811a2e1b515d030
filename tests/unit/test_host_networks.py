"""The networks that the daemons of a host serve, on real abstract sockets."""

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from ipaddress import IPv4Network, IPv6Network

import pytest

from pyflanneld.core.families import Network
from pyflanneld.system.host_networks import HostNetworks, served_networks

_OTHER = """
import asyncio, sys
from ipaddress import ip_network
from pyflanneld.system.host_networks import HostNetworks
async def main():
    print(HostNetworks().claim([ip_network(sys.argv[1])]), flush=True)
    await asyncio.sleep(60)
asyncio.run(main())
"""
_UNTRUSTED = """
import os, socket, sys, time
os.setgroups([]); os.setresgid(65534, 65534, 65534); os.setresuid(65534, 65534, 65534)
s = socket.socket(socket.AF_UNIX); s.bind(chr(0) + sys.argv[1]); s.listen()
print("", flush=True); time.sleep(60)
"""
# Of documentation (RFC 5737, RFC 3849): no daemon of this machine serves them.
ONE, PART, APART = IPv4Network("198.51.100.0/24"), IPv4Network("198.51.100.64/26"), IPv4Network("203.0.113.0/24")
SIX = IPv6Network("2001:db8:7::/48")


@contextmanager
def process(script: str, word: object) -> Iterator[int]:
    """Run *script*, which prints a line when it is set; yield its id."""
    with subprocess.Popen([sys.executable, "-c", script, str(word)], stdout=subprocess.PIPE, text=True) as started:
        try:
            assert started.stdout is not None
            assert started.stdout.readline() == "\n"
            yield started.pid
        finally:
            started.kill()


@pytest.mark.parametrize(("theirs", "ours"), [(ONE, PART), (PART, ONE), (ONE, ONE), (SIX, SIX)])
async def test_what_overlaps_is_refused_and_named(theirs: Network, ours: Network) -> None:
    """Both networks and the other daemon, whichever is the larger; what does not overlap is ours."""
    claims = HostNetworks()
    with process(_OTHER, theirs) as pid:
        assert claims.claim([APART]) == ""
        refused = claims.claim([APART, ours])
        assert refused.startswith(f"the network {ours} overlaps {theirs}, which another pyflanneld (pid {pid}) serves")
        assert [(one.network, one.pid) for one in claims.others()] == [(theirs, pid)]
    claims.claim([])


async def test_a_refused_claim_changes_nothing() -> None:
    """Others see the networks of before; and once the other has ended, the same claim is granted."""
    claims = HostNetworks()
    with process(_OTHER, ONE):
        assert claims.claim([APART]) == ""
        assert claims.claim([ONE])
        assert sorted(str(one.network) for one in served_networks()) == sorted(map(str, (ONE, APART)))
    assert claims.claim([ONE]) == ""
    assert [one.network for one in served_networks()] == [ONE]
    claims.claim([])
    assert served_networks() == ()


async def test_another_users_name_counts_for_nothing() -> None:
    """Any user can bind such a name."""
    claims = HostNetworks()
    with process(_UNTRUSTED, "pyflanneld/serves/198.51.100.0-24/0123456789abcdef"):
        assert claims.claim([ONE]) == ""
        assert claims.others() == ()
    claims.claim([])


async def test_more_lookups_than_the_queue_holds() -> None:
    """Each is taken from the queue, so that no number of them hides who serves a network."""
    claims = HostNetworks()
    with process(_OTHER, ONE):
        refused = [claims.claim([ONE]) for _ in range(400)]
    assert all(refused)
    claims.claim([])
