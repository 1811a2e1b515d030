"""Case of the data path: what the pods of two hosts get, while the daemon idles and while leases come and go."""

import asyncio
import contextlib
import json
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from ipaddress import IPv4Interface
from pathlib import Path
from typing import Any

from pyflanneld.lab.topology import set_docker_bridge
from tests.bench.bench import DEADLINE_S, Bench
from tests.bench.leases import Peer, measured_host, newcomer
from tests.bench.results import STATIC
from tests.bench.site import PROTOCOL, Rig, ip_batch
from tests.support.network.namespaces import Namespace, namespace

PROGRAM = (sys.executable, str(Path(__file__).with_name("packets.py")))
MTU = 1500
FAR, STATIC_HOST = measured_host(150), measured_host(151)
CHURN_S = 0.01  # between two leases that come, as between two that go
LIVING, IN_TURN = 10, 20


async def traffic(bench: Bench, peers: int) -> None:
    """TCP and UDP from a pod of each contender's host, and of one with static routes, to a pod of a further host."""
    async with bench.all_running("traffic.throughput", peers) as rigs:
        with bench.site.host(STATIC_HOST) as static, bench.site.host(FAR) as far:
            ip_batch(static, bench.site.batch_file(peers))
            static.ip(FAR.route(PROTOCOL))
            hosts = [(STATIC_HOST, static), *((rig.me, rig.space) for rig in rigs)]
            for me, _ in hosts:
                far.ip(me.route(PROTOCOL))
            for rig in rigs:
                await rig.store.put(FAR)
                await rig.observer.added(FAR.subnet, DEADLINE_S)
            with contextlib.ExitStack() as stack:
                target = stack.enter_context(_pod(far, FAR))
                pods = [stack.enter_context(_pod(space, me)) for me, space in hosts]
                async with target.process(*PROGRAM, "serve") as server:
                    await _line(server)
                    await _measure(bench, peers, rigs, pods)
            for rig in rigs:
                await rig.store.delete(FAR)


async def _measure(bench: Bench, peers: int, rigs: list[Rig], pods: list[Namespace]) -> None:
    for run in range(1, bench.plan.traffic + 1):
        bench.progress.doing(f"traffic, {peers} peers, {run} of {bench.plan.traffic}")
        found = await _send(pods[0])
        for kind in ("traffic", "traffic.churn"):  # nothing comes or goes there
            _record(bench, kind, STATIC, peers, found)
        for rig, pod in zip(rigs, pods[1:], strict=True):
            _record(bench, "traffic", rig.contender.name, peers, await _send(pod))
            async with _churn(rig):
                _record(bench, "traffic.churn", rig.contender.name, peers, await _send(pod))


def _record(bench: Bench, kind: str, name: str, peers: int, found: dict[str, Any]) -> None:
    bench.record(f"{kind}.throughput", name, peers, "bit/s", [found["bit_per_s"]])
    bench.record(f"{kind}.rtt", name, peers, "s", found["rtt_s"])


async def _send(pod: Namespace) -> dict[str, Any]:
    """Run the sender in a pod, and return what it has measured."""
    async with asyncio.timeout(20), pod.process(*PROGRAM, "measure", str(_address(FAR))) as sender:
        found: dict[str, Any] = json.loads(await _line(sender))
        return found


async def _line(process: asyncio.subprocess.Process) -> bytes:
    assert process.stdout is not None
    line = await process.stdout.readline()
    if not line:
        raise RuntimeError("the program for packets has ended before it had anything to say")
    return line


@asynccontextmanager
async def _churn(rig: Rig) -> AsyncIterator[None]:
    """Have 100 leases a second come, and as many go, until the block ends."""
    task = asyncio.create_task(_come_and_go(rig), name="churn")
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await rig.store.delete_all([newcomer(number) for number in range(IN_TURN)])


async def _come_and_go(rig: Rig) -> None:
    loop, number = asyncio.get_running_loop(), 0
    due = loop.time()
    while True:
        await rig.store.put(newcomer(number % IN_TURN))
        await rig.store.delete(newcomer((number - LIVING) % IN_TURN))
        number, due = number + 1, due + CHURN_S
        await asyncio.sleep(max(0.0, due - loop.time()))


def _address(host: Peer) -> object:
    """Return the address of a host's pod: the one behind the bridge's."""
    return host.subnet[2]


@contextmanager
def _pod(host: Namespace, me: Peer) -> Iterator[Namespace]:
    """Have a pod behind a host's ``docker0`` until the block ends."""
    set_docker_bridge(host.name, IPv4Interface((me.subnet[1], 24)), MTU)
    with namespace() as pod:
        pod.veth("eth0", f"{_address(me)}/24", peer="pod", peer_in=host)
        host.ip("link set pod master docker0")
        pod.ip(f"route add default via {me.subnet[1]}")
        yield pod
