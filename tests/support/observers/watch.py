"""The observers of one test: one thread that waits for all that they listen to.

    watch = Watch()
    watch.add(lab)
    ...                        # the test
    for record in watch.finish():
        findings = judge(record)
"""

import selectors
import socket
import threading
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from pyflanneld.lab.cluster import Lab
from pyflanneld.lab.network import HEALTH_PORT
from pyflanneld.lab.node import LabHost
from tests.support.lab.etcd_members import Members
from tests.support.network.namespaces import Namespace
from tests.support.observers import actions, kernel
from tests.support.observers.etcd import BLIND_TLS, Watcher
from tests.support.observers.files import Folder
from tests.support.observers.health import Poller
from tests.support.observers.packets import PORT, Ring
from tests.support.observers.process import Life
from tests.support.observers.record import Host, Record

LOOK_S = 0.05
LIVES_S = 0.25
SETTLE_S = 3.0
POLLED_HOSTS = 5  # of a large laboratory
LOCALHOST = "127.0.0.1"


def connecting(namespace: str, host: str, port: int) -> socket.socket:
    """Return a TCP socket that connects as a process in the namespace would, without waiting for it."""
    with Namespace(namespace).inside():
        sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    sock.setblocking(False)
    sock.connect_ex((host, port))
    return sock


class LabWatch:
    """The observers of one laboratory, or of one more daemon in it."""

    def __init__(self, lab: Lab, nodes: Sequence[LabHost], members: Members | None, *, twin: bool = False) -> None:
        self.record = Record()
        self._twin = twin
        self._nodes = nodes
        self._log_starts = [log_size(node) for node in nodes]
        self.hosts = [Host(node.name, str(node.subnet_file)) for node in nodes]
        self.record.hosts = self.hosts
        self.lives = [Life(host, node) for host, node in zip(self.hosts, nodes, strict=True)]
        self.folders = [Folder(host, node.subnet_file) for host, node in zip(self.hosts, nodes, strict=True)]
        self.wires = [] if twin else [self._wire(*each) for each in zip(self.hosts, nodes, self.lives, strict=True)]
        self.pollers = [] if twin else [self._poller(*each) for each in zip(self.hosts, nodes, strict=True)]
        del self.pollers[POLLED_HOSTS:]
        self.ring = None if twin else ring_of(nodes)
        self.watcher = None if twin else self._watcher(lab, members)

    def _wire(self, host: Host, node: LabHost, life: Life) -> kernel.Wire:
        with Namespace(node.namespace).inside():
            listening, asking = kernel.open_socket(), kernel.open_socket(0)
        return kernel.Wire(host, listening, asking, life.pid)

    def _poller(self, host: Host, node: LabHost) -> Poller:
        return Poller(host, partial(connecting, node.namespace, LOCALHOST, HEALTH_PORT))

    def _watcher(self, lab: Lab, members: Members | None) -> Watcher | None:
        urls = [member.url for member in members.all] if members else [f"http://{LOCALHOST}:2379"]
        if not all(url.startswith("http://") for url in urls):
            self.record.history.blind = BLIND_TLS
            return None
        ends = [(host, int(port)) for host, _, port in (url.split("/")[2].rpartition(":") for url in urls)]
        watcher = Watcher(self.record.history, ends, partial(connecting, lab.etcd.namespace))
        watcher.begin()
        return watcher

    def tick(self, selector: selectors.BaseSelector, now: float, *, lives: bool) -> None:
        """Do what is due."""
        if lives:
            for life in self.lives:
                life.tick()
            for folder in self.folders:
                folder.tick()
        for poller in self.pollers:
            poller.tick(selector, now)
        if self.ring:
            self.ring.tick(now)
        if self.watcher:
            self.watcher.tick(selector, now)

    def register(self, selector: selectors.BaseSelector) -> None:
        """Have the thread wait for what these observers listen to."""
        for wire in self.wires:
            selector.register(wire.sock, selectors.EVENT_READ, ignoring(wire.read))
        for folder in self.folders:
            selector.register(folder.fd, selectors.EVENT_READ, ignoring(folder.read))
        for sock in self.ring.socks if self.ring else ():
            selector.register(sock, selectors.EVENT_READ, ignoring(partial(self.ring.read, sock)))

    def close(self) -> Record:
        """Take the last of everything and return what was seen."""
        for wire in self.wires:
            wire.read()
            wire.sock.close()
        for folder in self.folders:
            folder.read()
            folder.close()
        for life in self.lives:
            life.tick()
        for poller in self.pollers:
            poller.close()
        if self.ring:
            self.record.packets = self.ring.packets()
            for sock in self.ring.socks:
                sock.close()
        if self.watcher:
            self.watcher.end()
        for host, node, start in zip(self.hosts, self._nodes, self._log_starts, strict=True):
            host.log = log_from(node, start)
        return self.record


def ignoring(read: Callable[[], None]) -> Callable[[selectors.BaseSelector], None]:
    """Return a callback of the thread that does not need its selector."""
    return lambda selector: read()  # noqa: ARG005


def log_size(node: LabHost) -> int:
    return node.process.log.stat().st_size if node.process.log.exists() else 0


def log_from(node: LabHost, start: int) -> str:
    """Return what a node's daemons have logged from a position on."""
    if not node.process.log.exists():
        return ""
    with node.process.log.open("rb") as file:
        file.seek(start)
        return file.read().decode(errors="backslashreplace")


def ring_of(nodes: Sequence[LabHost]) -> Ring | None:
    """Return the ring of the pods that are plugged in, if there are two."""
    pods = []
    for node in nodes[:POLLED_HOSTS]:
        if Path("/run/netns", node.pod_namespace).exists() and node.env():
            with Namespace(node.pod_namespace).inside():
                sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
            try:
                sock.bind((str(node.pod_address), PORT))
            except OSError:  # the pod is that of an earlier subnet
                sock.close()
                continue
            sock.setblocking(False)
            pods.append((node.name, str(node.pod_address), sock))
    if len(pods) > 1:
        return Ring(pods)
    for _, _, sock in pods:
        sock.close()
    return None


class Watch:
    """All observers of one test."""

    def __init__(self) -> None:
        actions.listen()
        self._began_s = time.monotonic()
        self._labs: dict[int, LabWatch] = {}
        self._lock = threading.Lock()
        self._selector = selectors.DefaultSelector()
        self._over = threading.Event()
        self._thread: threading.Thread | None = None
        self._error: BaseException | None = None

    def add(self, lab: Lab, members: Members | None = None, twin: LabHost | None = None) -> None:
        """Watch a laboratory whose wires are laid; once.

        Args:
            lab: whose hosts and etcd are watched.
            members: the etcd that is used in the place of its own.
            twin: another daemon on one of the hosts, to be watched in addition.
        """
        key = id(twin or lab)
        if key in self._labs:
            return
        watch = LabWatch(lab, (twin,) if twin else lab.nodes, members, twin=twin is not None)
        with self._lock:
            self._labs[key] = watch
            watch.register(self._selector)
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="observers", daemon=True)
            self._thread.start()

    def _run(self) -> None:
        lives_s = 0.0
        try:
            while not self._over.is_set():
                now = time.monotonic()
                lives = now >= lives_s
                lives_s = now + LIVES_S if lives else lives_s
                with self._lock:
                    for lab in self._labs.values():
                        lab.tick(self._selector, now, lives=lives)
                for key, _ in self._selector.select(LOOK_S):
                    key.data(self._selector)
        except BaseException as error:
            self._error = error

    def records(self) -> list[Record]:
        """Return what has been seen so far, but for what is read at the end."""
        return [lab.record for lab in self._labs.values()]

    def finish(self) -> list[Record]:
        """Stop watching and return what was seen of each laboratory."""
        try:
            self._settle()
        finally:
            self._over.set()
            if self._thread is not None:
                self._thread.join()
            records = [lab.close() for lab in self._labs.values()]
            self._selector.close()
        if self._error is not None:
            raise self._error
        for record in records:
            record.actions = actions.since(self._began_s)
        return records

    def _settle(self) -> None:
        """Wait until the histories are complete, which they nearly always are."""
        give_up_s = time.monotonic() + SETTLE_S
        watchers = [lab.watcher for lab in self._labs.values() if lab.watcher]
        while self._error is None and any(watcher.behind() for watcher in watchers):
            for watcher in watchers:
                watcher.elsewhere()
            if time.monotonic() > give_up_s:
                for watcher in watchers:
                    watcher.history.blind = watcher.history.blind or "the watch did not come to the end"
                return
            time.sleep(0.02)
