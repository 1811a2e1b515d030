"""Creating a key on v2 so that two nodes never hold overlapping subnets, although v2 has no transactions.

Theory of operation. ``prevExist=false`` guards the one name; nothing guards against another name that overlaps it. So:

1. *List before.* Anything that was created since the caller's list is a conflict, and nothing has been written yet.
2. *Create*, if absent.
3. *List after.* A key that overlaps ours (or that nobody can read), is new since the caller's list and older than ours
   (lower index) was there first: ours is deleted, if nobody changed it, and the caller chooses again. Of two that are
   created at once each sees the other in its second list, both see the same order, and only the younger gives way.

A name of the caller's list is never new: it was chosen around. (flanneld v0.11.0 renews with a plain ``set``, which v2
cannot tell from a new key.)

When a reply is lost, or the list of step 3 fails, the key may be ours without proof. Its name is remembered: the
caller, who lists again after the error and finds a lease with its address, renews it, and ``settle`` makes up for step
3 first. What v2 cannot prevent is a creation that was held up on its way and happens after the caller has moved on:
that key lives until its TTL ends.
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass

from structlog.typing import FilteringBoundLogger

from pyflanneld.core.etcd_types import Record, Snapshot
from pyflanneld.core.invalid import Invalid
from pyflanneld.core.lease.codec import parse_key_name
from pyflanneld.errors import RegistryUnavailable
from pyflanneld.etcd.v2.http import Form, Http, V2Request
from pyflanneld.etcd.v2.keyspace import Tree, parse_event
from pyflanneld.etcd.v2.responses import KEY_EXISTS, KEY_NOT_FOUND, NOT_A_FILE, V2Refused


@dataclass(frozen=True, slots=True)
class Attempt:
    """A creation that is not proved: what was to be written, and the list that it was decided by."""

    value: bytes
    listed: Snapshot


class CreatorV2:
    """Creates keys with a TTL, one at a time.

    Args:
        http: sends the requests.
        tree: where the keys are.
        list_subnets: returns all subnets as they are now.
        delete: deletes a record unless somebody changed it.
    """

    def __init__(
        self,
        http: Http,
        tree: Tree,
        *,
        list_subnets: Callable[[], Awaitable[Snapshot]],
        delete: Callable[[Record], Awaitable[bool]],
        log: FilteringBoundLogger,
    ) -> None:
        self._http = http
        self._tree = tree
        self._list = list_subnets
        self._delete = delete
        self._log = log
        self._lock = asyncio.Lock()
        self._unproved: dict[bytes, Attempt] = {}

    async def create(self, name: bytes, value: bytes, *, ttl_s: int | None, listed: Snapshot) -> Record | None:
        """Do what ``Registry.create_subnet`` promises; with ``None`` for the TTL, ``Administration.reserve_subnet``."""
        async with self._lock:
            before = await self._list()
            if before.cluster_id != listed.cluster_id or before.revision < listed.revision:
                raise RegistryUnavailable("the list to create a key by is from another cluster or a newer history")
            if _new(before.records, listed):
                return None
            self._unproved[name] = Attempt(value, listed)
            record = await self._put(name, value, ttl_s, listed)
            if record is None:
                del self._unproved[name]
                return None
            return record if await self._proved(record, listed) else None

    async def settle(self, name: bytes) -> bool:
        """Make up for a proof that is missing; say whether the key may be kept, which it may if none is missing.

        The key is read again: it may have been made, or be somebody else's, since its holder has seen it.
        """
        async with self._lock:
            attempt = self._unproved.get(name)
            if attempt is None:
                return True
            record = await read_record(self._http, self._tree, name)
            if record is None:
                return True  # not there, or not yet
            if record.value != attempt.value or record.create_revision <= attempt.listed.revision:
                del self._unproved[name]
                return True  # not what we have made
            return await self._proved(record, attempt.listed)

    async def _put(self, name: bytes, value: bytes, ttl_s: int | None, listed: Snapshot) -> Record | None:
        form: Form = {"value": value} if ttl_s is None else {"value": value, "ttl": ttl_s}
        try:
            answer = await self._http.once(V2Request("PUT", self._tree.path(name), {"prevExist": "false"}, form))
        except V2Refused as error:
            if error.code in (KEY_EXISTS, NOT_A_FILE):
                return None
            raise
        except RegistryUnavailable as error:
            return await self._outcome(name, value, listed, error)
        return self._tree.record(parse_event(answer.body, "creating").node)

    async def _outcome(self, name: bytes, value: bytes, listed: Snapshot, error: RegistryUnavailable) -> Record:
        """Return the record if the creation that ended in *error* has happened.

        Raises:
            RegistryUnavailable: it has not, or not yet, or nobody can say.
        """
        record = await read_record(self._http, self._tree, name)
        if record is None or record.value != value or record.create_revision <= listed.revision:
            raise RegistryUnavailable(f"creating {name!r}, which is not there (yet): {error}") from error
        return record

    async def _proved(self, record: Record, listed: Snapshot) -> bool:
        """Make sure that nothing overlapping was there first; give the key back if there was."""
        rival = _rival(record, (await self._list()).records, listed)
        if rival is not None:
            self._log.info("lease.given_back", key=record.name, rival=rival.name)
            await self._delete(record)
        del self._unproved[record.name]
        return rival is None


def _new(records: Iterable[Record], listed: Snapshot) -> list[Record]:
    """Return what was created since *listed*."""
    known = {record.name for record in listed.records}
    return [record for record in records if record.create_revision > listed.revision and record.name not in known]


def _rival(own: Record, records: Iterable[Record], listed: Snapshot) -> Record | None:
    """Return a record that was there before *own* and may overlap it."""
    older = (record for record in _new(records, listed) if record.create_revision < own.create_revision)
    return next((record for record in older if record.name != own.name and _may_overlap(record, own)), None)


def _may_overlap(one: Record, other: Record) -> bool:
    try:
        return parse_key_name(one.name).overlaps(parse_key_name(other.name))
    except Invalid:
        return True


async def read_record(http: Http, tree: Tree, name: bytes) -> Record | None:
    """Return the subnet *name* as it is now (linearizable), ``None`` when it is absent."""
    try:
        answer = await http.anywhere(V2Request("GET", tree.path(name), {"quorum": "true"}))
    except V2Refused as error:
        if error.code == KEY_NOT_FOUND:
            return None
        raise
    return tree.record(parse_event(answer.body, "reading").node)
