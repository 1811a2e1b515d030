"""Proof that a command changes nothing on a host of the lab, nor in its etcd."""

import contextlib
import itertools
import subprocess
from collections.abc import Iterator

from pyflanneld.lab.cluster import Lab
from pyflanneld.lab.etcd import ENDPOINT
from pyflanneld.lab.node import DAEMON, LabHost
from pyflanneld.lab.run import attempt, until
from tests.support.lab.testbed import store_of

COMMAND_TIMEOUT_S = 60.0  # a busy machine may need 20 s to load a command
_marks = itertools.count(1)


def command(node: LabHost, *words: str) -> subprocess.CompletedProcess[str]:
    """Run a sub-command of the program on a host, whatever its exit code."""
    program = ("ip", "netns", "exec", node.namespace, "env", "PYTHONWARNINGS=error", *DAEMON, *words)
    return attempt(*program, timeout_s=COMMAND_TIMEOUT_S)


def daemon_flags(node: LabHost, **changes: str) -> tuple[str, ...]:
    """Return the flags with which the lab starts a host's daemon, changed as given."""
    usual = {
        "iface": "eth1", "public_ip": str(node.address.ip), "etcd_endpoints": ENDPOINT,
        "subnet_file": str(node.subnet_file), "healthz_port": "2401", "log_format": "json",
    }  # fmt: skip
    return tuple(f"--{name.replace('_', '-')}={value}" for name, value in (usual | changes).items())


@contextlib.contextmanager
def untouched(lab: Lab, node: LabHost) -> Iterator[None]:
    """Demand that nothing changes while the block lasts: in etcd, the kernel, the firewall, the file's folder."""
    until(lambda: not node.exec("ip", "-6", "address", "show", "tentative"), "the kernel has settled its addresses")
    before = state(lab, node)
    with _changes(node) as changes:
        yield
    assert changes == [], changes
    after = state(lab, node)
    assert after == before, {name: (before[name], after[name]) for name in before if before[name] != after[name]}


def state(lab: Lab, node: LabHost) -> dict[str, object]:
    """Return all that a daemon could have changed."""
    store, folder = store_of(lab), node.subnet_file.parent
    return {
        "etcd": (store.revision(), store.leases(), store.kvs()),
        "links": node.exec("sh", "-c", "ls /sys/class/net; cat /sys/class/net/*/mtu"),
        "routes": node.exec("ip", "-N", "-d", "route", "show", "table", "all"),
        "rules": node.exec("nft", "-s", "list", "ruleset"),
        "legacy tables": node.exec("sh", "-c", "cat /proc/net/ip_tables_names 2>/dev/null || true"),
        "files": {path.name: (path.stat().st_mtime_ns, path.stat().st_ino) for path in folder.glob("*.env*")},
        "file": node.subnet_file.read_bytes() if node.subnet_file.exists() else None,
    }


@contextlib.contextmanager
def _changes(node: LabHost) -> Iterator[list[str]]:
    """Give the list of what ``ip monitor`` has told, once the block has ended."""
    told: list[str] = []
    log = node.process.folder / f"monitor{next(_marks)}"
    with log.open("wb") as out:
        monitor = subprocess.Popen(
            ["ip", "-n", node.namespace, "monitor", "address", "route", "rule"], stdout=out
        )
        try:
            _mark(node, log)
            start = log.stat().st_size
            yield told
            _mark(node, log)
            lines = log.read_bytes()[start:].decode().splitlines()
            told += [line for line in lines if "table 77" not in line]
        finally:
            monitor.kill()
            monitor.wait()
            log.unlink()


def _mark(node: LabHost, log: object) -> None:
    """Make a change of our own, and wait until it has been told: all that came before it has been told too."""
    mark = f"198.51.100.{next(_marks) % 250}"

    def told() -> bool:
        node.exec("ip", "route", "add", "blackhole", mark, "table", "77")
        node.exec("ip", "route", "del", "blackhole", mark, "table", "77")
        with open(str(log), encoding="utf-8") as file:  # noqa: PTH123
            return file.read().count(mark) >= 2

    until(told, "ip monitor tells of a mark", 10.0, 0.05)
