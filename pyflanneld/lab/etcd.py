"""Tool: the laboratory's etcd, a real one, and its ``etcdctl``."""

import base64
import json
import signal
from dataclasses import dataclass
from ipaddress import IPv4Interface
from pathlib import Path

from pyflanneld.lab.process import Background
from pyflanneld.lab.run import LabError, attempt, run, until

ADDRESS = IPv4Interface("192.168.14.12/24")
ENDPOINT = f"http://{ADDRESS.ip}:2379"
PREFIX = "/coreos.com/network"
CONFIG = '{"Network":"172.7.0.0/16","Backend":{"Type":"host-gw"}}'
START_TIMEOUT_S = 30.0


@dataclass(frozen=True, slots=True)
class Lease:
    """A subnet as etcd holds it."""

    key: str
    public_ip: str
    backend: str
    ttl_s: int | None


class Etcd:
    """One etcd member in its own namespace. Its data survive a stop.

    Attributes:
        flags: more flags for the next start, for example ``("--enable-v2=true",)``.
        program: the etcd to start, for example of another release.
    """

    def __init__(self, namespace: str, folder: Path) -> None:
        self.namespace = namespace
        self.flags: tuple[str, ...] = ()
        self.program = "etcd"
        self.process = Background(namespace, folder)

    def start(self) -> float:
        """Start etcd and return the seconds until it answered.

        Raises:
            LabError: it ended or did not answer in time.
        """
        self.process.start(
            self.program,
            *("--name", "lab", "--data-dir", str(self.process.folder / "data")),
            *("--listen-client-urls", "http://0.0.0.0:2379", "--advertise-client-urls", ENDPOINT),
            *("--listen-peer-urls", "http://127.0.0.1:2380", "--initial-advertise-peer-urls", "http://127.0.0.1:2380"),
            *("--initial-cluster", "lab=http://127.0.0.1:2380"),
            *self.flags,
        )
        return until(self.answers, "etcd answers", START_TIMEOUT_S, poll_s=0.05)

    def answers(self) -> bool:
        """Return whether etcd serves requests.

        Raises:
            LabError: its process has ended.
        """
        if (code := self.process.exit_code()) is not None:
            raise LabError(f"etcd ended with exit code {code}: {self.process.last_log_line()}")
        return attempt(*self._etcdctl("endpoint", "health", "--command-timeout=1s")).returncode == 0

    def stop(self, number: signal.Signals = signal.SIGTERM) -> None:
        """Stop etcd and wait for its end."""
        self.process.stop(number)

    def ctl(self, *words: str) -> str:
        """Run ``etcdctl`` (API v3) in the member's namespace and return its output."""
        return run(*self._etcdctl(*words))

    def put_lease(self, subnet_key: str, public_ip: str) -> None:
        """Register a subnet as another host would: the key ``172.7.99.0-24``, its public IP, no TTL."""
        value = {"PublicIP": public_ip, "PublicIPv6": None, "BackendType": "host-gw"}
        self.ctl("put", f"{PREFIX}/subnets/{subnet_key}", json.dumps(value, separators=(",", ":")))

    def delete_lease(self, subnet_key: str) -> None:
        """Delete a subnet's key."""
        self.ctl("del", f"{PREFIX}/subnets/{subnet_key}")

    def leases(self) -> tuple[Lease, ...]:
        """Return the subnets under the prefix, in the order of their keys."""
        answer = json.loads(self.ctl("get", "--prefix", f"{PREFIX}/subnets/", "-w", "json"))
        return tuple(self._lease(entry) for entry in answer.get("kvs", ()))

    def _lease(self, entry: dict[str, str | int]) -> Lease:
        value = json.loads(base64.b64decode(str(entry["value"])))
        lease_id, ttl_s = int(entry.get("lease", 0)), None
        if lease_id:
            ttl_s = int(json.loads(self.ctl("lease", "timetolive", f"{lease_id:x}", "-w", "json"))["ttl"])
        return Lease(base64.b64decode(str(entry["key"])).decode(), value["PublicIP"], value["BackendType"], ttl_s)

    def _etcdctl(self, *words: str) -> tuple[str, ...]:
        return ("ip", "netns", "exec", self.namespace, "env", "ETCDCTL_API=3", "etcdctl", *words)
