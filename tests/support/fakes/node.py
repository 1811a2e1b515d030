"""A whole daemon on fakes: the real loops, a cluster and a kernel in memory, and virtual time."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from ipaddress import IPv4Address, IPv4Interface
from random import Random

from pyflanneld.config.settings import Settings
from pyflanneld.core.families import Network
from pyflanneld.core.host import ServedNetwork, overlap_text
from pyflanneld.core.lease.codec import LeaseAttrs, encode_value
from pyflanneld.core.lease.saved_state import SavedState, decode_state, encode_state
from pyflanneld.core.link.selection import Link
from pyflanneld.daemon.run import Daemon
from pyflanneld.etcd.discovery import OneApi
from pyflanneld.ports import Certificates, Discovery
from pyflanneld.state.conditions import Conditions
from pyflanneld.state.context import Context, Ports
from pyflanneld.state.counters import Counters
from pyflanneld.state.liveness import Liveness
from pyflanneld.state.wakeup import WakeUp
from tests.support.fakes.firewall import FakeFirewall
from tests.support.fakes.kernel import FakeKernel
from tests.support.fakes.prober import FakeProber
from tests.support.fakes.registry import FakeEtcd, FakeRegistry
from tests.support.fakes.virtual_time import Journal, VirtualClock, until

CONFIG = b'{"Network":"172.7.0.0/16","Backend":{"Type":"host-gw"}}'
PROTOCOL = 103


def lan(host: int, *, index: int = 2, mtu: int = 1500) -> Link:
    """Return ``eth1`` with the address 192.168.14.*host*."""
    return Link(index, "eth1", mtu, True, (IPv4Interface(f"192.168.14.{host}/24"),))


def value(address: str, backend: str = "host-gw") -> bytes:
    """Return the lease value of the node at *address*."""
    return encode_value(LeaseAttrs(IPv4Address(address), backend))


class MemoryFile:
    """``ports.SubnetFile`` in memory; ``broken`` is raised by writes while it is set, ``exposed`` is its exposure."""

    def __init__(self, text: str | None = None) -> None:
        self.text = text
        self.writes = 0
        self.broken: OSError | None = None
        self.exposed = ""

    async def read(self) -> str | None:
        return self.text

    async def exposure(self) -> str:
        return self.exposed

    async def write(self, text: str) -> bool:
        if self.broken:
            raise self.broken
        changed, self.text = text != self.text, text
        self.writes += changed
        return changed


class MemoryState:
    """``ports.SavedStateFile`` in memory; ``broken`` is raised while it is set."""

    path = "/var/lib/pyflanneld/last-good.json"

    def __init__(self) -> None:
        self.data: bytes | None = None
        self.writes = self.tries = 0
        self.broken: OSError | None = None
        self.forgotten = False

    @property
    def state(self) -> SavedState:
        """What is saved."""
        assert self.data is not None
        return decode_state(self.data)

    async def read(self) -> SavedState | None:
        if self.broken:
            raise self.broken
        return None if self.data is None else decode_state(self.data)

    async def write(self, state: SavedState) -> None:
        self.tries += 1
        if self.broken:
            raise self.broken
        if not self.forgotten:
            self.data = encode_state(state)
            self.writes += 1

    async def forget(self) -> None:
        self.data, self.forgotten = None, True


class FakeHostNetworks:
    """``ports.HostNetworks`` in memory; *served* is what other daemons of the host serve."""

    def __init__(self) -> None:
        self.served: list[ServedNetwork] = []
        self.claimed: tuple[Network, ...] = ()

    def claim(self, networks: Sequence[Network]) -> str:
        refused = overlap_text(networks, self.served)
        if not refused:
            self.claimed = tuple(networks)
        return refused

    def others(self) -> Sequence[ServedNetwork]:
        return self.served


class Manager:
    """``ports.Notifier`` that remembers."""

    def __init__(self) -> None:
        self.told: list[str] = []

    def send(self, state: str) -> None:
        self.told.append(state)


class FakeNode:
    """One daemon and everything around it."""

    def __init__(self, etcd: FakeEtcd, host: int = 21, *, env: str | None = None, guard: bool = True) -> None:
        self.host = self.seed = host
        self.registry = FakeRegistry(etcd)
        self.discovery: Discovery | None = None
        self.kernel = FakeKernel(lan(host), protocol=PROTOCOL)
        self.firewall = FakeFirewall()
        self.firewall_programs = self.firewall.programs()
        self.file = MemoryFile(env)
        self.clock = VirtualClock()
        self.manager = Manager()
        self.log = Journal()
        self.settings = Settings(
            iface=("eth1",), route_protocol=PROTOCOL, withdraw_guard=guard,
            etcd_endpoints=("http://192.168.14.12:2379",),
        )
        self.host_networks = FakeHostNetworks()
        self.prober: FakeProber | None = None
        self.certificates: Certificates | None = None
        self.state: MemoryState | None = None
        self.hangup = WakeUp()
        self.daemon: Daemon | None = None
        self.counters = Counters()
        self.conditions = Conditions(self.clock, self.log)

    def configure(self, **settings: object) -> None:
        """Change settings for the next start; they are not validated."""
        self.settings = self.settings.model_copy(update=settings)

    def build(self) -> Daemon:
        """Make the daemon; a restart makes another one on the same kernel and file."""
        self.counters, self.conditions = Counters(), Conditions(self.clock, self.log)
        ports = Ports(
            discovery=self.discovery or OneApi(self.registry), kernel=self.kernel, firewall=self.firewall_programs,
            subnet_file=self.file,
            clock=self.clock, notifier=self.manager, host_networks=self.host_networks,
            prober=self.prober, certificates=self.certificates, saved_state=self.state,
        )
        context = Context(
            ports, self.settings, Random(self.seed), self.log, self.conditions, Liveness(self.clock), self.counters
        )
        self.daemon = Daemon(context, watchdog_s=30.0, hangup=self.hangup)
        return self.daemon

    @property
    def ready(self) -> bool:
        """What ``/readyz`` would say."""
        return self.daemon is not None and self.daemon.health().ready

    @property
    def why_not(self) -> str:
        """What stands against readiness."""
        return "; ".join(self.daemon.health().not_ready) if self.daemon else "not built"

    @asynccontextmanager
    async def running(self, *, ready: bool = True) -> AsyncIterator[asyncio.Task[None]]:
        """Run the daemon inside the block, stop it after; by default wait until it is ready first."""
        task = asyncio.create_task(self.build().run(), name="daemon")
        try:
            if ready:
                await until(lambda: self.ready or task.done(), 30)
                if task.done():
                    task.result()
            yield task
        finally:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task
