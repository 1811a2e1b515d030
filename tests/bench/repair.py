"""Cases of repair: an object that somebody deletes, and a link that goes down and comes up."""

import asyncio
import time

from tests.bench.bench import Bench
from tests.bench.leases import DEVICE, Peer, peer
from tests.bench.observer import FORWARDING, NEIGHBOUR, ROUTE
from tests.bench.results import NotMeasuredError
from tests.bench.site import Rig

APART_S = 0.6  # a storm of changes by others is answered with some delay, on purpose; this is none
REPAIR_S = 15.0
DOWN_S = 1.0


async def entry(bench: Bench, peers: int) -> None:
    """Between the kernel's message that an object went and its message that it is back; each contender on its own."""
    async with bench.all_running("repair.route", peers) as rigs:
        bench.progress.doing(f"repair, {peers} peers")
        await asyncio.gather(*(_repairs(bench, rig, peers) for rig in rigs))


async def _repairs(bench: Bench, rig: Rig, peers: int) -> None:
    for kind in rig.observer.kinds:
        samples, give_up_at, note = [], time.monotonic() + bench.plan.waiting_s, ""
        for number in range(bench.plan.repairs):
            await asyncio.sleep(APART_S)
            if time.monotonic() > give_up_at:
                break
            one = peer(number % peers)
            rig.observer.clear()
            rig.space.run(*_deletion(kind, one))
            try:
                samples.append(await rig.observer.repaired(kind, one.subnet, REPAIR_S))
            except NotMeasuredError as error:
                note = str(error)
                break
        bench.record(f"repair.{kind}", rig.contender.name, peers, "s", samples, note)


def _deletion(kind: str, one: Peer) -> list[str]:
    """Return the command that deletes one object."""
    return {
        ROUTE: f"ip route delete {one.subnet}",
        NEIGHBOUR: f"ip neigh delete {one.subnet.network_address} dev {DEVICE}",
        FORWARDING: f"bridge fdb delete {one.forwarding}",
    }[kind].split()


async def device(bench: Bench, peers: int) -> None:
    """From the kernel's message that the device of vxlan has gone to the last object on the new one."""
    async with bench.all_running("repair.device", peers) as rigs:
        for rig in rigs:
            for number in range(1, bench.plan.devices + 1):
                bench.progress.doing(f"device, {peers} peers: {rig.contender.name}, {number} of {bench.plan.devices}")
                rig.observer.clear()
                rig.space.ip(f"link delete {DEVICE}")
                try:
                    last = await rig.observer.all_added(peers, REPAIR_S)
                except NotMeasuredError as error:
                    bench.record("repair.device", rig.contender.name, peers, "s", (), str(error))
                    break
                bench.record("repair.device", rig.contender.name, peers, "s", [last - rig.observer.seen.link_gone[0]])
                await asyncio.sleep(DOWN_S)


async def link(bench: Bench, peers: int) -> None:
    """From the kernel's message that the link is up to the last route."""
    async with bench.all_running("repair.link", peers) as rigs:
        for rig in rigs:
            give_up_at = time.monotonic() + bench.plan.waiting_s
            for number in range(1, bench.plan.links + 1):
                bench.progress.doing(f"link, {peers} peers: {rig.contender.name}, {number} of {bench.plan.links}")
                try:
                    samples, note = [await _flap(rig, peers)], ""
                except NotMeasuredError as error:
                    samples, note = [], str(error)
                bench.record("repair.link", rig.contender.name, peers, "s", samples, note)
                if note or time.monotonic() > give_up_at:
                    break


async def _flap(rig: Rig, peers: int) -> float:
    """Return how long the routes were missing, in seconds."""
    rig.space.ip("link set eth1 down")
    await asyncio.sleep(DOWN_S)
    rig.observer.clear()
    rig.space.ip("link set eth1 up")
    last = await rig.observer.all_added(peers, REPAIR_S)
    took_s = last - rig.observer.seen.link_up[0]
    await asyncio.sleep(DOWN_S)
    return took_s
