"""The faults that are planted: flannel's own mistakes (``B`` and a number), and plausible ones.

Each names a place of the daemon and the changes that spoil it (``tests.bite.changes``). Prefer public functions, ports,
constants and strings that others see: an edit elsewhere, or another wording of the same code, breaks none of them. The
tests are listed from cheap to costly; the simulated world is always asked first.
"""

import ast
from collections.abc import Sequence
from dataclasses import dataclass
from textwrap import dedent

from tests.bite.changes import (
    Change,
    argument,
    assigned,
    body,
    call,
    case,
    drop_call,
    find,
    first,
    handler,
    never,
    reads,
    returns,
)

PEERS = ("tests/unit/test_peer_table.py", "tests/unit/test_peer_validation.py", "tests/unit/test_daemon_routes.py")
ROUTES = ("tests/unit/test_routes.py", "tests/unit/test_daemon_routes.py", "tests/unit/test_daemon_relist.py")
LEASE = ("tests/unit/test_ownership.py", "tests/unit/test_daemon_lease.py", "tests/unit/test_allocation.py")
GUARD = ("tests/unit/test_guard.py", "tests/unit/test_daemon_relist.py")
FOLLOW = ("tests/unit/test_daemon_relist.py", "tests/unit/test_daemon_routes.py")
RESTORE = ("tests/unit/test_restore.py",)
NAMES = ("tests/unit/test_lock.py",)
DISK = ("tests/unit/test_disk.py",)
VXLAN = ("tests/unit/test_daemon_vxlan.py",)
ETCD = ("tests/contract/test_registry.py", "tests/integration/test_etcd_create.py")


@dataclass(frozen=True, slots=True)
class Plant:
    """A fault.

    Attributes:
        name: what it is called; begins with flannel's number where it is one of its mistakes.
        what: what the spoiled daemon does.
        where: ``module``, ``module:function``, ``module:Class`` or ``module:Class.method`` of ``pyflanneld``.
        changes: each has to find at least one place there.
        tests: files of tests, or single tests, that are asked besides the simulated world.
        helper: code for the end of the module, which the changes use.
    """

    name: str
    what: str
    where: str
    changes: Sequence[Change]
    tests: Sequence[str]
    helper: str = ""

    @property
    def file(self) -> str:
        """The module's file, below ``pyflanneld/``."""
        return self.where.partition(":")[0].replace(".", "/") + ".py"


def spoiled(plant: Plant, text: str) -> str:
    """Return the module's *text* with the fault in it.

    Raises:
        ValueError: the place, or what is to be changed there, is not in the module.
    """
    tree = ast.parse(text)
    scope = find(tree, plant.where.partition(":")[2])
    if scope is None:
        raise ValueError(f"{plant.name}: there is no {plant.where}")
    for number, change in enumerate(plant.changes, 1):
        if not change(scope):
            raise ValueError(f"{plant.name}: change {number} finds nothing to change in {plant.where}")
    tree.body += ast.parse(dedent(plant.helper)).body
    return ast.unparse(ast.fix_missing_locations(tree)) + "\n"


PLANTS: tuple[Plant, ...] = (
    Plant(
        "B01 spoiled value", "a value that cannot be read makes a peer forgotten, with its route",
        "core.peers.table:PeerTable.apply",
        [body("""
            if isinstance(event, Put) and _broken(event.record):
                others = tuple(record for record in self.records() if record.name != event.record.name)
                original(self, Snapshot(others, event.record.mod_revision - 1, 0))
            if isinstance(event, Snapshot):
                sound = tuple(record for record in event.records if not _broken(record))
                original(self, Snapshot(sound, event.revision, event.cluster_id))
            return original(self, event)
        """)],
        PEERS,
        helper="""
            def _broken(record):
                return record.lease.attrs is None
        """,
    ),
    Plant(
        "B01 failed list", "a list that fails counts as a list of nothing",
        "tasks.peers",
        [call("list_subnets", "await _or_nothing(coroutine)")],
        FOLLOW,
        helper="""
            _last = [Snapshot((), 0, 0)]

            async def _or_nothing(snapshot):
                try:
                    _last[0] = await snapshot
                except RegistryError:
                    return Snapshot((), _last[0].revision, _last[0].cluster_id)
                return _last[0]
        """,
    ),
    Plant(
        "B02 other family", "a lease without an address of the family that is asked for ends the daemon",
        "core.lease.codec:LeaseAttrs.gateway",
        [body("""
            gateway = original(self, version)
            assert gateway is not None
            return gateway
        """)],
        (*PEERS, "tests/unit/test_daemon_dual_stack.py"),
    ),
    Plant(
        "B03 no range check", "a peer's subnet may lie anywhere, 0.0.0.0/0 too",
        "core.peers.validation", [never(body="outside_network")], PEERS,
    ),
    Plant(
        "B03 own subnet", "a peer may claim a part of our own subnet",
        "core.peers.validation", [never(body="overlaps_own")], PEERS,
    ),
    Plant(
        "B03 connected network", "a peer may claim the LAN of the host",
        "core.peers.validation", [never(body="CAPTURES_NETWORK")], PEERS,
    ),
    Plant(
        "captured address", "a peer's route may take away an address that this host needs",
        "core.peers.validation:_capture", [body("return None")], PEERS,
    ),
    Plant(
        "cover forgotten", "a peer is refused for an address that a longer connected prefix protects",
        "core.peers.validation:Validator._with_cover", [call("max", "-1")], PEERS,
    ),
    Plant(
        "link routes forgotten", "a gateway that a link route leads to is refused",
        "core.peers.validation:Validator._off_link", [reads("ways", "{}")], PEERS,
    ),
    Plant(
        "B03 loose key", "a key counts when a part of it looks like a subnet",
        "core.lease.codec:parse_key_name", [call("fullmatch", "_NAME.search(arg0)")],
        ("tests/unit/test_lease.py", *PEERS),
    ),
    Plant(
        "B04 write by force", "a lease that another node holds by now is written over",
        "core.lease.ownership:assess",
        [call("HeldByOther", "Rewrite(replace(held, record=seen.record))")],
        LEASE,
    ),
    Plant(
        "B05 renewal ends", "the task that renews the lease ends at the first failure, and nobody notices",
        "tasks.lease.renew:renew_lease", [call("next", "_end()")], LEASE,
        helper="""
            def _end():
                raise asyncio.CancelledError
        """,
    ),
    Plant(
        "B06 watch ends", "the task that follows the peers ends when a list or a watch fails",
        "tasks.peers:PeerWatcher.run", [handler("RegistryError", "return")], FOLLOW,
    ),
    Plant(
        "B07 partial list", "the first page of a list counts as the whole",
        "etcd.v3.listing:_List.read", [assigned("more", "False"), never(test="count")], ETCD,
    ),
    Plant(
        "B08 attributes ignored", "a list that finds a known peer at another address changes nothing",
        "core.peers.table:PeerTable.apply",
        [body("""
            if isinstance(event, Snapshot):
                known = {record.name: record for record in self.records()}
                records = tuple(known.get(record.name, record) for record in event.records)
                event = Snapshot(records, event.revision, event.cluster_id)
            return original(self, event)
        """)],
        PEERS,
    ),
    Plant(
        "B09 own lease a peer", "this host's lease is taken for a peer's",
        "core.peers.table:PeerTable.__init__", [first('own_name = b""')], PEERS,
    ),
    Plant(
        "B10 other backend", "the lease of another backend is used as if it were one of ours",
        "core.peers.table", [reads("backend_type", '"host-gw"')], PEERS,
    ),
    Plant(
        "B12 stale routes stay", "a route that nothing wants any more is left in the kernel",
        "core.objects.plan:plan", [returns("Plan(value.puts, (), value.blocked)")], ROUTES,
    ),
    Plant(
        "B15 prefix without a slash", "keys next to subnets/, such as subnets-old/, are taken for leases",
        "etcd.v3.keyspace:KeySpace.below",
        [returns('cls(config=value.config, subnets=value.subnets[:-1], subnets_end=value.subnets_end[:-2] + b"t")')],
        ETCD,
    ),
    Plant(
        "B17 no deadline", "a call to a member that does not answer waits for an hour",
        "etcd.v3.calls", [argument("ask", "timeout_s", "value * 3600")],
        ("tests/integration/test_etcd_calls.py", "tests/integration/test_etcd_black_hole.py"),
    ),
    Plant(
        "B18 no jitter", "all nodes try again in step",
        "core.backoff:backoff", [call("uniform", "arg1")], ("tests/unit/test_backoff.py",),
    ),
    Plant(
        "B22 lost race", "whoever loses the race for a subnet ends",
        "tasks.lease.acquire:acquire", [call("race_pause_s", "1 / 0")], LEASE,
    ),
    Plant(
        "B23 one key guarded", "a new lease is guarded against the same key only, not against one that overlaps",
        "etcd.v3.leases:guarded_put",
        [argument("TxnRequest", "compare", "[each for each in value if not each.range_end]")],
        ETCD,
    ),
    Plant(
        "B24 reservation destroyed", "a key without a TTL that does not fit is deleted, although an operator put it",
        "core.lease.allocation", [reads("lease_id", "True")], LEASE,
    ),
    Plant(
        "B25 write to renew", "each renewal writes the key again",
        "core.lease.ownership:assess", [call("Confirmed", "Rewrite(arg0)")], LEASE,
    ),
    Plant(
        "B26 renewal late", "the lease is renewed only when the margin before its end is reached",
        "core.lease.ownership:renewal_interval_s", [body("return max(1.0, ttl_s - margin_s)")], LEASE,
    ),
    Plant(
        "B27 deleted key", "the daemon gives up when its key is deleted, instead of taking its subnet again",
        "tasks.lease.renew", [case("Retake", 'raise LeaseLost("the key is gone")')], LEASE,
    ),
    Plant(
        "B27 exit code", "a lost lease ends the daemon with exit code 0, which no supervisor takes for a failure",
        "errors:LeaseLost", [assigned("exit_code", "0")],
        ("tests/unit/test_catalogue.py", "tests/unit/test_docs.py", "tests/faults/test_lease.py"),
    ),
    Plant(
        "B28 suspend unseen", "the time that a machine sleeps does not count",
        "system.clock:SystemClock.now_s", [reads("CLOCK_BOOTTIME", "time.CLOCK_MONOTONIC")],
        ("tests/unit/test_daemon_lease.py", "tests/unit/test_clock.py"),
    ),
    Plant(
        "B30 error at the start", "an error of etcd while a lease is acquired ends the daemon",
        "tasks.lease.acquire:acquire", [handler("RegistryError", "raise")], LEASE,
    ),
    Plant(
        "B31 configuration unwatched", "a configuration that does not fit the node any more is not reported",
        "tasks.network:_compare", [drop_call("report")], ("tests/unit/test_daemon_config.py",),
    ),
    Plant(
        "B31 network followed", "a change of the configuration that fits nobody any more is let pass as one that does",
        "core.network.review:misfits",
        [body("return [] if after.admits(key.ipv4, key.ipv6) else original(key, before, after)")],
        ("tests/unit/test_daemon_config.py",),
    ),
    Plant(
        "late module missed", "a module that cannot be opened for want of descriptors ends the daemon",
        "daemon.deferred:load", [handler("OSError", "raise")], ("tests/unit/test_deferred.py",),
    ),
    Plant(
        "B32 underlay", "the subnet of the host's own LAN may be leased",
        "core.lease.allocation:_taken", [first("underlay = ()")], LEASE,
    ),
    Plant(
        "B33 foreign route", "a foreign route in the place of ours is written over",
        "core.objects.plan:plan",
        [returns("Plan((*value.puts, *(Replace(wanted[dst]) for dst in value.blocked)), value.drops, {})")],
        ROUTES,
    ),
    Plant(
        "B34 delete, then add", "routes are dropped before others are put",
        "tasks.objects.reconcile",
        [argument("apply", 0, "sorted(value, key=lambda each: not isinstance(each, Drop))")],
        ROUTES,
    ),
    Plant(
        "B36 interface frozen", "the interface is what it was at the start, whatever becomes of it",
        "tasks.link:follow_link",
        [body("""
            frozen = node.choice
            placeable = original(context, node, links)
            node.choice = frozen
            return placeable
        """)],
        ("tests/unit/test_daemon_link.py",),
    ),
    Plant(
        "B37 refusal untold", "a route that the kernel refuses is no condition to speak of",
        "tasks.objects.report", [drop_call("report", mention="failed")], ROUTES,
    ),
    Plant(
        "B38 only missing routes", "a route with a wrong gateway is not put right",
        "core.routes:is_as_wanted", [body("return there.plain and there.link_index == wanted.link_index")], ROUTES,
    ),
    Plant(
        "B39 password in the log", "what a field's name calls a secret is logged",
        "logs.sanitise:safe", [never(body="***")], ("tests/unit/test_logs.py",),
    ),
    Plant(
        "B40 always healthy", "a task that has stopped is not seen",
        "state.liveness:Liveness.stalled", [body("return []")],
        ("tests/unit/test_status.py", "tests/unit/test_daemon_routes.py", "tests/unit/test_daemon_lease.py"),
    ),
    Plant(
        "B41 ready without the file", "a subnet file that cannot be written is a warning, and the node is ready",
        "tasks.subnet_file:keep_file",
        [call("report", "(context.conditions.report(arg0, arg1, arg2, blocks=False), node.progress.file.set())")],
        ROUTES,
    ),
    Plant(
        "B41 ready too early", "the service manager is told that the node is ready before the file is written",
        "daemon.run:Daemon", [drop_call("wait", mention="file")], ROUTES,
    ),
    Plant(
        "B42 no bound", "a value of any size is read",
        "core.strict_json:parse_object", [never(test="max_bytes")],
        ("tests/unit/test_strict_json.py", "tests/unit/test_lease.py"),
    ),
    Plant(
        "B42 forged line", "what stands in a key goes into the log as it is",
        "core.printable:printable", [never(test="isprintable")],
        ("tests/unit/test_logs.py", "tests/integration/test_ways_out.py"),
    ),
    Plant(
        "B42 raw status", "systemd gets a status with the line ends of an error text of etcd",
        "system.service_manager:SdNotifier.send", [call("printable", "arg0")],
        ("tests/unit/test_service_manager.py", "tests/integration/test_ways_out.py"),
    ),
    Plant(
        "B42 raw reports", "what stands in etcd gets into reports and onto terminals as it is",
        "core.printable:printable_report", [call("printable", "arg0")], ("tests/integration/test_ways_out.py",),
    ),
    Plant(
        "log waits", "the loop stands still while nobody reads the log",
        "logs.writer:_without_waiting", [first("return partial(os.write, descriptor)")],
        ("tests/unit/test_log_writer.py",),
    ),
    Plant(
        "log silent about losses", "nobody learns that lines of the log were lost",
        "logs.writer:LogWriter", [drop_call("_on_loss")], ("tests/unit/test_log_writer.py",),
    ),
    Plant(
        "log without bounds", "ever new keys in etcd fill the disk with log",
        "logs.volume:VolumeLimit._fits", [returns("True")], ("tests/unit/test_log_volume.py",),
    ),
    Plant(
        "B43 bad variable", "a variable that cannot be understood is passed over",
        "config.go_flags:fill_in",
        [body("""
            try:
                return original(on_line, environ, flags)
            except UsageError:
                return original(on_line, {}, flags)
        """)],
        ("tests/unit/test_flags.py", "tests/unit/test_settings.py"),
    ),
    Plant(
        "B45 own subnet revoked", "a put whose reply is lost has its etcd lease revoked, and with it perhaps our key",
        "etcd.v3.leases:Creator",
        [handler("RegistryUnavailable", """
            await self._give_back()
            raise
        """)],
        ETCD,
    ),
    Plant(
        "guard off", "most routes may go at once on the word of one list",
        "core.peers.guard:WithdrawGuard.allow", [body("return idle")], GUARD,
    ),
    Plant(
        "guard for ever", "what was held once is never let go",
        "core.peers.guard", [never(test="LISTS_NEEDED")], GUARD,
    ),
    Plant(
        "older history agrees", "a list from an older history counts as a second opinion about a mass withdrawal",
        "core.peers.guard", [never(test="_suspicious")], GUARD,
    ),
    Plant(
        "first look unseen", "a kernel that never answers the first read is not noticed",
        "tasks.objects.reconcile:Reconciler.run", [drop_call("beat")], ROUTES,
    ),
    Plant(
        "time travel", "an event that is older than what is known is trusted",
        "core.peers.table:PeerTable.apply",
        [body("""
            if isinstance(event, Put):
                others = (record for record in self.records() if record.name != event.record.name)
                event = Snapshot((*others, event.record), 0, 0)
            return original(self, event)
        """)],
        PEERS,
    ),
    Plant(
        "early sweep", "routes are swept before the first complete list",
        "tasks.objects.reconcile", [reads("listed", "True")], ROUTES,
    ),
    Plant(
        "withdrawal in doubt", "routes are withdrawn although this host's lease has not been confirmed for too long",
        "tasks.objects.reconcile", [reads("confirmed_until_s", 'float("inf")')],
        (*ROUTES, "tests/unit/test_daemon_lease.py"),
    ),
    Plant(
        "no sync", "the new file is not on the disk when it takes the old one's name",
        "system.atomic_files:replace_file", [drop_call("fsync", mention="fd")], ("tests/unit/test_atomic_files.py",),
    ),
    Plant(
        "file in place", "subnet.env is written where it stands",
        "system.atomic_files:replace_file", [assigned("temporary", "name"), reads("O_EXCL", "os.O_TRUNC")],
        ("tests/unit/test_atomic_files.py",),
    ),
    Plant(
        "confirmed too long", "the lease is trusted beyond its end",
        "core.lease.ownership:confirmed",
        [returns("replace(value, confirmed_until_s=value.confirmed_until_s + 2 * DRIFT_MARGIN_S)")],
        LEASE,
    ),
    Plant(
        "gone and ready", "a host whose key is gone from etcd goes on as if peers had a route to it",
        "tasks.lease.renew:_lose_key", [call("report", "None")], LEASE,
    ),
    Plant(
        "covering name unguarded", "a subnet is created although one that covers it has come since the list",
        "core.lease.overlapping_names:overlapping_names", [call("range", "()")],
        ("tests/unit/test_overlapping_names.py", *ETCD),
    ),
    Plant(
        "late put", "a creation of unknown outcome may still happen when another one has succeeded",
        "etcd.v3.leases:Creator.create", [drop_call("_give_back")], ETCD,
    ),
    Plant(
        "junk beside", "a key that cannot be read costs a host its subnet when its own key vanishes",
        "tasks.lease.renew", [call("is_junk", "False")], LEASE,
    ),
    Plant(
        "own elsewhere", "a peer keeps its route to a subnet that is reserved for this host by now",
        "core.peers.validation:Validator", [reads("_published", "()")], PEERS,
    ),
    Plant(
        "flapping condition", "what a list has shown to work counts as working, although every write is refused",
        "tasks.lease.acquire:acquire", [call("decide", "value if context.registry_works('acquire') else value")], LEASE,
    ),
    Plant(
        "fight over a key", "two hosts with one IPv4 address write their values against each other",
        "tasks.lease.duplicate_holder:DuplicateHolder.may_write", [body("return True")],
        ("tests/unit/test_daemon_dual_stack.py",),
    ),
    Plant(
        "short lease adopted", "a key that somebody has put on an etcd lease of 10 s stays there",
        "core.lease.ownership", [assigned("SHORT", "0.0")], LEASE,
    ),
    Plant(
        "blind retake", "a subnet is taken again although another host has leased an overlapping one",
        "tasks.lease.renew", [call("overlap", "False")], LEASE,
    ),
    Plant(
        "refusal forgotten", "a change that the kernel has refused counts as done",
        "tasks.objects.reconcile", [call("apply", "value and {}")], ROUTES,
    ),
    Plant(
        "loser forgotten", "a peer that lost to an older one is not validated again when that has gone",
        "core.peers.table", [reads("_outdone", "{}")], PEERS,
    ),
    Plant(
        "lists stop the watch", "between lists that fail nobody is followed",
        "tasks.peers:PeerWatcher._watch_until_turn",
        [body("await asyncio.sleep(max(0.0, self._not_before - asyncio.get_running_loop().time()))")], FOLLOW,
    ),
    Plant(
        "list goes back", "a list takes away what the watch has told since it was asked for",
        "tasks.peers:PeerWatcher._take", [drop_call("_apply")], FOLLOW,
    ),
    Plant(
        "two clusters", "an endpoint of another cluster is used like the others",
        "etcd.clusters:Clusters.admit", [body("return None")],
        ("tests/unit/test_clusters.py", "tests/integration/test_etcd_lists.py"),
    ),
    Plant(
        "no list again", "an event that etcd has lost is never made good by a list",
        "tasks.peers", [call("jittered", "value * 1e6")], FOLLOW,
    ),
    Plant(
        "no scan", "the kernel is read only when it says something",
        "tasks.objects.reconcile", [assigned("SCAN_S", "1e6")], ROUTES,
    ),
    Plant(
        "due forgotten", "what a read has found different is not compared in the next round",
        "core.objects.table:ObjectTable.take_over", [drop_call("add_due")], ROUTES,
    ),
    Plant(
        "duplicates stay", "routes of ours too many for a destination are left in the kernel",
        "core.objects.table:ObjectTable._take_extras", [body("pass")], ROUTES,
    ),
    Plant(
        "foreign route hit", "a replacement is used where the kernel would replace a foreign route",
        "core.objects.plan:_make_room", [body("""
            change, ours = original(kind, want, here)
            return Replace(want) if isinstance(change, Append) else change, ours
        """)], ROUTES,
    ),
    Plant(
        "endless fight", "a route that others take again and again is put again at once, for ever",
        "core.objects.contest:Contest.left_alone", [body("return ()")], ROUTES,
    ),
    Plant(
        "shadows untold", "what takes the packets of a route of ours is not looked for",
        "core.routes:shadows", [body("return {}")], ROUTES,
    ),
    Plant(
        "saved lease has run out", "a boot without etcd goes by a lease that may be another node's by now",
        "daemon.restore", [reads("lease_end_s", "None")], RESTORE,
    ),
    Plant(
        "saved for another", "a boot without etcd goes by what was saved for another address",
        "daemon.restore", [never(test="parse_value")], RESTORE,
    ),
    Plant(
        "saved word counts", "a route of ours is replaced because an older file says so",
        "tasks.objects.reconcile", [reads("unconfirmed", "False")], RESTORE,
    ),
    Plant(
        "held peers not saved", "what the withdrawal guard holds back is gone from what a boot without etcd goes by",
        "tasks.saved_state", [reads("held", "()")], RESTORE,
    ),
    Plant(
        "lost lease saved", "a lease that another node has stays what a boot without etcd goes by",
        "tasks.saved_state", [drop_call("forget")], RESTORE,
    ),
    Plant(
        "saved anew in an outage", "what was saved counts from when it was written, not from when etcd said it",
        "tasks.saved_state:known_at_s", [body("return context.clock.wall_s()")], RESTORE,
    ),
    Plant(
        "name is proof", "whoever has bound the name of the lock, or of the operators' socket, counts as a daemon",
        "system.unix_peers:Peer.trusted", [returns("True")], NAMES,
    ),
    Plant(
        "rights not read", "another user's process counts as a daemon's without CAP_NET_ADMIN",
        "system.unix_peers", [call("bool", "True")], NAMES,
    ),
    Plant(
        "other names not seen", "a daemon under another name, because a stranger had the plain one, is overlooked",
        "system.lock:names_like", [returns("[name]")], NAMES,
    ),
    Plant(
        "another user's file kept", "subnet.env stays another user's, or writable for all, if it has the right text",
        "system.atomic_files:SubnetEnvFile._contains", [returns("read_regular(fd, len(data) + 1) == data")],
        ("tests/unit/test_atomic_files.py",),
    ),
    Plant(
        "link followed", "the metrics are written to where a link of another user's leads",
        "system.atomic_files:put_file", [body("write_file(path, text)")], ("tests/unit/test_atomic_files.py",),
    ),
    Plant(
        "write in this process", "a write that hangs in the kernel keeps the process from ending",
        "system.disk:in_child", [body("return work()")], DISK,
    ),
    Plant(
        "end waits", "the process ends only when its threads have, whatever they wait for",
        "system.threads", [argument("Thread", "daemon", "False")], DISK,
    ),
    Plant(
        "disk waited for", "a task waits for a disk for ever, and reports nothing",
        "system.disk", [argument("wait", "timeout", "None")], DISK,
    ),
    Plant(
        "children stay", "what a firewall program has started goes on when it has ended",
        "firewall.command_runner", [drop_call("killpg")], ("tests/integration/test_firewall_programs.py",),
    ),
    Plant(
        "ready without a peer", "a host that accepts none of its peers is ready",
        "tasks.objects.report:Reports._none_accepted", [argument("report", "blocks", "False")],
        ("tests/unit/test_daemon_routes.py",),
    ),
    Plant(
        "other network swept", "routes of another daemon on this host, for another network, are dropped",
        "core.routes:RouteKind.concerns_us", [call("any", "True")], ROUTES,
    ),
    Plant(
        "vxlan route before its entries", "a route through the device is put before a packet finds the rest of its way",
        "tasks.objects.reconcile:Reconciler._place", [call("values", "reversed(value)")], VXLAN,
    ),
    Plant(
        "vxlan entries before their route", "what a packet needs behind a route is dropped before the route",
        "tasks.objects.reconcile:Reconciler._place", [call("reversed", "arg0")], VXLAN,
    ),
    Plant(
        "vxlan old forwarding entry", "the forwarding entry of a peer that has gone, or has another device now, stays",
        "core.vxlan.forwardings:ForwardingKind.concerns_us", [body("return False")], VXLAN,
    ),
    Plant(
        "vxlan wrong MAC address", "a device whose MAC address somebody has changed keeps that one",
        "core.vxlan.device:plan_device",
        [body("""
            links = [one if one.vxlan is None else replace(one, vxlan=replace(one.vxlan, mac=wanted.vxlan.mac))
                     for one in links]
            return original(wanted, links)
        """)],
        VXLAN,
    ),
    Plant(
        "vxlan MTU", "packets get as large as the link allows, with no room for the outer headers",
        "core.vxlan.options:VxlanOptions.mtu", [returns("outer")], VXLAN,
    ),
    Plant(
        "vxlan foreign entries", "neighbours that others have put on other links are swept",
        "backends.vxlan:Vxlan.kinds", [assigned("indexes", "tuple(link.index for link in host.links)")], VXLAN,
    ),
    Plant(
        "vxlan two with one MAC address", "of two leases with one MAC address the last one takes the packets of both",
        "core.peers.table:_FamilyPeers._accept", [call("claim", "''")], VXLAN,
    ),
    Plant(
        "vxlan MAC address of an old lease", "a host with another address keeps the MAC address that its old lease has",
        "backends.vxlan:Vxlan._device_mac", [reads("local", "None")], VXLAN,
    ),
)
