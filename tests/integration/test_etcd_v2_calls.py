"""The v2 API on the wire: bytes, TTLs, comparisons, and what a long poll delivers and survives."""

import asyncio
import gc
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from ipaddress import IPv4Address
from pathlib import Path

import aiohttp
import pytest
import structlog
from aiohttp import web
from aiohttp.test_utils import TestServer
from yarl import URL

from pyflanneld.core.etcd_types import Gone, Put, Record, Snapshot
from pyflanneld.core.lease.codec import TTL_S, LeaseAttrs, encode_value
from pyflanneld.errors import ApiMissing, RegistryUnavailable, RevisionCompacted
from pyflanneld.etcd.access import EtcdAccess, Members, Timing
from pyflanneld.etcd.v2.create import V2Creator
from pyflanneld.etcd.v2.http import V2Client, V2Member, _Connector
from pyflanneld.etcd.v2.keyspace import V2KeySpace
from pyflanneld.etcd.v2.registry import EtcdV2Registry
from tests.support.etcd.client_v2 import RawEtcdV2
from tests.support.etcd.registries import SHORT, opened
from tests.support.etcd.server import Etcd, etcd_missing, running_etcd
from tests.support.network.tcp_proxy import TcpProxy
from tests.support.polling import eventually

pytestmark = [
    pytest.mark.etcd,
    pytest.mark.skipif(etcd_missing() is not None, reason=f"needs {etcd_missing()}"),
]
NAME = b"172.7.21.0-24"
KEY = "/net/subnets/172.7.21.0-24"
OURS = encode_value(LeaseAttrs(IPv4Address("192.168.1.10"), "host-gw"), api=2)


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Etcd]:
    with running_etcd(tmp_path_factory.mktemp("v2"), args=["--enable-v2=true"]) as running:
        yield running


@pytest.fixture
async def raw(shared: Etcd) -> AsyncIterator[RawEtcdV2]:
    """An etcd with nothing below ``/net``."""
    async with RawEtcdV2.at(shared.endpoints[0]) as client:
        await client.delete("/net", recursive="true")
        yield client


@pytest.fixture
async def registry(shared: Etcd, raw: RawEtcdV2) -> AsyncIterator[EtcdV2Registry]:  # noqa: ARG001 - cleans first
    async with opened(shared.endpoints[0], timing=SHORT) as client:
        yield client


def open_sessions() -> list[aiohttp.ClientSession]:
    """Return those of the clients under test; ``raw`` has one of its own."""
    found = (one for one in gc.get_objects() if isinstance(one, aiohttp.ClientSession))
    return [one for one in found if not one.closed and isinstance(one.connector, _Connector)]


async def created(registry: EtcdV2Registry, name: bytes = NAME, value: bytes = OURS) -> Record:
    record = await registry.create_subnet(name, value, ttl_s=TTL_S, listed=await registry.list_subnets())
    assert record is not None
    return record


class TestBytes:
    async def test_key_value_and_ttl(self, registry: EtcdV2Registry, raw: RawEtcdV2) -> None:
        """A lease is, to the byte, what flannel v0.11.0 writes: key, value, 24 hours."""
        await created(registry)
        node = await raw.get("/net/subnets/172.7.21.0-24")
        assert node["value"] == '{"PublicIP":"192.168.1.10","BackendType":"host-gw"}'
        assert TTL_S - 5 <= node["ttl"] <= TTL_S

    async def test_flannels_lease_is_read(self, registry: EtcdV2Registry, raw: RawEtcdV2) -> None:
        """A lease of flannel v0.11.0 is read as one, and can be renewed as it is: no rewrite is needed."""
        await raw.set(KEY, '{"PublicIP":"192.168.1.10","BackendType":"host-gw"}', ttl=500)
        (record,) = (await registry.list_subnets()).records
        assert (record.name, record.value) == (NAME, OURS)
        assert record.lease_id != 0
        renewal = await registry.renew(record)
        assert renewal.ttl_s == TTL_S
        node = await raw.get(KEY)
        assert node["value"].encode() == OURS
        assert node["ttl"] > 500

    async def test_rewrite_keeps_the_kind(self, registry: EtcdV2Registry, raw: RawEtcdV2) -> None:
        """A rewritten lease has a TTL again, a rewritten reservation has none."""
        held = await created(registry)
        await raw.set("/net/subnets/172.7.22.0-24", "{}")
        reserved = (await registry.list_subnets()).records[1]
        for record in (held, reserved):
            assert await registry.rewrite_subnet(record, b"new") is not None
        assert (await raw.get(KEY))["ttl"] > TTL_S - 5
        assert "expiration" not in await raw.get("/net/subnets/172.7.22.0-24")

    async def test_remaining(self, registry: EtcdV2Registry, raw: RawEtcdV2) -> None:
        """What is left to live is returned per key; a reservation has no end."""
        await raw.set(KEY, "{}", ttl=500)
        await raw.set("/net/subnets/172.7.22.0-24", "{}")
        left = await registry.remaining()
        assert left[b"172.7.22.0-24"] is None
        assert 490 < (left[NAME] or 0) <= 500


class TestReconnecting:
    async def test_old_sessions_end(self, shared: Etcd, raw: RawEtcdV2) -> None:
        """What a request can still use stays open, and then ends, however often the certificates change."""
        timing = Timing(rpc_s=2.0, silence_s=1.0)
        await raw.set(KEY, "{}")
        async with opened(shared.endpoints[0], timing=timing) as registry:
            listed = await registry.list_subnets()
            async with registry.watch_subnets(listed.position) as watch:
                assert await anext(watch) == ()
                for _ in range(10):
                    registry.reconnect()
                    await registry.list_subnets()
                assert len(open_sessions()) == 11
                await raw.set(KEY, "{ }")
                (change,) = await anext(watch)
                assert isinstance(change, Put)
            await eventually(lambda: len(open_sessions()) == 1)
            registry.reconnect()
        assert open_sessions() == []


class TestRenewal:
    async def test_wakes_no_watcher(self, registry: EtcdV2Registry, raw: RawEtcdV2) -> None:
        """A refresh ends no long poll, not even one that is opened afterwards from before it."""
        held = await created(registry)
        since = await registry.list_subnets()
        await registry.renew(held)
        polling = asyncio.create_task(raw.ask("GET", "/net/subnets", wait="true", recursive="true",
                                              waitIndex=since.revision + 1))
        await registry.renew(held)
        await raw.set("/net/subnets/10.9.9.0-24", "{}")
        assert (await polling)["node"]["key"] == "/net/subnets/10.9.9.0-24"

    async def test_lost_reply(self, shared: Etcd, raw: RawEtcdV2) -> None:
        """When the reply to a refresh is lost, the next one succeeds although the index has moved on."""
        async with TcpProxy.before(shared.endpoints[0]) as proxy, opened(proxy.url, timing=SHORT) as registry:
            held = await created(registry)
            await registry.renew(held)  # the server's version is known now
            (held,) = (await registry.list_subnets()).records
            proxy.mute_after = b"refresh=true"
            with pytest.raises(RegistryUnavailable):
                await registry.renew(held)
            proxy.mute = False
            assert (await raw.get(KEY))["modifiedIndex"] > held.mod_revision
            renewal = await registry.renew(held)
            assert renewal.ttl_s == TTL_S
            assert renewal.record is not None
            assert renewal.record.lease_id == held.lease_id

    async def test_overwritten(self, registry: EtcdV2Registry, raw: RawEtcdV2) -> None:
        """A key that somebody set is another one, whatever TTL it has: nothing is renewed."""
        held = await created(registry)
        await raw.set(KEY, "theirs", ttl=77)
        renewal = await registry.renew(held)
        assert renewal.record is not None
        assert (renewal.record.value, renewal.record.lease_id != held.lease_id) == (b"theirs", True)
        assert renewal.ttl_s == 0
        assert (await raw.get(KEY))["ttl"] <= 77

    async def test_expired(self, registry: EtcdV2Registry, raw: RawEtcdV2) -> None:
        """An expired key is gone for the watchers and for its holder."""
        await raw.set(KEY, "{}", ttl=1)
        since = await registry.list_subnets()
        (held,) = since.records
        async with registry.watch_subnets(since) as watch, asyncio.timeout(10):
            while not (changes := await anext(watch)):
                pass
        assert isinstance(changes[0], Gone)
        assert changes[0].name == NAME
        assert (await registry.renew(held)).record is None


class TestCreation:
    async def test_conflict_in_between(self, registry: EtcdV2Registry, raw: RawEtcdV2, shared: Etcd) -> None:
        """An overlapping key created between our list and our creation was first: ours is deleted, nothing is left."""
        listed = await registry.list_subnets()

        async def list_and_be_late() -> Snapshot:
            snapshot = await registry.list_subnets()
            if not snapshot.records:
                await raw.set("/net/subnets/172.7.20.0-23", "theirs")
            return snapshot

        async with creator(shared, registry, list_and_be_late) as late:
            assert await late.create(NAME, OURS, ttl_s=TTL_S, listed=listed) is None
        assert [record.value for record in (await registry.list_subnets()).records] == [b"theirs"]

    async def test_conflict_of_the_other_family(self, registry: EtcdV2Registry, raw: RawEtcdV2, shared: Etcd) -> None:
        """In a dual-stack network a key that overlaps only the IPv6 half was first as well."""
        listed = await registry.list_subnets()

        async def list_and_be_late() -> Snapshot:
            snapshot = await registry.list_subnets()
            if not snapshot.records:
                await raw.set("/net/subnets/172.7.22.0-24&2001:cafe:42:7::-64", "theirs")
            return snapshot

        async with creator(shared, registry, list_and_be_late) as late:
            name = b"172.7.21.0-24&2001:cafe:42:7::-64"
            assert await late.create(name, OURS, ttl_s=TTL_S, listed=listed) is None
        assert [record.value for record in (await registry.list_subnets()).records] == [b"theirs"]

    async def test_neighbour_in_between(self, registry: EtcdV2Registry, raw: RawEtcdV2, shared: Etcd) -> None:
        """A key that overlaps nothing and came in between is no conflict."""
        listed = await registry.list_subnets()

        async def list_and_be_late() -> Snapshot:
            snapshot = await registry.list_subnets()
            if not snapshot.records:
                await raw.set("/net/subnets/172.7.22.0-24", "neighbour")
            return snapshot

        async with creator(shared, registry, list_and_be_late) as late:
            assert await late.create(NAME, OURS, ttl_s=TTL_S, listed=listed) is not None

    async def test_verification_is_made_up_for(self, registry: EtcdV2Registry, raw: RawEtcdV2, shared: Etcd) -> None:
        """When the second list fails, the key is verified before it is renewed, and deleted if it conflicts."""
        listed = await registry.list_subnets()
        calls = 0

        async def list_once() -> Snapshot:
            nonlocal calls
            calls += 1
            if calls == 1:
                snapshot = await registry.list_subnets()
                await raw.set("/net/subnets/172.7.20.0-23", "theirs")
                return snapshot
            if calls == 2:
                raise RegistryUnavailable("test: down")
            return await registry.list_subnets()

        async with creator(shared, registry, list_once) as late:
            with pytest.raises(RegistryUnavailable):
                await late.create(NAME, OURS, ttl_s=TTL_S, listed=listed)
            assert not await late.settle(NAME)
            assert await late.settle(NAME)  # the question was answered; the key is gone
        assert [record.value for record in (await registry.list_subnets()).records] == [b"theirs"]

    async def test_key_of_another_node(self, registry: EtcdV2Registry, raw: RawEtcdV2, shared: Etcd) -> None:
        """A key that another node has created under the name that we tried is never deleted."""
        listed = await registry.list_subnets()
        asked = 0

        async def list_once() -> Snapshot:
            nonlocal asked
            asked += 1
            if asked == 2:
                await raw.set("/net/subnets/172.7.20.0-23", "older")
                await raw.set(KEY, "theirs")
                raise RegistryUnavailable("test: down")
            return await registry.list_subnets()

        async with creator(shared, registry, list_once) as late:
            with pytest.raises(RegistryUnavailable):
                await late.create(NAME, OURS, ttl_s=TTL_S, listed=listed)
            assert await late.settle(NAME)
        assert [record.value for record in (await registry.list_subnets()).records] == [b"older", b"theirs"]

    async def test_many_at_once(self, registry: EtcdV2Registry, shared: Etcd) -> None:
        """Of many that create overlapping subnets at once exactly one gets its own, in every round."""
        for number in range(5):
            listed = await registry.list_subnets()
            async with AsyncExitStack() as stack:
                clients = [await stack.enter_async_context(opened(shared.endpoints[0])) for _ in range(8)]
                async with asyncio.TaskGroup() as group:
                    tasks = [
                        group.create_task(client.create_subnet(
                            f"10.{number}.0.0-{16 + index}".encode(), b"{}", ttl_s=60, listed=listed
                        ))
                        for index, client in enumerate(clients)
                    ]
            winners = [task.result() for task in tasks if task.result() is not None]
            snapshot = await registry.list_subnets()
            assert [record for record in snapshot.records if record.create_revision > listed.revision] == winners
            assert len(winners) == 1

    async def test_directory_in_the_way(self, registry: EtcdV2Registry, raw: RawEtcdV2) -> None:
        """A directory where a key should be is listed as unreadable, and creating there is refused as taken."""
        await raw.set(f"{KEY}/nested", "{}")
        listed = await registry.list_subnets()
        assert [(record.name, record.value) for record in listed.records] == [(NAME, b"")]
        assert await registry.create_subnet(NAME, OURS, ttl_s=TTL_S, listed=listed) is None


def creator(shared: Etcd, registry: EtcdV2Registry, list_subnets: object) -> "_Creating":
    return _Creating(shared.endpoints[0], registry, list_subnets)


class _Creating:
    """A ``V2Creator`` whose lists are the test's."""

    def __init__(self, url: str, registry: EtcdV2Registry, list_subnets: object) -> None:
        members = Members([V2Member(url)], rng=random.Random(1), log=structlog.get_logger())
        self.http = V2Client(EtcdAccess((url,), "/net"), members=members, timing=Timing())
        self.creator = V2Creator(
            self.http, V2KeySpace.below("/net"), list_subnets=list_subnets,  # type: ignore[arg-type]
            delete=registry.delete_subnet, log=structlog.get_logger(),
        )

    async def __aenter__(self) -> V2Creator:
        return self.creator

    async def __aexit__(self, *_: object) -> None:
        await self.http.close()


class TestWatch:
    async def test_silence_is_checked(self, registry: EtcdV2Registry, raw: RawEtcdV2) -> None:
        """A silent watch gives signs of life and follows the index: changes that etcd has dropped are no loss."""
        since = await registry.list_subnets()
        async with registry.watch_subnets(since) as watch, asyncio.timeout(30):
            assert await anext(watch) == ()
            for _ in range(2):
                await raw.set_all([b"/elsewhere"] * 600, b"x")
                assert await anext(watch) == ()
            await raw.set(KEY, "{}")
            while not (changes := await anext(watch)):
                pass
        assert isinstance(changes[0], Put)

    async def test_index_cleared(self, registry: EtcdV2Registry, raw: RawEtcdV2) -> None:
        """A position that etcd has forgotten is an error of its own; after a list the watch goes on."""
        since = await registry.list_subnets()
        await raw.forget()
        with pytest.raises(RevisionCompacted, match="cleared"):
            async with registry.watch_subnets(since) as watch:
                await anext(watch)
        since = await registry.list_subnets()
        async with registry.watch_subnets(since) as watch:
            assert await anext(watch) == ()
            await raw.set(KEY, "{}")
            assert len(await anext(watch)) == 1

    @pytest.mark.parametrize("directory", ["/net", "/net/subnets"])
    async def test_directory_deleted(self, registry: EtcdV2Registry, raw: RawEtcdV2, directory: str) -> None:
        """When the whole directory is deleted no key is named: list again, and find nothing."""
        await raw.set(KEY, "{}")
        since = await registry.list_subnets()
        async with registry.watch_subnets(since) as watch:
            assert await anext(watch) == ()
            await raw.delete(directory, recursive="true")
            with pytest.raises(RevisionCompacted):
                await anext(watch)
        assert (await registry.list_subnets()).records == ()

    async def test_every_action(self, registry: EtcdV2Registry, raw: RawEtcdV2) -> None:
        """Each way to change or delete a key is delivered as a put or as a deletion; nested keys are none."""
        since = await registry.list_subnets()
        await raw.ask("PUT", KEY, value="created", prevExist="false")
        await raw.ask("PUT", KEY, value="updated", prevExist="true")
        await raw.ask("PUT", KEY, value="swapped", prevValue="updated")
        await raw.set(KEY, "set")
        await raw.set("/net/subnets/a/b", "nested")
        await raw.delete(KEY, prevValue="set")
        await raw.set(KEY, "again")
        await raw.delete(KEY)
        seen: list[bytes | None] = []
        async with registry.watch_subnets(since) as watch, asyncio.timeout(10):
            while len(seen) < 7:
                seen += [c.record.value if isinstance(c, Put) else None for c in await anext(watch)]
        assert seen == [b"created", b"updated", b"swapped", b"set", None, b"again", None]


Handler = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@asynccontextmanager
async def serving(answer: Handler) -> AsyncIterator[str]:
    """Answer connections until the block ends and the last of them is closed."""
    open_ones: set[asyncio.StreamWriter] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        open_ones.add(writer)
        try:
            await answer(reader, writer)
        finally:
            writer.close()
            await writer.wait_closed()
            open_ones.discard(writer)

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        server.close()
        await eventually(lambda: not open_ones)


class TestServers:
    async def test_v2_switched_off(self, tmp_path: Path) -> None:
        """A 404 without etcd's headers is no empty list: the error says how to enable v2."""
        with running_etcd(tmp_path) as etcd:
            async with opened(etcd.endpoints[0]) as registry:
                for call in (registry.list_subnets(), registry.read_config()):
                    with pytest.raises(ApiMissing, match="--enable-v2"):
                        await call
                assert (await registry.server_version())[0] >= 3

    async def test_a_key_where_the_directory_should_be(self, registry: EtcdV2Registry, raw: RawEtcdV2) -> None:
        """``<prefix>/subnets`` as a key is an error and no empty list."""
        await raw.set("/net/subnets", "{}")
        with pytest.raises(RegistryUnavailable, match="directory"):
            await registry.list_subnets()

    async def test_too_old_to_refresh(
        self, registry: EtcdV2Registry, raw: RawEtcdV2, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A server that does not know ``refresh`` gets the value as well, because it would write an empty one."""

        async def version() -> tuple[int, ...]:
            return (2, 2, 5)

        monkeypatch.setattr(registry, "server_version", version)
        held = await created(registry)
        renewal = await registry.renew(held)
        assert renewal.record is not None
        assert (renewal.record.value, renewal.record.lease_id, renewal.ttl_s) == (OURS, held.lease_id, TTL_S)
        assert (await raw.get(KEY))["value"].encode() == OURS

    @pytest.mark.parametrize("body", [b"", b"{}", b"[]", b"<html>", b'{"action":"get","node":{}}', b"\xff"])
    async def test_other_servers(self, body: bytes) -> None:
        """Whatever else answers with 200 is an error, and never a list."""
        head = b"HTTP/1.1 200 OK\r\nX-Etcd-Index: 5\r\nX-Etcd-Cluster-Id: 1f\r\nConnection: close\r\nContent-Length: "

        async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.readuntil(b"\r\n\r\n")
            writer.write(head + str(len(body)).encode() + b"\r\n\r\n" + body)
            await writer.drain()

        async with serving(answer) as url, opened(url, timing=SHORT) as registry:
            with pytest.raises(RegistryUnavailable):
                await registry.list_subnets()

    async def test_other_servers_and_a_watch(self) -> None:
        """A server that is not etcd cannot be watched, however long its response takes."""

        async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.readuntil(b"\r\n\r\n")
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n")
            await reader.read()

        async with serving(answer) as url, opened(url, timing=SHORT) as registry:
            with pytest.raises(RegistryUnavailable, match="not a response of etcd"):
                async with registry.watch_config(1) as ticks:
                    await anext(ticks)

    async def test_restart(self, tmp_path: Path) -> None:
        """After a restart of etcd the client recovers by itself; leases and their indices are as before."""
        with running_etcd(tmp_path, args=["--enable-v2=true"]) as etcd:
            async with opened(etcd.endpoints[0], timing=SHORT) as registry:
                held = await created(registry)
                etcd.restart()

                async def back() -> Snapshot | None:
                    try:
                        return await registry.list_subnets()
                    except RegistryUnavailable:
                        return None

                snapshot = await eventually(back)
                assert isinstance(snapshot, Snapshot)
                assert snapshot.records == (held,)


async def test_a_path_of_an_endpoint_stands_in_front_of_the_keys(shared: Etcd, raw: RawEtcdV2) -> None:
    """As with v0.11.0, for an etcd behind a proxy that hands on what is below a path."""
    await raw.set("/net/config", "{}")
    asked = []

    async def hand_on(request: web.Request) -> web.Response:
        asked.append(request.path)
        url = f"{shared.endpoints[0]}{request.raw_path.removeprefix('/etcd')}"
        async with aiohttp.ClientSession() as session, session.get(URL(url, encoded=True)) as answer:
            headers = {name: value for name, value in answer.headers.items() if name.startswith("X-")}
            return web.Response(body=await answer.read(), status=answer.status, headers=headers)

    proxy = TestServer(web.Application())
    proxy.app.router.add_get("/etcd/v2/{rest:.*}", hand_on)
    async with proxy, opened(f"{str(proxy.make_url('/')).rstrip('/')}/etcd") as registry:
        assert (await registry.read_config()).value == b"{}"
    assert set(asked) == {"/etcd/v2/keys/net/config"}
