"""The daemon's start, gone through without a write: what it would do on this host. Shell side; it asks the ports.

It goes the daemon's own way and takes the daemon's own decisions, as far as the first round of the routes:
``first_link``, ``usable_config``, ``prepare``, ``decide``, the peers' table, the plan of the routes, the jobs of the
firewall.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from ipaddress import IPv4Network
from math import inf

from pyflanneld.core.etcd_types import Record, Renewal, Snapshot
from pyflanneld.core.families import Network
from pyflanneld.core.invalid import Invalid
from pyflanneld.core.lease.allocation import Claim, Discard, Exhausted, Reuse, count_free
from pyflanneld.core.lease.codec import TTL_S, SubnetKey, encode_name, encode_value
from pyflanneld.core.lease.ownership import OwnLease, Rewrite, assess, confirmed
from pyflanneld.core.network.config import NetworkConfig, SubnetRange
from pyflanneld.core.peers.table import View
from pyflanneld.core.routes.plan import (
    Drop,
    KernelRoute,
    Plan,
    Route,
    is_blackhole_of_ours,
    plan_blackholes,
    plan_routes,
)
from pyflanneld.core.status.dry_run import (
    Act,
    DryRunStep,
    Trouble,
    file_step,
    overlap_troubles,
    peer_troubles,
    removal_step,
    route_steps,
    rules_step,
)
from pyflanneld.daemon.bootstrap import Bootstrap, prepare
from pyflanneld.errors import FirewallError, ProgramMissing, PyflanneldError
from pyflanneld.state.node import Context, Node
from pyflanneld.tasks.docker import check_bridge
from pyflanneld.tasks.firewall.jobs import FORWARD_DROPPED, forward_is_dropped, jobs_of, places_of, unasked
from pyflanneld.tasks.lease.acquire import LeaseRequest, decide
from pyflanneld.tasks.link import first_link, validation_context
from pyflanneld.tasks.network import usable_config
from pyflanneld.tasks.subnet_file import file_text


@dataclass(slots=True)
class Preview:
    """What was found out, in the order of the start."""

    steps: list[DryRunStep] = field(default_factory=list)
    troubles: list[Trouble] = field(default_factory=list)

    @property
    def starts(self) -> bool:
        """Whether the daemon would start and become a node."""
        return not any(trouble.blocks for trouble in self.troubles)

    @property
    def changes(self) -> bool:
        """Whether anything would be another afterwards."""
        return any(step.act.changes for step in self.steps)


class Stopped(PyflanneldError):
    """The daemon would not get any further."""


async def preview(context: Context) -> Preview:
    """Return what the daemon would do with this context."""
    found = Preview()
    try:
        await _join(context, found)
    except PyflanneldError as error:
        found.troubles.append(Trouble(str(error), blocks=True))
    return found


async def _join(context: Context, found: Preview) -> None:
    links, choice = await first_link(context)
    address = context.options.public_ip or choice.address
    found.steps.append(
        DryRunStep("interface", Act.KEEP, f"{choice.link.name} ({address}, MTU {choice.link.mtu})", choice.why)
    )
    config, subnet_range = await _config(context, found)
    bootstrap = prepare(context, links, choice, config, subnet_range)
    leases = await context.registry.list_subnets()
    lease = settle_lease(context, bootstrap.request, leases, found)
    node = bootstrap.node(context, lease)
    node.peers.apply(leases)
    _subnet_file(context, node, found)
    await _routes(context, node, found)
    await _rules(context, node, found)
    _look_around(context, bootstrap, node, found)


async def _config(context: Context, found: Preview) -> tuple[NetworkConfig, SubnetRange[IPv4Network]]:
    key = f"{context.options.prefix}/config"
    record = await context.registry.read_config()
    where = f"{context.registry.endpoint}, API v{context.registry.api}"
    if record.value is None:
        raise Stopped(f"there is no network configuration in etcd at {key} ({where}): the daemon would wait for one")
    try:
        config, subnet_range = usable_config(record.value, f"the network configuration at {key}")
    except Invalid as error:
        raise Stopped(f"the network configuration at {key} is not usable, the daemon would wait: {error}") from error
    networks = f"{subnet_range.network} in subnets of /{subnet_range.subnet_len}"
    if config.ipv6 is not None:
        networks += f", {config.ipv6.network} in /{config.ipv6.subnet_len}"
    found.steps.append(DryRunStep("etcd", Act.KEEP, where, f"{key} says {networks}, {config.backend_type}"))
    return config, subnet_range


def settle_lease(context: Context, request: LeaseRequest, leases: Snapshot, found: Preview) -> OwnLease:
    """Go through the choice of the lease; what would be deleted is left out of the next look, as it would be."""
    records: Sequence[Record] = leases.records
    while True:
        match decide(request, records, context.rng):
            case Reuse(record=record, subnet=subnet, ipv6=ipv6):
                return _reuse(request, record, SubnetKey(subnet, ipv6), found)
            case Discard(record=record, keep=keep):
                name = ascii(record.name)[2:-1]
                why = f"our own, and not one of the subnets of {request.subnet_range.network} any more"
                found.steps.append(DryRunStep("lease", Act.REMOVE, name, why))
                records = [one for one in records if one is not record]
                request = request if keep is None else replace(request, previous=keep)
            case Claim(subnet=subnet, previous_refused=refused, ipv6=ipv6):
                found.steps.append(_claim_step(request, records, SubnetKey(subnet, ipv6), refused))
                return _hypothetical(context, request, SubnetKey(subnet, ipv6))
            case Exhausted():
                raise Stopped(
                    f"{request.subnet_range.network} has no free subnet left for this node ({len(records)} keys): "
                    "the daemon would wait for one"
                )


def _reuse(request: LeaseRequest, record: Record, key: SubnetKey, found: Preview) -> OwnLease:
    public_ip, public_ipv6 = request.attrs.public_ip, request.attrs.public_ipv6
    held = confirmed(key.ipv4, public_ip, record, TTL_S, 0.0, ipv6=key.ipv6, public_ipv6=public_ipv6)
    kind = "a reservation of ours" if held.reserved else "our own lease"
    judged = assess(held, request.attrs, Renewal(record, TTL_S), 0.0)
    if isinstance(judged, Rewrite):
        why = f"{kind}, found by {public_ip}; its value would be written anew: {encode_value(request.attrs).decode()}"
        found.steps.append(DryRunStep("lease", Act.CHANGE, str(key), why))
    else:
        found.steps.append(DryRunStep("lease", Act.KEEP, str(key), f"{kind}, found by {public_ip}"))
    return replace(held, confirmed_until_s=inf)


def _claim_step(request: LeaseRequest, records: Sequence[Record], key: SubnetKey, refused: str | None) -> DryRunStep:
    if key.ipv4 == request.previous:
        return DryRunStep("lease", Act.ADD, str(key), "the subnet file names it, and it is free")
    free = count_free(records, request.subnet_range, request.underlay)
    why = f"one of {free} free subnets, drawn by lot from the first 100; {key} is an example"
    if refused is not None and request.previous is not None:
        why = f"not {request.previous}, which the subnet file names: {refused}; " + why
    return DryRunStep("lease", Act.ADD, "a free subnet" if free > 1 else str(key), why)


def _hypothetical(context: Context, request: LeaseRequest, key: SubnetKey) -> OwnLease:
    """Return the lease as it would be held: a key that is younger than all others."""
    value = encode_value(request.attrs, context.registry.api)
    record = Record(encode_name(key.ipv4, key.ipv6), value, 0, 0, lease_id=1)
    return confirmed(
        key.ipv4, request.attrs.public_ip, record, inf, 0.0, ipv6=key.ipv6, public_ipv6=request.attrs.public_ipv6
    )


def _subnet_file(context: Context, node: Node, found: Preview) -> None:
    path = context.options.subnet_file
    try:
        before = context.subnet_file.read()
    except (OSError, UnicodeDecodeError) as error:
        found.troubles.append(Trouble(f"the subnet file {path} cannot be read, and would be replaced: {error}"))
        before = ""
    found.steps.append(file_step(path, before, file_text(context, node)))


async def _routes(context: Context, node: Node, found: Preview) -> None:
    protocol = context.options.route_protocol
    present = await kernel_routes(context, node.networks)
    view, desired, todo = wanted(context, node, present)
    found.troubles += peer_troubles(view)
    idle = frozenset(drop.route.dst for drop in todo.drops)
    owned = sum(route.protocol == protocol for route in present)
    held = idle - node.guard.allow(idle, owned, context.clock.now_s())
    found.steps += route_steps(todo, desired, present, node.links, protocol=protocol, held=held)
    found.steps += _blackholes(context, node, present)
    if not node.link.up:
        found.troubles.append(Trouble(f"routes cannot be placed: {node.link.name} is down"))


async def kernel_routes(context: Context, networks: Sequence[Network]) -> list[KernelRoute]:
    """Return all routes of the families of *networks*."""
    found: list[KernelRoute] = []
    for network in networks:
        found += await context.kernel.routes(version=network.version)
    return found


def wanted(context: Context, node: Node, present: Sequence[KernelRoute]) -> tuple[View, Mapping[Network, Route], Plan]:
    """Return what the peers' leases amount to here, the routes that they want, and how to get there."""
    view = node.peers.view(validation_context(context, node))
    desired = node.backend.desired_routes(view.peers, node.link.index)
    protocol = context.options.route_protocol
    return view, desired, plan_routes(desired, present, protocol=protocol, networks=node.networks, frozen=view.frozen)


def _blackholes(context: Context, node: Node, present: Sequence[KernelRoute]) -> list[DryRunStep]:
    ours = [one for one in present if is_blackhole_of_ours(one, context.options.route_protocol, node.networks)]
    own: list[Network] = [half for half in (node.lease.subnet, node.lease.ipv6) if half is not None]
    return [
        DryRunStep("route", Act.REMOVE if isinstance(change, Drop) else Act.ADD, f"blackhole {change.route.dst}")
        for change in plan_blackholes(own if context.options.blackhole else [], ours)
    ]


async def _rules(context: Context, node: Node, found: Preview) -> None:
    for job in jobs_of(context, node):
        try:
            found.steps.append(rules_step(job.name, job.program, await job.look(take_over=True)))
        except ProgramMissing as error:
            found.troubles.append(Trouble(f"the rules for {job.name} would not be set: {error}"))
        except FirewallError as error:
            found.troubles.append(Trouble(f"the rules for {job.name} cannot be looked at: {error}"))
    for place in places_of(node):
        try:
            for removal in await unasked(context, node, place):
                where = " ".join(removal.where.values())
                found.steps.append(removal_step(where, removal.program, removal.text))
            if await forward_is_dropped(context, node, place):
                found.troubles.append(Trouble(FORWARD_DROPPED))
        except FirewallError as error:
            found.troubles.append(Trouble(f"rules that nobody asks for cannot be looked for: {error}"))


def _look_around(context: Context, bootstrap: Bootstrap, node: Node, found: Preview) -> None:
    own: list[Network] = [half for half in (node.lease.subnet, node.lease.ipv6) if half is not None]
    found.troubles += overlap_troubles(node.networks, own, bootstrap.links)
    check_bridge(context, node)
    found.troubles += [Trouble(problem.text) for problem in context.conditions.open().values()]
