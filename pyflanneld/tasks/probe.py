"""Probe the peers, one small packet after the other, and report what is wrong. It changes no route and no readiness.

One task and one socket for all peers: it sends the next probe, reads what has come for the earlier ones, and sleeps.
"""

import asyncio

from pyflanneld.core.probe.reachability import worst_trouble
from pyflanneld.core.probe.table import ProbeFailure, ProbeTable
from pyflanneld.errors import ProbeError
from pyflanneld.ports import Prober
from pyflanneld.state.context import Context
from pyflanneld.state.node import Node

TOPIC = "probe"
IDLE_S = 1.0
REPORT_S = 5.0
RETRY_S = 60.0


async def keep_probing(context: Context, node: Node, prober: Prober) -> None:
    """Probe for ever; where that is impossible, report it and try again from time to time."""
    while True:
        context.liveness.beat("probe", 2 * RETRY_S)
        try:
            form = prober.open()
        except ProbeError as error:
            context.conditions.report(TOPIC, "probe.impossible", f"peers cannot be probed: {error}", blocks=False)
            await asyncio.sleep(RETRY_S)
            continue
        context.log.info("probe.started", form=form, interval_s=context.settings.probe_interval_s)
        try:
            await _Probing(context, node, prober).run()
        finally:
            prober.close()


class _Probing:
    """The probes of one node."""

    def __init__(self, context: Context, node: Node, prober: Prober) -> None:
        self._context = context
        self._node = node
        self._prober = prober
        self._table = ProbeTable()
        self._seen: tuple[object, int] = (None, 0)
        self._rounds = 0
        self._report_at_s = 0.0

    async def run(self) -> None:
        """Probe until cancelled."""
        context, table = self._context, self._table
        self._node.probes = table.reachability
        next_s = context.clock.now_s() + context.rng.uniform(0.0, min(IDLE_S, context.settings.probe_interval_s))
        while True:
            context.liveness.beat("probe", context.settings.probe_interval_s * 2)
            self._follow()
            self._collect()
            if context.clock.now_s() >= next_s:
                next_s = self._send()
            self._report()
            wake_s = min(next_s, self._table.due_s)
            await asyncio.sleep(max(0.0, wake_s - context.clock.now_s()))

    def _follow(self) -> None:
        """Learn of new peers, gateways and MTU."""
        view, mtu = self._node.view, self._node.link.mtu
        if view is not None and not (self._seen[0] is view and self._seen[1] == mtu):  # a view's peers go on changing
            self._seen = (view, mtu)
            self._table.follow(view.peers, mtu)

    def _send(self) -> float:
        """Send the next probe; return when the one after it is due."""
        context, now_s = self._context, self._context.clock.now_s()
        probe = self._table.next_probe(now_s, context.rng)
        if probe is None:
            return now_s + IDLE_S
        if self._rounds != self._table.rounds:
            self._log_round()
        if not self._prober.send(probe.number, probe.address, probe.size_bytes):
            self._table.record(ProbeFailure(probe.number), now_s)
        return now_s + self._table.pause_s(context.settings.probe_interval_s, context.rng)

    def _log_round(self) -> None:
        """Log, at debug level, what is known when another round begins."""
        self._rounds = self._table.rounds
        reachability = self._table.reachability.values()
        lost = sum(1 for reach in reachability for sample in (reach.address, reach.subnet) if sample.loss)
        slowest_s = max((reach.address.smoothed_rtt_s or 0.0 for reach in reachability), default=0.0)
        self._context.log.debug(
            "probe.round_begun", peers=len(reachability), targets_with_loss=lost, slowest_ms=round(slowest_s * 1000, 3),
            mtu_known=sum(reach.mtu is not None for reach in reachability),
        )

    def _collect(self) -> None:
        """Note the answers, and what will not be answered any more."""
        now_s = self._context.clock.now_s()
        for answer in self._prober.answers():
            self._table.record(answer, now_s)
        self._table.expire(now_s)

    def _report(self) -> None:
        now_s = self._context.clock.now_s()
        if now_s < self._report_at_s:
            return
        self._report_at_s = now_s + REPORT_S
        found = worst_trouble(self._table.trouble)
        if found is None:
            self._context.conditions.resolve(TOPIC)
        else:
            state, text = found
            peers = len(self._table.trouble)
            self._context.conditions.report(
                TOPIC, "probe.unanswered", text, blocks=False, cause=state.value, state=state.value, peers=peers
            )
