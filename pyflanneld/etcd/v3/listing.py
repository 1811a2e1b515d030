"""The complete list of the subnets, however large its values are and however slow etcd is.

Theory of operation. A list is read in pages, all at the revision of the first. A page has 500 keys with their values,
and at most 1 MB: the length of an answer is its first word, and a longer one is not read. Then the keys of that page
come without their values, and the values in small parts, without those that cannot matter: of names that are no
subnet's, and of keys that were junk in the last list and have not been changed. A single value that is larger is not
read at all. So junk is asked for once, and costs no memory.

After a list that got no answer in time, the next one asks for smaller pages, and for names first.
"""

import asyncio
from collections.abc import Iterable, Iterator
from typing import Final

from pyflanneld.core.etcd_types import Record, Snapshot, unread_record
from pyflanneld.core.lease.codec import is_key_name
from pyflanneld.errors import NoAnswer, RegistryUnavailable
from pyflanneld.etcd.v3 import rpc_pb2 as rpc
from pyflanneld.etcd.v3.calls import Caller
from pyflanneld.etcd.v3.keyspace import KeySpace
from pyflanneld.etcd.v3.methods import RANGE
from pyflanneld.etcd.v3.stream import ANSWER_BYTES, AnswerTooLarge

PAGE: Final = 500
"""Keys per request of a list."""
SLOW_PAGE: Final = 16
"""The fewest, where etcd is slow; also how many values are asked for at once in a page that is too large."""
PAGE_BYTES: Final = 1024 * 1024
LIST_S: Final = 120.0
"""For a whole list."""


class Lister:
    """Reads complete lists.

    Args:
        caller: sends the requests.
        keys: where the subnets are.
    """

    def __init__(self, caller: Caller, keys: KeySpace) -> None:
        self._caller = caller
        self._keys = keys
        self._page_keys = PAGE
        self._junk: dict[bytes, Record] = {}  # by the whole key: what the last list could not use

    async def list(self, *, elsewhere: bool) -> Snapshot:
        """Return all subnets at one revision.

        Raises:
            RevisionCompacted: that revision was compacted away meanwhile.
            RegistryError: otherwise.
        """
        try:
            async with asyncio.timeout(LIST_S):
                snapshot = await _List(self._caller, self._keys, self._page_keys, self._junk, elsewhere).read()
        except (NoAnswer, TimeoutError) as error:
            self._page_keys = max(self._page_keys // 8, SLOW_PAGE)
            if isinstance(error, NoAnswer):
                raise
            raise NoAnswer(f"{self._caller.endpoints.current.url}: no complete list within {LIST_S:g} s") from error
        self._page_keys = min(self._page_keys * 8, PAGE)
        return snapshot


class _List:
    """One list; *junk* is what the last one could not use, and becomes what this one could not."""

    def __init__(
        self, caller: Caller, keys: KeySpace, page_keys: int, junk: dict[bytes, Record], elsewhere: bool
    ) -> None:
        self._caller = caller
        self._keys = keys
        self._page_keys = page_keys
        self._junk = junk
        self._elsewhere = elsewhere
        self._first: rpc.RangeResponse | None = None

    @property
    def _where(self) -> str:
        return self._caller.endpoints.current.url

    async def read(self) -> Snapshot:
        """Read it."""
        found: dict[bytes, Record] = {}
        start, more = self._keys.subnets, True
        while more:
            page, records = await self._page(start)
            first = self._first or page
            found.update(records)
            more = page.more and bool(page.kvs) and len(found) <= first.count
            if page.kvs and page.kvs[-1].key < start:
                raise RegistryUnavailable(f"{self._where}: a page of the list is not the one that was asked for")
            start = page.kvs[-1].key + b"\0" if page.kvs else start
        if len(found) > first.count:
            raise RegistryUnavailable(f"{self._where}: more than the {first.count} keys that it counts")
        if len(found) < first.count:
            raise RegistryUnavailable(f"{self._where}: incomplete list, {len(found)} of {first.count} keys")
        self._junk.clear()
        self._junk.update((key, record) for key, record in found.items() if record.shortened)
        return Snapshot(tuple(found.values()), revision=first.header.revision, cluster_id=first.header.cluster_id)

    async def _page(self, start: bytes) -> tuple[rpc.RangeResponse, dict[bytes, Record]]:
        """Return the next page and its records by key."""
        if self._page_keys == PAGE:
            try:
                page = await self._range(start, self._keys.subnets_end, PAGE)
            except AnswerTooLarge:
                pass
            else:
                return page, {kv.key: self._keys.record(kv) for kv in page.kvs}
        names = await self._names(start)
        records = {kv.key: record for kv in names.kvs if (record := self._needless(kv)) is not None}
        for part in _parts(names.kvs, records):
            records |= await self._values(part)
        return names, {kv.key: records[kv.key] for kv in names.kvs if kv.key in records}

    async def _names(self, start: bytes) -> rpc.RangeResponse:
        """Return a page without values, of as many keys as fit; a single one may be of any length."""
        limit = self._page_keys
        while True:
            max_bytes = PAGE_BYTES if limit > 1 else ANSWER_BYTES
            try:
                return await self._range(start, self._keys.subnets_end, limit, keys_only=True, max_bytes=max_bytes)
            except AnswerTooLarge:
                if limit == 1:
                    raise
                limit = max(limit // 8, 1)

    def _needless(self, kv: rpc.KeyValue) -> Record | None:
        """Return the record of a key whose value need not be read; ``None`` where it must."""
        known = self._junk.get(kv.key)
        if known is not None and known.mod_revision == kv.mod_revision:
            return known
        name = kv.key.removeprefix(self._keys.subnets)
        return None if is_key_name(name) else self._keys.record(kv)

    async def _values(self, part: list[rpc.KeyValue]) -> dict[bytes, Record]:
        """Return the records of keys that follow one another, by key; too large ones are not read."""
        try:
            answer = await self._range(part[0].key, part[-1].key + b"\0", len(part))
        except AnswerTooLarge:
            if len(part) == 1:
                return {part[0].key: unread_record(self._keys.record(part[0]), PAGE_BYTES)}
            half = len(part) // 2
            return await self._values(part[:half]) | await self._values(part[half:])
        return {kv.key: self._keys.record(kv) for kv in answer.kvs}

    async def _range(
        self, start: bytes, end: bytes, limit: int, *, keys_only: bool = False, max_bytes: int = PAGE_BYTES
    ) -> rpc.RangeResponse:
        first = self._first
        request = rpc.RangeRequest(
            key=start, range_end=end, limit=limit, revision=first.header.revision if first else 0, keys_only=keys_only
        )
        answer = await self._caller.read(RANGE, request, elsewhere=self._elsewhere, max_bytes=max_bytes)
        if first is None:
            self._first = rpc.RangeResponse(header=answer.header, count=answer.count)
        elif answer.header.cluster_id != first.header.cluster_id:
            raise RegistryUnavailable(f"{self._where}: the pages of one list come from two clusters")
        return answer


def _parts(kvs: Iterable[rpc.KeyValue], without: dict[bytes, Record]) -> Iterator[list[rpc.KeyValue]]:
    """Return what follows one another among *kvs* without interruption by *without*, in parts of a few."""
    part: list[rpc.KeyValue] = []
    for kv in kvs:
        if kv.key in without or len(part) == SLOW_PAGE:
            if part:
                yield part
            part = []
        if kv.key not in without:
            part.append(kv)
    if part:
        yield part
