"""Where the points are: each hook stands in for a public function of pyflanneld, and calls it.

The seams are the methods of the ports, the requests to etcd, and functions that one room offers to another. A step of
etcd passes its point when the answer is there, but for ``txn.sent``: the request is on its way, and nobody can say
whether it arrives. A change of a route passes its point before the kernel hears of it; changes go to the kernel one by
one, so that a batch can end in the middle. The steps of a file are those of ``atomic_files.replace_file``.
"""

import asyncio
import importlib
import os
import stat
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from functools import wraps
from typing import Any

from pyflanneld.core.objects.plan import Create, Drop, Replace
from pyflanneld.errors import KernelError, RegistryUnavailable
from pyflanneld.etcd.v3 import methods
from tests.support.failpoints.plan import Plan

ON_ITS_WAY_S = 0.01
Hook = Callable[[Any, Plan], Any]  # takes what it stands in for


def install(plan: Plan) -> None:
    """Put all hooks in."""
    for target, hook in HOOKS.items():
        owner, name = place(target)
        setattr(owner, name, hook(getattr(owner, name), plan))


def lease_for(ttl_s: int) -> None:
    """Have leases live for *ttl_s*."""
    for module in ("tasks.lease.acquire", "tasks.lease.renew"):
        owner, name = place(f"{module}:TTL_S")
        assert hasattr(owner, name)
        setattr(owner, name, ttl_s)


def place(target: str) -> tuple[Any, str]:
    """Return what holds ``module:name`` or ``module:class.name``, and the name there."""
    module, _, path = target.partition(":")
    *classes, name = path.split(".")
    owner = importlib.import_module(f"pyflanneld.{module}")
    for part in classes:
        owner = getattr(owner, part)
    return owner, name


def before(point: str) -> Hook:
    """Pass *point*, then call the function."""

    def hook(original: Callable[..., Any], plan: Plan) -> Callable[..., Any]:
        @wraps(original)
        def call(*args: Any, **kwargs: Any) -> Any:
            plan.reach(point)
            return original(*args, **kwargs)

        return call

    return hook


# etcd


def answered(point: str) -> Hook:
    """Ask etcd, then pass *point*; its reply may get lost there."""

    def hook(original: Callable[..., Any], plan: Plan) -> Callable[..., Any]:
        async def call(*args: Any, **kwargs: Any) -> Any:
            answer = await original(*args, **kwargs)
            _reach(plan, point)
            return answer

        return call

    return hook


def _reach(plan: Plan, point: str) -> None:
    """Pass a point of etcd's, where all that fails is a call."""
    try:
        lost = plan.reach(point)
    except OSError as error:
        raise RegistryUnavailable(f"failpoint {point}: {error.strerror}") from error
    if lost:
        raise RegistryUnavailable(f"failpoint {point}: the reply is lost")


def asked(original: Callable[..., Any], plan: Plan) -> Callable[..., Any]:
    """Have the lists, transactions and grants pass their points; a read of a single key is no list."""
    listed = answered("list_page")(original, plan)
    granted = answered("grant")(original, plan)
    changed = answered("txn.reply")(sent(original, plan), plan)

    def ask(self: Any, method: Any, request: Any, **how: Any) -> Any:
        call = {methods.LEASE_GRANT: granted, methods.TXN: changed}.get(method, original)
        if method is methods.RANGE and request.range_end:
            call = listed
        return call(self, method, request, **how)

    return ask


def sent(original: Callable[..., Any], plan: Plan) -> Callable[..., Any]:
    """Pass ``txn.sent`` while the request is on its way."""

    async def call(*args: Any, **how: Any) -> Any:
        under_way = asyncio.create_task(original(*args, **how))
        try:
            await asyncio.sleep(ON_ITS_WAY_S)
            _reach(plan, "txn.sent")
            return await under_way
        finally:
            under_way.cancel()  # nothing happens to one that has ended

    return call


def events(original: Callable[..., Any], plan: Plan) -> Callable[..., Any]:
    """Pass ``watch.event`` with the events of a watch, before anybody hears of them."""

    @asynccontextmanager
    async def watch(self: Any, since: Any) -> AsyncIterator[Any]:
        async with original(self, since) as batches:
            yield Batches(batches, plan)

    return watch


class Batches:
    """The events of a watch, batch by batch."""

    def __init__(self, batches: Any, plan: Plan) -> None:
        self._batches = batches
        self._plan = plan

    def __aiter__(self) -> "Batches":
        return self

    async def __anext__(self) -> Any:
        batch = await anext(self._batches)
        if batch:
            _reach(self._plan, "watch.event")
        return batch


# The kernel


def dumped(original: Callable[..., Any], plan: Plan) -> Callable[..., Any]:
    """Pass ``nl.dump`` before the kernel is asked for a list."""

    async def dump(*args: Any, **kwargs: Any) -> Any:
        try:
            plan.reach("nl.dump")
        except OSError as error:
            raise KernelError(f"failpoint nl.dump: {error.strerror}") from error
        return await original(*args, **kwargs)

    return dump


def apply(original: Callable[..., Any], plan: Plan) -> Callable[..., Any]:
    """Make the changes one by one, each past its point; ``prune.mid`` is between two that take a route away."""

    async def call(self: Any, changes: Sequence[Any]) -> Mapping[Any, int]:
        failed: dict[Any, int] = {}
        dropped = 0
        for change in changes:
            if isinstance(change, Drop):
                dropped += 1
                if dropped > 1:
                    plan.reach("prune.mid")
            try:
                plan.reach(_POINT_OF.get(type(change), "nl.add"))
            except OSError as error:
                failed[change] = error.errno or 0
            else:
                failed |= await original(self, [change])
        return failed

    return call


_POINT_OF = {Create: "nl.add", Replace: "nl.replace", Drop: "nl.del"}


def allowed(original: Callable[..., Any], plan: Plan) -> Callable[..., Any]:
    """Pass ``reconcile.mid`` between the plan of a round and its changes, and ``prune.before`` when routes may go."""

    def allow(*args: Any, **kwargs: Any) -> Any:
        plan.reach("reconcile.mid")
        going = original(*args, **kwargs)
        if going:
            plan.reach("prune.before")
        return going

    return allow


# Files, the service manager


class Disk:
    """``os`` for ``atomic_files``, whose writing steps pass their points."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan

    def __getattr__(self, name: str) -> Any:
        return getattr(os, name)

    def open(self, path: Any, flags: int, *args: Any, **kwargs: Any) -> int:
        if flags & os.O_CREAT:
            self._plan.reach("env.open")
        return os.open(path, flags, *args, **kwargs)

    def write(self, fd: int, data: Any) -> int:
        """Write a half, if there is more than a byte; the point is behind it."""
        half = os.write(fd, data[: max(len(data) // 2, 1)])
        self._plan.reach("env.mid_write")
        return half

    def fsync(self, fd: int) -> None:
        self._plan.reach("env.dirsync" if stat.S_ISDIR(os.fstat(fd).st_mode) else "env.fsync")
        os.fsync(fd)

    def rename(self, *args: Any, **kwargs: Any) -> None:
        self._plan.reach("env.before_rename")
        os.rename(*args, **kwargs)  # noqa: PTH104 - with dir_fd
        self._plan.reach("env.after_rename")


def disk(_original: Any, plan: Plan) -> Disk:
    return Disk(plan)


def notify(original: Callable[..., None], plan: Plan) -> Callable[..., None]:
    """Pass ``ready`` just before it is reported to the service manager."""

    def send(self: Any, state: str) -> None:
        if state == "READY=1":
            plan.reach("ready")
        original(self, state)

    return send


HOOKS: dict[str, Hook] = {
    "system.lock:hold": before("lock"),
    "http.sockets:bind_port": before("healthz_bind"),
    "etcd.v3.registry:EtcdV3Registry.read_config": answered("config_read"),
    "etcd.v3.registry:EtcdV3Registry.renew": answered("keepalive"),
    "etcd.v3.registry:EtcdV3Registry.watch_subnets": events,
    "etcd.v3.channel:Endpoint.ask": asked,
    "netlink.kernel:NetlinkKernel.links": dumped,
    "netlink.kernel:NetlinkKernel.routes": dumped,
    "netlink.kernel:NetlinkKernel.apply": apply,
    "netlink.kernel:NetlinkKernel.close": before("shutdown.close"),
    "core.peers.guard:WithdrawGuard.allow": allowed,
    "system.atomic_files:os": disk,
    "system.service_manager:SdNotifier.send": notify,
}
