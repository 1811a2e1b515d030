"""Clocks that jump, and a machine that slept: rows F30, F31 and F32 of the fault matrix.

libfaketime moves the clocks of the running daemon alone: the wall clock, or with it the monotonic ones, by what a file
says. What etcd, the kernel and these tests see stays as it is. A sleep is the work of ``tests.faults.napping``.
"""

import itertools
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta
from pathlib import Path

import pytest
import trustme

from pyflanneld.lab.cluster import Lab
from pyflanneld.lab.etcd import ADDRESS, CONFIG, PREFIX
from pyflanneld.lab.measure import RouteMonitor
from pyflanneld.lab.run import until
from tests.faults.conftest import Measured
from tests.support.etcd.counters import daemon_counters, etcd_counters
from tests.support.etcd.grpc_proxy import FaultProxy, fault_proxy
from tests.support.etcd.server import Files
from tests.support.faketime import faked_clock, put_clock
from tests.support.lab.etcd_members import Members, three_members
from tests.support.lab.testbed import (
    Journal,
    Store,
    gateways,
    launch,
    lease_key,
    lease_value,
    pid_of,
    store_of,
    wait_exit,
)

pytestmark = [pytest.mark.etcd, pytest.mark.netns]
ETCD = str(ADDRESS.ip)
STRANGER, OTHER = "192.168.14.99", "192.168.14.98"
SUBNET, KEY = "172.7.99.0/24", lease_key("172.7.99.0/24")
YEAR = timedelta(days=365)
TTL_S = 4


# F31 and F32: clocks that jump


class FakedClock:
    """A host whose daemon's clocks can be moved while it runs."""

    def __init__(self, lab: Lab, store: Store, *, monotonic: bool) -> None:
        self.node, self.store = lab.nodes[0], store
        self._etcd = lab.etcd.namespace
        self._file = lab.folder / "time"
        self._env = faked_clock(self._file, monotonic=monotonic)
        self.move("+0")

    def move(self, offset: str) -> None:
        """Put the clocks so far from what they really are, as ``put_clock`` does."""
        put_clock(self._file, offset)

    def start(self, **flags: str) -> None:
        """Start the daemon with one peer, and wait until it is ready."""
        self.store.put(KEY, lease_value(STRANGER))
        launch(self.node, env=self._env, **flags)
        self.node.wait_ready()
        self.node.wait_routes({SUBNET: STRANGER})

    def follows(self, gateway: str, timeout_s: float) -> float:
        """Have the peer move and its route follow; return how long that took."""
        self.store.put(KEY, lease_value(gateway))
        return self.node.wait_routes({SUBNET: gateway}, timeout_s)

    def renewals(self) -> int:
        """Return how many renewals etcd has counted."""
        return etcd_counters(self._etcd).total("etcd_debugging_lease_renewed_total")


def test_f31_wall_clock_jumps(site: Lab, measured: Measured) -> None:
    """The wall clock jumps by an hour and by ten years, there and back, and then a hundred times a second: changes are
    followed, no other route moves, and the lease is renewed once at most."""
    clock = FakedClock(site, store_of(site), monotonic=False)
    clock.start()
    node, journal, renewals = clock.node, Journal(clock.node), clock.renewals()
    lists, moves, took_s = daemon_counters(node).lists, itertools.cycle((OTHER, STRANGER)), []
    with RouteMonitor(node) as monitor:
        for offset in ("+1h", "-1h", "+10y", "-10y", "+0"):
            clock.move(offset)
            took_s.append(clock.follows(next(moves), 5))
            assert node.get("/readyz")[0] == 200
        assert years_away(journal) >= {-10, 0, 10}  # the daemon has seen these jumps
        jumps = jump_about(clock, 3.0)
        took_s.append(clock.follows(next(moves), 5))
        assert node.get("/readyz")[0] == 200
        assert len(monitor.messages()) == len(took_s)
    renewals = clock.renewals() - renewals
    assert renewals <= 1
    assert daemon_counters(node).lists - lists <= 1
    assert not journal.events("machine.resumed")
    assert node.stop() == 0
    measured(f"ten years there and back, {jumps} jumps in 3 s: changes followed within {max(took_s):.2f} s, "
             f"{renewals} renewals")  # fmt: skip


def years_away(journal: Journal) -> set[int]:
    """Return how many years from now the daemon has put its routes, by its own clock."""
    now = datetime.now().astimezone()
    return {round((datetime.fromisoformat(e["timestamp"]) - now) / YEAR) for e in journal.events("route.put")}


def jump_about(clock: FakedClock, length_s: float) -> int:
    """Jump a hundred times a second; return how often."""
    end_s, jumps, offsets = time.monotonic() + length_s, 0, itertools.cycle(("+10y", "-10y", "+1h", "-1h", "+0"))
    while time.monotonic() < end_s:
        clock.move(next(offsets))
        jumps += 1
        time.sleep(0.01)
    clock.move("+0")
    return jumps


def test_f32_monotonic_clock_jumps(site: Lab, measured: Measured) -> None:
    """Every clock of the process jumps forward by an hour, and all that waits is due at once: the lease is renewed
    once, the peers are listed, no route moves, and changes are followed."""
    clock = FakedClock(site, store_of(site), monotonic=True)
    clock.start()
    node, renewals, pid = clock.node, clock.renewals(), pid_of(clock.node)
    lists = daemon_counters(node).lists
    with RouteMonitor(node) as monitor:
        clock.move("+1h")
        until(lambda: clock.renewals() > renewals, "the lease is renewed", 30)
        until(lambda: node.get("/readyz")[0] == 200, "ready", 10)
        assert monitor.messages() == ()
        took_s = clock.follows(OTHER, 25)
        assert len(monitor.messages()) == 1
    assert node.get("/healthz")[0] == 200
    assert pid_of(node) == pid
    renewals, lists = clock.renewals() - renewals, daemon_counters(node).lists - lists
    assert renewals == 1
    assert lists <= 2
    assert node.stop() == 0
    measured(f"{renewals} renewal, {lists} lists, no route moved; a change is followed within {took_s:.1f} s")


@pytest.fixture
def secured(site: Lab) -> Iterator[tuple[Members, Files]]:
    """A member that speaks TLS and wants certificates, and the files of a host; they are good for a year."""
    authority = trustme.CA()
    server, host = (certify(authority, site.folder / whose, whose) for whose in (ETCD, "node1"))
    site.etcd.stop(signal.SIGKILL)
    try:
        with three_members(site, [site.etcd.namespace], [ETCD], server=server, client=host) as members:
            members.store.put(f"{PREFIX}/config", CONFIG)
            yield members, host
    finally:
        site.etcd.start()


def certify(authority: trustme.CA, folder: Path, whose: str) -> Files:
    """Make a certificate that is good from now on for a year, and put it with its key and authority into files."""
    folder.mkdir()
    files = Files(folder / "ca.pem", folder / "cert.pem", folder / "key.pem")
    leaf = authority.issue_cert(whose, not_after=datetime.now().astimezone() + YEAR)
    authority.cert_pem.write_to_path(str(files.ca))
    leaf.cert_chain_pems[0].write_to_path(str(files.cert))
    leaf.private_key_pem.write_to_path(str(files.key))
    return files


@pytest.mark.thorough
def test_f31_certificates_seem_to_have_expired(
    site: Lab, secured: tuple[Members, Files], measured: Measured
) -> None:
    """By a clock that is ten years ahead no certificate is good, and etcd restarts: no connection, and no route moves;
    with the right time the daemon finds back by itself."""
    members, files = secured
    clock = FakedClock(site, members.store, monotonic=False)
    clock.start(etcd_endpoints=members.endpoints, etcd_cafile=str(files.ca), etcd_certfile=str(files.cert),
                etcd_keyfile=str(files.key))  # fmt: skip
    node, journal, pid = clock.node, Journal(clock.node), pid_of(clock.node)
    with RouteMonitor(node) as monitor:
        clock.move("+10y")
        members.all[0].kill()
        members.restore()
        journal.wait("etcd.unavailable", timeout_s=20)
        members.store.put(KEY, lease_value(OTHER))
        until_s = time.monotonic() + 8
        until(lambda: time.monotonic() > until_s, "several attempts to connect", 15, 0.1)
        assert gateways(node) == {SUBNET: STRANGER}
        assert node.get("/healthz")[0] == 200
        assert monitor.messages() == ()
        clock.move("+0")
        took_s = node.wait_routes({SUBNET: OTHER}, 30)
    assert pid_of(node) == pid
    assert node.stop() == 0
    measured(f"frozen while no certificate was good; right again {took_s:.1f} s after the clock")


# F30: the machine has slept


class Sleeper:
    """A host whose daemon is sent to sleep and wakes in a later time, and what it asks etcd for."""

    def __init__(self, lab: Lab, proxy: FaultProxy) -> None:
        self.node, self.store, self.proxy = lab.nodes[0], store_of(lab), proxy
        self._nap = lab.folder / "nap"
        self._nap.unlink(missing_ok=True)
        self._env = {"NAP": str(self._nap)}
        self.key = lease_key(self.node.bridge_address.network)

    def start(self, lease_s: int | None = None) -> None:
        """Start the daemon with one peer, and wait until it is ready."""
        self.store.put(KEY, lease_value(STRANGER))
        url = self.proxy.url()
        launch(self.node, env=self._env, program="tests.faults.napping", etcd_endpoints=url, lease_s=lease_s)
        self.node.wait_ready()
        self.node.wait_routes({SUBNET: STRANGER})

    @contextmanager
    def asleep(self, seconds: int) -> Iterator[None]:
        """Let it sleep while the block lasts; as it wakes, so many seconds have passed."""
        self.node.process.send(signal.SIGSTOP)
        yield
        self._nap.write_text(str(seconds))
        self.node.process.send(signal.SIGCONT)


@pytest.fixture
def sleeper(site: Lab) -> Iterator[Sleeper]:
    with fault_proxy(site) as proxy:
        yield Sleeper(site, proxy)
        if site.nodes[0].process.pid():
            site.nodes[0].kill()


def test_f30_slept_for_an_hour(sleeper: Sleeper, measured: Measured) -> None:
    """After an hour of sleep the daemon connects anew within two seconds and proves its lease; nothing is written, no
    route moves."""
    node, store, proxy = sleeper.node, sleeper.store, sleeper.proxy
    sleeper.start()
    kvs, journal = store.kvs(), Journal(node)
    renewed, watches = proxy.met("Lease/LeaseKeepAlive"), proxy.met("Watch/Watch")
    with RouteMonitor(node) as monitor:
        with sleeper.asleep(3600):
            pass
        until(lambda: proxy.met("Lease/LeaseKeepAlive") > renewed, "the lease is proved", 15)
        until(lambda: proxy.met("Watch/Watch") > watches, "the watch is opened anew", 15)
        woken = journal.wait("machine.resumed")
        assert 3600 <= woken["slept_s"] < 3700
        store.put(KEY, lease_value(OTHER))
        took_s = node.wait_routes({SUBNET: OTHER}, 5)
        assert len(monitor.messages()) == 1
    assert store.kvs(f"{PREFIX}/subnets/172.7.21") == {sleeper.key: kvs[sleeper.key]}
    assert node.get("/readyz")[0] == 200
    assert node.stop() == 0
    measured(f"proved and watching anew within 3 s, nothing written; a change is followed within {took_s:.1f} s")


@pytest.mark.parametrize("taken", [False, True], ids=["free", "taken"])
def test_f30_slept_for_longer_than_the_lease(sleeper: Sleeper, taken: bool, measured: Measured) -> None:
    """The lease has run out in the sleep: before anything is written etcd is asked how things are. A subnet that is
    free is taken again; one that another holds is left to it, exit 75."""
    node, store, proxy = sleeper.node, sleeper.store, sleeper.proxy
    store.put(sleeper.key, lease_value(node.address.ip), lease=store.grant(TTL_S))
    sleeper.start(TTL_S)
    with RouteMonitor(node) as monitor:
        with sleeper.asleep(3600):
            until(lambda: store.kv(sleeper.key) is None, "the lease has run out", 15, 0.1)
            if taken:
                store.put(sleeper.key, lease_value(OTHER), lease=store.grant(600))
            before = proxy.all_met()
        woken = time.monotonic()
        if taken:
            assert wait_exit(node, 10) == 75
        else:
            until(lambda: store.kv(sleeper.key) is not None, "taken again", 10)
        took_s = time.monotonic() - woken
        assert monitor.messages() == ()
    asked = proxy.all_met()[len(before) :]
    writes = [at for at, kind in enumerate(asked) if kind in ("KV/Txn", "Lease/LeaseGrant")]
    kv = store.kv(sleeper.key)
    assert kv is not None
    if taken:
        assert not writes
        assert kv.value == lease_value(OTHER).encode()
    else:
        assert asked.index("KV/Range") < writes[0]
        assert kv.value == lease_value(node.address.ip).encode()
    measured(f"{'exit 75' if taken else 'taken again'} {took_s:.1f} s after waking, with a look before any write")
