"""Cases of change: leases that come and go one by one, many at once, and in an outage of etcd."""

import asyncio
import time
from collections import defaultdict

from tests.bench.bench import DEADLINE_S, Bench
from tests.bench.leases import newcomer
from tests.bench.results import NotMeasuredError
from tests.bench.site import Rig

BURST = 1000
SLOW_S = 5.0  # who takes longer is not asked to do it again
IN_TURN = 3  # more subnets that leave within seconds are held for a while where there are few others, on purpose
PAUSE_S = 0.005
AFTER_S = 2.0


async def leases(bench: Bench, peers: int) -> None:
    """From just before the request to etcd to the kernel's message; all contenders run, and one has news at a time."""
    wanted = bench.plan.latencies
    taken: dict[str, list[tuple[float, float]]] = defaultdict(list)
    notes: dict[str, str] = defaultdict(str)
    async with bench.all_running("lease.new", peers) as rigs:
        left = {rig.contender.name: bench.plan.waiting_s for rig in rigs}
        for number in range(wanted):
            for rig in rigs:
                name = rig.contender.name
                if left[name] <= 0:
                    continue
                bench.progress.doing(f"lease, {peers} peers: {name}, {number + 1} of {wanted}")
                try:
                    taken[name].append(await _come_and_go(rig, number))
                    left[name] -= sum(taken[name][-1])
                except NotMeasuredError as error:
                    notes[name], left[name] = str(error), 0.0
    for name in left:
        bench.record("lease.new", name, peers, "s", [new for new, _ in taken[name]], notes[name])
        bench.record("lease.gone", name, peers, "s", [gone for _, gone in taken[name]], notes[name])


async def _come_and_go(rig: Rig, number: int) -> tuple[float, float]:
    """Return how long the route took to come and to go, in seconds."""
    lease = newcomer(number % IN_TURN)
    rig.observer.clear()
    put_at = time.monotonic()
    await rig.store.put(lease)
    new_s = await rig.observer.added(lease.subnet, DEADLINE_S) - put_at
    await asyncio.sleep(PAUSE_S)
    deleted_at = time.monotonic()
    await rig.store.delete(lease)
    gone_s = await rig.observer.gone(lease.subnet, DEADLINE_S) - deleted_at
    await asyncio.sleep(PAUSE_S)
    return new_s, gone_s


async def burst(bench: Bench, peers: int) -> None:
    """From just before the first of many requests to the last route, each time on a fresh host."""
    leases = [newcomer(number) for number in range(BURST)]
    late: set[str] = set()
    for run in range(1, bench.plan.bursts + 1):
        for contender in bench.contenders:
            if contender.name in late:
                continue
            bench.progress.doing(f"burst, {peers} peers: {contender.name}, {run} of {bench.plan.bursts}")
            store = await bench.site.store(contender)
            try:
                async with bench.running(contender, peers) as rig:
                    rig.observer.clear()
                    began = time.monotonic()
                    await store.put_all(leases)
                    last = await rig.observer.all_added(BURST, DEADLINE_S)
                    bench.record("lease.burst", contender.name, peers, "s", [last - began])
                    if last - began > SLOW_S:
                        late.add(contender.name)
            except NotMeasuredError as error:
                late.add(contender.name)
                bench.record("lease.burst", contender.name, peers, "s", (), str(error))
            await store.delete_all(leases)


async def cut(bench: Bench, peers: int) -> None:
    """One lease is added while the daemons are frozen, and etcd is killed and started: what do they tell the kernel?"""
    lease = newcomer(0)
    async with bench.all_running("cut.messages", peers) as rigs:
        bench.progress.doing(f"cut, {peers} peers")
        for rig in rigs:
            rig.daemon.pause()
            await rig.store.put(lease)
            rig.observer.clear()
        bench.site.restart_etcd()
        for rig in rigs:
            rig.daemon.resume()
        for rig in rigs:
            try:
                await rig.observer.added(lease.subnet, DEADLINE_S)
                await asyncio.sleep(AFTER_S)
                bench.record("cut.messages", rig.contender.name, peers, "1", [rig.observer.seen.messages])
            except NotMeasuredError as error:
                bench.record("cut.messages", rig.contender.name, peers, "1", (), str(error))
        await bench.site.client.until_back()
        for rig in rigs:
            await rig.store.delete(lease)
