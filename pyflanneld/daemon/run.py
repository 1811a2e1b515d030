"""One run, from top to bottom: link, configuration, lease; then the tasks, until somebody asks to stop.

Everything comes as an argument; ``daemon/wiring.py`` builds the real things. Stopping is cancelling: whatever state the
run is in, lease, routes, rules and file stay.
"""

import asyncio
from collections.abc import Callable, Coroutine
from ipaddress import IPv4Network
from typing import Any

from pyflanneld.core.etcd_types import Snapshot
from pyflanneld.core.link.selection import Choice
from pyflanneld.core.network.config import NetworkConfig, SubnetRange
from pyflanneld.core.status.report import Health
from pyflanneld.daemon import deferred
from pyflanneld.daemon.bootstrap import prepare
from pyflanneld.daemon.restore import Restore
from pyflanneld.daemon.status_source import DaemonStatus
from pyflanneld.errors import LeaseLost
from pyflanneld.ports import SavedStateFile
from pyflanneld.state.context import Context
from pyflanneld.state.node import Node
from pyflanneld.state.readiness import assess_health
from pyflanneld.state.wakeup import WakeUp, set_within
from pyflanneld.tasks.certificates import keep_certificates
from pyflanneld.tasks.host import watch_kernel, watch_process
from pyflanneld.tasks.lease.acquire import acquire
from pyflanneld.tasks.lease.renew import renew_lease
from pyflanneld.tasks.link import first_link
from pyflanneld.tasks.network import await_config, claim_networks, watch_config
from pyflanneld.tasks.objects.reconcile import Reconciler
from pyflanneld.tasks.peers import PeerWatcher
from pyflanneld.tasks.probe import keep_probing
from pyflanneld.tasks.saved_state import forget, keep_saved_state
from pyflanneld.tasks.subnet_file import keep_file

BEHIND_ROUTES_S = 0.5
READY_POLL_S = 0.1
Beside = Callable[["Daemon"], Coroutine[Any, Any, None]]


class Daemon:
    """A node of the network.

    Args:
        context: the ports and the settings.
        watchdog_s: how often the service manager wants to hear from us, in seconds; ``None``: it does not.
        beside: runs next to the tasks from the beginning, whatever they wait for; gets the daemon.
        hangup: woken to have certificates read again, and everything else as well.

    Attributes:
        ready: set when it has been ready for the first time.
        status_source: what the daemon reports of itself.
    """

    def __init__(
        self, context: Context, *, watchdog_s: float | None = None, beside: Beside | None = None,
        hangup: WakeUp | None = None,
    ) -> None:
        self._context = context
        self._watchdog_s = watchdog_s
        self._beside = beside
        self._hangup = hangup or WakeUp()
        self._node: Node | None = None
        self.ready = asyncio.Event()
        self.status_source = DaemonStatus(context, self._current, context.clock.now_s())

    def _current(self) -> Node | None:
        return self._node

    def health(self) -> Health:
        """Answer the probes."""
        return assess_health(self._context, self._node)

    async def run(self) -> None:
        """Run until cancelled.

        Raises:
            ExceptionGroup: of ``PyflanneldError``, from the start or from a task.
        """
        context = self._context
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(watch_process(context, self._current, self._watchdog_s), name="process")
            tasks.create_task(keep_certificates(context, self._current, self._hangup), name="certificates")
            if self._beside is not None:
                tasks.create_task(self._beside(self), name="beside")
            node, leases = await self._join()
            tasks.create_task(PeerWatcher(context, node, leases).run(), name="peers")
            tasks.create_task(watch_config(context, node), name="config")
            tasks.create_task(_keep_lease(context, node, leases), name="lease")
            self._tend(tasks, node)
            if context.ports.saved_state is not None:
                tasks.create_task(_save(context, node, context.ports.saved_state), name="saved_state")

    def _tend(self, tasks: asyncio.TaskGroup, node: Node) -> None:
        """Start the tasks that keep this host right for *node*."""
        context = self._context
        self._node = node
        tasks.create_task(_keep_firewall(context, node), name="firewall")
        tasks.create_task(keep_file(context, node), name="file")
        tasks.create_task(Reconciler(context, node).run(), name="routes")
        tasks.create_task(watch_kernel(context, node), name="kernel")
        if context.ports.prober is not None:
            tasks.create_task(keep_probing(context, node, context.ports.prober), name="probe")
        tasks.create_task(self._announce(node), name="ready")

    async def _join(self) -> tuple[Node, Snapshot]:
        """Become a node of the network; return it, and the leases at that time. Meanwhile a saved state may serve."""
        context = self._context
        links, choice = await first_link(context)
        if context.ports.saved_state is None:
            return await self._lease(choice)
        restore = Restore(context, context.ports.saved_state, links, choice)
        async with asyncio.TaskGroup() as tasks:
            restoring = tasks.create_task(restore.run(self._tend), name="restore")
            node, leases = await self._lease(choice)
            restoring.cancel()
        await claim_networks(context, node.membership.config)  # those of the saved state have been claimed since
        restore.hand_over(node, leases)
        return node, leases

    async def _lease(self, choice: Choice) -> tuple[Node, Snapshot]:
        """Wait for a configuration and a lease."""
        known: tuple[NetworkConfig, SubnetRange[IPv4Network]] | None = None
        while True:
            config, subnet_range = await await_config(self._context)
            if (config, subnet_range) != known:
                known = config, subnet_range
                await claim_networks(self._context, config)
                links = await self._context.kernel.links()  # a restored node may have made devices
                bootstrap = await prepare(self._context, links, choice, config, subnet_range)
            if (found := await acquire(self._context, bootstrap.request)) is not None:
                lease, leases = found
                return bootstrap.node(self._context, lease), leases

    async def _announce(self, node: Node) -> None:
        """Announce that the node is ready, as the probes say: Docker can start.

        Of a saved state, rules, file and routes are enough: etcd may be away for long.
        """
        await node.progress.rules.wait()
        await node.progress.file.wait()
        await node.progress.routes.wait()
        while not (node.unconfirmed or assess_health(self._context, node).ready):  # noqa: ASYNC110 - it is computed
            await asyncio.sleep(READY_POLL_S)
        self.ready.set()
        self._context.ports.notifier.send("READY=1")
        log, subnet, routes = self._context.log, str(node.lease.key), node.routes.present
        if node.unconfirmed:
            log.info("saved_state.restored", subnet=subnet, routes=routes)
        else:
            log.info("daemon.ready", subnet=subnet, routes=routes)


async def _keep_lease(context: Context, node: Node, leases: Snapshot) -> None:
    """Keep the lease; when it is another node's, no later boot may go by what was saved of it."""
    found = node.lease.record.create_revision <= leases.revision
    try:
        await renew_lease(context, node, found=found)
    except LeaseLost:
        if context.ports.saved_state is not None:
            await forget(context, node, context.ports.saved_state)
        raise


async def _save(context: Context, node: Node, file: SavedStateFile) -> None:
    """Keep what a boot without etcd goes by, from when the node is ready: the routes need none of it."""
    await node.progress.file.wait()
    await node.progress.routes.wait()
    await keep_saved_state(context, node, file)


async def _keep_firewall(context: Context, node: Node) -> None:
    """Keep the rules, behind the first routes: loading the rules, and starting a program, takes longer than these."""
    await set_within(node.progress.routes, BEHIND_ROUTES_S)
    keep_firewall = await deferred.load(deferred.firewall)
    await keep_firewall(context, node)
