"""The faults that are planted: flannel's own mistakes (``B`` and a number), and plausible ones.

Each is a text of the daemon's source, which must be there exactly once, and what stands in its place in the spoiled
copy. The checks are listed from cheap to costly; the simulated world is always asked first.
"""

from collections.abc import Sequence
from dataclasses import dataclass

PEERS = ("tests/unit/test_peer_table.py", "tests/unit/test_peer_validation.py", "tests/unit/test_daemon_routes.py")
ROUTES = ("tests/unit/test_routes.py", "tests/unit/test_daemon_routes.py", "tests/unit/test_daemon_relist.py")
LEASE = ("tests/unit/test_ownership.py", "tests/unit/test_daemon_lease.py", "tests/unit/test_allocation.py")
GUARD = ("tests/unit/test_guard.py", "tests/unit/test_daemon_relist.py")
FOLLOW = ("tests/unit/test_daemon_relist.py", "tests/unit/test_daemon_routes.py")
STAND_IN = ("tests/unit/test_restore.py",)
ETCD = ("tests/contract/test_registry.py", "tests/integration/test_etcd_create.py")


@dataclass(frozen=True, slots=True)
class Plant:
    """A fault.

    Attributes:
        name: what it is called; begins with flannel's number where it is one of its mistakes.
        what: what the spoiled daemon does.
        file: below ``pyflanneld/``.
        old: what stands there.
        new: what is put there.
        tests: files of tests, or single tests, that are asked besides the simulated world.
    """

    name: str
    what: str
    file: str
    old: str
    new: str
    tests: Sequence[str]


PLANTS: tuple[Plant, ...] = (
    Plant(
        "B01 spoiled value", "a value that cannot be read makes a peer forgotten, with its route",
        "core/peers/table.py",
        "            known.record, known.latest = record, _read(record).latest\n",
        "            known = self._entries[record.name] = _read(record)\n",
        PEERS,
    ),
    Plant(
        "B01 failed list", "a list that fails counts as a list of nothing",
        "tasks/peers.py",
        "        snapshot = await self._context.registry.list_subnets(elsewhere=bool(self._node.guard.held))\n",
        "        try:\n            snapshot = await self._context.registry.list_subnets()\n"
        "        except RegistryError:\n            snapshot = Snapshot((), self._revision, self._cluster_id)\n",
        FOLLOW,
    ),
    Plant(
        "B02 other family", "a lease without an address of the family that is asked for ends the daemon",
        "core/peers/validation.py",
        "        if gateway is None:\n"
        '            return Quarantine("bad_gateway", f"the lease has no {field} for {subnet}")\n',
        "",
        (*PEERS, "tests/unit/test_daemon_dual_stack.py"),
    ),
    Plant(
        "B03 no range check", "a peer's subnet may lie anywhere, 0.0.0.0/0 too",
        "core/peers/validation.py",
        "        if first < self._first or last > self._last or subnet.prefixlen <= network.prefixlen:\n",
        "        if not subnet:\n",
        PEERS,
    ),
    Plant(
        "B03 own subnet", "a peer may claim a part of our own subnet",
        "core/peers/validation.py",
        '    yield *address_range(own_subnet), "overlaps_own", f"overlaps our own {own_subnet}"\n',
        "",
        PEERS,
    ),
    Plant(
        "B03 connected network", "a peer may claim the LAN of the host",
        "core/peers/validation.py",
        "    for network in (*context.connected, *(own.network for own in context.link_addresses)):\n",
        "    for network in ():\n",
        PEERS,
    ),
    Plant(
        "B03 loose key", "a key counts when a part of it looks like a subnet",
        "core/lease/codec.py",
        "    match = _NAME.fullmatch(name) if len(name) <= MAX_NAME_BYTES else None\n",
        "    match = _NAME.search(name)\n",
        ("tests/unit/test_lease.py", *PEERS),
    ),
    Plant(
        "B04 write by force", "a lease that another node holds by now is written over",
        "core/lease/ownership.py",
        "    if not ours:\n",
        "    if not ours and attrs is None:\n",
        LEASE,
    ),
    Plant(
        "B05 renewal ends", "the task that renews the lease ends at the first failure, and nobody notices",
        "tasks/lease/renew.py",
        "        if proved:\n            waits =",
        "        if not proved:\n            return\n        if proved:\n            waits =",
        LEASE,
    ),
    Plant(
        "B06 watch ends", "the task that follows the peers ends when a list or a watch fails",
        "tasks/peers.py",
        '                self._why = "watch_ended"\n                self._draw_turn()\n',
        "                return\n",
        FOLLOW,
    ),
    Plant(
        "B07 partial list", "the first page of a list counts as the whole",
        "etcd/v3/registry.py",
        "        while page.more and page.kvs:\n",
        "        first.count = len(records)\n        while False:\n",
        ETCD,
    ),
    Plant(
        "B08 attributes ignored", "a list that finds a known peer at another address changes nothing",
        "core/peers/table.py",
        "        changed = [self._put(record) for record in current.values()]\n",
        "        changed = [self._put(record) for name, record in current.items() if name not in self._entries]\n",
        PEERS,
    ),
    Plant(
        "B09 own lease a peer", "the own lease is taken for a peer's",
        "core/peers/table.py",
        "        if record.name == self._own_name:\n            return False\n",
        "",
        PEERS,
    ),
    Plant(
        "B10 other backend", "the lease of another backend is used as if it were one of ours",
        "core/peers/table.py",
        "            entry.good.clear()\n            self._foreign.add(name)\n",
        "            pass\n",
        PEERS,
    ),
    Plant(
        "B12 stale routes stay", "a route that nothing wants any more is left in the kernel",
        "core/routes/plan.py",
        "    return Plan(tuple(puts), tuple(drops), blocked)\n",
        "    del drops\n    return Plan(tuple(puts), (), blocked)\n",
        ROUTES,
    ),
    Plant(
        "B15 prefix without a slash", "keys beside subnets/, such as subnets-old/, are taken for leases",
        "etcd/v3/keyspace.py",
        'subnets=root + b"/subnets/", subnets_end=root + b"/subnets0")',
        'subnets=root + b"/subnets", subnets_end=root + b"/subnett")',
        ETCD,
    ),
    Plant(
        "B17 no deadline", "a call to a member that does not answer waits for an hour",
        "etcd/v3/calls.py",
        '{"timeout": timeout_s, "metadata": metadata(token)}',
        '{"timeout": timeout_s * 3600, "metadata": metadata(token)}',
        ("tests/integration/test_etcd_calls.py", "tests/integration/test_etcd_black_hole.py"),
    ),
    Plant(
        "B18 no jitter", "all nodes try again in step",
        "core/backoff.py",
        "        yield rng.uniform(ceiling / 2, ceiling)\n",
        "        yield ceiling\n",
        ("tests/unit/test_backoff.py",),
    ),
    Plant(
        "B22 lost race", "whoever loses the race for a subnet ends",
        "tasks/lease/acquire.py",
        "        await asyncio.sleep(race_pause_s(race, context.rng))\n    raise",
        '        raise RuntimeError("somebody else was faster")\n    raise',
        LEASE,
    ),
    Plant(
        "B23 one key guarded", "a new lease is guarded against the same key only, not against one that overlaps",
        "etcd/v3/leases.py",
        "compare=[nothing_new, absent]",
        "compare=[absent]",
        ETCD,
    ),
    Plant(
        "B24 reservation destroyed", "a key without a TTL that does not fit is deleted, although an operator put it",
        "core/lease/allocation.py",
        "        elif record.lease_id:  # a reservation is the operator's to remove\n",
        "        else:\n",
        LEASE,
    ),
    Plant(
        "B25 write to renew", "each renewal writes the key again",
        "core/lease/ownership.py",
        "    if attrs == publish:\n",
        "    if attrs is None and attrs == publish:\n",
        LEASE,
    ),
    Plant(
        "B26 renewal late", "the lease is renewed only when the margin before its end is reached",
        "core/lease/ownership.py",
        "    return max(1.0, min(LONGEST_INTERVAL_S, ttl_s / 10, ttl_s - margin_s))\n",
        "    return max(1.0, ttl_s - margin_s)\n",
        LEASE,
    ),
    Plant(
        "B27 deleted key", "the daemon gives up when its key is deleted, instead of taking its subnet again",
        "tasks/lease/renew.py",
        "            return await _retake(context, node, attrs)\n",
        '            raise LeaseLost(f"{node.lease.subnet} is gone")\n',
        LEASE,
    ),
    Plant(
        "B27 exit code", "a lost lease ends the daemon with exit code 0, which no supervisor takes for a failure",
        "errors.py",
        "    exit_code = 75\n",
        "    exit_code = 0\n",
        ("tests/unit/test_catalogue.py", "tests/unit/test_docs.py", "tests/faults/test_lease.py"),
    ),
    Plant(
        "B28 suspend unseen", "the time that a machine sleeps does not count",
        "system/clock.py",
        "        return time.clock_gettime(time.CLOCK_BOOTTIME)\n\n    def suspended_s",
        "        return time.clock_gettime(time.CLOCK_MONOTONIC)\n\n    def suspended_s",
        ("tests/unit/test_daemon_lease.py", "tests/unit/test_clock.py"),
    ),
    Plant(
        "B30 error at the start", "an error of etcd while a lease is acquired ends the daemon",
        "tasks/lease/acquire.py",
        "            await context.pause(error, next(waits))\n            continue\n",
        "            raise\n",
        LEASE,
    ),
    Plant(
        "B31 configuration unwatched", "a configuration that does not fit the node any more is not told",
        "tasks/network_watch.py",
        "    if why:\n",
        "    if why and node.config is None:\n",
        ("tests/unit/test_daemon_config.py",),
    ),
    Plant(
        "B31 network followed", "a change of the configuration that fits nobody any more is let pass as one that does",
        "core/network/review.py",
        "    return [] if same_kind and after.admits(key.ipv4, key.ipv6) else differences(before, after)\n",
        "    return [] if same_kind or after.admits(key.ipv4, key.ipv6) else differences(before, after)\n",
        ("tests/unit/test_daemon_config.py",),
    ),
    Plant(
        "late module missed", "a module that cannot be opened for want of descriptors ends the daemon",
        "state/lazy_import.py",
        "        except OSError:\n            await asyncio.sleep(RETRY_S)\n",
        "        except OSError:\n            raise\n",
        ("tests/unit/test_lazy_import.py",),
    ),
    Plant(
        "B32 underlay", "the subnet of the host's own LAN may be leased",
        "core/lease/allocation.py",
        " if not inside(network, net)] + list(underlay)\n",
        " if not inside(network, net)]\n",
        LEASE,
    ),
    Plant(
        "B33 foreign route", "a foreign route in the place of ours is written over",
        "core/routes/plan.py",
        "            blocked[dst] = blocker\n",
        "            puts.append(Replace(wanted))\n",
        ROUTES,
    ),
    Plant(
        "B34 delete, then add", "routes are dropped before others are put",
        "tasks/routes/reconcile.py",
        "        changes: list[PeerChange] = [*todo.puts, *self._allowed(todo.drops)]\n",
        "        changes: list[PeerChange] = [*self._allowed(todo.drops), *todo.puts]\n",
        ROUTES,
    ),
    Plant(
        "B36 interface frozen", "the interface is what it was at the start, whatever becomes of it",
        "tasks/link.py",
        "    was, node.choice = node.choice, choice\n",
        "    was = node.choice\n",
        ("tests/unit/test_daemon_link.py",),
    ),
    Plant(
        "B37 refusal untold", "a route that the kernel refuses is no problem to speak of",
        "tasks/routes/reconcile.py",
        '            conditions.report("routes", "route.failed", text)\n',
        '            conditions.resolve("routes", why=text)\n',
        ROUTES,
    ),
    Plant(
        "B38 only missing routes", "a route with a wrong gateway is not put right",
        "core/routes/plan.py",
        "    return there.plain and there.gateway == wanted.gateway and there.link_index == wanted.link_index\n",
        "    return there.plain and there.link_index == wanted.link_index\n",
        ROUTES,
    ),
    Plant(
        "B39 password in the log", "what a field's name calls a secret is logged",
        "logs/sanitise.py",
        '        return "***"\n',
        "        return str(value)\n",
        ("tests/unit/test_logs.py",),
    ),
    Plant(
        "B40 always healthy", "a loop that has stopped is not seen",
        "state/node.py",
        "        return [loop for loop, due in self._due.items() if now > due]\n",
        "        return [loop for loop, due in self._due.items() if now > due + 1e9]\n",
        ("tests/unit/test_status.py", "tests/unit/test_daemon_routes.py", "tests/unit/test_daemon_lease.py"),
    ),
    Plant(
        "B41 ready without the file", "a subnet file that cannot be written is a warning, and the node is ready",
        "tasks/subnet_file.py",
        '            context.conditions.report("file", "subnet_file.failed", text, cause=why)\n',
        '            context.conditions.report("file", "subnet_file.failed", text, blocks=False, cause=why)\n'
        "            node.file_written.set()\n",
        ROUTES,
    ),
    Plant(
        "B41 ready too early", "the service manager is told that the node is ready before the file is written",
        "daemon/run.py",
        "        await node.file_written.wait()\n",
        "",
        ROUTES,
    ),
    Plant(
        "B42 no bound", "a value of any size is read",
        "core/strict_json.py",
        "    if len(data) > max_bytes:\n",
        "    if len(data) > max_bytes**2:\n",
        ("tests/unit/test_strict_json.py", "tests/unit/test_lease.py"),
    ),
    Plant(
        "B42 forged line", "what stands in a key goes into the log as it is",
        "logs/sanitise.py",
        "    if not text.isprintable():\n",
        "    if not text:\n",
        ("tests/unit/test_logs.py",),
    ),
    Plant(
        "B43 bad variable", "a variable that cannot be understood is passed over",
        "config/go_flags.py",
        '        text = environ.get(flag.env, "") if flag.from_env else ""\n',
        '        text = environ.get(flag.env, "") if flag.from_env else ""\n'
        '        text = "" if flag.kind is FlagKind.INT and not text.isdigit() else text\n',
        ("tests/unit/test_flags.py", "tests/unit/test_settings.py"),
    ),
    Plant(
        "B45 own subnet revoked", "a put whose reply is lost has its etcd lease revoked, and with it perhaps our key",
        "etcd/v3/leases.py",
        "            return await self._outcome(name, spare, error)\n",
        "            await self._give_back()\n            raise RegistryUnavailable(str(error)) from error\n",
        ETCD,
    ),
    Plant(
        "guard off", "most routes may go at once on the word of one list",
        "core/peers/guard.py",
        "            self._hold(fresh, now_s)\n            return self._confirmed\n",
        "            return fresh | self._confirmed\n",
        GUARD,
    ),
    Plant(
        "guard for ever", "what was held once is never let go",
        "core/peers/guard.py",
        "            self._confirmed |= self._held\n            self._held = frozenset()\n",
        "            self._confirmations = 0\n",
        GUARD,
    ),
    Plant(
        "older history agrees", "a list from an older history counts as a second opinion about a mass withdrawal",
        "core/peers/guard.py",
        "        if self._suspicious:  # this is the list that is not trusted, or nothing was planned since\n"
        "            self._last_list_s = now_s\n",
        "",
        GUARD,
    ),
    Plant(
        "first look unseen", "a kernel that never answers the first look is not noticed",
        "tasks/routes/reconcile.py",
        '        self._context.liveness.beat("routes", 2 * SCAN_S)  # the first look counts too\n',
        "",
        ROUTES,
    ),
    Plant(
        "time travel", "an event that is older than what is known is believed",
        "core/peers/table.py",
        "                return record.mod_revision > self._known_at(record.name) and self._put(record)\n",
        "                return self._put(record)\n",
        PEERS,
    ),
    Plant(
        "early sweep", "routes are swept before the first complete list",
        "tasks/routes/reconcile.py",
        "        if not node.complete:\n            return\n",
        "",
        ROUTES,
    ),
    Plant(
        "withdrawal in doubt", "routes are withdrawn although the own lease has not been confirmed for too long",
        "tasks/routes/reconcile.py",
        "        if now_s > node.lease.confirmed_until_s:\n            return []\n",
        "",
        (*ROUTES, "tests/unit/test_daemon_lease.py"),
    ),
    Plant(
        "no sync", "the new file is not on the disk when it takes the old one's name",
        "system/atomic_files.py",
        "            os.fsync(fd)\n",
        "",
        ("tests/unit/test_atomic_files.py",),
    ),
    Plant(
        "file in place", "subnet.env is written where it stands",
        "system/atomic_files.py",
        '    temporary = f".{name}.{secrets.token_hex(8)}"\n'
        "    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC\n",
        "    temporary = name\n    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC\n",
        ("tests/unit/test_atomic_files.py",),
    ),
    Plant(
        "confirmed too long", "the lease is believed beyond its end",
        "core/lease/ownership.py",
        "    until_s = sent_at_s + ttl - DRIFT_MARGIN_S\n",
        "    until_s = sent_at_s + ttl + DRIFT_MARGIN_S\n",
        LEASE,
    ),
    Plant(
        "blind retake", "a subnet is taken again although somebody else has leased an overlapping one",
        "tasks/lease/renew.py",
        "        rival = _overlapping(snapshot, key, node.networks)\n",
        "        rival = _overlapping(Snapshot((), 0, 0), key, node.networks)\n",
        LEASE,
    ),
    Plant(
        "refusal forgotten", "a change that the kernel has refused counts as done",
        "tasks/routes/reconcile.py",
        "        done = [change for change in changes if change not in refused] if refused else changes\n",
        "        done = changes\n",
        ROUTES,
    ),
    Plant(
        "loser forgotten", "a peer that lost to an older one is not looked at again when that has gone",
        "core/peers/table.py",
        "        due: dict[bytes, Network | None] = {**self._overlapped}\n",
        "        due: dict[bytes, Network | None] = {}\n",
        PEERS,
    ),
    Plant(
        "no list again", "an event that etcd has lost is never made good by a list",
        "tasks/peers.py",
        "        return jittered(max(RELIST_S, self._round_s), 0.2, self._context.rng)\n",
        "        return jittered(max(RELIST_S, self._round_s), 0.2, self._context.rng) * 1e6\n",
        FOLLOW,
    ),
    Plant(
        "no scan", "the kernel is read only when it says something",
        "tasks/routes/reconcile.py",
        "TOLD_EARLY_S if self._look_again else SCAN_S)\n",
        "TOLD_EARLY_S if self._look_again else 1e6)\n",
        ROUTES,
    ),
    Plant(
        "due forgotten", "what a look has found different is not compared in the next round",
        "tasks/routes/reconcile.py",
        "        self._now_due(different)\n",
        "        self._now_due(())\n",
        ROUTES,
    ),
    Plant(
        "saved lease has run out", "a boot without etcd goes by a lease that may be another node's by now",
        "daemon/restore.py",
        "    if state.lease_end_s is not None and state.lease_end_s <= now_s:\n",
        "    if state.lease_end_s is not None and state.lease_end_s <= 0:\n",
        STAND_IN,
    ),
    Plant(
        "saved for another", "a boot without etcd goes by what was saved for another address",
        "daemon/restore.py",
        "    if parse_value(state.own.value) != attrs:\n",
        "    if parse_value(state.own.value).backend_type != attrs.backend_type:\n",
        STAND_IN,
    ),
    Plant(
        "saved word counts", "a route of ours is replaced because an older file says so",
        "tasks/routes/reconcile.py",
        "            desired = {dst: route for dst, route in desired.items() if dst not in self._present}\n",
        "",
        STAND_IN,
    ),
    Plant(
        "held peers not saved", "what the withdraw guard holds back is gone from what a boot without etcd goes by",
        "tasks/saved_state.py",
        "    held = bool(node.guard.held) or not node.link.up",
        "    held = not node.link.up",
        STAND_IN,
    ),
    Plant(
        "lost lease saved", "a lease that another node has stays what a boot without etcd goes by",
        "tasks/saved_state.py",
        "            await file.forget()\n",
        "            pass\n",
        STAND_IN,
    ),
    Plant(
        "saved anew in an outage", "what was saved counts from when it was written, not from when etcd said it",
        "tasks/saved_state.py",
        "    return context.clock.wall_s() - (context.clock.now_s() - known_s)\n",
        "    return context.clock.wall_s()\n",
        STAND_IN,
    ),
)
