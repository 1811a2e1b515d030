"""For tests of the firewall: both forms of iptables side by side, and a host with something behind each of its cables.

    pod 172.7.21.2 ── host 172.7.21.1
                      host 192.168.14.21 ── peer 192.168.14.22, and behind it the pod 172.7.22.2
                      host 198.51.100.21 ── world 198.51.100.9

The same in IPv6: pod 2001:cafe:42:7::2, peer 2001:db8:14::22 with 2001:cafe:42:8::2 behind it, world 2001:db8:c6::9.
"""

import contextlib
import os
import re
import shutil
import socket
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, replace
from ipaddress import IPv6Interface
from pathlib import Path
from typing import Any

from pyflanneld.firewall.command_runner import Programs
from pyflanneld.firewall.programs import firewall_programs
from tests.support.fakes.node import CONFIG, FakeNode, lan
from tests.support.fakes.registry import FakeEtcd
from tests.support.network.namespaces import Namespace, namespace

FORMS = ("nft", "legacy")
NFT_CONFIG = CONFIG.replace(b'{"Network"', b'{"EnableNFTables":true,"Network"')
RESYNC_S = 0.2
POD, PEER_POD, WORLD = "172.7.21.2", "172.7.22.2", "198.51.100.9"
HOST_ON_LAN, HOST_IN_WORLD = "192.168.14.21", "198.51.100.21"
POD6, PEER_POD6, WORLD6 = "2001:cafe:42:7::2", "2001:cafe:42:8::2", "2001:db8:c6::9"
HOST_ON_LAN6, HOST_IN_WORLD6, PEER6 = "2001:db8:14::21", "2001:db8:c6::21", "2001:db8:14::22"
_DUAL = b'{"EnableIPv6":true,"IPv6Network":"2001:cafe:42::/56",'
DUAL_CONFIG, DUAL_NFT_CONFIG = CONFIG.replace(b"{", _DUAL, 1), NFT_CONFIG.replace(b"{", _DUAL, 1)
_PROGRAMS = ("iptables", "ip6tables")
_PINNED = "FLANNEL_NETWORK=172.7.0.0/16\nFLANNEL_SUBNET=172.7.21.1/24\nFLANNEL_IPV6_SUBNET=2001:cafe:42:7::1/64\n"


def form_directory(where: Path, form: str) -> str:
    """Return a directory in *where* in which ``iptables`` and its kin are of *form*, and ``nft`` is nft."""
    directory = where / f"iptables-{form}"
    if not directory.exists():
        directory.mkdir()
        for program in _PROGRAMS:
            for suffix in ("", "-save", "-restore"):
                (directory / f"{program}{suffix}").symlink_to(_real(f"{program}-{form}{suffix}"))
        (directory / "nft").symlink_to(_real("nft"))
    return os.fspath(directory)


def _real(name: str) -> str:
    path = shutil.which(name, path=f"{os.environ['PATH']}:/usr/sbin:/sbin")
    if path is None:
        raise FileNotFoundError(f"{name}: install iptables and nftables")
    return path


@dataclass(frozen=True)
class Crossing:
    """The host of the picture, with one form of iptables."""

    pod: Namespace
    host: Namespace
    peer: Namespace
    world: Namespace
    form: str
    programs: str

    def iptables(self, command: str) -> None:
        """Run iptables on the host, *command* as one would type it."""
        self.host.run(f"iptables-{self.form}", "--wait", *command.split())

    def restore(self, *lines: str) -> None:
        """Feed iptables-restore on the host, as other programs do."""
        self.host.run(f"iptables-{self.form}-restore", "--noflush", "--wait", stdin="\n".join([*lines, ""]))

    def saved(self, table: str) -> list[str]:
        """Return the chains and rules of a table, without counters."""
        lines = self.host.run(f"iptables-{self.form}-save", "-t", table).splitlines()
        return [re.sub(r" \[\d+:\d+\]$", "", line) for line in lines if line[:1] in {":", "-"}]

    def others(self, table: str) -> list[str]:
        """Return what in a table has nothing to do with flannel, comments apart."""
        return [line for line in self.saved(table) if "FLANNEL-" not in line and "flanneld " not in line]

    def dropped(self) -> int:
        """Return how many packets the policy of FORWARD has taken."""
        found = re.search(r"^:FORWARD DROP \[(\d+):", self.host.run(f"iptables-{self.form}-save", "-c"), re.MULTILINE)
        return int(found[1]) if found else 0

    @contextlib.asynccontextmanager
    async def daemon(
        self, config: bytes = CONFIG, *, env: str = _PINNED, etcd: FakeEtcd | None = None, **options: Any
    ) -> AsyncIterator[FakeNode]:
        """Run the daemon on the host, with this host's firewall programs; the rest of it is in memory."""
        cluster = etcd or FakeEtcd()
        cluster.put_config(config)
        node = FakeNode(cluster, env=env)
        node.configure(**{"iptables_resync_s": RESYNC_S, **options})
        node.kernel.set_link(replace(lan(node.host), addresses6=(IPv6Interface(f"{HOST_ON_LAN6}/64"),)))
        node.firewall_programs = firewall_programs(Programs([self.programs]))
        with self.host.inside():
            async with node.running():
                yield node


@contextlib.contextmanager
def crossing(where: Path, form: str) -> Iterator[Crossing]:
    """Lay the wires for the length of the block."""
    with contextlib.ExitStack() as stack:
        pod, host, peer, world = (stack.enter_context(namespace()) for _ in range(4))
        host.veth("docker0", "172.7.21.1/24", peer="eth0", peer_in=pod)
        host.veth("eth1", f"{HOST_ON_LAN}/24", peer="eth1", peer_in=peer)
        host.veth("eth0", f"{HOST_IN_WORLD}/24", peer="eth0", peer_in=world)
        pod.ip(f"address add {POD}/24 dev eth0")
        peer.ip("address add 192.168.14.22/24 dev eth1")
        peer.ip(f"address add {PEER_POD}/32 dev lo")
        world.ip(f"address add {WORLD}/24 dev eth0")
        pod.ip("route add default via 172.7.21.1")
        host.ip("route add 172.7.22.0/24 via 192.168.14.22")
        peer.ip(f"route add default via {HOST_ON_LAN}")
        world.ip(f"route add default via {HOST_IN_WORLD}")
        host.run("sh", "-c", "echo 1 >/proc/sys/net/ipv4/ip_forward")
        host.run("sh", "-c", "for f in /proc/sys/net/ipv4/conf/*/rp_filter; do echo 0 >$f; done")
        _lay_ipv6(pod, host, peer, world)
        yield Crossing(pod, host, peer, world, form, form_directory(where, form))


def _lay_ipv6(pod: Namespace, host: Namespace, peer: Namespace, world: Namespace) -> None:
    host.run("sh", "-c", "echo 1 >/proc/sys/net/ipv6/conf/all/forwarding")
    for space, address, link in (
        (pod, f"{POD6}/64", "eth0"), (host, "2001:cafe:42:7::1/64", "docker0"),
        (host, f"{HOST_ON_LAN6}/64", "eth1"), (peer, f"{PEER6}/64", "eth1"), (peer, f"{PEER_POD6}/128", "lo"),
        (host, f"{HOST_IN_WORLD6}/64", "eth0"), (world, f"{WORLD6}/64", "eth0"),
    ):  # fmt: skip
        space.ip(f"address add {address} dev {link} nodad")
    pod.ip("-6 route add default via 2001:cafe:42:7::1")
    host.ip(f"-6 route add 2001:cafe:42:8::/64 via {PEER6}")
    peer.ip(f"-6 route add default via {HOST_ON_LAN6}")
    world.ip(f"-6 route add default via {HOST_IN_WORLD6}")


class Way:
    """From one namespace to an address in another, a new connection for each packet.

    Args:
        sender: where packets come from, from *source* if that is given.
        receiver: where they go.
        address: the receiver's.
        source: the sender's.
    """

    def __init__(self, sender: Namespace, receiver: Namespace, address: str, *, source: str = "") -> None:
        self._sender, self._source = sender, source
        self._family = socket.AF_INET6 if ":" in address else socket.AF_INET
        with receiver.inside():
            self._socket = socket.socket(self._family, socket.SOCK_DGRAM)
        self._socket.bind((address, 0))
        self._address = self._socket.getsockname()

    def __enter__(self) -> "Way":
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()

    def send(self) -> None:
        """Send one packet."""
        with self._sender.inside(), socket.socket(self._family, socket.SOCK_DGRAM) as sending:
            sending.bind((self._source, 0))
            sending.sendto(b"x", self._address)

    def seen(self, within_s: float = 5.0) -> str:
        """Send one packet and return the source address that the receiver sees. Raises ``TimeoutError``."""
        self.send()
        self._socket.settimeout(within_s)
        return str(self._socket.recvfrom(1)[1][0])

    def arrived(self) -> bool:
        """Return whether a packet is waiting."""
        self._socket.setblocking(False)
        try:
            return bool(self._socket.recvfrom(1))
        except BlockingIOError:
            return False
