"""Tool: ``pyflanneld lab demo``: what the daemon promises, shown with a real etcd and the real kernel.

Each step prints what it does, does it, and measures with ``ip monitor``, ``ping`` and ``etcdctl``, independently of the
daemon. The first claim that does not hold ends the demonstration.
"""

import itertools
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

from pyflanneld.lab.cluster import Lab
from pyflanneld.lab.etcd import CONFIG, ENDPOINT, PREFIX
from pyflanneld.lab.measure import Ping, RouteEvent, RouteMonitor, Traffic, delay_ms
from pyflanneld.lab.node import PROTOCOL, LabHost
from pyflanneld.lab.run import until
from pyflanneld.lab.terminal import Terminal

MAX_NODES = 8
OUTAGE_S = 3.0
"""How long a daemon, an interface or etcd stays away, at least; half a second more of traffic follows."""

STRANGER_KEY, STRANGER_SUBNET, STRANGER_IP = "172.7.200.0-24", "172.7.200.0/24", "192.168.14.250"


def run_demo(lab: Lab, say: Terminal) -> None:
    """Run all steps.

    Raises:
        ClaimFailed: a claim does not hold.
        LabError: something else went wrong.
    """
    started = time.monotonic()
    say.title(f"pyflanneld: {len(lab.nodes)} hosts, one etcd, network 172.7.0.0/16, all on this machine")
    for step in STEPS:
        step(lab, say)
    say.title(f"\nAll {say.claims} claims of {say.steps} steps hold. {time.monotonic() - started:.0f} s.")


# Watching a step from outside


class TrafficWatch:
    """Traffic between all pods, and every host's route messages, while the block lasts."""

    def __init__(self, monitors: list[RouteMonitor], pings: list[Ping]) -> None:
        self._monitors, self._pings = monitors, pings
        self.traffic: list[Traffic] = []

    def messages(self, node: LabHost | None = None) -> list[RouteEvent]:
        """Return the route messages so far, of all hosts or of one."""
        chosen = [monitor for monitor in self._monitors if node is None or monitor.node is node]
        return [message for monitor in chosen for message in monitor.messages()]

    def finish(self, more_s: float = 0.5) -> None:
        """Continue the traffic for *more_s* seconds, then end it and count."""
        time.sleep(more_s)  # not a wait for something: the traffic of this time is what is measured
        self.traffic = [ping.result() for ping in self._pings]

    @property
    def lost(self) -> int:
        """Return how many packets were lost."""
        return sum(traffic.lost for traffic in self.traffic)

    @property
    def packets(self) -> str:
        """Return the loss as text."""
        return f"{self.lost} of {sum(traffic.sent for traffic in self.traffic)} lost"

    @property
    def whole(self) -> bool:
        """Return whether every pair of pods exchanged packets and none was lost."""
        return self.lost == 0 and all(traffic.sent > 0 for traffic in self.traffic)


@contextmanager
def watching(lab: Lab) -> Iterator[TrafficWatch]:
    """Yield a ``TrafficWatch`` that starts when every pair of pods has had an answer."""
    with ExitStack() as stack:
        pairs = itertools.combinations(lab.nodes, 2)
        pings = [stack.enter_context(Ping(source, target)) for source, target in pairs]
        monitors = [stack.enter_context(RouteMonitor(node)) for node in lab.nodes]
        for ping in pings:
            until(lambda ping=ping: bool(ping.received()), "the pods talk to each other")  # type: ignore[misc]
        yield TrafficWatch(monitors, pings)


def ms(seconds: float) -> str:
    """Return a duration as text, in milliseconds."""
    return f"{seconds * 1000:.1f} ms" if seconds < 0.1 else f"{seconds * 1000:.0f} ms"


# The steps


def start(lab: Lab, say: Terminal) -> None:
    """Start the cluster."""
    say.step("Three commands an operator would give: etcd, the configuration, the daemons")
    lab.build()
    say.fact(f"etcd  at {ENDPOINT}, with {PREFIX}/config:")
    say.fact(f"      {CONFIG}")
    for node in lab.nodes:
        say.fact(f"{node.name:<5} pyflanneld --iface=eth1 --public-ip={node.address.ip} --subnet-file=subnet.env …")
    began = time.monotonic()
    lab.start()
    say.claim(
        f"{subnet_names(lab)} answer 200 on /readyz, port 2401, and know each other", True, ms(time.monotonic() - began)
    )


def leases(lab: Lab, say: Terminal) -> None:
    """Show what etcd holds."""
    say.step("Leases, as etcd holds them")
    held = lab.etcd.leases()
    rows = [(lease.key, lease.public_ip, lease.backend, hours(lease.ttl_s)) for lease in held]
    say.table([("key", "public IP", "backend", "TTL"), *rows])
    wanted = {
        f"{PREFIX}/subnets/{node.bridge_address.network}".replace("/24", "-24"): str(node.address.ip)
        for node in lab.nodes
    }
    say.claim("each host has the subnet that its subnet.env asked for", {r.key: r.public_ip for r in held} == wanted)
    say.claim("each lease ends by itself a day after its host does", all(85000 < (r.ttl_s or 0) <= 86400 for r in held))


def hours(ttl_s: int | None) -> str:
    """Return a time to live as text."""
    return "none" if ttl_s is None else f"{ttl_s // 3600} h {ttl_s % 3600 // 60} min"


def files(lab: Lab, say: Terminal) -> None:
    """Show the files that Docker is started with."""
    say.step("subnet.env, which Docker is started with")
    envs = [node.env() for node in lab.nodes]
    rows = [["", *(node.name for node in lab.nodes)]]
    say.table(rows + [[name, *(env.get(name, "(missing)") for env in envs)] for name in envs[0]])
    wanted = ["FLANNEL_NETWORK", "FLANNEL_SUBNET", "FLANNEL_MTU", "FLANNEL_IPMASQ"]
    right = [list(env) for env in envs] == [wanted for _ in envs]
    right = right and [env["FLANNEL_SUBNET"] for env in envs] == [str(node.bridge_address) for node in lab.nodes]
    say.claim("four variables, in flannel's order, with the leased subnet", right)


def show_routes(lab: Lab, say: Terminal) -> None:
    """Show the route tables."""
    say.step(f"Route tables (ip route show proto {PROTOCOL})")
    for node in lab.nodes:
        for route in node.routes():
            say.fact(f"{node.name}  {route.dst} via {route.gateway} dev {route.dev}")
    right = all({r.dst: r.gateway for r in node.routes()} == lab.gateways_for(node) for node in lab.nodes)
    say.claim("each host has exactly the routes to the others' subnets, via their addresses", right)


def pods(lab: Lab, say: Terminal) -> None:
    """Send packets between pods."""
    say.step("Packets from pod to pod, across hosts, 50 a second")
    with watching(lab) as watch:
        watch.finish(3.0)
    for traffic in watch.traffic:
        say.fact(str(traffic))
    say.claim("none is lost", watch.whole, watch.packets)


def deleted_route(lab: Lab, say: Terminal) -> None:
    """Delete a route by hand."""
    first, second = lab.nodes[:2]
    say.step(f"Somebody deletes a route on {first.name}: ip route del {second.subnet}")
    with watching(lab) as watch:
        first.exec("ip", "route", "del", second.subnet)
        first.wait_routes(lab.gateways_for(first))
        watch.finish()
        delay = delay_ms(watch.messages(first), second.subnet)
    shown = "not seen" if delay is None else f"{delay:.1f} ms"
    say.claim("it is back (time between the kernel's two messages)", delay is not None and delay < 2000, shown)
    say.fact(f"packets in that time: {watch.packets}")


def flapped_link(lab: Lab, say: Terminal) -> None:
    """Take an interface down and up."""
    node = lab.nodes[1]
    say.step(f"The interface of {node.name} goes down and up: the kernel drops its routes without an event")
    node.exec("ip", "link", "set", "eth1", "down")
    say.claim("eth1 is down, its routes are gone", node.routes() == ())
    time.sleep(1.0)  # long enough for the daemon to notice
    began = time.monotonic()
    node.exec("ip", "link", "set", "eth1", "up")
    node.wait_routes(lab.gateways_for(node))
    took = time.monotonic() - began
    say.claim("eth1 is up, all routes are back (time since the command)", took < 2, ms(took))
    with watching(lab) as watch:
        watch.finish()
    say.claim("the pods talk to each other again", watch.whole, watch.packets)


def killed_daemon(lab: Lab, say: Terminal) -> None:
    """Kill a daemon and start it again."""
    node = lab.nodes[0]
    say.step(f"The daemon of {node.name} is killed with -9 and started again {OUTAGE_S:.0f} s later")
    before = node.subnet_file.stat()
    with watching(lab) as watch:
        node.kill()
        time.sleep(OUTAGE_S)  # traffic without the daemon is what is measured
        node.start()
        took = node.wait_ready()
        watch.finish()
        messages = watch.messages()
    say.claim("it is ready again", True, ms(took))
    say.claim("not one route message on any host, before or after", not messages, f"{len(messages)} messages")
    say.claim("subnet.env was not rewritten", node.subnet_file.stat().st_mtime_ns == before.st_mtime_ns)
    say.claim("no packet lost", watch.whole, watch.packets)


def stopped_etcd(lab: Lab, say: Terminal) -> None:
    """Stop etcd, and start it again."""
    say.step("etcd stops; some time later it is back")
    with watching(lab) as watch:
        lab.etcd.stop()
        time.sleep(OUTAGE_S)  # traffic without etcd is what is measured
        watch.finish()
        messages = watch.messages()
        alive = all(node.get("/healthz")[0] == 200 for node in lab.nodes)
    say.claim("without etcd no route changes", not messages, f"{len(messages)} messages")
    say.claim("no packet lost", watch.whole, watch.packets)
    say.claim("the daemons are alive, by /healthz", alive)
    took = lab.etcd.start()
    say.claim("etcd is back", True, ms(took))
    took = time_change(lab, "a new host's lease", lambda: lab.etcd.put_lease(STRANGER_KEY, STRANGER_IP), present=True)
    say.claim(f"all daemons find it again: a new lease, {STRANGER_SUBNET}, is a route on all hosts", True, ms(took))
    took = time_change(lab, "its end", lambda: lab.etcd.delete_lease(STRANGER_KEY), present=False)
    say.claim("the lease is removed: the route is gone on all hosts", True, ms(took))


def time_change(lab: Lab, what: str, act: Callable[[], None], *, present: bool) -> float:
    """Change the stranger's lease; return the seconds until every host has applied it."""

    def applied() -> bool:
        found = [any(route.dst == STRANGER_SUBNET for route in node.routes()) for node in lab.nodes]
        return all(found) if present else not any(found)

    began = time.monotonic()
    act()
    until(applied, f"all hosts apply {what}", timeout_s=45.0)
    return time.monotonic() - began


def removed_lease(lab: Lab, say: Terminal) -> None:
    """Remove a host's lease while its daemon is stopped, and start it again."""
    *others, leaver = lab.nodes
    subnet = leaver.subnet
    say.step(f"{leaver.name} is stopped and its lease removed; then it is started again")
    code = leaver.stop(signal.SIGTERM)
    say.claim(f"{leaver.name} stopped as asked, exit code 0", code == 0, f"exit code {code}")
    say.claim("its lease and the routes to it stay", all(lab.gateways_for(n) == gateways(n) for n in others))
    began = time.monotonic()
    lab.etcd.delete_lease(subnet.replace("/", "-"))
    for node in others:
        node.wait_routes(lab.gateways_for(node, others))
    took = time.monotonic() - began
    say.claim("lease removed (etcdctl del): the others drop that route and no other", True, ms(took))
    began = time.monotonic()
    leaver.start()
    leaver.wait_ready()
    took = time.monotonic() - began
    say.claim(f"{leaver.name} is back with its old subnet {leaver.subnet}", leaver.subnet == subnet, ms(took))
    for node in others:
        node.wait_routes(lab.gateways_for(node))
    with watching(lab) as watch:
        watch.finish()
    say.claim("the others route to it, the pods talk to each other", watch.whole, watch.packets)


def gateways(node: LabHost) -> dict[str, str]:
    """Return the daemon's routes on a host, destination: gateway."""
    return {route.dst: str(route.gateway) for route in node.routes()}


def subnet_names(lab: Lab) -> str:
    """Return the hosts' names, separated by commas."""
    return ", ".join(node.name for node in lab.nodes)


STEPS = (
    start,
    leases,
    files,
    show_routes,
    pods,
    deleted_route,
    flapped_link,
    killed_daemon,
    stopped_etcd,
    removed_lease,
)
