"""Cases of the start: from nothing to all routes and to ready, and again with nothing changed."""

import asyncio
from collections import defaultdict

from tests.bench.bench import DEADLINE_S, READY_S, Bench
from tests.bench.contenders import Contender
from tests.bench.leases import measured_host
from tests.bench.observer import KINDS, Observer
from tests.bench.proc import resident_bytes
from tests.bench.results import FLOOR, VXLAN, NotMeasuredError, with_backend
from tests.bench.site import SPARE_HOST, add_device

LARGE = 10_000
SETTLE_S = 2.0
AFTER_S = 1.0  # how long to listen for messages that ought not to come


async def start(bench: Bench, peers: int) -> None:
    """From exec to the last route, and to ``READY=1``; the contenders in turn, each time on a fresh host.

    At the end, once it has settled, the memory of each is looked at.
    """
    runs = bench.plan.starts if peers < LARGE else bench.plan.large_starts
    late: set[str] = set()
    for run in range(1, runs + 1):
        for contender in bench.contenders:
            if contender.name in late:
                continue
            bench.progress.doing(f"start, {peers} peers: {contender.name}, {run} of {runs}")
            try:
                await _start_once(bench, contender, peers, weigh=run == runs)
            except NotMeasuredError as error:
                late.add(contender.name)
                bench.record("start.routes", contender.name, peers, "s", (), str(error))
        for backend in bench.backends if peers else ():
            name = with_backend(FLOOR, backend)
            bench.progress.doing(f"start, {peers} peers: {name}, {run} of {runs}")
            bench.record("start.routes", name, peers, "s", [await _floor_once(bench, backend, peers)])


async def _start_once(bench: Bench, contender: Contender, peers: int, *, weigh: bool) -> None:
    async with bench.site.rig(contender, peers) as rig:
        began = rig.daemon.start()
        ready = asyncio.create_task(rig.daemon.ready(DEADLINE_S + READY_S))
        try:
            if peers:
                last = await rig.observer.all_added(peers, DEADLINE_S)
                first = min(rig.observer.seen.added.values())
                bench.record("start.routes", contender.name, peers, "s", [last - began])
                bench.record("start.spread", contender.name, peers, "s", [last - first])
            await asyncio.wait([ready], timeout=READY_S)
            if ready.done():
                bench.record("start.ready", contender.name, peers, "s", [ready.result() - began])
            contender.notifies &= ready.done()  # who does not say it is asked on /readyz from the next time on
        finally:
            ready.cancel()
            await asyncio.gather(ready, return_exceptions=True)
        if weigh:
            await asyncio.sleep(SETTLE_S)
            bench.record("memory.resident", contender.name, peers, "B", [resident_bytes(rig.daemon.pid)])


async def _floor_once(bench: Bench, backend: str, peers: int) -> float:
    me = measured_host(SPARE_HOST)
    with bench.site.host(me) as space, Observer(space, kinds=KINDS[backend]) as observer:
        if backend == VXLAN:
            add_device(space, me)
        began, _ = bench.site.put_all(space, backend, peers)
        return await observer.all_added(peers, DEADLINE_S) - began


async def restart(bench: Bench, peers: int) -> None:
    """Stopped and started again with the same leases: until ready, and how many messages of the kernel there are."""
    messages: dict[str, list[float]] = defaultdict(list)
    async with bench.all_running("restart.messages", peers) as rigs:
        for run in range(1, bench.plan.restarts + 1):
            for rig in rigs:
                name = rig.contender.name
                bench.progress.doing(f"restart, {peers} peers: {name}, {run} of {bench.plan.restarts}")
                rig.observer.clear()
                rig.daemon.stop()
                began = rig.daemon.start()
                ready_at = await bench.until_ready(rig)
                await asyncio.sleep(AFTER_S)
                if ready_at is not None:
                    bench.record("restart.ready", name, peers, "s", [ready_at - began])
                messages[name].append(rig.observer.seen.messages)
    for name, counts in messages.items():
        bench.record("restart.messages", name, peers, "1", counts)
