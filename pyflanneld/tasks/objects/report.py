"""What the reconciler reports: peers that it leaves out, and what stands against the objects. It decides nothing."""

import errno
from collections import Counter
from collections.abc import Collection, Iterable
from typing import Any

from pyflanneld.core.families import Network, inside, network_order
from pyflanneld.core.objects.table import ObjectTable
from pyflanneld.core.peers.guard import LIST_SPACING_S
from pyflanneld.core.peers.table import View
from pyflanneld.state.context import Context
from pyflanneld.state.node import Node

SEVERAL = 2
SHOWN = 10
NO_RIGHT = "EPERM, CAP_NET_ADMIN is missing in the user namespace that owns this network namespace"


class Reports:
    """The log lines and conditions of one reconciler."""

    def __init__(self, context: Context, node: Node) -> None:
        self._context = context
        self._node = node
        self._accepted_any = False
        self._lost: set[Network] = set()
        self._odd: dict[Network, str] = {}

    def guard(self, held: frozenset[Network]) -> None:
        """Report for how many subnets the withdrawal guard holds the routes, and why nothing wants them."""
        if held:
            text = f"{len(held)} routes are kept although {self._why_idle(held)}, until two more lists agree"
            self._context.conditions.report("guard", "guard.holding", text, routes=len(held))
            self._node.wake.peers.set(within_s=LIST_SPACING_S)
        else:
            self._context.conditions.resolve("guard")

    def _why_idle(self, held: frozenset[Network]) -> str:
        peers = self._node.peers
        gone = len(held - peers.subnets(record.name for record in peers.records()))
        if gone == len(held):
            return "their leases are gone from etcd"
        leases = f"{gone} of their leases are gone from etcd and the others" if gone else "their leases"
        return f"{leases} make no route here with the backend {self._node.backend.name}"

    def peers(self, before: View | None, now: View, shared: Collection[Network]) -> None:
        """Log which keys are quarantined, or are another backend's, since when they are not.

        Connected networks that share addresses with the cluster's are *shared*.
        """
        self._none_accepted(now)
        self._own_addresses(now)
        self._shared_addresses(now, shared)
        self._odd_data(now)
        log, known = self._context.log, before.quarantined if before else {}
        for name, quarantine in now.quarantined.items():
            if known.get(name) != quarantine:
                log.warning("peer.quarantined", key=name, reason=quarantine.reason, why=quarantine.detail)
        for name in known.keys() - now.quarantined.keys():
            log.info("peer.quarantine_ended", key=name)
        for name in now.foreign_backends - (before.foreign_backends if before else frozenset()):
            log.warning("peer.other_backend", key=name, ours=self._node.backend.name)

    def _odd_data(self, view: View) -> None:
        """Report peers whose leases can be used, and say what will not work with this host."""
        rules = self._node.backend.data_rules(self._node.host)
        if rules is None:
            return
        for subnet in view.data if view.changed is None else view.changed:
            self._odd.pop(subnet, None)
            if remark := rules.remark(view.data.get(subnet, "")):
                self._odd[subnet] = remark
        if view.changed is None:
            self._odd = {subnet: remark for subnet, remark in self._odd.items() if subnet in view.data}
        if self._odd:
            first = min(self._odd, key=network_order)
            text = f"{_and_more(first, self._odd)} drops what this host sends: its lease says {self._odd[first]}"
            self._context.conditions.report("odd", "peer.other_vni", text, blocks=False, dst=str(first))
        else:
            self._context.conditions.resolve("odd")

    def _none_accepted(self, view: View) -> None:
        """Report that few peers are accepted, or none: what the others have in common is probably this host's fault."""
        if view.peers:
            self._accepted_any = True
        rejected, accepted = len(view.quarantined), len(view.peers)
        if rejected < SEVERAL or rejected <= accepted:
            self._context.conditions.resolve("accepted")
            return
        reasons = Counter(quarantine.reason for quarantine in view.quarantined.values())
        reason, count = reasons.most_common(1)[0]
        event = "peer.few_accepted" if accepted else "peer.none_accepted"
        few = f"only {accepted}" if accepted else "none"
        text = f"{few} of {rejected + accepted} peers is accepted: {count} of them are quarantined for {reason}"
        blocks = not (accepted or self._accepted_any)
        self._context.conditions.report("accepted", event, text, blocks=blocks, cause=reason, reason=reason)

    def _shared_addresses(self, view: View, shared: Collection[Network]) -> None:
        """Report leases that are a part of a connected network; those that hold one are ``route.shadowed``."""
        ours: list[tuple[Network, object]] = [(half, "this host") for half in self._node.lease.key.subnets]
        found = [
            f"{subnet} is a part of {there} of {self._link_of(there)}, and packets to it go to {where}"
            for there in shared for subnet, where in (*ours, *view.peers.items()) if inside(subnet, there)
        ]
        if found:
            text = f"leases take addresses of a connected network: {_and_more(found[0], found)}"
            self._context.conditions.report("shared", "peer.shares_addresses", text, blocks=False)
        else:
            self._context.conditions.resolve("shared")

    def _link_of(self, network: Network) -> str:
        for link in self._node.links:
            if any(own.network == network for own in link.interfaces(network.version)):
                return link.name
        return "a link"

    def _own_addresses(self, view: View) -> None:
        """Report an address on the loopback that is inside a peer's subnet: packets to it stay on this host."""
        ours = [own for own in self._context.kernel.loopback if any(own in network for network in self._node.networks)]
        found = {own: next((subnet for subnet in view.peers if own in subnet), None) for own in ours}
        covered = sorted(f"{own} in {subnet}" for own, subnet in found.items() if subnet is not None)
        if covered:
            text = f"an address of this host's loopback is inside a peer's subnet: {_and_more(covered[0], covered)}"
            self._context.conditions.report("loopback", "peer.covers_own_address", text, blocks=False)
        else:
            self._context.conditions.resolve("loopback")

    def lost(self, subnets: Iterable[Network]) -> None:
        """Note that routes of ours to *subnets* are gone; ``frozen`` reports those for which none can be put."""
        self._lost.update(subnets)

    def frozen(self) -> None:
        """Report frozen subnets whose objects are gone: what to put in their place no lease says any more."""
        if not self._lost:
            return
        frozen = self._node.view.frozen if self._node.view is not None else ()
        there = {one.dst for one in self._node.routes.objects()} if frozen else set()
        self._lost = {subnet for subnet in self._lost if subnet in frozen and subnet not in there}
        if self._lost:
            first = min(self._lost, key=network_order)
            text = f"the route of {_and_more(first, self._lost)} is gone, and its lease cannot be used: none can be put"
            self._context.conditions.report("lost", "route.lost", text, blocks=False, dst=str(first))
        else:
            self._context.conditions.resolve("lost")

    def table(self, table: ObjectTable[Any, Any], contested: Collection[Any]) -> None:
        """Report what stands against the objects of one kind."""
        kind, refused = table.kind, table.refused()
        what = f"a foreign {kind.name} stands where ours should, and is left alone: {{}}"
        self._foreign(table, "foreign", table.blocked(), kind.events.conflict, what)
        what = f"packets to {{}} take another {kind.name} than ours"
        self._foreign(table, "shadowed", table.shadowed, kind.events.shadowed, what)
        if contested:
            first = min(contested, key=kind.order)
            text = f"others change {kind.plural} of ours again and again, left alone for a while: "
            text, topic = text + _and_more(kind.shown(first), contested), f"contested_{kind.plural}"
            self._context.conditions.report(topic, kind.events.contested, text, dst=kind.shown(first))
        else:
            self._context.conditions.resolve(f"contested_{kind.plural}")
        if refused:
            identity, code = next(iter(refused.items()))
            why = NO_RIGHT if code == errno.EPERM else errno.errorcode.get(code, str(code))
            text = f"the kernel refuses {kind.plural}: {_and_more(kind.shown(identity), refused)}: {why}"
            self._context.conditions.report(kind.plural, kind.events.failed, text)
        else:
            self._context.conditions.resolve(kind.plural)

    def _foreign(self, table: ObjectTable[Any, Any], topic: str, found: Any, event: str, text: str) -> None:
        """Report foreign objects that are *found* in the way, by identity."""
        kind, topic = table.kind, f"{topic}_{table.kind.plural}"
        if not found:
            self._context.conditions.resolve(topic)
            return
        first = min(found, key=kind.order)
        prefix = "" if event == kind.events.conflict else "by_"
        by = {f"{prefix}{name}": value for name, value in kind.fields(found[first]).items()}
        self._context.conditions.report(
            topic, event, text.format(_and_more(kind.shown(first), found)), blocks=False,
            **by, destinations=sorted(map(kind.shown, found))[:SHOWN],
        )


def _and_more(one: object, every: Collection[object]) -> str:
    """Return *one* and how many more there are."""
    return f"{one} and {len(every) - 1} more" if len(every) > 1 else str(one)
