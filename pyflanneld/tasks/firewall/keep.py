"""Keep the firewall rules that were asked for, and take over or remove what is left of other times.

Each job checks every ``--iptables-resync`` seconds and writes only what is wrong. Its first check takes over the plain
rules of v0.11.0, of this network and of the one that ``subnet.env`` named before: they go in the transaction that
brings the new ones, so that no packet meets neither. They look like an administrator's, so they count as left over
only where ours come in their place, and only once. When all jobs are done with that, what is not asked for any more is
removed: the rules in the other program when ``EnableNFTables`` has changed, and those whose flag is off now.

When something is missing or fails:

* ``--ip-masq`` without its program ends the start with exit code 1, before a lease is taken: who asks for masquerading
  must not get a node whose pods cannot reach the world;
* ``--iptables-forward-rules`` is on by default, and most hosts forward without them: there a missing program is
  reported once, does not stand against readiness, and is searched for again every time;
* what fails at run time (a lock that is held for too long, a right that is missing) is tried again, soon and then with
  every check; it stands against readiness while masquerading is asked for and not known to be in place, as it is for a
  minute after the next look was due;
* a removal that keeps failing is given up, with a warning.

``subnet.env`` is written after the first try, so whoever waits for the file finds the rules. At the end of the daemon
they stay.
"""

import asyncio

from pyflanneld.core.backoff import backoff
from pyflanneld.errors import FirewallError, ProgramMissing
from pyflanneld.state.context import Context
from pyflanneld.state.node import Node
from pyflanneld.tasks.firewall.jobs import Job, Misread, jobs_of, remove_unasked

ATTEMPT_S = 50.0
RETRY_FIRST_S = 0.5
MISREAD_CAP_S = 300.0
UNSEEN_S = 60.0
"""How long rules count as in place that cannot be looked at, from when they were to be."""
REMOVAL_TRIES = 5
REMOVAL_CAP_S = 30.0


async def keep_firewall(context: Context, node: Node) -> None:
    """Keep all rules for ever; those of a larger network once it has grown.

    ``node.progress.rules_tried`` and ``node.progress.rules`` show how far it has come.
    """
    while True:
        async with asyncio.TaskGroup() as tasks:
            keeping = tasks.create_task(_keep(context, node), name="firewall-rules")
            await node.wake.rules.wait(None)
            keeping.cancel()


async def _keep(context: Context, node: Node) -> None:
    """Keep the rules of the network as it is now."""
    keepers = [_Keeper(context, job) for job in jobs_of(context, node)]
    node.rules = [keeper.job for keeper in keepers]
    async with asyncio.TaskGroup() as tasks:
        for keeper in keepers:
            tasks.create_task(keeper.run(), name=keeper.topic)
        for keeper in keepers:
            await keeper.tried.wait()
        node.progress.rules_tried.set()
        for keeper in keepers:
            if keeper.job.blocks:
                await keeper.settled.wait()
        node.progress.rules.set()
        for keeper in keepers:
            await keeper.settled.wait()
        if not node.unconfirmed:  # what is only saved takes nothing away
            await _remove(context, node)


class _Keeper:
    """The task of one job.

    Attributes:
        tried: it has had its first try.
        settled: its rules have been in place.
    """

    def __init__(self, context: Context, job: Job) -> None:
        self.job = job
        self.topic = f"firewall {job.name}"
        self.tried = asyncio.Event()
        self.settled = asyncio.Event()
        self._context = context
        self._resync_s = context.settings.iptables_resync_s
        self._seen_s = context.clock.now_s()  # when they were last looked at
        self._start_waits()

    def _start_waits(self) -> None:
        """Begin again with the shortest waits."""
        self._waits = backoff(RETRY_FIRST_S, self._resync_s, self._context.rng)
        self._misread_waits = backoff(self._resync_s, MISREAD_CAP_S, self._context.rng)

    async def run(self) -> None:
        """Keep the job's rules right for ever."""
        pause_s = 0.0
        while True:
            self._context.liveness.beat(self.topic, pause_s + ATTEMPT_S)
            await asyncio.sleep(pause_s)
            pause_s = await self._try()
            self.tried.set()

    async def _try(self) -> float:
        """Check and repair once; return how long to wait before the next time."""
        try:
            changed = await self.job.keep(take_over=not self.settled.is_set())
        except ProgramMissing as error:
            self._report_missing(error)
            return self._resync_s
        except Misread as error:
            self._seen_s = self._context.clock.now_s()
            self.settled.set()
            self._report("firewall.misread", error)
            return next(self._misread_waits)  # writing the same again will hardly help
        except FirewallError as error:
            self._report("firewall.failed", error)
            return next(self._waits)
        self._seen_s = self._context.clock.now_s()
        self._context.conditions.resolve(self.topic)
        self._start_waits()
        if changed:
            self._log_change()
        self.settled.set()
        return self._resync_s

    def _report(self, event: str, error: FirewallError) -> None:
        text = f"the rules for {self.job.name} cannot be kept: {error}"
        unseen = self._context.clock.now_s() - self._seen_s > self._resync_s + UNSEEN_S
        blocks = self.job.blocks and (unseen or not self.job.placed)
        self._context.conditions.report(self.topic, event, text, blocks=blocks)

    def _report_missing(self, error: ProgramMissing) -> None:
        known = self._context.conditions.open().get(self.topic)
        if known is None or known.event != "firewall.program_missing":
            flag = "--ip-masq" if self.job.blocks else "--iptables-forward-rules"
            text = f"the rules for {self.job.name} are not set: {error}; install it, or set {flag}=false"
            self._context.conditions.report(self.topic, "firewall.program_missing", text, blocks=self.job.blocks)

    def _log_change(self) -> None:
        if self.settled.is_set():
            self._context.counters.firewall_repairs += 1
            self._context.log.warning("firewall.repaired", rules=self.job.name, program=self.job.program)
        else:
            self._context.log.info("firewall.placed", rules=self.job.name, program=self.job.program)


async def _remove(context: Context, node: Node) -> None:
    """Remove what is not asked for; the rules that are asked for are in place by now."""
    waits = backoff(1.0, REMOVAL_CAP_S, context.rng)
    for tries_left in reversed(range(REMOVAL_TRIES)):
        try:
            await remove_unasked(context, node)
        except FirewallError as error:
            if not tries_left:
                context.log.warning("firewall.removal_failed", error=str(error))
            else:
                await asyncio.sleep(next(waits))
        else:
            return
