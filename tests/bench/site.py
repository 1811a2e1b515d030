"""Where it is measured: a LAN, a real etcd, and hosts of one shape, all in network namespaces of their own.

The main thread moves into etcd's namespace, so that what writes the leases reaches etcd as a program beside it would.
etcd's data lie in memory where they can: the disk's time, the same for all, would only be noise.
"""

import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.bench.contenders import Contender, Daemon
from tests.bench.leases import DEVICE, ETCD, LAN, Peer, measured_host, peer
from tests.bench.observer import KINDS, Observer
from tests.bench.results import VXLAN
from tests.bench.store import Client, Store
from tests.support.etcd.server import Member, make_member
from tests.support.network.namespaces import Namespace, namespace

FOLDER = "pyflanneld-bench-"
ETCD_URL = f"http://{ETCD}:2379"
METRICS_URL = "http://127.0.0.1:2381"
PROTOCOL = 103
SPARE_HOST = 200


@dataclass(frozen=True, slots=True)
class Rig:
    """One contender on a host of its own, not yet started; its peers are in etcd, and somebody listens."""

    contender: Contender
    me: Peer
    space: Namespace
    store: Store
    daemon: Daemon
    observer: Observer


class Site:
    """The LAN, etcd and the contenders' prefixes. Made by ``Site.built``."""

    def __init__(self, folder: Path, lan: Namespace, member: Member, client: Client) -> None:
        self.folder = folder
        self.client = client
        self._lan, self._member = lan, member
        self._numbers: dict[tuple[str, int], int] = {}
        self._stores: dict[int, Store] = {}
        self._cables = 0

    @classmethod
    @asynccontextmanager
    async def built(cls, *, v2: bool) -> AsyncIterator["Site"]:
        """Have it until the block ends. *v2*: etcd's v2 API is needed too."""
        async with AsyncExitStack() as stack:
            folder = stack.enter_context(_folder())
            lan, space = stack.enter_context(namespace()), stack.enter_context(namespace())
            lan.ip("link add lan type bridge")
            lan.ip("link set lan up")
            member = _etcd(folder, space, v2=v2)
            stack.callback(member.kill)
            stack.enter_context(space.inside())
            member.start()
            member.wait_ready()
            client = await stack.enter_async_context(Client.at("http://127.0.0.1:2379", f"{METRICS_URL}/metrics"))
            site = cls(folder, lan, member, client)
            site._plug_in(space, f"{ETCD}/{LAN.prefixlen}")
            yield site

    def restart_etcd(self) -> None:
        """Kill etcd as a power cut would, and start it again on its data."""
        self._member.restart()

    async def store(self, contender: Contender, slot: int = 0) -> Store:
        """Return a contender's part of etcd, with a configuration in it; *slot*: one of several such parts."""
        number = self._number(contender, slot)
        if number not in self._stores:
            store = self.client.store(f"/bench/{number}/network", contender.api, contender.backend)
            await store.configure()
            self._stores[number] = store
        return self._stores[number]

    @asynccontextmanager
    async def rig(self, contender: Contender, peers: int, *, slot: int = 0) -> AsyncIterator[Rig]:
        """Have a fresh host for a contender, which sees that many peers, until the block ends."""
        number, store = self._number(contender, slot), await self.store(contender, slot)
        me = measured_host(number)
        await store.fill(peers)
        await store.delete(me)
        folder = Path(tempfile.mkdtemp(dir=self.folder))
        with self.host(me) as space, ExitStack() as stack:
            daemon = Daemon(contender, space, me, prefix=store.prefix, etcd_url=ETCD_URL, folder=folder)
            stack.callback(daemon.close)
            observer = stack.enter_context(Observer(space, daemon.check, kinds=KINDS[contender.backend]))
            yield Rig(contender, me, space, store, daemon, observer)
        shutil.rmtree(folder)

    @contextmanager
    def host(self, me: Peer | None = None) -> Iterator[Namespace]:
        """Have a host on the LAN, without routes and rules, until the block ends."""
        me = me or measured_host(SPARE_HOST)
        with namespace() as space:
            self._plug_in(space, f"{me.gateway}/{LAN.prefixlen}")
            try:
                yield space
            finally:
                space.ip("link delete eth1", check=False)  # with the namespace alone it would go a moment later

    def batch_file(self, peers: int) -> Path:
        """Return the file with which ``ip -batch`` makes the routes to that many peers."""
        return self._batch_file("routes", peers, lambda one: (one.route(PROTOCOL),))

    def vxlan_batch_files(self, peers: int) -> tuple[Path, Path]:
        """Return the files with which ``ip -batch`` and ``bridge -batch`` make what vxlan has beside its device."""
        forwardings = self._batch_file("forwardings", peers, lambda one: (f"fdb add {one.forwarding} permanent",))
        return self._batch_file("tunnels", peers, lambda one: one.tunnel(PROTOCOL)), forwardings

    def _batch_file(self, name: str, peers: int, lines: Callable[[Peer], Iterable[str]]) -> Path:
        path = self.folder / f"{name}-{peers}"
        if not path.exists():
            path.write_text("".join(f"{line}\n" for number in range(peers) for line in lines(peer(number))))
        return path

    def put_all(self, space: Namespace, backend: str, peers: int) -> tuple[float, float]:
        """Have iproute2 make all objects of that many peers on a host; return when it began and when it had ended.

        The device of vxlan must be there.
        """
        if backend != VXLAN:
            return ip_batch(space, self.batch_file(peers))
        tunnels, forwardings = self.vxlan_batch_files(peers)
        began, _ = ip_batch(space, tunnels)
        return began, ip_batch(space, forwardings, program="bridge")[1]

    def _number(self, contender: Contender, slot: int) -> int:
        return self._numbers.setdefault((contender.name, slot), len(self._numbers))

    def _plug_in(self, space: Namespace, address: str) -> None:
        self._cables += 1
        space.run("sh", "-c", "echo 1 >/proc/sys/net/ipv6/conf/all/disable_ipv6; echo 1 >/proc/sys/net/ipv4/ip_forward")
        space.veth("eth1", address, peer=f"port{self._cables}", peer_in=self._lan)
        self._lan.ip(f"link set port{self._cables} master lan")


def add_device(space: Namespace, me: Peer) -> None:
    """Make the vxlan device of a host."""
    space.ip(f"link add {DEVICE} type vxlan id 1 dev eth1 local {me.gateway} dstport 8472 nolearning")
    space.ip(f"address add {me.subnet.network_address}/32 dev {DEVICE}")
    space.ip(f"link set {DEVICE} up")


def ip_batch(space: Namespace, path: Path, *, program: str = "ip") -> tuple[float, float]:
    """Run ``ip -batch`` or ``bridge -batch`` on a host; return when it began and ended, as of ``time.monotonic``."""
    with space.inside():
        began = time.monotonic()
        subprocess.run([program, "-batch", str(path)], check=True, stdin=subprocess.DEVNULL, timeout=120)
        return began, time.monotonic()


def _etcd(folder: Path, space: Namespace, *, v2: bool) -> Member:
    args = ["--listen-client-urls=http://0.0.0.0:2379", "--heartbeat-interval=100", "--election-timeout=1000"]
    args += ["--enable-v2=true"] if v2 else []
    return make_member(
        folder, "bench", url=ETCD_URL, peers={"bench": "http://127.0.0.1:2380"}, health_url=METRICS_URL, args=args,
        netns=space.name,
    )


@contextmanager
def _folder() -> Iterator[Path]:
    """Have a directory, in memory if possible, and remove those of runs that were killed."""
    memory = Path("/dev/shm")  # noqa: S108 - the name below it is made by mkdtemp
    parent = memory if os.access(memory, os.W_OK) else Path(tempfile.gettempdir())
    for left in parent.glob(f"{FOLDER}*-*"):
        if not Path("/proc", left.name.removeprefix(FOLDER).split("-")[0]).exists():
            shutil.rmtree(left, ignore_errors=True)
    with tempfile.TemporaryDirectory(prefix=f"{FOLDER}{os.getpid()}-", dir=parent) as made:
        yield Path(made)
