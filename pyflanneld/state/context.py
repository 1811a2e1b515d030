"""What every task works with: the ports, the settings, and where it reports."""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, field
from random import Random
from typing import Any

from pyflanneld.config.settings import Settings
from pyflanneld.errors import RegistryDenied, RegistryError
from pyflanneld.ports import (
    Certificates,
    Clock,
    Discovery,
    FirewallProgram,
    HostNetworks,
    Kernel,
    Notifier,
    Prober,
    Registry,
    SavedStateFile,
    SubnetFile,
)
from pyflanneld.state.conditions import Conditions
from pyflanneld.state.counters import Counters
from pyflanneld.state.liveness import Liveness

DENIED_PAUSE_S = 5.0
OTHER_CLUSTER = "etcd:cluster"
FOLLOWER = "peers"
"""The task that follows the peers."""


@dataclass(frozen=True, slots=True)
class Ports:
    """The outside world.

    Attributes:
        firewall: the programs by name, ``"iptables"``.
        prober: only with ``--probe``.
        certificates: only with https.
        saved_state: only with ``--state-dir``.
    """

    discovery: Discovery
    kernel: Kernel
    firewall: Mapping[str, FirewallProgram]
    subnet_file: SubnetFile
    clock: Clock
    notifier: Notifier
    host_networks: HostNetworks
    prober: Prober | None = None
    certificates: Certificates | None = None
    saved_state: SavedStateFile | None = None


@dataclass(frozen=True, slots=True)
class Context:
    """What every task works with."""

    ports: Ports
    settings: Settings
    rng: Random
    log: Any  # structlog's loggers have no type of their own
    conditions: Conditions
    liveness: Liveness
    counters: Counters = field(default_factory=Counters)

    @property
    def registry(self) -> Registry:
        """etcd; it stays the same once the network configuration has been found."""
        return self.ports.discovery.registry

    @property
    def discovery(self) -> Discovery:
        """The search for the API of etcd to use."""
        return self.ports.discovery

    @property
    def kernel(self) -> Kernel:
        """Links and routes."""
        return self.ports.kernel

    @property
    def clock(self) -> Clock:
        """The time."""
        return self.ports.clock

    def registry_failed(self, task: str, error: RegistryError, *, blocks: bool) -> None:
        """Report that *task* cannot use etcd at the moment."""
        event = "etcd.denied" if isinstance(error, RegistryDenied) else "etcd.unavailable"
        text = f"etcd cannot be used: {error}"
        self.counters.etcd_failed(task, error)
        if task != FOLLOWER:
            self.counters.others_at_s = None
        self.conditions.report(f"etcd:{task}", event, text, blocks=blocks, task=task)

    def registry_works(self, task: str) -> None:
        """Report that *task* can use etcd."""
        self.counters.heard_at_s = now_s = self.clock.now_s()
        if task != FOLLOWER and not self.counters.watching and self.counters.others_at_s is None:
            self.counters.others_at_s = now_s
        self.conditions.resolve(f"etcd:{task}", endpoint=self.registry.endpoint)
        self._report_other_clusters()

    def _report_other_clusters(self) -> None:
        aside = sorted(self.registry.set_aside)
        if not aside:
            self.conditions.resolve(OTHER_CLUSTER)
            return
        alike = len(self.settings.etcd_endpoints) <= 2 * len(aside)
        text = f"{', '.join(aside)}: of another cluster than {self.registry.endpoint}, and not used" + (
            "; which of them is right cannot be told" if alike else ""
        )
        self.conditions.report(OTHER_CLUSTER, "etcd.other_cluster", text, blocks=alike, cause=" ".join(aside))

    async def pause(self, error: RegistryError, wait_s: float) -> None:
        """Wait before etcd is asked again; refused credentials are not tried again in a hurry."""
        await asyncio.sleep(max(wait_s, DENIED_PAUSE_S) if isinstance(error, RegistryDenied) else wait_s)
