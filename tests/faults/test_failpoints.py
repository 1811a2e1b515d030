"""What happens at a failpoint: the points themselves, and rows F48, F75 and F76 at each of them."""

import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from pyflanneld.core.lease.codec import TTL_S
from pyflanneld.core.lease.subnet_env import previous_subnet
from pyflanneld.lab.cluster import Lab
from pyflanneld.lab.etcd import PREFIX
from pyflanneld.lab.measure import RouteMonitor
from pyflanneld.lab.run import LabError, until
from tests.faults.conftest import Measured
from tests.support.failpoints import PASSED, TTL
from tests.support.failpoints.plan import POINTS
from tests.support.lab.testbed import Journal, gateways, launch, lease_key, lease_value, store_of, wait_exit

pytestmark = [pytest.mark.etcd, pytest.mark.netns]
STRANGER, OTHER = "192.168.14.99", "192.168.14.98"
PEERS = {f"172.7.{number}.0/24": STRANGER for number in range(90, 96)}
GONE, MOVED = ("172.7.90.0/24", "172.7.91.0/24"), "172.7.92.0/24"
LEFT = {subnet: OTHER if subnet == MOVED else gateway for subnet, gateway in PEERS.items() if subnet not in GONE}
SIGNALS = ("TERM", "INT", "QUIT")
RENEWAL = "keepalive"  # the one point that a first life does not pass
END = "shutdown.close"
STOP_S = 5.0
AT_ONCE_S = 1.0  # a second signal: 0.2 s are promised, and the machine may be busy


class Host:
    """A host with peers that come, move and go, and with a manager that hears nothing."""

    def __init__(self, lab: Lab, passed: Path) -> None:
        self.node, self.store = lab.nodes[0], store_of(lab)
        self._passed = passed
        self._manager = f"@{lab.name}.nobody"
        self.node.subnet_file.unlink()
        self._history_before = len(self.store.history())
        self.put_peers()

    def put_peers(self) -> None:
        for subnet, gateway in PEERS.items():
            self.store.put(lease_key(subnet), lease_value(gateway))

    def move_peers(self) -> None:
        """Take two away and give one another gateway, in one revision."""
        value = lease_value(OTHER).replace('"', '\\"')
        self.store.txn(*(f'del "{lease_key(subnet)}"' for subnet in GONE), f'put "{lease_key(MOVED)}" "{value}"')

    def live(self, failpoints: str, *, stop: bool = True) -> int:
        """Live from the start to the end, wherever that comes; return the exit code.

        Args:
            failpoints: what is to happen on the way.
            stop: end the life when it has seen all; otherwise it ends by itself.
        """
        self._passed.unlink(missing_ok=True)
        launch(self.node, failpoints=failpoints, env={PASSED: str(self._passed), "NOTIFY_SOCKET": self._manager})
        self._routes_or_end(PEERS)
        self.move_peers()
        self._routes_or_end(LEFT)
        if stop:
            self.node.process.send(signal.SIGTERM)
        until(self._ended, f"{self.node.name} ends", STOP_S + 1, poll_s=0.01)
        code = self.node.process.exit_code()
        assert code is not None
        return code

    def _routes_or_end(self, wanted: dict[str, str]) -> None:
        def there() -> bool:
            try:
                ready = self.node.ready()
            except LabError:  # it has ended
                return True
            return ready and gateways(self.node) == wanted

        until(there, f"{self.node.name} has the routes, or has ended", 20, poll_s=0.01)

    def _ended(self) -> bool:
        return self.node.process.pid() is None

    def passed(self) -> dict[str, float]:
        """Return the points that the last life has passed, and when, on the monotonic clock."""
        if not self._passed.exists():
            return {}
        lines = (line.split() for line in self._passed.read_text().splitlines())
        return {point: float(at_s) for point, at_s in lines}

    # What must be true of it

    def leases(self) -> set[str]:
        """Return the keys that this host has ever written."""
        address = f'"{self.node.address.ip}"'.encode()
        return {key for kind, key, value in self.history() if kind == "PUT" and address in value}

    def history(self) -> list[tuple[str, str, bytes]]:
        """Return what has happened in etcd in this test."""
        return self.store.history()[self._history_before :]

    def check_file(self) -> None:
        """There is no file, or a whole one that names the lease which etcd has."""
        if self.node.subnet_file.exists():
            text = self.node.subnet_file.read_text()
            assert text.endswith("\n")
            assert len(text.splitlines()) == 4
            held = previous_subnet(text)
            assert held is not None
            assert self.leases() == {lease_key(held)}

    def orphans(self) -> list[int]:
        """Return the etcd leases on which nothing hangs."""
        return [lease for lease, keys in self.store.leases().items() if not keys]


@pytest.fixture
def host(site: Lab, tmp_path: Path) -> Iterator[Host]:
    """The first host of the site, without a daemon; it has no ``subnet.env``."""
    host = Host(site, tmp_path / "passed")
    yield host
    host.node.request_subnet()


def quick(*points: str) -> list[object]:
    """Return all points, those that are not named for thorough runs alone."""
    return [point if point in points else pytest.param(point, marks=pytest.mark.thorough) for point in POINTS]


def test_every_point_is_passed_in_a_normal_life(host: Host) -> None:
    """A daemon that starts, follows its peers and is stopped, twice, passes each of the points."""
    assert host.live("") == 0
    first = set(host.passed())
    host.put_peers()
    assert host.live("") == 0  # the second life renews a lease
    assert first == set(POINTS) - {RENEWAL}
    assert RENEWAL in host.passed()


# F75: a signal at each point


@pytest.mark.parametrize("name", SIGNALS)
@pytest.mark.parametrize("point", quick("env.mid_write"))
def test_f75_stopped_at_a_point(host: Host, point: str, name: str, measured: Measured) -> None:
    """TERM, INT or QUIT at this moment: exit 0 within 5 s, and nothing is removed; a second one ends it at once."""
    first_life(host, point)
    journal = Journal(host.node)
    with RouteMonitor(host.node) as monitor:
        code = host.live(f"{point}=signal:{name}", stop=point == END)
        took_s = time.monotonic() - host.passed()[point]
        removed = {message.text.split()[1] for message in monitor.messages() if message.deleted}
    if point == END:
        assert code == -signal.Signals[f"SIG{name}"]
        assert took_s < AT_ONCE_S
    else:
        assert code == 0
        assert took_s < STOP_S
        assert journal.events("daemon.stopped") or point == "lock"  # nothing was begun yet
    assert removed <= set(GONE)
    assert all(host.store.kv(key) for key in host.leases())
    host.check_file()
    assert host.orphans() == []
    measured(f"{name} at {point}: ended after {took_s * 1000:.0f} ms, exit code {code}")


def first_life(host: Host, point: str) -> None:
    """Live once, where only a second life passes the point."""
    if point == RENEWAL:
        assert host.live("") == 0
        host.put_peers()


def test_f75_asked_for_its_state_at_every_point(host: Host, measured: Measured) -> None:
    """USR1 at each of the points in one life: the state is logged, and nothing else happens."""
    journal = Journal(host.node)
    assert host.live(";".join(f"{point}=signal:USR1" for point in POINTS)) == 0
    told = journal.events("daemon.state")
    assert len(told) > len(POINTS) // 2  # signals that come at once are one
    assert not told[0]["ready"]
    assert told[0]["lease"] is None
    assert any(state["ready"] and state["routes"]["present"] == len(PEERS) for state in told)
    measured(f"USR1: {len(told)} times the state in the log")


def test_f75_hung_up_at_every_point(host: Host, measured: Measured) -> None:
    """HUP at each of the points in one life, the first long before the loops: all is looked at anew, nothing ends."""
    journal = Journal(host.node)
    assert host.live(";".join(f"{point}=signal:HUP" for point in POINTS)) == 0
    told = journal.events("daemon.reloaded")
    assert len(told) >= 3  # signals that come at once are one
    measured(f"HUP: {len(told)} times all was looked at anew")


# F76: killed at each point


def kill(host: Host, point: str) -> dict[str, str]:
    """Live until killed at this point, or to the end if this life does not pass it; return the routes that are left."""
    code = host.live(f"{point}=kill")
    assert code == (-signal.SIGKILL if point in host.passed() else 0)
    host.check_file()
    assert len(host.leases()) <= 1
    return gateways(host.node)


def come_back(host: Host, before: dict[str, str], kills: int = 1) -> None:
    """Start after a kill, and see that nothing has moved that was right."""
    held = host.store.kvs(f"{PREFIX}/subnets/")
    file = host.node.subnet_file.read_bytes() if host.node.subnet_file.exists() else None
    host.move_peers()
    with RouteMonitor(host.node) as monitor:
        launch(host.node)
        host.node.wait_ready()
        host.node.wait_routes(LEFT)
        touched = {message.text.removeprefix("Deleted ").split()[0] for message in monitor.messages()}
    assert touched & {dst for dst, gateway in before.items() if LEFT.get(dst) == gateway} == set()
    [key] = host.leases()
    if key in held:
        now = host.store.kv(key)
        assert now is not None
        assert now.create_revision == held[key].create_revision
    if file is not None:
        assert host.node.subnet_file.read_bytes() == file
    host.check_file()
    orphans = host.orphans()
    assert len(orphans) <= kills
    assert all(host.store.ttl(lease)[1] == TTL_S for lease in orphans)  # etcd lets it go then


@pytest.mark.parametrize("point", quick("grant", "txn.sent", "env.before_rename"))
def test_f76_killed_at_a_point(host: Host, point: str, measured: Measured) -> None:
    """Killed at this moment and started again: one subnet was ever leased, no route moves that was right, the file is
    whole, and at most one etcd lease is left over."""
    first_life(host, point)
    before = kill(host, point)
    assert point in host.passed()
    come_back(host, before)
    measured(f"at {point}: the same subnet, {len(before)} routes untouched or right, {len(host.orphans())} lease left")


FOLLOWING = dict(zip(POINTS, (*POINTS[1:], POINTS[0]), strict=True))


@pytest.mark.parametrize("again", [True, False], ids=["again", "then the next"])
@pytest.mark.parametrize("point", [pytest.param(point, marks=pytest.mark.thorough) for point in POINTS])
def test_f76_killed_twice_in_a_row(host: Host, point: str, again: bool, measured: Measured) -> None:
    """The next life is killed as well, at the same point or at another: the same holds after both."""
    first_life(host, point)
    kill(host, point)
    second = point if again else FOLLOWING[point]
    host.put_peers()
    before = kill(host, second)
    kills = 1 + (second in host.passed())
    come_back(host, before, kills)
    measured(f"at {point} and at {second}: the same subnet, {len(host.orphans())} leases left")


@pytest.mark.thorough
def test_f76_a_lease_that_is_left_over_runs_out(host: Host, measured: Measured) -> None:
    """Killed between the grant of an etcd lease and the creation of the key: the lease is gone after its time to live,
    and the key of the next life stays."""
    short = {TTL: "5"}
    launch(host.node, failpoints="grant=kill", env=short)
    assert wait_exit(host.node) == -signal.SIGKILL
    [orphan] = host.orphans()
    began = time.monotonic()
    launch(host.node, failpoints="", env=short)
    host.node.wait_ready()
    [key] = host.leases()
    held = host.store.kv(key)
    until(lambda: orphan not in host.store.leases(), "etcd lets the lease go", 30)
    measured(f"the lease left over was gone after {time.monotonic() - began:.0f} s of its 5")
    assert host.store.kv(key) == held
    assert host.node.ready()
    assert host.orphans() == []


# F48: an outcome that nobody knows


@pytest.mark.parametrize("lost", ["txn.reply", "grant", "list_page", "config_read"])
def test_f48_a_reply_to_the_creation_is_lost(host: Host, lost: str, measured: Measured) -> None:
    """etcd has done it and the daemon does not hear of that: it reads before it acts, so that there is one subnet on
    one etcd lease, written once."""
    began = time.monotonic()
    launch(host.node, failpoints=f"{lost}=drop")
    host.node.wait_ready()
    measured(f"reply of {lost} lost: ready after {time.monotonic() - began:.1f} s, one subnet, no lease left over")
    [key] = host.leases()
    held = host.store.kv(key)
    assert held is not None
    assert held.version == 1
    assert list(host.store.leases().values()) == [(key,)]
    assert host.node.stop() == 0
    assert host.store.kv(key) == held
    assert list(host.store.leases().values()) == [(key,)]


@pytest.mark.parametrize("times", [1, 3])
def test_f48_a_reply_to_the_renewal_is_lost(host: Host, times: int, measured: Measured) -> None:
    """The keep-alive of the second life is answered and the answer lost: the lease is never revoked, the key not
    written again, no route moves."""
    assert host.live("") == 0
    [key] = host.leases()
    held, routes = host.store.kv(key), gateways(host.node)
    failing = "drop" if times == 1 else f"errno:ETIMEDOUT*{times}"  # asked elsewhere, and later again
    with RouteMonitor(host.node) as monitor:
        launch(host.node, failpoints=f"{RENEWAL}={failing}")
        host.node.wait_ready()
        assert monitor.messages() == ()
    assert gateways(host.node) == routes
    assert host.store.kv(key) == held
    assert list(host.store.leases().values()) == [(key,)]
    measured(f"{times} renewals without an answer: the same key on the same lease, no route moved")
