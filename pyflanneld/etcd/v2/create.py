"""Creating a key on v2 so that two nodes never hold overlapping subnets, although v2 has no transactions.

Theory of operation. ``prevExist=false`` guards the one name; nothing guards against another name that overlaps it. So:

1. *List before.* What may overlap and was created since the caller's list is a conflict; nothing has been written yet.
2. *Create*, if absent.
3. *List after.* A key that overlaps ours (or that is not readable), is new since the caller's list and older than ours
   (lower index) was there first: ours is deleted, if nobody changed it, and the caller chooses again. Of two keys that
   are created at once, each client sees the other's in its second list, both see the same order, and only the younger
   one is deleted.

A name of the caller's list is never new: the caller has avoided it. (flanneld v0.11.0 renews with a plain ``set``,
which v2 cannot distinguish from a new key.)

When a response is lost, or the list of step 3 fails, the key may be ours without verification. Its name is remembered:
the caller lists again after the error, finds a lease with its address and renews it, and ``settle`` makes up for step 3
first. v2 cannot prevent that a creation is delayed on its way and happens after the caller has chosen another subnet:
such a key is found with the next renewal, and deleted. As long as it lives nobody else takes that subnet, and this host
does not use it.
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass

from structlog.typing import FilteringBoundLogger

from pyflanneld.core.etcd_types import Record, Snapshot
from pyflanneld.core.lease.codec import SubnetKey, parse_lease
from pyflanneld.errors import RegistryUnavailable
from pyflanneld.etcd.v2.http import Form, V2Client, V2Request
from pyflanneld.etcd.v2.keyspace import V2KeySpace, parse_event
from pyflanneld.etcd.v2.responses import KEY_EXISTS, KEY_NOT_FOUND, NOT_A_FILE, V2Refused


@dataclass(frozen=True, slots=True)
class UnverifiedCreation:
    """A creation whose step 3 is missing: the value, and the list that the caller has chosen by."""

    value: bytes
    listed: Snapshot


class V2Creator:
    """Creates keys with a TTL, one at a time.

    Args:
        http: sends the requests.
        keys: where the keys are.
        list_subnets: returns all subnets as they are now.
        delete: deletes a record unless somebody changed it.
    """

    def __init__(
        self,
        http: V2Client,
        keys: V2KeySpace,
        *,
        list_subnets: Callable[[], Awaitable[Snapshot]],
        delete: Callable[[Record], Awaitable[bool]],
        log: FilteringBoundLogger,
    ) -> None:
        self._http = http
        self._keys = keys
        self._list = list_subnets
        self._delete = delete
        self._log = log
        self._lock = asyncio.Lock()
        self._unverified: dict[bytes, UnverifiedCreation] = {}

    async def create(self, name: bytes, value: bytes, *, ttl_s: int | None, listed: Snapshot) -> Record | None:
        """Do what ``Registry.create_subnet`` promises; with ``None`` for the TTL, ``Administration.reserve_subnet``."""
        async with self._lock:
            before = await self._list()
            if before.cluster_id != listed.cluster_id or before.revision < listed.revision:
                raise RegistryUnavailable("the list to create a key by is from another cluster or a newer history")
            new, key = _new(before.records, listed), parse_lease(name, value).key
            if any(_may_overlap(record.lease.key, key) or self._made(record) for record in new):
                return None
            self._unverified[name] = UnverifiedCreation(value, listed)
            record = await self._put(name, value, ttl_s, listed)
            if record is None:
                del self._unverified[name]
                return None
            return record if await self._verified(record, listed) else None

    async def settle(self, name: bytes) -> bool:
        """Make up for a missing step 3; return whether the key may be kept.

        The key is read again: it may have been created, or be somebody else's, since its holder has read it.
        """
        async with self._lock:
            for other in [one for one in self._unverified if one != name]:
                await self._take_back(other)
            creation = self._unverified.get(name)
            if creation is None:
                return True
            record = await read_subnet(self._http, self._keys, name)
            if record is None:
                return True  # not there, or not yet
            if record.value != creation.value or record.create_revision <= creation.listed.revision:
                del self._unverified[name]
                return True  # not the one that we have created
            return await self._verified(record, creation.listed)

    def _made(self, record: Record) -> bool:
        """Return whether *record* is a creation of ours whose outcome was unknown: the caller has to find it."""
        creation = self._unverified.get(record.name)
        return creation is not None and creation.value == record.value

    async def _take_back(self, name: bytes) -> None:
        """Delete what we have created late, under a name that is not the one in use."""
        record = await read_subnet(self._http, self._keys, name)
        if record is not None:
            made = self._made(record) and record.create_revision > self._unverified.pop(name).listed.revision
            if made and await self._delete(record):
                self._log.info("lease.given_back", key=name, conflict="")

    async def _put(self, name: bytes, value: bytes, ttl_s: int | None, listed: Snapshot) -> Record | None:
        form: Form = {"value": value} if ttl_s is None else {"value": value, "ttl": ttl_s}
        try:
            answer = await self._http.once(V2Request("PUT", self._keys.path(name), {"prevExist": "false"}, form))
        except V2Refused as error:
            if error.code in (KEY_EXISTS, NOT_A_FILE):
                return None
            raise
        except RegistryUnavailable as error:
            return await self._outcome(name, value, listed, error)
        return self._keys.record(parse_event(answer.body, "creating").node)

    async def _outcome(self, name: bytes, value: bytes, listed: Snapshot, error: RegistryUnavailable) -> Record:
        """Return the record if the creation that ended in *error* has happened.

        Raises:
            RegistryUnavailable: it has not, or not yet, or that is unknown.
        """
        record = await read_subnet(self._http, self._keys, name)
        if record is None or record.value != value or record.create_revision <= listed.revision:
            raise RegistryUnavailable(f"creating {name!r}, which is not there (yet): {error}") from error
        return record

    async def _verified(self, record: Record, listed: Snapshot) -> bool:
        """Return whether nothing overlapping was there first; delete the key if there was."""
        conflict = _older_conflict(record, (await self._list()).records, listed)
        if conflict is not None:
            self._log.info("lease.given_back", key=record.name, conflict=conflict.name)
            await self._delete(record)
        del self._unverified[record.name]
        return conflict is None


def _new(records: Iterable[Record], listed: Snapshot) -> list[Record]:
    """Return what was created since *listed*."""
    known = {record.name for record in listed.records}
    return [record for record in records if record.create_revision > listed.revision and record.name not in known]


def _older_conflict(own: Record, records: Iterable[Record], listed: Snapshot) -> Record | None:
    """Return a record that was there before *own* and may overlap it."""
    older = (record for record in _new(records, listed) if record.create_revision < own.create_revision)
    others = (record for record in older if record.name != own.name)
    return next((record for record in others if _may_overlap(record.lease.key, own.lease.key)), None)


def _may_overlap(one: SubnetKey | None, other: SubnetKey | None) -> bool:
    return one is None or other is None or one.overlaps(other)


async def read_subnet(http: V2Client, keys: V2KeySpace, name: bytes) -> Record | None:
    """Return the subnet *name* as it is now (linearizable), ``None`` when it is absent."""
    try:
        answer = await http.anywhere(V2Request("GET", keys.path(name), {"quorum": "true"}))
    except V2Refused as error:
        if error.code == KEY_NOT_FOUND:
            return None
        raise
    return keys.record(parse_event(answer.body, "reading").node)
