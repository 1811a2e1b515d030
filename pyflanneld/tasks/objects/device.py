"""Keep the backend's own devices as they are wanted. While one cannot be had, nothing is put that leads through it."""

import asyncio
import errno
from collections.abc import Sequence
from math import inf

from pyflanneld.core.link.selection import Link
from pyflanneld.core.objects.plan import Create, Drop, KernelChange
from pyflanneld.core.vxlan.device import Device, LinkAddress, Tunnel, plan_device
from pyflanneld.state.context import Context
from pyflanneld.state.node import Node
from pyflanneld.tasks.link import follow_link

STEPS = 4  # made anew, changed, its address put, a wrong one removed
RETRY_S = 2.0
TOPIC = "device"


class DeviceKeeper:
    """Makes and repairs the devices of one node.

    Attributes:
        complete: whether all of them are as they should be.
        due_s: when to try again what the kernel has refused, on the event loop's clock: nobody tells that a port is
            free, and each try makes and unmakes a device.
    """

    def __init__(self, context: Context, node: Node) -> None:
        self.complete = True
        self.due_s = inf
        self._context = context
        self._node = node
        self._refused: tuple[Sequence[KernelChange], list[str]] = (), []

    async def keep(self) -> None:
        """Make the devices as they are wanted, as far as that can be done.

        Raises:
            KernelError: netlink has failed.
        """
        for _ in range(STEPS):
            changes, problems = self._due()
            if not problems and changes:
                problems = await self._apply(changes)
            if problems or not changes:
                break
            follow_link(self._context, self._node, await self._context.kernel.links())
        self.complete = not problems
        if problems:
            self._context.conditions.report(TOPIC, "device.failed", "; ".join(problems))
        else:
            self._context.conditions.resolve(TOPIC)

    def _due(self) -> tuple[list[KernelChange], list[str]]:
        """Return what is to be done now, and what is in the way."""
        node, changes, problems = self._node, list[KernelChange](), list[str]()
        for device in node.backend.devices(node.host):
            todo = plan_device(device, node.links)
            problems += [todo.problem] if todo.problem else []
            changes += todo.changes
        if node.unconfirmed and any(isinstance(change, Drop) for change in changes):
            problems.append("a device has to be made anew, which waits until etcd has confirmed what was saved")
        return changes, problems

    async def _apply(self, changes: Sequence[KernelChange]) -> list[str]:
        """Make *changes*; return what the kernel refuses, and why. What it has refused just now is not tried again."""
        now_s, (before, problems) = asyncio.get_running_loop().time(), self._refused
        if problems and changes == before and now_s < self.due_s:
            return problems
        failed = await self._context.kernel.apply(changes)
        for change in changes:
            if change not in failed:
                self._log(change)
        problems = [_refusal(change, code) for change, code in failed.items()]
        self._refused, self.due_s = (changes, problems), now_s + RETRY_S if problems else inf
        return problems

    def _log(self, change: KernelChange) -> None:
        log, one = self._context.log, change.object
        match one:
            case Device():
                event = "device.made" if isinstance(change, Create) else "device.changed"
                log.info(event, device=one.name, mac=one.vxlan.mac, local=str(one.vxlan.local), mtu=one.mtu)
            case Link():
                log.warning("device.dropped", device=one.name, why="its VNI, port or GBP is another one now")
            case Tunnel():
                log.info("device.changed", device=one.name, mac=one.vxlan.mac, local=str(one.vxlan.local))
            case LinkAddress():
                event = "device.address_dropped" if isinstance(change, Drop) else "device.address_put"
                log.info(event, address=str(one.interface))


def _refusal(change: KernelChange, code: int) -> str:
    one, why = change.object, errno.errorcode.get(code, str(code))
    if isinstance(one, Device):
        if code == errno.EADDRINUSE:
            why = f"another program or device has the UDP port {one.vxlan.port}: ss -lunp 'sport = {one.vxlan.port}'"
        return f"the kernel refuses the device {one.name}: {why}"
    return f"the kernel refuses {getattr(one, 'interface', one)} on the device: {why}"


