"""The daemon's start without a write: what it would do on this host. Shell side; it reads through the ports.

It calls the functions by which the daemon decides, in the daemon's order, up to the first round of the routes:
``first_link``, ``usable_config``, ``prepare``, ``decide``, the peers' table, the plan of the routes, the jobs of the
firewall. The daemon's tasks themselves do not run here on recording ports: they retry and wait for ever where a plan
has to end with the reason, they read back what they wrote, so the ports would have to emulate etcd and iptables, and
nothing records what stays as it is and why.
"""

from collections.abc import Sequence
from dataclasses import replace
from ipaddress import IPv4Network
from math import inf

from pyflanneld.core.etcd_types import Record, Renewal, Snapshot
from pyflanneld.core.families import Network
from pyflanneld.core.host import overlap_text
from pyflanneld.core.invalid import Invalid, shown
from pyflanneld.core.lease.allocation import Claim, Discard, Exhausted, Reuse, count_free
from pyflanneld.core.lease.codec import TTL_S, SubnetKey, encode_name, encode_value
from pyflanneld.core.lease.ownership import OwnLease, Rewrite, assess, confirmed
from pyflanneld.core.network.config import NetworkConfig, SubnetRange
from pyflanneld.core.network.go_versions import refusals
from pyflanneld.core.objects.plan import Drop, plan
from pyflanneld.core.peers.table import View
from pyflanneld.core.routes import KernelRoute, RoutePlan, is_blackhole_of_ours, plan_blackholes
from pyflanneld.core.status.dry_run import (
    Action,
    DryRunStep,
    StartProblem,
    file_step,
    overlap_problems,
    peer_problems,
    removal_step,
    route_steps,
    rules_step,
)
from pyflanneld.core.status.dry_run_devices import device_steps, entry_steps, with_devices
from pyflanneld.daemon.bootstrap import prepare
from pyflanneld.errors import FirewallError, ProgramMissing, PyflanneldError
from pyflanneld.state.context import Context
from pyflanneld.state.node import Node
from pyflanneld.tasks.docker import BridgeCheck
from pyflanneld.tasks.firewall.jobs import dropped_forward, jobs_of, places_of, unasked
from pyflanneld.tasks.lease.acquire import LeaseRequest, decide
from pyflanneld.tasks.link import first_link
from pyflanneld.tasks.network import usable_config
from pyflanneld.tasks.objects.peer_review import PeerReview
from pyflanneld.tasks.subnet_file import file_text


class CannotStart(PyflanneldError):
    """The daemon would end, or wait, at this step of its start."""


class DryRun:
    """One dry run of the start.

    Attributes:
        steps: what the daemon would do, in its order.
        problems: what the operator should know before the start.
    """

    def __init__(self, context: Context) -> None:
        self.steps: list[DryRunStep] = []
        self.problems: list[StartProblem] = []
        self._context = context

    @property
    def starts(self) -> bool:
        """Whether the daemon would start and become a node."""
        return not any(problem.blocks for problem in self.problems)

    @property
    def changes(self) -> int:
        """How many of the steps change something."""
        return sum(step.action.changes for step in self.steps)

    async def run(self) -> None:
        """Go through the start, as far as the daemon would get."""
        try:
            await self._start()
        except PyflanneldError as error:
            self.problems.append(StartProblem(str(error), blocks=True))

    async def _start(self) -> None:
        context = self._context
        links, choice = await first_link(context)
        address = context.settings.public_ip or choice.address
        what = f"{choice.link.name} ({address}, MTU {choice.link.mtu})"
        self.steps.append(DryRunStep("interface", Action.KEEP, what, choice.why))
        config, subnet_range = await self._config()
        if text := overlap_text(config.networks, context.ports.host_networks.others()):
            self.problems.append(StartProblem(text, blocks=True))
        bootstrap = await prepare(context, links, choice, config, subnet_range)
        leases = await context.registry.list_subnets()
        lease, steps = choose_lease(context, bootstrap.request, leases)
        self.steps += steps
        node = bootstrap.node(context, lease)
        node.peers.apply(leases)
        await self._subnet_file(node)
        self._devices(node)
        await self._routes(node)
        await self._entries(node)
        await self._rules(node)
        self.problems += overlap_problems(node.networks, lease.key, links)
        BridgeCheck(context, node).look()
        self.problems += [StartProblem(condition.text) for condition in context.conditions.open().values()]

    async def _config(self) -> tuple[NetworkConfig, SubnetRange[IPv4Network]]:
        key = f"{self._context.settings.etcd_prefix}/config"
        record = await self._context.discovery.read_config()
        registry = self._context.registry  # it depends on where the configuration is
        where = f"{registry.endpoint}, API v{registry.api}"
        if record.value is None:
            raise CannotStart(f"there is no network configuration in etcd at {key} ({where}): the daemon would wait")
        try:
            config, subnet_range = usable_config(record.value, f"the network configuration at {key}")
        except Invalid as error:
            raise CannotStart(
                f"the network configuration at {key} is not usable: {error}: the daemon would wait"
            ) from error
        self.problems += [StartProblem(one.text) for one in refusals(record.value)]
        networks = f"{subnet_range.network} in subnets of /{subnet_range.subnet_len}"
        if config.ipv6 is not None:
            networks += f", {config.ipv6.network} in /{config.ipv6.subnet_len}"
        self.steps.append(DryRunStep("etcd", Action.KEEP, where, f"{key} says {networks}, {config.backend_type}"))
        return config, subnet_range

    async def _subnet_file(self, node: Node) -> None:
        path = str(self._context.settings.subnet_file)
        try:
            before = await self._context.ports.subnet_file.read()
        except (OSError, UnicodeDecodeError) as error:
            text = f"the subnet file {path} cannot be read, and would be replaced: {error}"
            self.problems.append(StartProblem(text))
            before = ""
        self.steps.append(file_step(path, before, file_text(self._context, node)))

    def _devices(self, node: Node) -> None:
        """Go through the backend's devices; from here on they are as wanted."""
        devices = node.backend.devices(node.host)
        for device in devices:
            steps, problem = device_steps(device, node.links)
            self.steps += steps
            if problem:
                self.problems.append(StartProblem(problem, blocks=True))
        if devices:
            node.links = with_devices(node.links, devices)
            for table, kind in zip(node.tables, node.backend.kinds(node.host), strict=True):
                table.kind = kind

    async def _entries(self, node: Node) -> None:
        """Go through what the peers need beside routes; the routes have shown which peers there are."""
        for table in node.tables:
            if table is not node.routes:
                present = [
                    one for listing in table.kind.listings(foreign=True)
                    for one in await self._context.kernel.objects(listing)
                ]  # fmt: skip
                frozen = node.view.frozen if node.view is not None else ()
                todo = plan(table.kind, table.wanted, present, frozen=frozen)
                self.steps += entry_steps(table.kind, todo, len(table.wanted))

    async def _routes(self, node: Node) -> None:
        context, protocol = self._context, self._context.settings.route_protocol
        present = await kernel_routes(context, node.networks)
        view, todo = await plan_peer_routes(context, node, present)
        self.problems += peer_problems(view)
        unwanted = frozenset(drop.object.dst for drop in todo.drops)
        owned = sum(route.protocol == protocol for route in present)
        held = unwanted - node.guard.allow(unwanted, owned, context.clock.now_s())
        self.steps += route_steps(todo, node.routes.wanted, present, node.links, protocol=protocol, held=held)
        ours = [route for route in present if is_blackhole_of_ours(route, protocol, node.networks)]
        own = node.lease.key.subnets if context.settings.ip_blackhole_route else ()
        for change in plan_blackholes(own, ours):
            action = Action.REMOVE if isinstance(change, Drop) else Action.ADD
            self.steps.append(DryRunStep("route", action, f"blackhole {change.object.dst}"))
        if not node.link.up:
            self.problems.append(StartProblem(f"routes cannot be placed: {node.link.name} is down"))

    async def _rules(self, node: Node) -> None:
        for job in jobs_of(self._context, node):
            try:
                self.steps.append(rules_step(job.name, job.program, await job.check(take_over=True)))
            except ProgramMissing as error:
                self.problems.append(StartProblem(f"the rules for {job.name} would not be set: {error}"))
            except FirewallError as error:
                self.problems.append(StartProblem(f"the rules for {job.name} cannot be read: {error}"))
        for place in places_of(node):
            try:
                for removal in await unasked(self._context, node, place):
                    where = " ".join(removal.where.values())
                    self.steps.append(removal_step(where, removal.program, removal.text))
                if dropped := await dropped_forward(self._context, node, place):
                    self.problems.append(StartProblem(dropped))
            except FirewallError as error:
                self.problems.append(StartProblem(f"rules that no flag asks for cannot be searched: {error}"))


def choose_lease(context: Context, request: LeaseRequest, leases: Snapshot) -> tuple[OwnLease, list[DryRunStep]]:
    """Return the lease that the daemon would hold, and the steps to it; what it would delete does not count again.

    Raises:
        CannotStart: no subnet is free.
    """
    steps: list[DryRunStep] = []
    records: Sequence[Record] = leases.records
    while True:
        match decide(request, records, context.rng):
            case Reuse(record=record, subnet=subnet, ipv6=ipv6):
                lease, step = _reuse(request, record, SubnetKey(subnet, ipv6))
                return lease, [*steps, step]
            case Discard(record=record, keep=keep):
                why = f"this host's own, and no longer one of the subnets of {request.subnet_range.network}"
                steps.append(DryRunStep("lease", Action.REMOVE, shown(record.name)[2:-1], why))
                records = [one for one in records if one is not record]
                request = request if keep is None else replace(request, previous=keep)
            case Claim(subnet=subnet, previous_refused=refused, ipv6=ipv6):
                key = SubnetKey(subnet, ipv6)
                steps.append(_claim_step(request, records, key, refused))
                # A key that is younger than all others, as it would be.
                new = Record(
                    encode_name(subnet, ipv6), encode_value(request.attrs, context.registry.api), 0, 0, lease_id=1
                )
                return _held(request, key, new), steps
            case Exhausted():
                raise CannotStart(
                    f"{request.subnet_range.network} has no free subnet left for this node ({len(records)} keys): "
                    "the daemon would wait for one"
                )


def _reuse(request: LeaseRequest, record: Record, key: SubnetKey) -> tuple[OwnLease, DryRunStep]:
    lease = _held(request, key, record)
    kind = "this host's reservation" if lease.reserved else "this host's lease"
    why = f"{kind}, found by {request.attrs.public_ip}"
    if isinstance(assess(lease, request.attrs, Renewal(record, TTL_S), 0.0), Rewrite):
        why += f"; its value would be replaced: {encode_value(request.attrs).decode()}"
        return lease, DryRunStep("lease", Action.CHANGE, str(key), why)
    return lease, DryRunStep("lease", Action.KEEP, str(key), why)


def _held(request: LeaseRequest, key: SubnetKey, record: Record) -> OwnLease:
    attrs = request.attrs
    return confirmed(key.ipv4, attrs.public_ip, record, inf, 0.0, ipv6=key.ipv6, public_ipv6=attrs.public_ipv6)


def _claim_step(request: LeaseRequest, records: Sequence[Record], key: SubnetKey, refused: str | None) -> DryRunStep:
    if key.ipv4 == request.previous:
        return DryRunStep("lease", Action.ADD, str(key), f"{request.named_by} names it, and it is free")
    free = count_free(records, request.subnet_range, request.underlay)
    why = f"one of {free} free subnets, picked at random from the first 100, such as {key}"
    if refused is not None and request.previous is not None:
        why = f"not {request.previous}, which {request.named_by} names: {refused}; " + why
    return DryRunStep("lease", Action.ADD, "a free subnet" if free > 1 else str(key), why)


async def kernel_routes(context: Context, networks: Sequence[Network]) -> list[KernelRoute]:
    """Return all routes of the families of *networks*."""
    found: list[KernelRoute] = []
    for network in networks:
        found += await context.kernel.routes(version=network.version)
    return found


async def plan_peer_routes(context: Context, node: Node, present: Sequence[KernelRoute]) -> tuple[View, RoutePlan]:
    """Return the validated peers, and the changes from the routes that are *present* to those that the peers want."""
    review = PeerReview(context, node)
    await review.look()
    view = await review.view()
    node.want(view)
    return view, plan(node.routes.kind, node.routes.wanted, present, frozen=view.frozen)
