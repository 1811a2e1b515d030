"""One run, from top to bottom: link, configuration, lease; then the loops, until somebody says stop.

Everything comes as an argument; ``daemon/wiring.py`` builds the real things. Stopping is cancelling: whatever state the
run is in, lease, routes, rules and file stay.
"""

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from functools import cached_property
from ipaddress import IPv4Network
from typing import TYPE_CHECKING, Any

from pyflanneld.core.etcd_types import Snapshot
from pyflanneld.core.link.selection import Choice, Link
from pyflanneld.core.network.config import NetworkConfig, SubnetRange
from pyflanneld.core.status.report import Health
from pyflanneld.daemon.bootstrap import prepare
from pyflanneld.errors import LeaseLost
from pyflanneld.ports import SavedStateFile
from pyflanneld.state.lazy_import import load_module
from pyflanneld.state.node import Context, Node, assess_health
from pyflanneld.state.wakeup import set_within
from pyflanneld.tasks.certificates import keep_certificates
from pyflanneld.tasks.host import watch_kernel, watch_process
from pyflanneld.tasks.lease.acquire import acquire
from pyflanneld.tasks.lease.renew import renew_lease
from pyflanneld.tasks.link import first_link
from pyflanneld.tasks.network import await_config
from pyflanneld.tasks.network_watch import watch_config
from pyflanneld.tasks.peers import PeerWatcher
from pyflanneld.tasks.routes.reconcile import Reconciler
from pyflanneld.tasks.subnet_file import keep_file

if TYPE_CHECKING:
    from pyflanneld.daemon.status_source import DaemonStatus

BEHIND_ROUTES_S = 0.5
Beside = Callable[["Daemon"], Coroutine[Any, Any, None]]


class Daemon:
    """A node of the network.

    Args:
        context: the ports and the settings.
        watchdog_s: how often the service manager wants to hear from us, in seconds; ``None``: it does not.
        beside: runs beside the loops from the beginning, whatever they wait for; gets the daemon.
        hangup: set to have certificates read again, and everything looked at.

    Attributes:
        ready: set when it has been ready for the first time.
    """

    def __init__(
        self, context: Context, *, watchdog_s: float | None = None, beside: Beside | None = None,
        hangup: asyncio.Event | None = None,
    ) -> None:
        self._context = context
        self._watchdog_s = watchdog_s
        self._beside = beside
        self._hangup = hangup or asyncio.Event()
        self._node: Node | None = None
        self._started_s = context.clock.now_s()
        self.ready = asyncio.Event()

    def health(self) -> Health:
        """Answer the probes."""
        return assess_health(self._context, self._node)

    @cached_property
    def observer(self) -> "DaemonStatus":
        """What the daemon tells of itself; made, and loaded, when somebody asks."""
        from pyflanneld.daemon.status_source import DaemonStatus

        return DaemonStatus(self._context, lambda: self._node, self._started_s)

    async def run(self) -> None:
        """Run until cancelled.

        Raises:
            ExceptionGroup: of ``PyflanneldError``, from the start or from a loop.
        """
        context = self._context
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(watch_process(context, lambda: self._node, self._watchdog_s), name="process")
            looking = keep_certificates(context, lambda: self._node, self._hangup)
            tasks.create_task(looking, name="certificates")
            if self._beside is not None:
                tasks.create_task(self._beside(self), name="beside")
            node, leases = await self._join()
            tasks.create_task(PeerWatcher(context, node, leases).run(), name="peers")
            tasks.create_task(watch_config(context, node), name="config")
            tasks.create_task(_hold(context, node), name="lease")
            self._tend(tasks, node)
            if context.saved_state is not None:
                tasks.create_task(_save(context, node, context.saved_state), name="last_good")

    def _tend(self, tasks: asyncio.TaskGroup, node: Node) -> None:
        """Start the loops that keep this host right for *node*."""
        context = self._context
        self._node = node
        tasks.create_task(_keep_firewall(context, node), name="firewall")
        tasks.create_task(keep_file(context, node), name="file")
        tasks.create_task(Reconciler(context, node).run(), name="routes")
        tasks.create_task(watch_kernel(context, node), name="kernel")
        if context.prober is not None:
            from pyflanneld.tasks.probe import keep_probing

            tasks.create_task(keep_probing(context, node, context.prober), name="probe")
        tasks.create_task(self._announce(node), name="ready")

    async def _join(self) -> tuple[Node, Snapshot]:
        """Become a node of the network; return it, and the leases at that time. Meanwhile another may stand in."""
        context = self._context
        links, choice = await first_link(context)
        if context.saved_state is None:
            return await self._lease(links, choice)
        await load_module("pyflanneld.daemon.restore")
        from pyflanneld.daemon.restore import Restore

        stand_in = Restore(context, context.saved_state, links, choice)
        async with asyncio.TaskGroup() as tasks:
            standing_in = tasks.create_task(stand_in.run(self._tend), name="stand_in")
            node, leases = await self._lease(links, choice)
            standing_in.cancel()
        stand_in.hand_over(node, leases)
        return node, leases

    async def _lease(self, links: Sequence[Link], choice: Choice) -> tuple[Node, Snapshot]:
        """Wait for a configuration and a lease."""
        known: tuple[NetworkConfig, SubnetRange[IPv4Network]] | None = None
        while True:
            config, subnet_range = await await_config(self._context)
            if (config, subnet_range) != known:
                known, bootstrap = (config, subnet_range), prepare(self._context, links, choice, config, subnet_range)
            if (found := await acquire(self._context, bootstrap.request)) is not None:
                lease, leases = found
                node = bootstrap.node(self._context, lease)
                node.lease_found = lease.record.create_revision <= leases.revision
                return node, leases

    async def _announce(self, node: Node) -> None:
        """Tell when the rules are in place, the file is on disk and the first round is done: Docker can be started."""
        await node.rules_placed.wait()
        await node.file_written.wait()
        await node.reconciled.wait()
        self.ready.set()
        self._context.notifier.send("READY=1")
        subnet, log = str(node.lease.key), self._context.log
        if node.saved_at_s is None:
            log.info("daemon.ready", subnet=subnet, routes=node.present)
        else:
            log.info("last_good.restored", subnet=subnet, routes=node.present)


async def _hold(context: Context, node: Node) -> None:
    """Hold the lease; when it is another node's, no later boot may go by what was saved of it."""
    try:
        await renew_lease(context, node)
    except LeaseLost:
        if context.saved_state is not None:
            from pyflanneld.tasks.saved_state import forget

            await forget(context, node, context.saved_state)
        raise


async def _save(context: Context, node: Node, file: SavedStateFile) -> None:
    """Keep what a boot without etcd goes by, from when the node is ready: the routes need none of it."""
    await node.file_written.wait()
    await node.reconciled.wait()
    await load_module("pyflanneld.tasks.saved_state")
    from pyflanneld.tasks.saved_state import keep_last_good

    await keep_last_good(context, node, file)


async def _keep_firewall(context: Context, node: Node) -> None:
    """Keep the rules, behind the first routes: loading the rules, and starting a program, takes longer than these."""
    await set_within(node.reconciled, BEHIND_ROUTES_S)
    await load_module("pyflanneld.tasks.firewall.keep")
    from pyflanneld.tasks.firewall.keep import keep_firewall

    await keep_firewall(context, node)
