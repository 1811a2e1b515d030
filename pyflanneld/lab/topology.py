"""Tool: the network of the laboratory, created with ``ip``.

    namespace            holds
    <prefix>lan          the bridge "lan": the switch that connects all hosts and etcd
    <prefix>etcd         eth1 192.168.14.12, etcd
    <prefix>n1, n2 …     eth1 192.168.14.21, .22 …; the bridge docker0, the daemon
    <prefix>pod1, …      eth0 in the node's subnet, as in a container behind docker0

Of a second network the pods are pod1-2, pod2-2 …, and the bridge docker1. With two segments there are <prefix>lan2,
with the hosts n2, n4 … as 192.168.15.22 …, and <prefix>router between the two.

Every link is created inside these namespaces; the machine's own network is never changed. A namespace's name says to
which laboratory it belongs, so that what a crashed one left behind can be removed.
"""

import ctypes
import os
import re
import signal
import socket
import threading
from ipaddress import IPv4Interface
from pathlib import Path

from pyflanneld.lab.run import LabError, attempt, run, until

ROLE = r"(lan2?|router|etcd|n\d+|pod\d+(-\d+)?)"
NAMESPACES = Path("/run/netns")
CLONE_NEWNET = 0x40000000


def namespace(lab: str, role: str) -> str:
    """Return the name of the namespace for *role* (``lan``, ``etcd``, ``n1``, ``pod1``) in a laboratory."""
    return f"pyflanneld-{lab}.{role}"


def existing(lab: str) -> list[str]:
    """Return the names of the laboratory's namespaces that exist now."""
    if not NAMESPACES.is_dir():
        return []
    mine = re.compile(re.escape(f"pyflanneld-{lab}.") + ROLE)
    return sorted(path.name for path in NAMESPACES.iterdir() if mine.fullmatch(path.name))


def add_namespace(name: str, *, forwarding: bool = False) -> None:
    """Create a namespace with its loopback up; with *forwarding*, it routes."""
    run("ip", "netns", "add", name)
    run("ip", "-n", name, "link", "set", "lo", "up")
    if forwarding:
        run("ip", "netns", "exec", name, "sh", "-c", "echo 1 > /proc/sys/net/ipv4/ip_forward")


def add_lan(name: str) -> None:
    """Create the namespace whose bridge is the LAN."""
    add_namespace(name)
    run("ip", "-n", name, "link", "add", "lan", "type", "bridge")
    run("ip", "-n", name, "link", "set", "lan", "up")


def plug_in(lan: str, host: str, address: IPv4Interface, port: str, link: str = "eth1") -> None:
    """Connect the LAN's bridge to a host, as its *link*."""
    run("ip", "-n", lan, "link", "add", port, "type", "veth", "peer", "name", link, "netns", host)
    run("ip", "-n", lan, "link", "set", port, "master", "lan", "up")
    run("ip", "-n", host, "addr", "add", str(address), "dev", link)
    run("ip", "-n", host, "link", "set", link, "up")


def add_router(name: str, *lans: str) -> None:
    """Create the router between the segments: 192.168.14.1, 192.168.15.1 ..."""
    add_namespace(name, forwarding=True)
    for number, lan in enumerate(lans, 1):
        plug_in(lan, name, IPv4Interface(f"192.168.{13 + number}.1/24"), "router", f"eth{number}")


def use_router(host: str, address: IPv4Interface) -> None:
    """Give a host with this *address* the default route through the router of its segment."""
    run("ip", "-n", host, "route", "add", "default", "via", str(address.network.network_address + 1))


def set_docker_bridge(host: str, address: IPv4Interface, mtu: int, bridge: str = "docker0") -> None:
    """Give the host's *bridge* this address and MTU, as ``dockerd --bip --mtu`` does; create it if necessary."""
    if attempt("ip", "-n", host, "link", "show", bridge).returncode != 0:
        run("ip", "-n", host, "link", "add", bridge, "type", "bridge")
    run("ip", "-n", host, "addr", "flush", "dev", bridge)
    run("ip", "-n", host, "addr", "add", str(address), "dev", bridge)
    run("ip", "-n", host, "link", "set", bridge, "mtu", str(mtu), "up")


def set_pod(
    host: str, pod: str, address: IPv4Interface, gateway: IPv4Interface, mtu: int, bridge: str = "docker0"
) -> None:
    """Attach a pod to the host's *bridge*, with a default route; replace an earlier pod."""
    link = "pod" if bridge == "docker0" else f"pod-{bridge}"
    attempt("ip", "-n", host, "link", "del", link)  # now; with the namespace it would be removed a moment later
    remove_namespace(pod)
    add_namespace(pod)
    run("ip", "-n", host, "link", "add", link, "type", "veth", "peer", "name", "eth0", "netns", pod)
    run("ip", "-n", host, "link", "set", link, "master", bridge, "mtu", str(mtu), "up")
    run("ip", "-n", pod, "addr", "add", str(address), "dev", "eth0")
    run("ip", "-n", pod, "link", "set", "eth0", "mtu", str(mtu), "up")
    run("ip", "-n", pod, "route", "add", "default", "via", str(gateway.ip))


def processes_in(name: str) -> list[int]:
    """Return the ids of all processes in a namespace."""
    return [int(pid) for pid in attempt("ip", "netns", "pids", name).stdout.split()]


def remove_namespace(name: str) -> None:
    """Kill all processes in a namespace and remove it, with its links, addresses and routes."""
    kill_all(name)
    attempt("ip", "netns", "del", name)


def kill_all(name: str) -> None:
    """Kill the processes of a namespace and wait until none is left."""

    def none_left() -> bool:
        pids = processes_in(name)
        for pid in pids:
            kill(pid, signal.SIGKILL)
        return not pids

    until(none_left, f"processes of {name} ended", timeout_s=5.0, poll_s=0.02)


def kill(pid: int, number: signal.Signals) -> None:
    """Send a signal to a process, unless it has ended."""
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        return


def connect_namespaces(name: str, host: str, port: int, timeout_s: float) -> socket.socket:
    """Open a TCP connection as a process inside a namespace would, without starting one.

    A socket belongs to the namespace of the thread that created it, so a short-lived thread enters the namespace
    (``setns``, see namespaces(7)), creates the socket and ends.

    Raises:
        OSError: the connection fails.
    """
    made: list[socket.socket] = []

    def make() -> None:
        with (NAMESPACES / name).open() as target:
            if ctypes.CDLL(None, use_errno=True).setns(target.fileno(), CLONE_NEWNET) == 0:
                made.append(socket.socket(socket.AF_INET, socket.SOCK_STREAM))

    if not (NAMESPACES / name).exists():
        raise LabError(f"there is no namespace {name}")
    thread = threading.Thread(target=make, name=f"setns {name}")
    thread.start()
    thread.join()
    if not made:
        raise LabError(f"cannot enter the namespace {name}")
    made[0].settimeout(timeout_s)
    try:
        made[0].connect((host, port))
    except OSError:
        made[0].close()
        raise
    return made[0]
