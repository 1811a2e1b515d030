"""One run, from top to bottom: link, configuration, lease; then the loops, until somebody says stop.

Everything comes as an argument; ``assembly.py`` builds the real things. Stopping is cancelling: whatever state the run
is in, lease, routes, rules and file stay.
"""

import asyncio
from collections.abc import Callable, Coroutine
from ipaddress import IPv4Network, IPv6Network
from typing import Any

from pyflanneld.backends import BACKENDS
from pyflanneld.core.allocation import Demand6
from pyflanneld.core.firewall import Family
from pyflanneld.core.guard import WithdrawGuard
from pyflanneld.core.health import Verdict
from pyflanneld.core.links import Link
from pyflanneld.core.netconf import SubnetRange6
from pyflanneld.core.peers import PeerTable
from pyflanneld.core.records import Snapshot
from pyflanneld.loops.acquire import Wish, acquire
from pyflanneld.loops.config import await_config
from pyflanneld.loops.firewall import keep_firewall
from pyflanneld.loops.follow import Follower
from pyflanneld.loops.hold import hold_lease
from pyflanneld.loops.link import check_public_ip, first_link
from pyflanneld.loops.node import Context, Node, publish
from pyflanneld.loops.observe import Observer
from pyflanneld.loops.reconcile import Reconciler
from pyflanneld.loops.rules import check_programs
from pyflanneld.loops.subnet_file import keep_file, remembered_network, remembered_subnet, remembered_subnet6
from pyflanneld.loops.watchers import watch_kernel, watch_process

Beside = Callable[["Daemon"], Coroutine[Any, Any, None]]


class Daemon:
    """A node of the network.

    Args:
        context: the ports and the settings.
        watchdog_s: how often the service manager wants to hear from us, in seconds; ``None``: it does not.
        beside: runs beside the loops from the beginning, whatever they wait for; gets the daemon.

    Attributes:
        observer: what the daemon tells of itself.
        ready: set when it has been ready for the first time.
    """

    def __init__(self, context: Context, *, watchdog_s: float | None = None, beside: Beside | None = None) -> None:
        self._context = context
        self._watchdog_s = watchdog_s
        self._beside = beside
        self._node: Node | None = None
        self.observer = Observer(context, lambda: self._node)
        self.ready = asyncio.Event()

    def health(self) -> Verdict:
        """Answer the probes."""
        return self.observer.health()

    async def run(self) -> None:
        """Run until cancelled.

        Raises:
            ExceptionGroup: of ``PyflanneldError``, from the start or from a loop.
        """
        context = self._context
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(watch_process(context, lambda: self._node, self._watchdog_s), name="process")
            if self._beside is not None:
                tasks.create_task(self._beside(self), name="operator")
            node, leases = await self._join()
            self._node = node
            tasks.create_task(keep_firewall(context, node), name="firewall")
            tasks.create_task(keep_file(context, node), name="file")
            tasks.create_task(Follower(context, node, leases).run(), name="peers")
            tasks.create_task(Reconciler(context, node).run(), name="routes")
            tasks.create_task(hold_lease(context, node), name="lease")
            tasks.create_task(watch_kernel(context, node), name="kernel")
            tasks.create_task(self._announce(node), name="ready")

    async def _join(self) -> tuple[Node, Snapshot]:
        """Become a node of the network; return it, and the leases at that time."""
        context = self._context
        links, choice = await first_link(context)
        config, among = await await_config(context)
        families = [Family.IPV4] if config.ipv6 is None else [Family.IPV4, Family.IPV6]
        check_programs(context, families, nft=config.nftables)
        backend = BACKENDS[config.backend_type]
        check_public_ip(context, choice.link, backend, ipv6=config.ipv6 is not None)
        attrs = publish(context.options, choice, backend, ipv6=config.ipv6 is not None)
        assert attrs is not None  # noqa: S101 - first_link and check_public_ip have seen the addresses
        underlay = [own.network for own in choice.link.addresses]
        underlay += [IPv4Network(one) for one in context.options.protected]
        network_before = remembered_network(context)
        wish = Wish(
            among, attrs, previous=remembered_subnet(context), underlay=tuple(underlay),
            ipv6=self._demand6(config.ipv6, choice.link),
        )
        lease, leases = await acquire(context, wish)
        node = Node(
            guard=WithdrawGuard(enabled=context.options.withdraw_guard),
            among=among, backend=backend, nftables=config.nftables, network_before=network_before,
            links=links, choice=choice, lease=lease, peers=PeerTable(lease.record.name), among6=config.ipv6,
        )
        return node, leases

    def _demand6(self, among: SubnetRange6 | None, link: Link) -> Demand6 | None:
        if among is None:
            return None
        underlay = [own.network for own in link.addresses6]
        underlay += [IPv6Network(one) for one in self._context.options.protected6]
        return Demand6(among, remembered_subnet6(self._context), tuple(underlay))

    async def _announce(self, node: Node) -> None:
        """Say that we are ready when the rules are in place, the file is on disk and the first round is done."""
        await node.rules_placed.wait()
        await node.file_written.wait()
        await node.reconciled.wait()
        self.ready.set()
        self._context.notifier.send("READY=1")
        self._context.log.info("daemon.ready", subnet=str(node.lease.key), routes=node.present)
