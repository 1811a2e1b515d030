"""What the daemon would do on a host, as steps for an operator to read: made from the decisions it would act on."""

import enum
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from difflib import unified_diff

from pyflanneld.core.families import Network, in_order, inside, overlap
from pyflanneld.core.link.selection import Link
from pyflanneld.core.peers.table import View
from pyflanneld.core.routes.plan import Drop, KernelRoute, Plan, Route, protocol_name


class Act(enum.Enum):
    """What becomes of a thing."""

    KEEP = "keep"
    ADD = "add"
    ADOPT = "adopt"
    CHANGE = "change"
    REMOVE = "remove"
    LEAVE = "leave"
    HOLD = "hold"

    @property
    def changes(self) -> bool:
        """Whether anything would be another afterwards, now or later."""
        return self not in (Act.KEEP, Act.LEAVE)


@dataclass(frozen=True, slots=True)
class DryRunStep:
    """One thing, and what becomes of it.

    Attributes:
        part: ``"interface"``, ``"etcd"``, ``"lease"``, ``"subnet file"``, ``"route"`` or ``"firewall"``.
        what: the thing, ``"172.7.22.0/24 via 192.168.14.22 dev eth1"``.
        why: the reason, where it is not plain.
        lines: what exactly is written, line by line.
    """

    part: str
    act: Act
    what: str
    why: str = ""
    lines: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Trouble:
    """Something that an operator should know before the start.

    Attributes:
        blocks: the daemon would not start, or would wait until it is mended.
    """

    text: str
    blocks: bool = False


def file_step(path: str, before: str | None, after: str) -> DryRunStep:
    """Say what becomes of the subnet file, with the lines that differ."""
    if before == after:
        return DryRunStep("subnet file", Act.KEEP, path)
    if before is None:
        return DryRunStep("subnet file", Act.ADD, path, lines=tuple(f"+ {line}" for line in after.splitlines()))
    diff = list(unified_diff(before.splitlines(), after.splitlines(), lineterm="", n=0))[2:]
    lines = tuple(f"{line[0]} {line[1:]}" for line in diff if not line.startswith("@@"))
    return DryRunStep("subnet file", Act.CHANGE, path, lines=lines or ("  only spaces or line ends differ",))


def route_steps(
    todo: Plan,
    desired: Mapping[Network, Route],
    present: Sequence[KernelRoute],
    links: Sequence[Link],
    *,
    protocol: int,
    held: Collection[Network] = (),
) -> list[DryRunStep]:
    """Say what becomes of each route, in the order of their destinations.

    Args:
        todo: the daemon's own plan.
        desired: what it was made for.
        present: what it was made from.
        links: for their names.
        protocol: ours.
        held: destinations whose removal the withdrawal guard would not let through at once.
    """
    names = {link.index: link.name for link in links}
    owned = {route.dst: route for route in present if route.protocol == protocol}
    steps: dict[Network, DryRunStep] = {}
    for put in todo.puts:
        dst = put.route.dst
        what = _way(put.route, names)
        if dst in owned:
            steps[dst] = DryRunStep("route", Act.CHANGE, what, f"now {_rest(owned[dst], names)}")
        elif any(route.dst == dst and route.gateway == put.route.gateway for route in present):
            steps[dst] = DryRunStep(
                "route", Act.ADOPT, what, "the same route of protocol boot is there: a Go flanneld's"
            )
        else:
            steps[dst] = DryRunStep("route", Act.ADD, what)
    for drop in todo.drops:
        steps[drop.route.dst] = _drop_step(drop, names, held)
    for dst, rival in todo.blocked.items():
        why = f"a foreign route is in the way, {_rest(rival, names)} proto {protocol_name(rival.protocol)}"
        steps[dst] = DryRunStep("route", Act.LEAVE, _way(desired[dst], names), why)
    for dst, route in desired.items():
        steps.setdefault(dst, DryRunStep("route", Act.KEEP, _way(route, names)))
    return [steps[dst] for dst in in_order(steps)]


def _drop_step(drop: Drop, names: Mapping[int, str], held: Collection[Network]) -> DryRunStep:
    what = f"{drop.route.dst} {_rest(drop.route, names)}"
    if drop.route.dst in held:
        why = "no lease any more; kept until two more complete lists from etcd say so (--withdraw-guard)"
        return DryRunStep("route", Act.HOLD, what, why)
    return DryRunStep("route", Act.REMOVE, what, "ours, and no lease asks for it any more")


def _way(route: Route, names: Mapping[int, str]) -> str:
    return f"{route.dst} via {route.gateway} dev {names.get(route.link_index, '?')}"


def _rest(route: KernelRoute, names: Mapping[int, str]) -> str:
    """Return a route as ``ip route`` shows it, without its destination."""
    if route.blackhole:
        return "blackhole"
    parts = [f"via {route.gateway}"] if route.gateway else []
    parts += [f"dev {names.get(route.link_index, route.link_index)}"] if route.link_index else []
    return " ".join(parts) or "of another kind"


def rules_step(name: str, program: str, transaction: str) -> DryRunStep:
    """Say what becomes of the rules for *name*: the transaction that the daemon would make, empty when all is well."""
    what = f"{name} in {program}"
    if not transaction:
        return DryRunStep("firewall", Act.KEEP, what)
    lines = [line for line in transaction.splitlines() if line and line != "COMMIT"]
    takes_over = any(line.startswith("-D") for line in lines)
    why = "rules of an earlier flanneld are taken over" if takes_over else ""
    return DryRunStep("firewall", Act.ADOPT if takes_over else Act.ADD, what, why, tuple(lines))


def removal_step(where: str, program: str, transaction: str) -> DryRunStep:
    """Say that rules go."""
    lines = [line for line in transaction.splitlines() if line and line != "COMMIT"]
    return DryRunStep("firewall", Act.REMOVE, f"{where} in {program}", "nobody asks for them", tuple(lines))


def peer_troubles(view: View) -> list[Trouble]:
    """Say which keys would not be believed, and which belong to another backend."""
    found = [
        Trouble(f"the lease {_name(name)} is not believed ({why.reason}): {why.detail}")
        for name, why in sorted(view.quarantined.items())
    ]
    found += [
        Trouble(f"the lease {_name(name)} is of another backend and gets no route")
        for name in sorted(view.foreign_backends)
    ]
    return found


def _name(name: bytes) -> str:
    return ascii(name[:120])[2:-1]


def overlap_troubles(networks: Collection[Network], own: Collection[Network], links: Iterable[Link]) -> list[Trouble]:
    """Say which networks of this host lie inside the cluster's: peers there are not believed.

    Args:
        networks: the cluster's.
        own: what this node leases; a bridge there is as it should be.
        links: this host's.
    """
    return [
        Trouble(f"the cluster's network {network} overlaps {there} of {link.name}: no peer is believed there")
        for link in links
        for there in connected(link)
        for network in networks
        if overlap(there, network) and not any(inside(there, subnet) for subnet in own)
    ]


def connected(link: Link) -> list[Network]:
    """Return the networks that are directly connected at *link*."""
    return [*(own.network for own in link.addresses), *(own.network for own in link.addresses6)]
