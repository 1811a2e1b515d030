"""Servers that break the rules of HTTP/2 and gRPC, or use them in ways etcd hardly does: what a call makes of each."""

import asyncio
import random
import socket
import struct
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
from h2.errors import ErrorCodes
from h2.settings import SettingCodes
from hyperframe.frame import PingFrame

from pyflanneld.core.etcd_types import ConfigRecord, Position
from pyflanneld.errors import ConnectionCut, HistoryChanged, NoAnswer, NotEtcd, RegistryDenied, RegistryUnavailable
from pyflanneld.etcd.access import EtcdAccess, Timing
from pyflanneld.etcd.v3 import methods
from pyflanneld.etcd.v3 import rpc_pb2 as rpc
from pyflanneld.etcd.v3.channel import Endpoint
from pyflanneld.etcd.v3.connection import CONNECTION_WINDOW_BYTES, STREAM_WINDOW_BYTES, STREAMS
from pyflanneld.etcd.v3.registry import EtcdV3Registry
from pyflanneld.etcd.v3.stream import ANSWER_BYTES, AnswerTooLarge
from tests.support.etcd.h2_server import Peer, Playing, framed, playing
from tests.support.polling import eventually

ANSWER = rpc.RangeResponse(header=rpc.ResponseHeader(revision=7), count=1)
QUICK = Timing(ping_s=0.1, ping_answer_s=0.2)
STEADY = Timing(steady_s=0.1)


async def answering(peer: Peer) -> None:
    """Answer every call."""
    while True:
        peer.answer(await peer.request(), ANSWER)


async def silent(peer: Peer) -> None:
    """Take calls and answer none."""


@asynccontextmanager
async def member(server: Playing, timing: Timing | None = None) -> AsyncIterator[Endpoint]:
    endpoint = Endpoint(server.url, None, timing or Timing())
    try:
        yield endpoint
    finally:
        await endpoint.close()


async def ask(endpoint: Endpoint, timeout_s: float = 5.0) -> int:
    """Make a call; return the revision that it answers."""
    answer = await endpoint.ask(methods.RANGE, rpc.RangeRequest(key=b"a"), timeout_s=timeout_s)
    return answer.header.revision


@asynccontextmanager
async def registry_at(server: Playing, timing: Timing | None = None) -> AsyncIterator[EtcdV3Registry]:
    registry = EtcdV3Registry(EtcdAccess((server.url,), "/net"), rng=random.Random(1), timing=timing or Timing())
    try:
        yield registry
    finally:
        await registry.close()


def events(*revisions: int, value: bytes = b"", fragment: bool = False) -> bytes:
    """Return the frame of a watch response."""
    kvs = [rpc.KeyValue(key=b"/net/subnets/a", value=value, mod_revision=one) for one in revisions]
    header = rpc.ResponseHeader(cluster_id=1, revision=revisions[-1])
    return framed(rpc.WatchResponse(header=header, fragment=fragment, events=[rpc.Event(kv=kv) for kv in kvs]))


async def open_watch(peer: Peer, revision: int = 1) -> int:
    """Confirm the watch that a client opens, at *revision*, and return its stream."""
    call, header = await peer.request(), rpc.ResponseHeader(cluster_id=1, revision=revision)
    peer.head(call)
    peer.say(call, framed(rpc.WatchResponse(header=header, created=True)))
    return call


class TestGoaway:
    async def test_under_a_call(self) -> None:
        """A call that is under way gets its answer, and the next one goes on a new connection."""

        async def leaving(peer: Peer) -> None:
            call = await peer.request()
            peer.goaway()
            await go_on.wait()
            peer.answer(call, ANSWER)

        go_on = asyncio.Event()
        async with playing(leaving, answering) as server, member(server) as endpoint:
            first = asyncio.ensure_future(ask(endpoint))
            await eventually(lambda: server.peers and server.peers[0].gone)
            assert await ask(endpoint) == 7
            go_on.set()
            assert await first == 7
            assert len(server.peers) == 2
            await eventually(server.peers[0].lost.is_set)

    async def test_with_an_answer(self) -> None:
        """An answer that comes together with it is not lost."""

        async def leaving(peer: Peer) -> None:
            peer.answer(await peer.request(), ANSWER)
            peer.goaway()

        async with playing(leaving, answering) as server, member(server) as endpoint:
            assert await ask(endpoint) == 7
            await eventually(server.peers[0].lost.is_set)
            assert await ask(endpoint) == 7

    async def test_a_call_that_it_leaves_out(self) -> None:
        """A call that the server says it has not seen ends with the reason, and is not sent again by itself."""

        async def leaving(peer: Peer) -> None:
            await peer.request()
            await peer.request()
            peer.goaway(last=1)

        async with playing(leaving, answering) as server, member(server) as endpoint:
            calls = [asyncio.ensure_future(ask(endpoint, timeout_s=1.0)) for _ in range(2)]
            await asyncio.wait(calls)
            with pytest.raises(NoAnswer):
                calls[0].result()
            with pytest.raises(RegistryUnavailable, match="closes the connection"):
                calls[1].result()
            assert len(server.peers) == 1

    async def test_with_a_reason(self) -> None:
        """The calls end with the server's reason."""

        async def refusing(peer: Peer) -> None:
            await peer.request()
            peer.goaway(ErrorCodes.ENHANCE_YOUR_CALM, b"too_many_pings")

        async with playing(refusing, answering) as server, member(server) as endpoint:
            with pytest.raises(RegistryUnavailable, match="too_many_pings"):
                await ask(endpoint)
            assert await ask(endpoint) == 7

    async def test_under_a_watch(self) -> None:
        """The watch goes on, as long as the server serves it."""

        async def leaving(peer: Peer) -> None:
            call = await open_watch(peer)
            peer.goaway()
            peer.say(call, events(2))
            peer.status(call, 14, "etcdserver: server stopped")

        async with (
            playing(leaving) as server,
            registry_at(server) as registry,
            registry.watch_subnets(Position(1, 1)) as watch,
        ):
            await anext(watch)
            assert len(await anext(watch)) == 1
            with pytest.raises(RegistryUnavailable, match="server stopped"):
                await anext(watch)


    async def test_of_too_many_pings_under_a_watch(self) -> None:
        """A proxy that takes our pings for too many ends the connection, not the watch: it is opened again."""

        async def refusing(peer: Peer) -> None:
            peer.say(await open_watch(peer), events(2))
            await asyncio.sleep(2 * STEADY.steady_s)
            peer.goaway(ErrorCodes.ENHANCE_YOUR_CALM, b"too_many_pings")

        async def going_on(peer: Peer) -> None:
            call = await open_watch(peer, revision=2)
            created.append(rpc.WatchRequest.FromString(peer.sent[call][5:]).create_request.start_revision)
            peer.say(call, events(3))

        created: list[int] = []
        async with (
            playing(refusing, going_on) as server,
            registry_at(server, STEADY) as registry,
            registry.watch_subnets(Position(1, 1)) as watch,
        ):
            assert [len(await anext(watch)) for _ in range(4)] == [0, 1, 0, 1]
            assert created == [3]


class TestCut:
    async def test_in_the_middle_of_a_response(self) -> None:
        """A response of which a part was told cannot be continued: the watch ends."""

        async def cutting(peer: Peer) -> None:
            call = await open_watch(peer)
            await asyncio.sleep(2 * STEADY.steady_s)
            peer.say(call, events(2, fragment=True))
            await asyncio.sleep(0.1)
            peer.transport.abort()

        async with (
            playing(cutting) as server,
            registry_at(server, STEADY) as registry,
            registry.watch_subnets(Position(1, 1)) as watch,
        ):
            await anext(watch)
            with pytest.raises(ConnectionCut):
                await anext(watch)
            assert len(server.peers) == 1

    async def test_of_the_watch_alone(self) -> None:
        """A balancer for HTTP/2 resets the call and leaves the connection: the watch is opened again on it."""

        async def resetting(peer: Peer) -> None:
            call = await open_watch(peer)
            await asyncio.sleep(2 * STEADY.steady_s)
            peer.h2.reset_stream(call, ErrorCodes.CANCEL)
            peer.flush()
            peer.say(await open_watch(peer), events(2))

        async with (
            playing(resetting) as server,
            registry_at(server, STEADY) as registry,
            registry.watch_subnets(Position(1, 1)) as watch,
        ):
            assert [len(await anext(watch)) for _ in range(3)] == [0, 0, 1]
            assert len(server.peers) == 1

    async def test_by_a_member_that_comes_back_without_its_last_revisions(self) -> None:
        """A watch is not opened again behind what it has told: etcd would say nothing until it is there again."""

        async def restored(peer: Peer) -> None:
            call = await open_watch(peer)
            peer.say(call, events(5))
            await asyncio.sleep(2 * STEADY.steady_s)
            peer.h2.reset_stream(call, ErrorCodes.CANCEL)
            peer.flush()
            await open_watch(peer, revision=4)

        async with (
            playing(restored) as server,
            registry_at(server, STEADY) as registry,
            registry.watch_subnets(Position(1, 1)) as watch,
        ):
            assert [len(await anext(watch)) for _ in range(2)] == [0, 1]
            with pytest.raises(HistoryChanged, match="went back to revision 4 from 5"):
                await anext(watch)

    async def test_under_a_read(self) -> None:
        """A read whose connection is cut as it is sent is sent once more, on a new one; a write is not."""

        async def cutting(peer: Peer) -> None:
            await peer.request()
            peer.transport.abort()

        async with playing(cutting, answering) as server, registry_at(server) as registry:
            assert (await registry.read_config()).revision == 7
            assert len(server.peers) == 2
        async with playing(cutting, answering) as server, registry_at(server) as registry:
            with pytest.raises(ConnectionCut):
                await registry.write_config(b"{}", seen=ConfigRecord(None, 1))
            assert len(server.peers) == 1
        async with playing(cutting) as server, registry_at(server) as registry:
            with pytest.raises(ConnectionCut):
                await registry.read_config()
            assert len(server.peers) == 2


    async def test_under_a_read_whose_time_is_over(self) -> None:
        """An answer that comes in pieces may take longer than a call may; if cut, there is no time for another."""

        async def slow(peer: Peer) -> None:
            call = await peer.request()
            peer.head(call)
            for byte in framed(ANSWER)[:4]:
                peer.say(call, bytes([byte]))
                await asyncio.sleep(0.15)
            peer.transport.abort()

        timing = Timing(rpc_s=0.3, read_s=0.3)
        async with playing(slow) as server, registry_at(server, timing) as registry:
            with pytest.raises(ConnectionCut):
                await registry.read_config()
            assert len(server.peers) == 1


class TestConnecting:
    @pytest.mark.parametrize("settings", [True, False], ids=["after its settings", "before its settings"])
    async def test_lost_while_it_is_made(self, settings: bool) -> None:
        """The call fails with the loss, and the next one connects again."""

        async def gone(peer: Peer) -> None:
            peer.transport.abort()

        async def back(peer: Peer) -> None:
            if not settings:
                peer.begin()
            await answering(peer)

        async with playing(gone, gone, back, settings=settings) as server, member(server) as endpoint:
            for _ in range(2):
                with pytest.raises(RegistryUnavailable, match=r"closed the connection|reset"):
                    await ask(endpoint)
            assert await ask(endpoint) == 7

    async def test_a_cancelled_caller(self) -> None:
        """A call that is cancelled while the connection is made leaves none behind, and does not stop another call."""

        async def slow(peer: Peer) -> None:
            await peer.moved()
            await asyncio.sleep(0.2)
            peer.begin()
            await answering(peer)

        async with playing(slow, settings=False) as server, member(server) as endpoint:
            first, second = (asyncio.ensure_future(ask(endpoint)) for _ in range(2))
            await eventually(lambda: server.peers)
            first.cancel()
            assert await second == 7
            await eventually(server.peers[0].lost.is_set)

    async def test_silence(self) -> None:
        """A server that accepts and says nothing is told as that."""
        async with playing(silent, settings=False) as server, member(server) as endpoint:
            with pytest.raises(NoAnswer, match="says nothing"):
                await ask(endpoint)

    @pytest.mark.parametrize("pieces", [1, 7], ids=["whole", "in pieces"])
    @pytest.mark.parametrize(
        ("words", "why"),
        [
            (b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n", "HTTP/1 only"),
            (b"\x15\x03\x01\x00\x02\x02\x46", "speaks TLS"),
            (b"SSH-2.0-OpenSSH_9.2\r\n", "does not speak HTTP/2"),
        ],
        ids=["HTTP/1", "TLS", "SSH"],
    )
    async def test_another_protocol(self, words: bytes, why: str, pieces: int) -> None:
        """What speaks another protocol is not etcd, and the error says which."""

        async def other(peer: Peer) -> None:
            await peer.moved()
            step = -(-len(words) // pieces)
            for start in range(0, len(words), step):
                peer.transport.write(words[start : start + step])
                await asyncio.sleep(0.01)
            peer.transport.write(b"\0" * 9)

        async with playing(other, settings=False) as server, member(server) as endpoint:
            with pytest.raises(NotEtcd, match=why):
                await ask(endpoint)


class TestAnswers:
    @pytest.mark.parametrize(
        ("headers", "error", "why"),
        [
            ([(":status", "503")], RegistryUnavailable, "503"),
            ([(":status", "403")], RegistryDenied, "403"),
            ([(":status", "200"), ("content-type", "text/html")], NotEtcd, "not gRPC"),
            ([(":status", "200"), ("content-type", "application/grpc")], NotEtcd, "without a status"),
        ],
    )
    async def test_no_grpc(self, headers: list[tuple[str, str]], error: type[Exception], why: str) -> None:
        """An answer of something between us and etcd is an error that shows it."""

        async def between(peer: Peer) -> None:
            peer.h2.send_headers(await peer.request(), headers, end_stream=True)
            peer.flush()

        async with playing(between) as server, member(server) as endpoint:
            with pytest.raises(error, match=why):
                await ask(endpoint)

    @pytest.mark.parametrize(
        ("data", "why"),
        [
            (framed(ANSWER)[:-1], "cut"),
            (b"\0\0", "cut"),
            (b"\x01\0\0\0\x01a", "compressed"),
            (b"\0\0\0\0\x03abc", "cannot be read"),
            (b"", "without an answer"),
            (framed(ANSWER) * 2, "second answer"),
        ],
        ids=["cut", "cut early", "compressed", "garbage", "nothing", "two"],
    )
    async def test_broken(self, data: bytes, why: str) -> None:
        """A broken answer fails its own call; the connection stays in use."""

        async def broken(peer: Peer) -> None:
            call = await peer.request()
            peer.head(call)
            peer.say(call, data)
            peer.status(call)
            await answering(peer)

        async with playing(broken) as server, member(server) as endpoint:
            with pytest.raises(RegistryUnavailable, match=why):
                await ask(endpoint)
            assert await ask(endpoint) == 7
            assert len(server.peers) == 1

    async def test_reset(self) -> None:
        """A call that the server resets fails alone."""

        async def resetting(peer: Peer) -> None:
            peer.h2.reset_stream(await peer.request(), ErrorCodes.REFUSED_STREAM)
            peer.flush()
            await answering(peer)

        async with playing(resetting) as server, member(server) as endpoint:
            with pytest.raises(RegistryUnavailable, match="reset"):
                await ask(endpoint)
            assert await ask(endpoint) == 7
            assert len(server.peers) == 1

    async def test_never_ended(self) -> None:
        """An answer whose status never comes is given up at the deadline, and the server is told."""

        async def endless(peer: Peer) -> None:
            call = await peer.request()
            peer.head(call)
            peer.say(call, framed(ANSWER))
            await answering(peer)

        async with playing(endless) as server, member(server) as endpoint:
            with pytest.raises(NoAnswer):
                await ask(endpoint, timeout_s=0.3)
            assert await ask(endpoint) == 7
            (peer,) = server.peers
            assert peer.resets == {1: ErrorCodes.CANCEL}

    async def test_unknown_frames(self) -> None:
        """Extensions, empty frames and pushed streams change nothing."""

        async def odd(peer: Peer) -> None:
            call = await peer.request()
            peer.transport.write(b"\0\0\x01\xfa\0\0\0\0\0x")
            peer.h2.send_headers(call, [(":status", "103")])
            peer.h2.push_stream(call, 2, [(":method", "GET"), (":path", "/"), (":scheme", "http"), (":authority", "a")])
            peer.head(call)
            peer.h2.send_data(call, b"")
            peer.say(call, framed(ANSWER)[:3])
            peer.h2.send_data(call, b"", pad_length=9)
            peer.say(call, framed(ANSWER)[3:])
            peer.status(call)

        async with playing(odd) as server, member(server) as endpoint:
            assert await ask(endpoint) == 7

    async def test_broken_frames(self) -> None:
        """Frames that break the protocol end the connection, not the program, and the next call makes a new one."""

        async def broken(peer: Peer) -> None:
            await peer.request()
            peer.transport.write(b"\0\0\x01\x03\0\0\0\0\0x")

        async with playing(broken, answering) as server, member(server) as endpoint:
            with pytest.raises(RegistryUnavailable, match="broken HTTP/2"):
                await ask(endpoint)
            assert await ask(endpoint) == 7


class TestBounds:
    async def test_largest_answer(self) -> None:
        """An answer that says that it is larger is not read: the call ends, and the server is told."""

        async def large(peer: Peer) -> None:
            call = await peer.request()
            peer.head(call)
            peer.say(call, struct.pack(">?I", False, ANSWER_BYTES + 1))
            await peer.pour(call, b"x" * ANSWER_BYTES)

        async with playing(large) as server, member(server) as endpoint:
            with pytest.raises(AnswerTooLarge, match=str(ANSWER_BYTES + 1)):
                await ask(endpoint)
            await eventually(lambda: server.peers[0].resets)

    async def test_a_page_of_large_values(self) -> None:
        """A list whose pages are too large comes in smaller ones."""
        limits = []

        async def large(peer: Peer) -> None:
            while True:
                call = await peer.request()
                limits.append(limit := rpc.RangeRequest.FromString(peer.sent[call][5:]).limit)
                peer.head(call)
                if limit > 50:
                    peer.say(call, struct.pack(">?I", False, ANSWER_BYTES + 1))
                    continue
                kv = rpc.KeyValue(key=b"/net/subnets/a", value=b"{}", mod_revision=1)
                peer.say(call, framed(rpc.RangeResponse(header=rpc.ResponseHeader(revision=7), kvs=[kv], count=1)))
                peer.status(call)

        async with playing(large) as server, registry_at(server) as registry:
            assert len((await registry.list_subnets()).records) == 1
        assert limits[0] == 500
        assert limits == sorted(limits, reverse=True)

    async def test_endless_pages(self) -> None:
        """A member whose list never ends is cut when it has sent more than it counts."""

        async def endless(peer: Peer) -> None:
            number = 0
            while True:
                call = await peer.request()
                number += 1
                kv = rpc.KeyValue(key=b"/net/subnets/%d" % number, value=b"{}", mod_revision=1)
                header = rpc.ResponseHeader(revision=7)
                peer.answer(call, rpc.RangeResponse(header=header, kvs=[kv], count=3, more=True))

        async with playing(endless) as server, registry_at(server) as registry:
            with pytest.raises(RegistryUnavailable, match=f"{server.url}.*more than"):
                await registry.list_subnets()

    async def test_endless_fragments(self) -> None:
        """A watch response whose fragments never end is cut, and the member named."""

        async def endless(peer: Peer) -> None:
            call = await open_watch(peer)
            piece = events(2, value=b"x" * 1_000_000, fragment=True)
            while call not in peer.resets:
                await peer.pour(call, piece)

        async with (
            playing(endless) as server,
            registry_at(server) as registry,
            registry.watch_subnets(Position(1, 1)) as watch,
        ):
            await anext(watch)
            with pytest.raises(AnswerTooLarge, match=server.url):
                await anext(watch)

    async def test_a_watch_that_nobody_reads(self) -> None:
        """It holds a window of bytes and no more, and calls on the same connection are answered."""
        sent = 0

        async def pouring(peer: Peer) -> None:
            nonlocal sent
            call = await open_watch(peer)
            answers = asyncio.create_task(answering(peer))
            try:
                for revision in range(2, 10_000):
                    await peer.pour(call, piece := events(revision, value=b"x" * 10_000))
                    sent += len(piece)
            finally:
                answers.cancel()

        async with (
            playing(pouring) as server,
            registry_at(server) as registry,
            registry.watch_subnets(Position(1, 1)) as watch,
        ):
            await anext(watch)
            await eventually(lambda: sent > STREAM_WINDOW_BYTES * 0.9)
            for _ in range(20):
                assert (await registry.read_config()).revision == 7
            assert sent <= STREAM_WINDOW_BYTES
            for revision in range(2, 500):
                (change,) = await anext(watch)
                assert change.record.mod_revision == revision

    async def test_calls_that_are_cancelled_in_the_middle(self) -> None:
        """What a cancelled call leaves unread does not stop those that follow, however many there are."""
        half = STREAM_WINDOW_BYTES // 2

        async def slow(peer: Peer) -> None:
            for _ in range(3 * CONNECTION_WINDOW_BYTES // half):
                call = await peer.request()
                peer.head(call)
                await peer.pour(call, struct.pack(">?I", False, 2 * half) + b"x" * half)
            await answering(peer)

        async with playing(slow) as server, member(server) as endpoint:
            for number in range(3 * CONNECTION_WINDOW_BYTES // half):
                call = asyncio.ensure_future(ask(endpoint))
                await eventually(lambda n=number: server.peers and 2 * n + 1 in server.peers[0].sent)
                await asyncio.sleep(0.001 * (number % 3))
                call.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await call
            assert await ask(endpoint) == 7
            assert len(server.peers) == 1

    async def test_a_server_that_takes_no_answers(self) -> None:
        """Pings without end from a server that does not read end the connection: we do it, or the kernel."""

        async def flooding(peer: Peer) -> None:
            await peer.request()
            peer.transport.pause_reading()
            peer.transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            while not peer.transport.is_closing():
                peer.transport.write(PingFrame(0, b"12345678").serialize() * 5000)
                await asyncio.sleep(0.001)

        async with playing(flooding) as server, member(server) as endpoint:
            with pytest.raises(RegistryUnavailable, match=r"takes no answers|timed out"):
                await ask(endpoint, timeout_s=30)

    async def test_too_many_calls(self) -> None:
        """There is a limit of calls at the same time; beyond it a call fails at once."""
        async with playing(silent) as server, member(server) as endpoint:
            calls = [asyncio.ensure_future(ask(endpoint)) for _ in range(STREAMS)]
            await eventually(lambda: server.peers and len(server.peers[0].sent) == STREAMS)
            with pytest.raises(RegistryUnavailable, match="under way"):
                await ask(endpoint)
            for call in calls:
                call.cancel()
            await asyncio.wait(calls)

    async def test_the_servers_limit_of_calls(self) -> None:
        """A call waits for its turn where the server takes one at a time, and is given up at its deadline."""

        async def one_by_one(peer: Peer) -> None:
            peer.h2.update_settings({SettingCodes.MAX_CONCURRENT_STREAMS: 1})
            peer.flush()
            peer.answer(await peer.request(), ANSWER)
            await answering(peer)

        async with playing(one_by_one) as server, member(server) as endpoint:
            assert await ask(endpoint) == 7
            calls = [asyncio.ensure_future(ask(endpoint)) for _ in range(5)]
            assert await asyncio.gather(*calls) == [7] * 5


class TestSilence:
    async def test_a_frozen_member(self) -> None:
        """A watch on a connection that answers no ping ends; so do all calls on it."""

        async def frozen(peer: Peer) -> None:
            await open_watch(peer)
            peer.transport.pause_reading()

        async with (
            playing(frozen) as server,
            registry_at(server, QUICK) as registry,
            registry.watch_subnets(Position(1, 1)) as watch,
        ):
            await anext(watch)
            with pytest.raises(NoAnswer, match="ping"):
                await anext(watch)

    async def test_a_quiet_member(self) -> None:
        """A watch that is quiet for long goes on while pings are answered."""

        async def quiet(peer: Peer) -> None:
            call = await open_watch(peer)
            await asyncio.sleep(10 * QUICK.ping_s)
            peer.say(call, events(2))

        async with (
            playing(quiet) as server,
            registry_at(server, QUICK) as registry,
            registry.watch_subnets(Position(1, 1)) as watch,
        ):
            await anext(watch)
            assert len(await anext(watch)) == 1

    async def test_a_dead_connection_without_a_watch(self) -> None:
        """After a call without an answer the next one uses a new connection, and the old one is closed."""

        async def dying(peer: Peer) -> None:
            peer.answer(await peer.request(), ANSWER)

        async with playing(dying, answering) as server, member(server) as endpoint:
            assert await ask(endpoint) == 7
            with pytest.raises(NoAnswer):
                await ask(endpoint, timeout_s=0.2)
            assert await ask(endpoint) == 7
            await eventually(server.peers[0].lost.is_set)

    async def test_a_slow_answer_does_not_end_the_others(self) -> None:
        """A call that gets no answer in time leaves a watch alone that the same member still serves."""

        async def slow(peer: Peer) -> None:
            watching = await open_watch(peer)
            await peer.request()
            while not peer.resets:
                await peer.moved()
            await asyncio.sleep(3 * QUICK.ping_answer_s)
            peer.say(watching, events(2))

        timing = Timing(rpc_s=0.3, read_s=0.3, ping_s=5.0, ping_answer_s=QUICK.ping_answer_s)
        async with playing(slow, answering) as server, registry_at(server, timing) as registry:
            async with registry.watch_subnets(Position(1, 1)) as watch:
                await anext(watch)
                with pytest.raises(NoAnswer):
                    await registry.read_config()
                assert (await registry.read_config()).revision == 7
                assert len(await anext(watch)) == 1
            await eventually(server.peers[0].lost.is_set)

    async def test_no_pings_without_calls(self) -> None:
        """A connection without a call is left in peace: etcd closes those that ping."""
        pings: list[Any] = []

        async def counting(peer: Peer) -> None:
            taking: Callable[[bytes], None] = peer.data_received

            def take(data: bytes) -> None:
                pings.append(data[3] == 6)
                taking(data)

            peer.answer(await peer.request(), ANSWER)
            peer.data_received = take  # type: ignore[method-assign]

        async with playing(counting) as server, member(server, QUICK) as endpoint:
            assert await ask(endpoint) == 7
            await asyncio.sleep(10 * QUICK.ping_s)
            assert not any(pings)


async def test_nothing_is_left(recwarn: pytest.WarningsRecorder) -> None:
    """Connections that end in every way leave no task."""

    async def leaving(peer: Peer) -> None:
        peer.answer(await peer.request(), ANSWER)
        await peer.request()
        peer.goaway(ErrorCodes.INTERNAL_ERROR)

    before = asyncio.all_tasks()
    async with playing(leaving) as server, member(server) as endpoint:
        for number in range(100):
            if number % 2:
                with pytest.raises(RegistryUnavailable):
                    await ask(endpoint)
            else:
                assert await ask(endpoint) == 7
        assert len(server.peers) == 50
        await eventually(lambda: all(peer.lost.is_set() for peer in server.peers))
    await eventually(lambda: not [task for task in asyncio.all_tasks() - before if task.get_name() == "etcd-call"])
    assert not recwarn.list
