"""Watches that etcd cuts, cancels, repeats, fragments or forgets: against a scripted server, over real gRPC."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from grpclib.const import Status

from pyflanneld.core.etcd_types import Gone, Put, Snapshot
from pyflanneld.errors import HistoryChanged, RegistryDenied, RegistryUnavailable, RevisionCompacted
from pyflanneld.etcd.access import Timing
from pyflanneld.etcd.v3 import rpc_pb2 as rpc
from pyflanneld.etcd.v3.registry import EtcdV3Registry
from tests.support.fakes.scripted_etcd import (
    CLUSTER,
    Refusal,
    ScriptedEtcd,
    WatchStream,
    header,
    key_value,
    never,
    refused_creation,
)
from tests.support.polling import eventually

SINCE = Snapshot((), revision=10, cluster_id=CLUSTER)
SHORT = Timing(rpc_s=0.5, read_s=1.0, progress_s=0.3, silence_s=0.6)

Connect = Callable[..., EtcdV3Registry]


def put(name: bytes, mod: int) -> Any:
    return rpc.Event(type=rpc.Event.PUT, kv=key_value(name, mod))


def deletion(name: bytes, mod: int) -> Any:
    return rpc.Event(type=rpc.Event.DELETE, kv=rpc.KeyValue(key=b"/net/subnets/" + name, mod_revision=mod))


def watch_response(*events: Any, revision: int, **kwargs: Any) -> Any:
    return rpc.WatchResponse(header=header(revision), events=list(events), **kwargs)


def seen(changes: tuple[Put | Gone, ...]) -> list[tuple[bytes, int]]:
    return [(c.record.name, c.record.mod_revision) if isinstance(c, Put) else (c.name, -c.revision) for c in changes]


class Watching:
    """A registry's open watch and the server's end of it."""

    def __init__(self, watch: AsyncIterator[tuple[Put | Gone, ...]], stream: WatchStream) -> None:
        self.watch, self.stream = watch, stream

    async def next(self) -> list[tuple[bytes, int]]:
        async with asyncio.timeout(5):
            return seen(await anext(self.watch))

    async def answer_progress(self) -> None:
        """Answer a progress request, as a member does."""
        waiting = asyncio.ensure_future(self.next())
        assert (await self.stream.requests.get()).WhichOneof("request_union") == "progress_request"
        await self.stream.say(watch_response(revision=500, watch_id=-1))
        assert await waiting == []


@pytest.fixture
async def watching(scripted: ScriptedEtcd, connect: Connect) -> AsyncIterator[Watching]:
    registry = connect(scripted, timing=SHORT)
    async with registry.watch_subnets(SINCE) as watch:
        opening = asyncio.ensure_future(anext(watch))
        stream = await scripted.watches.get()
        await stream.opened(10)
        assert await opening == ()
        yield Watching(watch, stream)


class TestNoProgress:
    """Endpoints that answer no progress request: a read is their sign of life."""

    async def test_a_proxy_is_sent_none(self, scripted: ScriptedEtcd, watching: Watching) -> None:
        """What says that it is of no cluster is a proxy, which such a request may kill; changes come as ever."""
        scripted.on["MemberList"] = lambda _: rpc.MemberListResponse()
        scripted.on["Range"] = lambda _: rpc.RangeResponse(header=header(10))
        for _ in range(4):  # longer together than the silence that kills
            assert await watching.next() == []
        assert watching.stream.requests.empty()
        assert len(scripted.asked["MemberList"]) == 1
        assert [request.key for request in scripted.asked["Range"]] == [b"/net/subnets/"] * 4
        await watching.stream.say(watch_response(put(b"a", 11), revision=11))
        assert await watching.next() == [(b"a", 11)]

    async def test_a_member_that_never_answers_is_remembered(
        self, scripted: ScriptedEtcd, scripted_two: ScriptedEtcd, connect: Connect
    ) -> None:
        """It is asked once; another member of the list is asked as ever, and must answer once it has answered."""
        registry = connect(scripted, scripted_two, timing=SHORT)
        scripted.on["Range"] = lambda _: rpc.RangeResponse(header=header(10))
        async with registry.watch_subnets(SINCE) as watch:
            stream = await opened(scripted, watch)
            for _ in range(3):
                assert await anext(watch) == ()
            assert stream.requests.qsize() == 1
            assert len(scripted.asked["Range"]) == 3
            stream.end()
            with pytest.raises(RegistryUnavailable, match="ended"):
                await anext(watch)
        async with registry.watch_subnets(SINCE) as watch:
            second = Watching(watch, await opened(scripted_two, watch))
            await second.answer_progress()
            with pytest.raises(RegistryUnavailable, match="silent"):
                await second.next()
        async with registry.watch_subnets(SINCE) as watch:
            stream = await opened(scripted, watch)
            assert await anext(watch) == ()
            assert stream.requests.empty()

    @pytest.mark.parametrize("member", [True, False], ids=["a member", "a proxy"])
    async def test_that_does_not_answer_reads_either(
        self, scripted: ScriptedEtcd, watching: Watching, member: bool
    ) -> None:
        """A watch that is silent on an endpoint that answers nothing is dead."""
        scripted.on["Range"] = never
        if not member:
            scripted.on["MemberList"] = lambda _: rpc.MemberListResponse()
        with pytest.raises(RegistryUnavailable, match="no answer"):
            await watching.next()

    async def test_no_leader_behind_it(self, scripted: ScriptedEtcd, watching: Watching) -> None:
        """A read that fails behind a proxy ends the watch, with etcd's reason."""
        scripted.on["MemberList"] = lambda _: rpc.MemberListResponse()
        scripted.on["Range"] = Refusal(Status.UNAVAILABLE, "etcdserver: no leader")
        with pytest.raises(RegistryUnavailable, match="no leader"):
            await watching.next()

    @pytest.mark.parametrize(
        "read",
        [Refusal(Status.PERMISSION_DENIED, "etcdserver: permission denied"), Refusal(Status.RESOURCE_EXHAUSTED)],
        ids=["denied", "refused"],
    )
    async def test_a_refused_read_is_an_answer(self, scripted: ScriptedEtcd, watching: Watching, read: Any) -> None:
        """A read that etcd refuses shows that it works."""
        scripted.on |= {"MemberList": lambda _: rpc.MemberListResponse(), "Range": read}
        assert await watching.next() == []

    @pytest.mark.parametrize("answer", [header(9), header(10, cluster_id=1)], ids=["older", "another cluster"])
    async def test_another_history_behind_it(self, scripted: ScriptedEtcd, watching: Watching, answer: Any) -> None:
        """A read that is answered by another cluster, or an older history, ends the watch."""
        scripted.on["MemberList"] = lambda _: rpc.MemberListResponse()
        scripted.on["Range"] = lambda _: rpc.RangeResponse(header=answer)
        with pytest.raises(HistoryChanged):
            await watching.next()


async def opened(server: ScriptedEtcd, watch: AsyncIterator[Any]) -> WatchStream:
    """Open *watch* and return the server's end of it."""
    opening = asyncio.ensure_future(anext(watch))
    stream = await server.watches.get()
    await stream.opened(10)
    assert await opening == ()
    return stream


class TestWatchStream:
    async def test_what_is_asked_for(self, scripted: ScriptedEtcd, connect: Connect) -> None:
        """The exact range from the next revision on, with progress and fragments, from a member with a leader."""
        async with connect(scripted).watch_subnets(SINCE) as watch:
            opening = asyncio.ensure_future(anext(watch))
            stream = await scripted.watches.get()
            create = await stream.opened(10)
            await opening
        assert (create.key, create.range_end) == (b"/net/subnets/", b"/net/subnets0")
        assert (create.start_revision, create.progress_notify, create.fragment) == (11, True, True)
        assert stream.metadata["hasleader"] == "true"

    async def test_duplicates_are_dropped(self, watching: Watching) -> None:
        """An event that etcd delivers twice is delivered once (etcd before 3.4.24)."""
        await watching.stream.say(watch_response(put(b"a", 11), put(b"b", 12), revision=12))
        await watching.stream.say(watch_response(put(b"a", 11), deletion(b"b", 13), revision=13))
        assert await watching.next() == [(b"a", 11), (b"b", 12)]
        assert await watching.next() == [(b"b", -13)]

    async def test_replayed_events_are_dropped(self, watching: Watching) -> None:
        """A member that replays its history (etcd before 3.4.25) resets no key."""
        await watching.stream.say(watch_response(put(b"a", 11), deletion(b"a", 14), revision=14))
        await watching.stream.say(watch_response(put(b"a", 11), put(b"a", 12), revision=14))
        assert await watching.next() == [(b"a", 11), (b"a", -14)]
        assert await watching.next() == []

    async def test_events_before_the_start_are_dropped(self, watching: Watching) -> None:
        """Events from before the list (etcd before 3.4.38) are dropped."""
        await watching.stream.say(watch_response(put(b"a", 9), put(b"b", 10), put(b"c", 11), revision=11))
        assert await watching.next() == [(b"c", 11)]

    async def test_fragments_are_put_together(self, watching: Watching) -> None:
        """A batch that etcd has cut into pieces is delivered as one."""
        await watching.stream.say(
            watch_response(put(b"a", 11), revision=13, fragment=True),
            watch_response(put(b"b", 12), revision=13, fragment=True),
            watch_response(put(b"c", 13), revision=13),
        )
        assert await watching.next() == [(b"a", 11), (b"b", 12), (b"c", 13)]

    async def test_more_than_4_mib(self, watching: Watching) -> None:
        """A response beyond gRPC's default limit is accepted."""
        big = rpc.Event(type=rpc.Event.PUT, kv=key_value(b"a", 11, value=b"x" * 6_000_000))
        waiting = asyncio.ensure_future(watching.next())
        await watching.stream.say(watch_response(big, revision=11))
        assert await waiting == [(b"a", 11)]

    async def test_progress_is_a_sign_of_life(self, watching: Watching) -> None:
        """After a silence etcd is asked; its response is delivered as an empty change, and the watch goes on."""
        for _ in range(4):  # longer together than the silence that kills
            waiting = asyncio.ensure_future(watching.next())
            request = await watching.stream.requests.get()
            assert request.WhichOneof("request_union") == "progress_request"
            await watching.stream.say(watch_response(revision=500, watch_id=-1))
            assert await waiting == []

    async def test_progress_may_overtake_events(self, watching: Watching) -> None:
        """Events that come after a progress answer with a higher revision are delivered all the same."""
        await watching.stream.say(watch_response(revision=500, watch_id=-1), watch_response(put(b"a", 11), revision=11))
        assert await watching.next() == []
        assert await watching.next() == [(b"a", 11)]

    async def test_silence(self, watching: Watching) -> None:
        """A watch without any response, even to a request, is dead on a member that has answered one before."""
        await watching.answer_progress()
        begun = time.monotonic()
        with pytest.raises(RegistryUnavailable, match="silent"):
            await watching.next()
        assert 0.5 < time.monotonic() - begun < 2

    async def test_silence_counts_over_short_waits(self, watching: Watching) -> None:
        """Waiting in short steps does not restart the silence limit."""
        await watching.answer_progress()

        async def died() -> bool:
            try:
                await asyncio.wait_for(anext(watching.watch), 0.05)
            except TimeoutError:
                return False
            except RegistryUnavailable:
                return True
            return False

        await eventually(died, within_s=3)

    async def test_another_cluster(self, watching: Watching) -> None:
        """A response of another cluster ends the watch."""
        await watching.stream.say(rpc.WatchResponse(header=header(11, cluster_id=1), events=[put(b"a", 11)]))
        with pytest.raises(RegistryUnavailable, match="another cluster"):
            await watching.next()

    async def test_a_proxy_opens_for_itself(self, scripted: ScriptedEtcd, connect: Connect) -> None:
        """The gRPC proxy's own answer to an opening, with no cluster and an older revision, ends nothing."""
        async with connect(scripted, timing=SHORT).watch_subnets(SINCE) as watch:
            opening = asyncio.ensure_future(anext(watch))
            stream = await scripted.watches.get()
            await stream.requests.get()
            await stream.say(rpc.WatchResponse(header=rpc.ResponseHeader(revision=3), created=True))
            assert await opening == ()
            await stream.say(watch_response(put(b"a", 11), revision=11))
            assert seen(await anext(watch)) == [(b"a", 11)]

    async def test_progress_may_come_late(self, watching: Watching) -> None:
        """A progress answer that does not count the newest events yet is a sign of life like any other."""
        await watching.stream.say(watch_response(put(b"a", 20), revision=20), watch_response(revision=19, watch_id=-1))
        assert await watching.next() == [(b"a", 20)]
        assert await watching.next() == []

    @pytest.mark.parametrize(
        "response",
        [watch_response(put(b"b", 15), revision=19), watch_response(revision=9, watch_id=-1)],
        ids=["events", "progress"],
    )
    async def test_going_back(self, watching: Watching, response: Any) -> None:
        """Events at a revision before what was delivered, or progress at one before the start, are another history."""
        await watching.stream.say(watch_response(put(b"a", 20), revision=20), response)
        assert await watching.next() == [(b"a", 20)]
        with pytest.raises(RegistryUnavailable, match="went back"):
            await watching.next()

    @pytest.mark.parametrize(
        ("response", "error"),
        [
            ({"cancel_reason": "etcdserver: no leader"}, RegistryUnavailable),
            ({}, RegistryUnavailable),
            ({"compact_revision": 40}, RevisionCompacted),
            ({"cancel_reason": "etcdserver: mvcc: required revision has been compacted"}, RevisionCompacted),
            ({"cancel_reason": "rpc error: code = PermissionDenied desc = permission denied"}, RegistryDenied),
            ({"cancel_reason": "etcdserver: invalid auth token"}, RegistryDenied),
        ],
    )
    async def test_cancelled(self, watching: Watching, response: dict[str, Any], error: type[Exception]) -> None:
        """A cancelled watch is an error, whatever the reason, and its class is what the caller reacts to."""
        await watching.stream.say(rpc.WatchResponse(header=header(50), canceled=True, **response))
        with pytest.raises(error):
            await watching.next()

    @pytest.mark.parametrize("status", [None, Refusal(Status.UNAVAILABLE, "etcdserver: no leader")])
    async def test_ended(self, watching: Watching, status: Refusal | None) -> None:
        """The end of the stream, with an error or without, is the end of the watch."""
        watching.stream.end(status)
        with pytest.raises(RegistryUnavailable, match="no leader" if status else "ended the watch"):
            await watching.next()

    async def test_refused_creation(self, scripted: ScriptedEtcd, connect: Connect) -> None:
        """Created and cancelled at once, with the ID -1, is a refusal."""
        async with connect(scripted).watch_subnets(SINCE) as watch:
            opening = asyncio.ensure_future(anext(watch))
            stream = await scripted.watches.get()
            await stream.say(refused_creation())
            with pytest.raises(RegistryDenied):
                await opening

    async def test_no_answer_to_the_creation(self, scripted: ScriptedEtcd, connect: Connect) -> None:
        """A watch that is not confirmed in time is not waited for."""
        async with connect(scripted, timing=SHORT).watch_subnets(SINCE) as watch:
            with pytest.raises(RegistryUnavailable, match="no answer"):
                await anext(watch)

    async def test_dead_watch_leaves_the_endpoint(
        self, scripted: ScriptedEtcd, scripted_two: ScriptedEtcd, connect: Connect
    ) -> None:
        """After a watch has left its member, the next calls use another one as well."""
        registry = connect(scripted, scripted_two, timing=SHORT)
        assert registry.endpoint == scripted.url
        async with registry.watch_subnets(SINCE) as watch:
            with pytest.raises(RegistryUnavailable):
                await anext(watch)
        assert registry.endpoint == scripted_two.url

    async def test_a_thousand_watches_leave_nothing(self, scripted: ScriptedEtcd, connect: Connect) -> None:
        """Opening and closing watches leaks no task."""
        registry = connect(scripted)
        await registry.read_config()
        ours = asyncio.all_tasks()
        for _ in range(200):
            async with registry.watch_subnets(SINCE) as watch:
                opening = asyncio.ensure_future(anext(watch))
                await (await scripted.watches.get()).opened(10)
                await opening
                waiting = asyncio.ensure_future(anext(watch))
                await asyncio.sleep(0)
                waiting.cancel()
        await eventually(lambda: not [t for t in asyncio.all_tasks() - ours if t.get_name() == "etcd-watch-read"])
