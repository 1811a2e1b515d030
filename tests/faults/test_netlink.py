"""A kernel that fails, refuses, tears its lists and floods its listeners: rows F61, F71 to F73 of the fault matrix."""

import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from pyroute2.netlink.exceptions import NetlinkDumpInterrupted

from pyflanneld.errors import KernelError
from pyflanneld.lab.cluster import Lab
from pyflanneld.lab.etcd import ENDPOINT
from pyflanneld.lab.measure import RouteMonitor
from pyflanneld.lab.node import DAEMON, LabHost
from pyflanneld.lab.run import until
from pyflanneld.netlink.frames import NetlinkRequest
from pyflanneld.netlink.kernel import NetlinkKernel
from pyflanneld.netlink.socket import RequestSocket
from tests.faults.conftest import Measured
from tests.support.lab.testbed import REPAIR_S, Journal, launch, lease_key, lease_value, pid_of, store_of, wait_exit
from tests.support.network.namespaces import Namespace, namespace

pytestmark = [pytest.mark.etcd, pytest.mark.netns]
STRANGER = "192.168.14.99"
PEERS = {f"172.7.{number}.0/24": STRANGER for number in range(90, 95)}
VICTIM = "172.7.90.0/24"


class Patient:
    """A host whose daemon has the netlink of ``tests.faults.sick``."""

    def __init__(self, lab: Lab, **env: str) -> None:
        self.node, self.store = lab.nodes[0], store_of(lab)
        self._file = lab.folder / "sick"
        self._env = {"SICK": str(self._file), **env}
        self.heal()
        for subnet, gateway in PEERS.items():
            self.store.put(lease_key(subnet), lease_value(gateway))

    def start(self) -> None:
        """Start the daemon, and wait until it is ready and has its routes."""
        launch(self.node, env=self._env, program="tests.faults.sick")
        self.node.wait_ready()
        self.node.wait_routes(PEERS)

    def fall_ill(self, words: str) -> None:
        """Let it fail in this way from now on; replaced in one step, since the daemon reads it all the time."""
        new = self._file.with_suffix(".new")
        new.write_text(words)
        new.replace(self._file)

    def heal(self) -> None:
        self.fall_ill("")


# F61: the socket fails


@pytest.mark.parametrize(
    "ailment", ["fail ENOMEM 2", "fail ENOBUFS 2", "fail EPERM 2", pytest.param("deaf 2", marks=pytest.mark.thorough)]
)
def test_f61_netlink_fails_twice(site: Lab, measured: Measured, ailment: str) -> None:
    """A netlink socket that fails twice is made anew each time, and all is read again: the process lives on, what was
    lost meanwhile is repaired, and no other route moves."""
    patient = Patient(site)
    patient.start()
    node, pid, journal = patient.node, pid_of(patient.node), Journal(patient.node)
    with RouteMonitor(node) as monitor:
        patient.fall_ill(ailment)
        began = time.monotonic()
        node.exec("ip", "route", "del", VICTIM)
        journal.wait("kernel.failed", timeout_s=10)
        node.wait_routes(PEERS, 25)
        took_s = time.monotonic() - began
        journal.wait("condition.resolved", topic="kernel")
        moved = {message.text.removeprefix("Deleted ").split()[0] for message in monitor.messages()}
        assert moved == {VICTIM}
    assert pid_of(node) == pid
    until(lambda: node.get("/readyz")[0] == 200, "ready again", REPAIR_S)
    measured(f"two failures, same process; the deleted route was back after {took_s:.1f} s")


def test_f61_netlink_fails_for_good(site: Lab, measured: Measured) -> None:
    """Three failures in a row end the process with exit code 1, and the fresh one that a service manager starts moves
    no route."""
    patient = Patient(site)
    patient.start()
    node, journal = patient.node, Journal(patient.node)
    with RouteMonitor(node) as monitor:
        patient.fall_ill("fail ENOMEM")
        began = time.monotonic()
        node.exec("ip", "link", "set", "eth1", "alias", "look")  # makes the daemon look
        assert wait_exit(node, 40) == 1
        took_s = time.monotonic() - began
        assert len(journal.events("daemon.failed")) == 1
        patient.heal()
        patient.start()
        assert monitor.messages() == ()
    measured(f"exit code 1 after {took_s:.1f} s; the restart moved no route")


def test_f61_without_the_right_to_change_routes(site: Lab, measured: Measured) -> None:
    """Without CAP_NET_ADMIN the daemon says which right is missing and ends, before it has touched anything; with it,
    it is ready."""
    patient = Patient(site)
    node, before = patient.node, patient.store.kvs()
    without = ("setpriv", "--bounding-set=-net_admin", "--inh-caps=-net_admin")
    flags = ("--iface=eth1", f"--public-ip={node.address.ip}", f"--etcd-endpoints={ENDPOINT}")
    command = ["ip", "netns", "exec", node.namespace, *without, *DAEMON, *flags, f"--subnet-file={node.subnet_file}"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    assert done.returncode == 2, done.stderr
    assert "CAP_NET_ADMIN" in done.stderr
    assert patient.store.kvs() == before
    patient.start()
    measured("exit code 2 and the missing right named, nothing touched; ready with the right")


# F71: single routes are refused


LONG = pytest.mark.thorough


@pytest.mark.parametrize("name", ["EBUSY", pytest.param("EINVAL", marks=LONG), pytest.param("ENOBUFS", marks=LONG)])
def test_f71_refused_changes(site: Lab, measured: Measured, name: str) -> None:
    """A route whose creation, replacement and deletion the kernel refuses three times each: tried again until done;
    the others do not wait for it."""
    patient = Patient(site)
    patient.start()
    node, store, new, other = patient.node, patient.store, "172.7.96.0/24", "172.7.97.0/24"
    times_s: list[float] = []
    for step, gateway in (("created", STRANGER), ("replaced", "192.168.14.98"), ("dropped", "")):
        patient.fall_ill(f"refuse {name} {new} {step} 3")
        with RouteMonitor(node) as monitor:
            began = time.monotonic()
            for subnet in (new, other):
                if gateway:
                    store.put(lease_key(subnet), lease_value(gateway))
                else:
                    store.delete(lease_key(subnet))
            node.wait_routes(PEERS | (dict.fromkeys((new, other), gateway) if gateway else {}), 20)
            times_s.append(time.monotonic() - began)
            until(lambda: len(monitor.messages()) == 2, "both messages are read")
            told = [message.text.removeprefix("Deleted ").split()[0] for message in monitor.messages()]
            assert told == [other, new]
    until(lambda: node.get("/readyz")[0] == 200, "ready again", REPAIR_S)
    took = ", ".join(f"{seconds:.1f}" for seconds in times_s)
    measured(f"{name} three times each: created, replaced, dropped after {took} s; the other route did not wait")


# F72: more events than anybody can hear


def churn(routes: int) -> Iterator[str]:
    """Yield ``ip`` commands that add and delete routes inside the network, half of the changes each."""
    for number in range(routes):
        verb = "delete" if number % 2 else "add"
        yield f"route {verb} 172.7.{200 + number // 2 % 50}.0/24 via 192.168.14.97 dev eth1"


def resident_kib(node: LabHost) -> int:
    """Return the memory that a node's daemon occupies."""
    status = Path(f"/proc/{pid_of(node)}/status").read_text()
    return int(next(line.split()[1] for line in status.splitlines() if line.startswith("VmRSS:")))


@pytest.mark.parametrize("how", ["a small buffer", "asleep"])
def test_f72_overrun(site: Lab, measured: Measured, how: str) -> None:
    """More changes than the socket holds: the loss is noticed, all is read again over a new socket, what was deleted
    in the storm is back; memory stays flat and the log short."""
    patient = Patient(site, **({"SICK_EVENTS": "1024"} if how == "a small buffer" else {}))
    patient.start()
    node, pid, journal = patient.node, pid_of(patient.node), Journal(patient.node)
    before_kib = resident_kib(node)
    storm = [*churn(25_000), f"route delete {VICTIM}", *churn(25_000)]
    if how == "asleep":
        node.process.send(signal.SIGSTOP)
    began = time.monotonic()
    Namespace(node.namespace).ip_batch(storm)
    took_s = time.monotonic() - began
    if how == "asleep":
        node.process.send(signal.SIGCONT)
    began = time.monotonic()
    node.wait_routes(PEERS, 10)
    back_s = time.monotonic() - began
    journal.wait("kernel.events_lost", timeout_s=10)
    node.exec("ip", "route", "del", VICTIM)
    node.wait_routes(PEERS, 10)
    assert pid_of(node) == pid
    assert node.get("/readyz")[0] == 200
    grown_kib = resident_kib(node) - before_kib
    assert grown_kib < 12 * 1024
    lines = len(journal.text().splitlines())
    assert lines < 60
    measured(
        f"50,000 changes in {took_s:.1f} s: the route that went in them was back {back_s:.2f} s after them; "
        f"memory +{grown_kib / 1024:.1f} MiB, {lines} log lines"
    )


# F73: lists that change while they are read


class Counting(RequestSocket):
    """Counts the lists that the kernel marks as torn."""

    def __init__(self) -> None:
        super().__init__()
        self.asked = self.torn = 0

    async def _dump_once(self, request: NetlinkRequest, wanted: Callable[[bytes], bool] | None) -> list[bytes]:
        self.asked += 1
        try:
            return await super()._dump_once(request, wanted)
        except NetlinkDumpInterrupted:
            self.torn += 1
            raise


@contextmanager
def restless(space: Namespace, commands: list[str]) -> Iterator[None]:
    """Run these ``ip`` commands over and over again while the block lasts."""
    over = threading.Event()

    def repeat() -> None:
        while not over.is_set():
            space.ip_batch(commands)

    thread = threading.Thread(target=repeat)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join(60)


def there_and_back(kind: str, values: list[str], tail: str) -> list[str]:
    return [f"{kind} {verb} {value} {tail}" for verb in ("add", "delete") for value in values]


async def test_f73_torn_lists(measured: Measured) -> None:
    """While others change addresses and routes without a pause, every list that is believed holds all that was there
    the whole time; a torn one is asked for again, and the error in the end is an error, not a shorter list."""
    with namespace() as space, space.inside():
        space.veth("eth0", "10.77.0.1/16", peer="peer0")
        space.ip_batch([f"address add 10.78.{n // 250}.{1 + n % 250}/32 dev eth0" for n in range(400)])
        space.ip_batch([f"route add 10.5.{n // 64}.{n % 64 * 4}/30 via 10.77.0.9 proto 103" for n in range(4000)])
        moving = there_and_back("address", [f"10.79.0.{n}/32" for n in range(1, 250)], "dev eth0")
        moving += there_and_back("route", [f"10.6.{n}.0/24" for n in range(250)], "via 10.77.0.9 proto 103")
        requests = Counting()
        kernel = NetlinkKernel(protocol=103, requests=requests)
        whole = given_up = 0
        with restless(space, moving):
            until_s = time.monotonic() + 4
            while time.monotonic() < until_s:
                try:
                    link = next(link for link in await kernel.links() if link.name == "eth0")
                    assert sum(str(own.ip).startswith(("10.77.", "10.78.")) for own in link.addresses) == 401
                    routes = await kernel.routes(protocol=103)
                    assert sum(str(route.dst).startswith("10.5.") for route in routes) == 4000
                    whole += 1
                except KernelError as error:
                    assert "changed while it was read" in str(error)  # noqa: PT017
                    given_up += 1
        await kernel.close()
    assert whole > 0
    assert requests.torn > 0
    torn = f"{requests.torn} of {requests.asked} lists torn"
    measured(f"{torn}: {given_up} reads given up after five, {whole} whole, none short")


def test_f73_daemon_amid_torn_lists(unguarded: Lab, measured: Measured) -> None:
    """The daemon on a host whose addresses and foreign routes change without a pause moves none of its own routes."""
    node, pid, store = unguarded.nodes[0], pid_of(unguarded.nodes[0]), store_of(unguarded)
    peers = {f"172.7.{n}.0/24": STRANGER for n in range(60, 200)}
    quoted = lease_value(STRANGER).replace('"', '\\"')
    store.txn(*(f'put "{lease_key(peer)}" "{quoted}"' for peer in peers))
    for each in unguarded.nodes:
        each.wait_routes(unguarded.gateways_for(each) | peers)
    space = Namespace(node.namespace)
    space.ip_batch([f"address add 10.78.{n // 250}.{1 + n % 250}/32 dev eth1" for n in range(400)])
    moving = there_and_back("address", [f"10.79.0.{n}/32" for n in range(1, 250)], "dev eth1")
    moving += there_and_back("route", [f"172.7.{n}.0/24" for n in range(200, 250)], "via 192.168.14.97 dev eth1")
    try:
        with RouteMonitor(node) as monitor:
            with restless(space, moving):
                time.sleep(5)
            foreign = [message for message in monitor.messages() if " via 192.168.14.97 " in message.text]
            moved = {message.text.removeprefix("Deleted ").split()[0] for message in monitor.messages()}
            assert moved & (peers.keys() | unguarded.gateways_for(node).keys()) == set()
            assert foreign
        assert pid_of(node) == pid
        until(lambda: node.get("/readyz")[0] == 200, "ready as soon as it is quiet", 5)
        measured(f"{len(foreign)} changes by others in 5 s, with addresses as many: no route of ours moved")
    finally:
        space.run("sh", "-c", "ip address show dev eth1 | awk '/inet 10.7/ {print \"address del\", $2, \"dev eth1\"}'"
                  " | ip -batch -")
        store.txn(*(f'del "{lease_key(peer)}"' for peer in peers))
