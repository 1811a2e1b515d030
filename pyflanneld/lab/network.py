"""Tool: the networks of the laboratory. The first has the defaults; of each other one the names end with its number."""

import json
from dataclasses import dataclass
from ipaddress import IPv4Interface, IPv4Network

from pyflanneld.lab.etcd import PREFIX

HEALTH_PORT, METRICS_PORT = 2401, 2402
PORT_STEP = 10
MAX_NETWORKS = 9


@dataclass(frozen=True, slots=True)
class LabNetwork:
    """Network *number*, from 1: ``172.7.0.0/16``, ``172.8.0.0/16`` ..."""

    number: int = 1
    backend: str = "host-gw"
    direct_routing: bool = False

    @property
    def suffix(self) -> str:
        """What its names end with: nothing, ``"-2"`` ..."""
        return "" if self.number == 1 else f"-{self.number}"

    @property
    def prefix(self) -> str:
        """The prefix of its keys."""
        return f"{PREFIX}{self.suffix}"

    @property
    def network(self) -> IPv4Network:
        """Its addresses."""
        return IPv4Network(f"172.{6 + self.number}.0.0/16")

    @property
    def config(self) -> str:
        """Its configuration in etcd."""
        backend: dict[str, object] = {"Type": self.backend}
        if self.direct_routing:
            backend["DirectRouting"] = True
        if self.backend == "vxlan" and self.number > 1:
            backend["VNI"] = self.number
        return json.dumps({"Network": str(self.network), "Backend": backend}, separators=(",", ":"))

    def is_direct(self, *, near: bool) -> bool:
        """Return whether a route to a host leads straight to it, which is *near*: on the same segment."""
        return self.backend == "host-gw" or (self.direct_routing and near)

    @property
    def bridge(self) -> str:
        """The bridge of its pods on each host: ``"docker0"``, ``"docker1"`` ..."""
        return f"docker{self.number - 1}"

    @property
    def health_port(self) -> int:
        """The health port of its daemons."""
        return HEALTH_PORT + PORT_STEP * (self.number - 1)

    @property
    def flags(self) -> tuple[str, ...]:
        """The flags of its daemons that differ from the defaults."""
        if self.number == 1:
            return ()
        metrics = f"127.0.0.1:{METRICS_PORT + PORT_STEP * (self.number - 1)}"
        return (f"--etcd-prefix={self.prefix}", f"--metrics-bind={metrics}", f"--docker-bridge={self.bridge}")

    def bridge_address(self, host: int) -> IPv4Interface:
        """Return the address of the bridge on host number *host*."""
        return IPv4Interface(f"172.{6 + self.number}.{20 + host}.1/24")


FIRST = LabNetwork()
