"""Cases of cost: processor time and wake-ups while nothing happens, and what etcd has to do."""

import asyncio
import time
from contextlib import AsyncExitStack

from tests.bench.bench import DEADLINE_S, Bench
from tests.bench.contenders import Contender
from tests.bench.proc import Cost, cost
from tests.bench.results import NotMeasuredError
from tests.bench.site import Rig

SETTLE_S = 2.0
SMALL = 250
SHORT_TTL_S = 60  # whoever keeps this time to live renews at once, whoever takes the usual day does so after a minute
LATEST_MARGIN = "--subnet-lease-renew-margin=1439"
QUIET_S = 0.4


async def idle(bench: Bench, peers: int) -> None:
    """All contenders at once, each of them twice: with all the peers, and with a few."""
    sizes = sorted({min(SMALL, peers), peers}, reverse=True)
    async with AsyncExitStack() as stack:
        sets = [
            (size, await stack.enter_async_context(bench.all_running("idle.cpu", size, slot=slot)))
            for slot, size in enumerate(sizes)
        ]
        await asyncio.sleep(SETTLE_S)
        rigs = [(size, rig, cost(rig.daemon.pid)) for size, found in sets for rig in found]
        began = time.monotonic()
        for second in range(int(bench.plan.idle_s)):
            bench.progress.doing(f"idle, {second} of {bench.plan.idle_s:g} s")
            await asyncio.sleep(1)
        took_s = time.monotonic() - began
        for size, rig, before in rigs:
            rig.daemon.check()
            _record_idle(bench, rig, size, cost(rig.daemon.pid).since(before), took_s)


def _record_idle(bench: Bench, rig: Rig, peers: int, used: Cost, took_s: float) -> None:
    name = rig.contender.name
    bench.record("idle.cpu", name, peers, "%", [100 * used.cpu_s / took_s])
    bench.record("idle.children_cpu", name, peers, "%", [100 * used.children_cpu_s / took_s])
    bench.record("idle.wakeups", name, peers, "1", [used.wakeups / took_s])


async def etcd(bench: Bench, peers: int) -> None:
    """What etcd counts during one start of each contender, with nobody else about."""
    for contender in bench.contenders:
        bench.progress.doing(f"etcd, {peers} peers: start of {contender.name}")
        try:
            await _start(bench, contender, peers)
        except NotMeasuredError as error:
            bench.record("etcd.start.requests", contender.name, peers, "1", (), str(error))


async def renewal(bench: Bench, peers: int) -> None:
    """The same during one renewal."""
    for contender in bench.contenders:
        bench.progress.doing(f"renewal, {peers} peers: {contender.name}")
        try:
            await _renewal(bench, contender, peers)
        except NotMeasuredError as error:
            bench.record("etcd.renewal.requests", contender.name, peers, "1", (), str(error))


async def _start(bench: Bench, contender: Contender, peers: int) -> None:
    async with bench.site.rig(contender, peers) as rig:
        list_bytes = await rig.store.list_bytes()
        before = await bench.site.client.work()
        rig.daemon.start()
        await rig.observer.all_added(peers, DEADLINE_S)
        await bench.until_ready(rig)
        await asyncio.sleep(SETTLE_S)
        done = (await bench.site.client.work()).since(before)
    bench.record("etcd.start.requests", contender.name, peers, "1", [done.requests])
    bench.record("etcd.start.watches", contender.name, peers, "1", [done.watchers])
    if list_bytes:
        bench.record("etcd.start.lists", contender.name, peers, "times", [done.sent_bytes / list_bytes])


async def _renewal(bench: Bench, contender: Contender, peers: int) -> None:
    async with bench.site.rig(contender, peers) as rig:
        await rig.store.put(rig.me, ttl_s=SHORT_TTL_S)
        rig.daemon.start(LATEST_MARGIN)
        await rig.observer.all_added(peers, DEADLINE_S)
        await bench.until_ready(rig)
        await asyncio.sleep(SETTLE_S)
        rig.observer.clear()
        before = now = await bench.site.client.work()
        give_up_at = time.monotonic() + bench.plan.renewal_s
        while now.requests == before.requests:
            if time.monotonic() > give_up_at:
                raise NotMeasuredError(f"no renewal within {bench.plan.renewal_s:g} s")
            await asyncio.sleep(0.02)
            now = await bench.site.client.work()
        await asyncio.sleep(QUIET_S)
        done = (await bench.site.client.work()).since(before)
        bench.record("renewal.messages", contender.name, peers, "1", [rig.observer.seen.messages])
    bench.record("etcd.renewal.requests", contender.name, peers, "1", [done.requests])
    bench.record("etcd.renewal.events", contender.name, peers, "1", [done.events])
