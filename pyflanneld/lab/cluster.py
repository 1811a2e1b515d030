"""Tool: the laboratory as a whole: N hosts, a LAN, etcd; built, removed, found again.

    with Lab("mine", nodes=3) as lab:
        lab.up()
        lab.nodes[0].routes()

Leaving the block removes everything. What a killed laboratory left behind is removed by the next one of the same name:
namespaces carry the name, and every process runs in one of them.
"""

import contextlib
import fcntl
import json
import os
import re
import shutil
import signal
from collections.abc import Sequence
from ipaddress import IPv4Network
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from pyflanneld.errors import UsageError
from pyflanneld.lab import topology
from pyflanneld.lab.etcd import ADDRESS, Etcd
from pyflanneld.lab.network import MAX_NETWORKS, LabNetwork
from pyflanneld.lab.node import DAEMON, LabHost
from pyflanneld.lab.process import recorded_pid
from pyflanneld.lab.run import LabError, require_machine

ROOT = Path("/run/pyflanneld-lab")
MAX_NODES = 200
MAX_SEGMENTS = 2
NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,39}")


class Lab:
    """A cluster on this machine.

    Args:
        name: lower-case letters, digits and hyphens; laboratories with different names can run at the same time.
        nodes: how many hosts.
        root: where the state lives, in ``<root>/<name>/``.
        daemon: the program to start on the hosts.
        networks: how many networks, each with a daemon and a pod on every host.
        backend: of all networks; *direct_routing* is that of vxlan.
        segments: how many LANs, with a router between.

    Attributes:
        nodes: the hosts, with their daemons of the first network.
        daemons: all daemons of all hosts, network by network.
    """

    def __init__(
        self, name: str = "lab", nodes: int = 3, root: Path = ROOT, daemon: Sequence[str] = DAEMON, *,
        networks: int = 1, backend: str = "host-gw", direct_routing: bool = False, segments: int = 1,
    ) -> None:  # fmt: skip
        if not NAME.fullmatch(name):
            raise UsageError(f"--name {name!r}: lower-case letters, digits and hyphens, at most 40")
        if not 1 <= nodes <= MAX_NODES:
            raise UsageError(f"--nodes {nodes}: 1 to {MAX_NODES}")
        if not 1 <= networks <= MAX_NETWORKS:
            raise UsageError(f"--networks {networks}: 1 to {MAX_NETWORKS}")
        if not 1 <= segments <= MAX_SEGMENTS:
            raise UsageError(f"--segments {segments}: 1 to {MAX_SEGMENTS}")
        if backend == "host-gw" and (segments > 1 or direct_routing):
            raise UsageError("--segments and --direct-routing: only with --backend vxlan; host-gw needs one LAN")
        shape = {"backend": backend, "direct_routing": direct_routing, "segments": segments}
        self._state = {"name": name, "nodes": nodes, "networks": networks, **shape}
        self.name = name
        self.networks = tuple(LabNetwork(number, backend, direct_routing) for number in range(1, networks + 1))
        self.folder = root / name
        self.lans = tuple(topology.namespace(name, role) for role in ("lan", "lan2")[:segments])
        self.lan = self.lans[0]
        self.router = topology.namespace(name, "router")
        self.etcd = Etcd(topology.namespace(name, "etcd"), self.folder / "etcd")
        self.daemons = tuple(
            LabHost(name, index, self.folder / f"n{index}{network.suffix}", daemon, network, segments)
            for network in self.networks for index in range(1, nodes + 1)
        )  # fmt: skip
        self.nodes = self.daemons[:nodes]
        self._lock_file = root / f"{name}.lock"
        self._lock: int | None = None
        self._state_file = self.folder / "state.json"
        self._ours = False

    @classmethod
    def load(cls, name: str, root: Path = ROOT) -> "Lab":
        """Return the laboratory that ``lab up`` left running.

        Raises:
            LabError: there is none.
        """
        lab = cls(name, root=root)
        if (state := lab.left_running()) is None:
            raise LabError(f"no laboratory {name!r} is up; `pyflanneld lab up{lab._name_flag}` starts one")
        return cls(root=root, **state)

    # Ownership: one process at a time builds or removes

    def __enter__(self) -> Self:
        require_machine()
        while self._lock is None:
            self._lock = take_lock(self._lock_file)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if self._ours:
                self.down()
        finally:
            if self._lock is not None:
                drop_lock(self._lock_file, self._lock)
                self._lock = None

    def leave_running(self) -> None:
        """Let the laboratory outlive this process; ``Lab.load`` finds it again."""
        self._ours = False
        self._write_state(complete=True)

    def left_running(self) -> dict[str, Any] | None:
        """Return the arguments of the laboratory that was left running on purpose; ``None``: there is none."""
        try:
            state = json.loads(self._state_file.read_text())
            complete = state.pop("complete")
            same = state.keys() == self._state.keys()
            return state if complete and same and topology.existing(self.name) else None
        except (OSError, ValueError, KeyError, AttributeError):
            return None

    # Up and down

    def up(self) -> None:
        """Start the whole laboratory; wait until every host is ready, has its routes and its pod."""
        self.build()
        self.start()

    def build(self) -> None:
        """Create the network, start etcd and write the network configuration; start no daemon yet.

        Raises:
            LabError: a laboratory of this name runs already, or a step failed.
        """
        if self.left_running() is not None:
            raise LabError(f"laboratory {self.name!r} is up already; `pyflanneld lab down{self._name_flag}` removes it")
        self._ours = True
        self.down()  # what a crash left behind
        self.folder.mkdir(parents=True)
        self._write_state(complete=False)
        for lan in self.lans:
            topology.add_lan(lan)
        topology.add_namespace(self.etcd.namespace)
        topology.plug_in(self.lan, self.etcd.namespace, ADDRESS, "etcd")
        for node in self.nodes:
            topology.add_namespace(node.namespace, forwarding=True)
            topology.plug_in(self.lans[node.segment - 1], node.namespace, node.address, node.name)
        if len(self.lans) > 1:
            topology.add_router(self.router, *self.lans)
            topology.use_router(self.etcd.namespace, ADDRESS)
            for node in self.nodes:
                topology.use_router(node.namespace, node.address)
        for daemon in self.daemons:
            daemon.request_subnet()
        self.etcd.start()
        for network in self.networks:
            self.etcd.ctl("put", f"{network.prefix}/config", network.config)

    def start(self) -> None:
        """Start all daemons, wait until they are ready and route to each other, and attach the pods."""
        for daemon in self.daemons:
            daemon.start()
        for daemon in self.daemons:
            daemon.wait_ready()
        for node in self.nodes:
            here = [daemon for daemon in self.daemons if daemon.namespace == node.namespace]
            node.wait_routes({dst: gateway for one in here for dst, gateway in self.gateways_for(one).items()})
        for daemon in self.daemons:
            daemon.attach_pod()

    def down(self) -> None:
        """Remove every process, namespace and file of this laboratory, if there are any."""
        for process in (*(daemon.process for daemon in self.daemons), self.etcd.process):
            process.stop(signal.SIGKILL)
        for name in topology.existing(self.name):
            topology.remove_namespace(name)
        for pid_file in self.folder.glob("*/pid"):
            if (pid := recorded_pid(pid_file)) is not None:  # its namespace was removed by hand
                topology.kill(pid, signal.SIGKILL)
        shutil.rmtree(self.folder, ignore_errors=True)

    # Inventory

    def roles(self) -> dict[str, str]:
        """Return the namespaces by the names that ``lab exec`` knows: ``n1``, ``pod1``, ``etcd``, ``lan``."""
        named = {"lan": self.lan, "etcd": self.etcd.namespace}
        if len(self.lans) > 1:
            named |= {"lan2": self.lans[1], "router": self.router}
        named |= {node.name: node.namespace for node in self.nodes}
        named |= {daemon.pod_name: daemon.pod_namespace for daemon in self.daemons}
        return named

    def etcdctl(self, *words: str) -> str:
        """Run ``etcdctl`` and return its output."""
        return self.etcd.ctl(*words)

    def gateways_for(self, node: LabHost, nodes: Sequence[LabHost] | None = None) -> dict[str, str]:
        """Return the routes that *node* should have for the subnets of the others (default: all), with gateways."""
        others = [one for one in self.daemons if one.network == node.network] if nodes is None else nodes
        return {other.subnet: _gateway(node, other) for other in others if other is not node}

    @property
    def _name_flag(self) -> str:
        return "" if self.name == "lab" else f" --name {self.name}"

    def _write_state(self, *, complete: bool) -> None:
        self._state_file.write_text(json.dumps(self._state | {"complete": complete}) + "\n")


def _gateway(node: LabHost, other: LabHost) -> str:
    """Return where *node* should send the packets for the subnet of *other*."""
    if node.network.is_direct(near=node.segment == other.segment):
        return str(other.address.ip)
    return str(IPv4Network(other.subnet).network_address)


def take_lock(path: Path) -> int | None:
    """Take the exclusive lock on a file and return its descriptor; ``None`` if it was just removed: try again.

    The kernel drops the lock with the process, however that ends, so there are no stale ones.

    Raises:
        LabError: another process holds it.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except FileNotFoundError:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if os.fstat(descriptor).st_ino == path.stat().st_ino:
            return descriptor
    except BlockingIOError as error:
        os.close(descriptor)
        raise LabError(f"laboratory {path.stem!r} is being used by another process") from error
    except FileNotFoundError:
        pass
    os.close(descriptor)
    return None


def drop_lock(path: Path, descriptor: int) -> None:
    """Remove the lock file, then release the lock; remove the common folder when this was the last one."""
    path.unlink(missing_ok=True)
    os.close(descriptor)
    if path.parent == ROOT:
        with contextlib.suppress(OSError):  # not empty, or already removed
            ROOT.rmdir()
