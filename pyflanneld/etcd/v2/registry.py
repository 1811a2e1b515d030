"""The registry on etcd's v2 API: ``ports.Registry`` over HTTP, for clusters where flanneld v0.11.0 keeps everything.

This module says *what* is requested; ``http`` says how a request is sent, ``responses`` and ``keyspace`` what comes
back; ``watch`` and ``create`` are the two parts with a theory of operation. Keys and values are flannel's (v0.11.0,
``subnet/etcdv2/registry.go``). All reads are linearizable (``quorum=true``).

Where v2 keeps the port's contract in another way than v3:

* *Revisions* are etcd's v2 index. A renewal has an index of its own, so it changes the key's ``mod_revision`` and the
  store's revision; it does not wake watchers, on servers that can refresh a TTL (etcd 2.3 and later).
* *Creation* is verified by a list before and one after it (``create``).
* *A TTL belongs to the key*: ``lease_id`` is the key's creation index, 0 without TTL (``keyspace``), and a deleted key
  leaves nothing to renew: ``renew`` then returns a TTL of 0. A rewrite starts the TTL again, because v2 would drop it.
* *A write compares indices* (``prevIndex``), where flanneld overwrites whatever is there.
"""

import asyncio
import random
from collections.abc import AsyncIterator, Collection, Iterable, Mapping
from contextlib import asynccontextmanager
from dataclasses import replace
from functools import partial
from typing import Final

import structlog
from pydantic import BaseModel, ValidationError
from structlog.typing import FilteringBoundLogger

from pyflanneld.core.etcd_types import (
    ConfigRecord,
    Gone,
    Position,
    Put,
    Record,
    Renewal,
    Snapshot,
    TimeLeft,
    TimeToLive,
)
from pyflanneld.core.lease.codec import TTL_S
from pyflanneld.errors import RegistryError, RegistryUnavailable
from pyflanneld.etcd.access import EtcdAccess, Members, Timing
from pyflanneld.etcd.clusters import Clusters
from pyflanneld.etcd.tls import Tls
from pyflanneld.etcd.v2.create import V2Creator, read_subnet
from pyflanneld.etcd.v2.http import Form, V2Client, V2Member, V2Request
from pyflanneld.etcd.v2.keyspace import V2KeySpace, V2Node, parse_event
from pyflanneld.etcd.v2.responses import COMPARE_FAILED, KEY_EXISTS, KEY_NOT_FOUND, NOT_A_FILE, V2Refused, V2Response
from pyflanneld.etcd.v2.watch import LongPoll

_TIMING: Final = Timing()
_IDENTIFY_S: Final = 2.0
_REFRESH_SINCE: Final = (2, 3)
_NOT_OURS: Final = (KEY_NOT_FOUND, COMPARE_FAILED)


class EtcdV2Registry:
    """``ports.Registry`` on etcd's v2 API.

    Args:
        access: where etcd is, and our credentials.
        rng: picks the endpoint to begin with.
        log: where events go; by default structlog's.
        timing: how long to wait.
        tls: the certificates in use, where they are shared; otherwise they are read here.

    Raises:
        UsageError: a TLS file is missing, unreadable or wrong.
    """

    def __init__(
        self,
        access: EtcdAccess,
        *,
        rng: random.Random,
        log: FilteringBoundLogger | None = None,
        timing: Timing = _TIMING,
        tls: Tls | None = None,
    ) -> None:
        self._log: FilteringBoundLogger = log if log is not None else structlog.get_logger("pyflanneld.etcd")
        self._keys = V2KeySpace.below(access.prefix)
        self._clusters = Clusters(access.endpoints, self._identify, self._log)
        self._http = V2Client(
            access,
            members=Members(
                [V2Member(url) for url in access.endpoints],
                rng=rng,
                log=self._log,
                set_aside=lambda: self._clusters.set_aside,
            ),
            timing=timing,
            tls=tls,
            admit=self._admit,
        )
        self._creator = V2Creator(
            self._http, self._keys, list_subnets=self.list_subnets, delete=self.delete_subnet, log=self._log
        )
        self._refreshes: dict[str, bool] = {}

    @property
    def api(self) -> int:
        """The API in use."""
        return 2

    @property
    def endpoint(self) -> str:
        """The endpoint in use, as the operator wrote it."""
        return self._http.members.current.url

    @property
    def set_aside(self) -> Collection[str]:
        """The endpoints of other clusters, which are not used."""
        return self._clusters.set_aside

    @property
    def addresses(self) -> Collection[str]:
        """The addresses that the names among the endpoints had last."""
        return self._http.addresses

    async def _admit(self, member: V2Member) -> None:
        await self._clusters.admit(member.url, partial(self._identify, member.url))

    async def _identify(self, url: str) -> int | None:
        """Return the id of a member's cluster; ``None`` where it does not tell."""
        try:
            async with asyncio.timeout(_IDENTIFY_S):
                return (await self._http.ask(V2Member(url), V2Request("GET", self._keys.config, {}))).cluster_id
        except V2Refused as error:  # an absent key is an answer as well
            return error.answer.cluster_id
        except (RegistryError, TimeoutError):
            return None

    async def server_version(self) -> tuple[int, ...]:
        """Return the version of the member in use, for example ``(3, 4, 23)``.

        Raises:
            RegistryUnavailable: no response, or one without a version.
        """
        try:
            version = ServerVersion.model_validate_json(await self._http.document("/version"))
            return tuple(int(part) for part in version.etcdserver.partition("-")[0].split("."))
        except (ValidationError, ValueError) as error:
            raise RegistryUnavailable(f"{self.endpoint}: no version of etcd at /version") from error

    async def read_config(self) -> ConfigRecord:
        """Return ``<prefix>/config`` as it is now."""
        answer, node = await self._get(self._keys.config)
        value = node.value.encode(errors="replace") if node is not None and not node.directory else None
        return ConfigRecord(value=value, revision=answer.index)

    @asynccontextmanager
    async def watch_config(self, after_revision: int) -> AsyncIterator[AsyncIterator[object]]:
        """Deliver something after each change of ``<prefix>/config``, and at other times too."""
        poll = self._poll(self._keys.config, after_revision, None)
        try:
            yield poll
        finally:
            await poll.close()

    async def list_subnets(self, *, elsewhere: bool = False) -> Snapshot:
        """Return all subnets at one index."""
        await self._clusters.look_again()
        answer, nodes = await self._list(elsewhere=elsewhere)
        return Snapshot(tuple(self._keys.record(node) for node in nodes), answer.index, answer.cluster_id)

    async def remaining(self) -> dict[bytes, int | None]:
        """Return the seconds that each subnet has left to live; ``None`` for one without TTL."""
        _, nodes = await self._list()
        return {self._keys.record(node).name: node.remaining_s for node in nodes}

    async def _list(self, *, elsewhere: bool = False) -> tuple[V2Response, list[V2Node]]:
        """Return the nodes of the directory in the order of their names; an absent one has none."""
        answer, directory = await self._get(self._keys.subnets, elsewhere=elsewhere)
        if directory is None:
            return answer, []
        if not directory.directory:
            raise RegistryUnavailable(f"{self.endpoint}: {self._keys.key} is a key and should be a directory")
        return answer, sorted(directory.nodes, key=lambda node: node.key.encode(errors="replace"))

    async def _get(self, path: str, *, elsewhere: bool = False) -> tuple[V2Response, V2Node | None]:
        try:
            answer = await self._http.anywhere(V2Request("GET", path, {"quorum": "true"}), elsewhere=elsewhere)
        except V2Refused as error:
            if error.code == KEY_NOT_FOUND:
                return error.answer, None
            raise
        return answer, parse_event(answer.body, self.endpoint).node

    @asynccontextmanager
    async def watch_subnets(self, after: Position) -> AsyncIterator[AsyncIterator[tuple[Put | Gone, ...]]]:
        """Deliver every change after *after*."""
        poll = self._poll(self._keys.subnets, after.revision, after.cluster_id)
        try:
            yield _Changes(poll, self._keys)
        finally:
            await poll.close()

    def _poll(self, path: str, after: int, cluster_id: int | None) -> LongPoll:
        return LongPoll(self._http, path, alive=self._keys.config, after=after, cluster_id=cluster_id, log=self._log)

    async def create_subnet(
        self, name: bytes, value: bytes, *, ttl_s: int, listed: Snapshot, beside: Collection[bytes] = ()  # noqa: ARG002
    ) -> Record | None:
        """Create the key with a TTL, provided that nothing overlapping appeared since *listed*; see ``create``."""
        return await self._creator.create(name, value, ttl_s=ttl_s, listed=listed)

    async def rewrite_subnet(self, held: Record, value: bytes) -> Record | None:
        """Change the value of *held* if nobody changed it. A TTL starts again; a key without one gets none."""
        form: Form = {"value": value, "ttl": TTL_S} if held.lease_id else {"value": value}
        try:
            answer = await self._http.once(self._compared("PUT", held, form=form))
        except V2Refused as error:
            if error.code in _NOT_OURS:
                return None
            raise
        return self._keys.record(parse_event(answer.body, self.endpoint).node)

    async def put_on_own_lease(self, held: Record, *, ttl_s: int) -> Record | None:  # noqa: ARG002
        """Start the TTL of *held* again if nobody changed it: in v2 it is the key's own, and as long as ours."""
        return await self.rewrite_subnet(held, held.value)

    async def delete_subnet(self, held: Record) -> bool:
        """Delete *held* if nobody changed it."""
        try:
            await self._http.once(self._compared("DELETE", held))
        except V2Refused as error:
            if error.code in _NOT_OURS:
                return False
            raise
        return True

    async def renew(self, held: Record) -> Renewal:
        """Start the TTL of *held* again if nobody changed the key, and read the key back.

        We may have caused a refusal ourselves: the response to an earlier refresh was lost, and the index is a later
        one. The key is read then, and refreshed once more if it is the same one, with the same value.
        """
        if not await self._creator.settle(held.name):
            return Renewal(record=None, ttl_s=0.0)
        if not held.lease_id:
            return Renewal(record=await read_subnet(self._http, self._keys, held.name), ttl_s=None)
        renewal = await self._refresh(held)
        if renewal is not None:
            return renewal
        record = await read_subnet(self._http, self._keys, held.name)
        if record is not None and (record.lease_id, record.value) == (held.lease_id, held.value):
            renewal = await self._refresh(record)
        return renewal or Renewal(record=record, ttl_s=0.0)

    async def _refresh(self, held: Record) -> Renewal | None:
        form: Form = {"ttl": TTL_S, "value": held.value}
        if await self._can_refresh():
            form = {"ttl": TTL_S, "refresh": "true", "prevExist": "true"}
        try:
            answer = await self._http.anywhere(self._compared("PUT", held, form=form))
        except V2Refused as error:
            if error.code in _NOT_OURS:
                return None
            raise
        node = parse_event(answer.body, self.endpoint).node
        return Renewal(record=self._keys.record(node), ttl_s=float(node.remaining_s or 0))

    async def _can_refresh(self) -> bool:
        """Return whether the member in use knows ``refresh``: an older one would write an empty value."""
        if self.endpoint not in self._refreshes:
            self._refreshes[self.endpoint] = await self.server_version() >= _REFRESH_SINCE
        return self._refreshes[self.endpoint]

    def _compared(self, method: str, held: Record, form: Form | None = None) -> V2Request:
        """Return a write that happens only if nobody has changed *held*."""
        return V2Request(method, self._keys.path(held.name), {"prevIndex": held.mod_revision}, form)

    async def time_left(self, held: Record) -> TimeLeft | None:  # noqa: ARG002
        """Return ``None``: v2 does not report under which leader a time to live was counted."""
        return None

    async def times_to_live(self, records: Iterable[Record]) -> Mapping[bytes, TimeToLive]:
        """Return how long the *records* with a TTL still have, by name. v2 does not report the grant: it is a day."""
        left = await self.remaining()
        with_ttl = [record.name for record in records if record.lease_id]
        return {name: TimeToLive(float(left.get(name) or 0), float(TTL_S)) for name in with_ttl}

    async def reserve_subnet(self, name: bytes, value: bytes, *, listed: Snapshot) -> Record | None:
        """Create the key without a TTL, provided that nothing overlapping appeared since *listed*."""
        return await self._creator.create(name, value, ttl_s=None, listed=listed)

    async def make_reservation(self, held: Record) -> Record | None:
        """Take the TTL of *held* away if nobody changed it."""
        return await self.rewrite_subnet(replace(held, lease_id=0), held.value)

    async def write_config(self, value: bytes, *, seen: ConfigRecord) -> bool:
        """Write ``<prefix>/config`` if it is still as *seen*."""
        _, node = await self._get(self._keys.config)
        there = None if node is None or node.directory else node.value.encode(errors="replace")
        if there != seen.value or (node is not None and node.modified > seen.revision):
            return False
        guard: dict[str, str | int] = {"prevExist": "false"} if node is None else {"prevIndex": node.modified}
        try:
            await self._http.once(V2Request("PUT", self._keys.config, guard, {"value": value}))
        except V2Refused as error:
            if error.code in (*_NOT_OURS, KEY_EXISTS, NOT_A_FILE):
                return False
            raise
        return True

    def reconnect(self) -> None:
        """Use new connections from now on."""
        self._http.reconnect()

    async def close(self) -> None:
        """Close all connections."""
        await self._http.close()


class ServerVersion(BaseModel):
    """What every etcd answers at ``/version``."""

    etcdserver: str


class _Changes:
    """A watch on the subnets, one change at a time."""

    def __init__(self, poll: LongPoll, keys: V2KeySpace) -> None:
        self._poll = poll
        self._keys = keys

    def __aiter__(self) -> "_Changes":
        return self

    async def __anext__(self) -> tuple[Put | Gone, ...]:
        event = await anext(self._poll)
        change = self._keys.change(event) if event is not None else None
        return () if change is None else (change,)
