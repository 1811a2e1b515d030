"""Keep the backend's own devices as they are wanted; everything else that it puts leads through them."""

import errno
from collections.abc import Sequence

from pyflanneld.core.link.selection import Link
from pyflanneld.core.objects.plan import Create, Drop, KernelChange
from pyflanneld.core.vxlan.device import Device, LinkAddress, Tunnel, plan_device
from pyflanneld.state.context import Context
from pyflanneld.state.node import Node
from pyflanneld.tasks.link import follow_link

STEPS = 4  # made anew, changed, its address put, a wrong one removed
TOPIC = "device"


class DeviceKeeper:
    """Makes and repairs the devices of one node."""

    def __init__(self, context: Context, node: Node) -> None:
        self._context = context
        self._node = node

    async def keep(self) -> bool:
        """Make the devices as they are wanted; return whether objects can be put through all of them.

        Raises:
            KernelError: netlink has failed.
        """
        for _ in range(STEPS):
            changes, problems = self._due()
            if problems or not changes:
                break
            problems = await self._apply(changes)
            if problems:
                break
            follow_link(self._context, self._node, await self._context.kernel.links())
        if problems:
            self._context.conditions.report(TOPIC, "device.failed", "; ".join(problems))
        else:
            self._context.conditions.resolve(TOPIC)
        return not problems

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
        """Make *changes*; return what the kernel refuses, and why."""
        failed = await self._context.kernel.apply(changes)
        for change in changes:
            if change not in failed:
                self._log(change)
        return [_refusal(change, code) for change, code in failed.items()]

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


