"""Case of a crowd: many hosts that have no lease yet, and all begin at once."""

import asyncio
import tempfile
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

from tests.bench.bench import Bench
from tests.bench.contenders import Contender, Daemon
from tests.bench.leases import Peer, peer
from tests.bench.observer import Observer
from tests.bench.proc import cost
from tests.bench.results import NotMeasuredError
from tests.bench.site import ETCD_URL
from tests.bench.store import Store

MOST_HOSTS = 200  # what a machine with 24 GB has room for
SLOT = 1  # a part of etcd without other leases
DEADLINE_S = 120.0
LOADED_S = 300.0
RESTING_CORES = 0.7  # many daemons that wait use that at most, and those that are being loaded much more


async def at_once(bench: Bench, hosts: int) -> None:
    """From the network's configuration, for which a daemon on each host waits, to the last route on the last host.

    Nobody has a key in etcd; the subnet file names a subnet. So the start of the processes is not in the time.
    """
    if hosts > MOST_HOSTS:
        raise NotMeasuredError(f"more than {MOST_HOSTS} daemons on one machine")
    for contender in bench.contenders:
        for run in range(1, bench.plan.crowds + 1):
            bench.progress.doing(f"crowd, {hosts} hosts: {contender.name}, {run} of {bench.plan.crowds}")
            members = [peer(number) for number in range(hosts)]
            store = await bench.site.store(contender, SLOT)
            await store.delete_all(members)
            await store.unconfigure()
            try:
                async with _waiting(bench, contender, store, members) as observers:
                    began = time.monotonic()
                    await store.configure()
                    ends = [await one.all_added(hosts - 1, DEADLINE_S) for one in observers]
            except NotMeasuredError as error:
                bench.record("crowd.routes", contender.name, hosts, "s", (), str(error))
                break
            bench.record("crowd.routes", contender.name, hosts, "s", [max(ends) - began])


@asynccontextmanager
async def _waiting(
    bench: Bench, contender: Contender, store: Store, members: Sequence[Peer]
) -> AsyncIterator[list[Observer]]:
    """Have a daemon on each host that has come as far as it can, and who listens there, until the block ends."""
    async with AsyncExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(dir=bench.site.folder)))
        daemons, observers = [], []
        for number, me in enumerate(members):
            space, own = stack.enter_context(bench.site.host(me)), folder / str(number)
            own.mkdir()
            daemon = Daemon(contender, space, me, prefix=store.prefix, etcd_url=ETCD_URL, folder=own)
            stack.callback(daemon.close)
            daemons.append(daemon)
            observers.append(stack.enter_context(Observer(space, daemon.check)))
            daemon.start()
        await _at_rest(daemons)
        yield observers


async def _at_rest(daemons: Sequence[Daemon]) -> None:
    """Wait until the daemons hardly use the processors any more. Raises ``NotMeasuredError``."""
    give_up_at, before = time.monotonic() + LOADED_S, 0.0
    while time.monotonic() < give_up_at:
        for daemon in daemons:
            daemon.check()
        used_s = sum(cost(daemon.pid).cpu_s for daemon in daemons)
        if 0 < used_s - before < RESTING_CORES:
            return
        before = used_s
        await asyncio.sleep(1)
    raise NotMeasuredError(f"{len(daemons)} daemons have not come to rest within {LOADED_S:g} s")
