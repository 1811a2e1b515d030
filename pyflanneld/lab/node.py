"""Tool: one host of the laboratory: its daemon, its routes, its docker bridge and its pod."""

import http.client
import json
import signal
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Interface, IPv4Network
from pathlib import Path

from pyflanneld.lab import topology
from pyflanneld.lab.etcd import ENDPOINT
from pyflanneld.lab.network import FIRST, LabNetwork
from pyflanneld.lab.process import Background
from pyflanneld.lab.run import LabError, run, until

DAEMON = (sys.executable, "-m", "pyflanneld")
PROTOCOL = 103
READY_TIMEOUT_S = 45.0


@dataclass(frozen=True, slots=True)
class RouteLine:
    """A route as ``ip route`` shows it; the protocol as a number."""

    dst: str
    gateway: str | None
    dev: str
    protocol: str

    def __str__(self) -> str:
        via = f" via {self.gateway}" if self.gateway else ""
        return f"{self.dst}{via} dev {self.dev} proto {self.protocol}"


class LabHost:
    """Host number *index*, from 1: ``n<index>``, 192.168.14.<20 + index>, and its pod ``pod<index>``.

    With two segments the even ones are on the second: 192.168.15.<20 + index>.

    On a host with several networks, each has a daemon and a pod of its own: those of network 2 are ``n<index>-2`` and
    ``pod<index>-2``.
    """

    def __init__(
        self, lab: str, index: int, folder: Path, daemon: Sequence[str] = DAEMON, network: LabNetwork = FIRST,
        segments: int = 1,
    ) -> None:  # fmt: skip
        self.name, self.pod_name = f"n{index}{network.suffix}", f"pod{index}{network.suffix}"
        self.namespace, self.pod_namespace = (topology.namespace(lab, one) for one in (f"n{index}", self.pod_name))
        self.network = network
        self.segment = 1 + (index - 1) % segments
        self.address = IPv4Interface(f"192.168.{13 + self.segment}.{20 + index}/24")
        self.bridge_address = network.bridge_address(index)
        self.process = Background(self.namespace, folder)
        self.subnet_file = folder / "subnet.env"
        self._daemon = tuple(daemon)

    # The daemon

    def start(self, *extra: str) -> None:
        """Start the daemon, with *extra* arguments behind the usual ones; does not wait."""
        self.process.start(
            *self._daemon,
            *("--iface", "eth1", "--public-ip", str(self.address.ip), "--etcd-endpoints", ENDPOINT),
            *("--subnet-file", str(self.subnet_file), "--healthz-port", str(self.network.health_port)),
            *("--log-format", "json"),
            *self.network.flags,
            *extra,
        )

    def stop(self, number: signal.Signals = signal.SIGTERM, timeout_s: float = 10.0) -> int | None:
        """Send the daemon a signal, wait for its end, return its exit code."""
        return self.process.stop(number, timeout_s)

    def kill(self) -> None:
        """End the daemon as ``kill -9`` does."""
        self.process.stop(signal.SIGKILL)

    def get(self, path: str, timeout_s: float = 2.0) -> tuple[int, str]:
        """Ask the daemon's health port, as a program on this host would; return status and body.

        Raises:
            OSError: no answer.
        """
        port = self.network.health_port
        connection = http.client.HTTPConnection("127.0.0.1", port)
        connection.sock = topology.connect_namespaces(self.namespace, "127.0.0.1", port, timeout_s)
        try:
            connection.request("GET", path)
            response = connection.getresponse()
            return response.status, response.read().decode()
        except http.client.HTTPException as error:
            raise ConnectionError(str(error)) from error
        finally:
            connection.close()

    def ready(self) -> bool:
        """Return whether ``/readyz`` answers 200.

        Raises:
            LabError: the daemon has ended.
        """
        if (code := self.process.exit_code()) is not None:
            raise LabError(f"{self.name}: the daemon ended with exit code {code}: {self.process.last_log_line()}")
        try:
            return self.get("/readyz")[0] == http.client.OK
        except OSError:
            return False

    def wait_ready(self, timeout_s: float = READY_TIMEOUT_S) -> float:
        """Wait until the daemon is ready and return the seconds that took.

        Raises:
            LabError: it ended, or was not ready in time; with its last log line.
        """
        try:
            return until(self.ready, f"{self.name} ready", timeout_s, poll_s=0.02)
        except LabError as error:
            line = self.process.last_log_line()
            raise error if line in str(error) else LabError(f"{error}; its log ends: {line}") from error

    def wait_routes(self, gateways: dict[str, str], timeout_s: float = 15.0) -> float:
        """Wait until the daemon's routes are exactly these (destination: gateway); return the seconds that took."""
        wanted = sorted(gateways.items())
        what = f"{self.name} has the routes {', '.join(gateways) or '(none)'}"
        return until(lambda: sorted((r.dst, str(r.gateway)) for r in self.routes()) == wanted, what, timeout_s)

    # Its results

    def env(self) -> dict[str, str]:
        """Return the variables of ``subnet.env``; empty when there is no file."""
        if not self.subnet_file.exists():
            return {}
        lines = self.subnet_file.read_text().splitlines()
        return dict(line.split("=", 1) for line in lines if "=" in line)

    def routes(self, protocol: int | None = PROTOCOL) -> tuple[RouteLine, ...]:
        """Return the routes of the main table, by default the daemon's own alone."""
        lines = json.loads(self.exec("ip", "-N", "-j", "-4", "route", "show", "table", "main"))
        found = (RouteLine(r["dst"], r.get("gateway"), r.get("dev", ""), r.get("protocol", "")) for r in lines)
        return tuple(route for route in found if protocol is None or route.protocol == str(protocol))

    def own_routes(self) -> tuple[RouteLine, ...]:
        """Return those of the daemons' routes that lie in this daemon's network."""
        return tuple(one for one in self.routes() if IPv4Network(one.dst).subnet_of(self.network.network))

    def exec(self, *command: str) -> str:
        """Run a program on this host and return its output."""
        return run("ip", "netns", "exec", self.namespace, *command)

    # Docker and the pod

    def request_subnet(self) -> None:
        """Name the subnet to request in ``subnet.env`` before the first start, as the installation guide does."""
        self.subnet_file.parent.mkdir(parents=True, exist_ok=True)
        self.subnet_file.write_text(
            f"FLANNEL_NETWORK={self.network.network}\nFLANNEL_SUBNET={self.bridge_address}\n"
            "FLANNEL_MTU=1500\nFLANNEL_IPMASQ=false\n"
        )

    def attach_pod(self) -> None:
        """Give the bridge the address and MTU of ``subnet.env``, and attach the pod to it."""
        env = self.env()
        bridge, mtu = IPv4Interface(env["FLANNEL_SUBNET"]), int(env["FLANNEL_MTU"])
        topology.set_docker_bridge(self.namespace, bridge, mtu, self.network.bridge)
        pod = IPv4Interface((self.pod_address, bridge.network.prefixlen))
        topology.set_pod(self.namespace, self.pod_namespace, pod, bridge, mtu, self.network.bridge)

    @property
    def subnet(self) -> str:
        """The node's subnet as a network, ``a.b.c.d/len``; empty before there is one."""
        return str(IPv4Interface(self.env()["FLANNEL_SUBNET"]).network) if self.env() else ""

    @property
    def pod_address(self) -> IPv4Address:
        """The pod's address: the one after the bridge's."""
        return IPv4Interface(self.env()["FLANNEL_SUBNET"]).ip + 1

    def pod_exec(self, *command: str) -> str:
        """Run a program in the pod and return its output."""
        return run("ip", "netns", "exec", self.pod_namespace, *command)
