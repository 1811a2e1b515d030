"""What the daemon would do on a host, as steps for an operator: made from the decisions that it would act on."""

import enum
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from difflib import unified_diff

from pyflanneld.core.families import Network, in_order, inside, overlap
from pyflanneld.core.lease.codec import SubnetKey
from pyflanneld.core.link.selection import Link
from pyflanneld.core.objects.plan import Drop
from pyflanneld.core.peers.table import View
from pyflanneld.core.routes import BOOT, KernelRoute, Route, RoutePlan, is_as_wanted, protocol_name


class Action(enum.Enum):
    """What the daemon does with a thing."""

    KEEP = "keep"
    ADD = "add"
    ADOPT = "adopt"
    CHANGE = "change"
    REMOVE = "remove"
    LEAVE = "leave"
    HOLD = "hold"

    @property
    def changes(self) -> bool:
        """Whether anything would be changed, now or later."""
        return self not in (Action.KEEP, Action.LEAVE)


@dataclass(frozen=True, slots=True)
class DryRunStep:
    """One thing, and what the daemon does with it.

    Attributes:
        part: ``"interface"``, ``"etcd"``, ``"lease"``, ``"subnet file"``, ``"device"``, ``"entries"``, ``"route"`` or
            ``"firewall"``.
        what: the thing, ``"172.7.22.0/24 via 192.168.14.22 dev eth1"``.
        why: the reason, where it is not obvious.
        lines: what exactly is written, line by line.
    """

    part: str
    action: Action
    what: str
    why: str = ""
    lines: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class StartProblem:
    """Something that an operator should know before the start.

    Attributes:
        blocks: the daemon would not start, or would wait until it is fixed.
    """

    text: str
    blocks: bool = False


def file_step(path: str, before: str | None, after: str) -> DryRunStep:
    """Return what the daemon does with the subnet file, with the lines that differ."""
    if before == after:
        return DryRunStep("subnet file", Action.KEEP, path)
    if before is None:
        return DryRunStep("subnet file", Action.ADD, path, lines=tuple(f"+ {line}" for line in after.splitlines()))
    diff = list(unified_diff(before.splitlines(), after.splitlines(), lineterm="", n=0))[2:]
    lines = tuple(f"{line[0]} {line[1:]}" for line in diff if not line.startswith("@@"))
    return DryRunStep("subnet file", Action.CHANGE, path, lines=lines or ("  only spaces or line ends differ",))


def route_steps(
    todo: RoutePlan,
    desired: Mapping[Network, Route],
    present: Sequence[KernelRoute],
    links: Sequence[Link],
    *,
    protocol: int,
    held: Collection[Network] = (),
) -> list[DryRunStep]:
    """Return what the daemon does with each route, in the order of their destinations.

    Args:
        todo: the daemon's own plan.
        desired: the routes that it wants.
        present: the routes that it starts from.
        links: for their names.
        protocol: ours.
        held: destinations whose removal the withdraw guard would hold back.
    """
    names = {link.index: link.name for link in links}
    extras = {drop.object for drop in todo.extras}
    owned = {route.dst: route for route in present if route.protocol == protocol and route not in extras}
    steps: dict[Network, DryRunStep] = {}
    for put in todo.puts:
        dst = put.object.dst
        what = _next_hop(put.object, names)
        if dst in owned:
            steps[dst] = DryRunStep("route", Action.CHANGE, what, f"now {_target(owned[dst], names)}")
        elif any(route.protocol == BOOT and is_as_wanted(put.object, route) for route in present):
            steps[dst] = DryRunStep(
                "route", Action.ADOPT, what, "the same route of protocol boot is there: a Go flanneld's"
            )
        else:
            steps[dst] = DryRunStep("route", Action.ADD, what)
    for drop in todo.drops:
        steps[drop.object.dst] = _drop_step(drop, names, held)
    for dst, foreign in todo.blocked.items():
        why = f"a foreign route is in the way, {_target(foreign, names)} proto {protocol_name(foreign.protocol)}"
        steps[dst] = DryRunStep("route", Action.LEAVE, _next_hop(desired[dst], names), why)
    for dst, route in desired.items():
        steps.setdefault(dst, DryRunStep("route", Action.KEEP, _next_hop(route, names)))
    return [steps[dst] for dst in in_order(steps)] + [_extra_step(drop.object, names) for drop in todo.extras]


def _drop_step(drop: Drop[KernelRoute], names: Mapping[int, str], held: Collection[Network]) -> DryRunStep:
    what = f"{drop.object.dst} {_target(drop.object, names)}"
    if drop.object.dst in held:
        why = "no lease asks for it; kept until two more complete lists from etcd confirm that (--withdraw-guard)"
        return DryRunStep("route", Action.HOLD, what, why)
    return DryRunStep("route", Action.REMOVE, what, "ours, and no lease asks for it")


def _extra_step(route: KernelRoute, names: Mapping[int, str]) -> DryRunStep:
    what = f"{route.dst} {_target(route, names)}" + (f" tos {route.tos:#x}" if route.tos else "")
    return DryRunStep("route", Action.REMOVE, what, "ours, and one too many for this destination")


def _next_hop(route: Route, names: Mapping[int, str]) -> str:
    return f"{route.dst} via {route.gateway} dev {names.get(route.link_index, '?')}"


def _target(route: KernelRoute, names: Mapping[int, str]) -> str:
    """Return where a route leads, as ``ip route`` shows it."""
    if route.blackhole:
        return "blackhole"
    parts = [f"via {route.gateway}"] if route.gateway else []
    parts += [f"dev {names.get(route.link_index, route.link_index)}"] if route.link_index else []
    return " ".join(parts) or "of another kind"


def rules_step(name: str, program: str, transaction: str) -> DryRunStep:
    """Return what the daemon does with the rules for *name*: its transaction, empty when nothing has to change."""
    what = f"{name} in {program}"
    if not transaction:
        return DryRunStep("firewall", Action.KEEP, what)
    lines = [line for line in transaction.splitlines() if line and line != "COMMIT"]
    takes_over = any(line.startswith("-D") for line in lines)
    why = "rules of an earlier flanneld are replaced" if takes_over else ""
    return DryRunStep("firewall", Action.ADOPT if takes_over else Action.ADD, what, why, tuple(lines))


def removal_step(where: str, program: str, transaction: str) -> DryRunStep:
    """Return the removal of rules that no flag asks for."""
    lines = [line for line in transaction.splitlines() if line and line != "COMMIT"]
    return DryRunStep("firewall", Action.REMOVE, f"{where} in {program}", "no flag asks for them", tuple(lines))


def peer_problems(view: View) -> list[StartProblem]:
    """Return the keys that would be rejected, and those of another backend."""
    found = [
        StartProblem(f"the lease {_name(name)} is rejected ({why.reason}): {why.detail}")
        for name, why in sorted(view.quarantined.items())
    ]
    found += [
        StartProblem(f"the lease {_name(name)} is of another backend and gets no route")
        for name in sorted(view.foreign_backends)
    ]
    return found


def _name(name: bytes) -> str:
    return ascii(name[:120])[2:-1]


def overlap_problems(networks: Collection[Network], own: SubnetKey | None, links: Iterable[Link]) -> list[StartProblem]:
    """Return the networks of this host that overlap the cluster's: the longer prefix has the addresses they share.

    Args:
        networks: the cluster's.
        own: this host's lease; a bridge inside it is as it should be.
        links: this host's.
    """
    return [
        StartProblem(
            f"the cluster's network {network} overlaps {there} of {link.name}: there, the longer prefix counts"
        )
        for link in links
        for there in connected(link)
        for network in networks
        if overlap(there, network) and not any(inside(there, subnet) for subnet in (own.subnets if own else ()))
    ]


def connected(link: Link) -> list[Network]:
    """Return the networks that are directly connected to *link*."""
    return [*(own.network for own in link.addresses), *(own.network for own in link.addresses6)]
