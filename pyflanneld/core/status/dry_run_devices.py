"""What the daemon would do with its devices and their entries, as steps for an operator. Pure."""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

from pyflanneld.core.link.selection import Link
from pyflanneld.core.objects.kind import Kind
from pyflanneld.core.objects.plan import Create, Drop, KernelChange, Plan, Replace
from pyflanneld.core.status.dry_run import Action, DryRunStep
from pyflanneld.core.vxlan.device import Device, LinkAddress, Tunnel, plan_device


def device_steps(device: Device, links: Sequence[Link]) -> tuple[list[DryRunStep], str]:
    """Return what the daemon does with a device, and what is in the way; empty: nothing is."""
    todo = plan_device(device, links)
    changes = [_device_step(change, device) for change in todo.changes]
    if not changes and not todo.problem:
        changes = [DryRunStep("device", Action.KEEP, _described(device))]
    return changes, todo.problem


def _device_step(change: KernelChange, device: Device) -> DryRunStep:
    match change:
        case Create(Device()):
            return DryRunStep("device", Action.ADD, _described(device), f"with {device.address}")
        case Replace(Device()):
            return DryRunStep("device", Action.CHANGE, _described(device), "it is down, or has another MAC or MTU")
        case Replace(Tunnel(_, vxlan)):
            why = f"local {vxlan.local}, {'' if vxlan.learning else 'no'}learning"
            return DryRunStep("device", Action.CHANGE, device.name, why)
        case Drop(Link()):
            return DryRunStep("device", Action.REMOVE, device.name, "made anew: its port or GBP is another one")
        case Drop(LinkAddress(_, interface)):
            return DryRunStep("device", Action.REMOVE, f"{interface} of {device.name}", "not this host's address")
    return DryRunStep("device", Action.ADD, f"{device.address} of {device.name}")


def _described(device: Device) -> str:
    one = device.vxlan
    return f"{device.name} (VNI {one.vni}, UDP port {one.port}, MAC {one.mac}, MTU {device.mtu})"


def with_devices(links: Sequence[Link], devices: Iterable[Device]) -> tuple[Link, ...]:
    """Return *links* as they are once the devices are as wanted; one that is not there has a number of its own."""
    found = list(links)
    for device in devices:
        there = next((link for link in found if link.name == device.name), None)
        index = there.index if there is not None else 1 + max(link.index for link in found)
        made = Link(index, device.name, device.mtu, up=True, addresses=(), vxlan=device.vxlan)
        found = [link for link in found if link is not there] + [_with_address(made, device)]
    return tuple(found)


def _with_address(link: Link, device: Device) -> Link:
    own: Any = (device.address,)
    return replace(link, addresses=own) if device.address.version == 4 else replace(link, addresses6=own)


def entry_steps(kind: Kind[Any, Any], todo: Plan[Any, Any], wanted: int) -> list[DryRunStep]:
    """Return what the daemon does with the entries of one kind: how many of each change, there may be thousands."""
    actions = Counter(Action.ADD if isinstance(put, Create) else Action.CHANGE for put in todo.puts)
    actions[Action.REMOVE] = len(todo.drops)
    actions[Action.KEEP] = wanted - len(todo.puts)
    return [
        DryRunStep("entries", action, f"{count} {kind.plural if count > 1 else kind.name}")
        for action, count in actions.items() if count > 0
    ]
