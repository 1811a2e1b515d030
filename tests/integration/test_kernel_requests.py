"""The request socket under faults: torn dumps, lost and forged answers, silence, cancellation."""

import asyncio
import errno
import operator
import socket
import struct
from collections.abc import Iterator
from ipaddress import IPv4Address, IPv4Network
from typing import Any

import pytest
from pyroute2.netlink import NLM_F_DUMP_INTR, NLM_F_REQUEST, NLMSG_DONE

from pyflanneld.core.objects.plan import Create
from pyflanneld.core.routes import KernelRoute, Route
from pyflanneld.errors import KernelError
from pyflanneld.netlink import frames, route_lookup
from pyflanneld.netlink import routes as encoding
from pyflanneld.netlink.dump_cache import DumpCache
from pyflanneld.netlink.kernel import NetlinkKernel
from pyflanneld.netlink.socket import CHUNK, DUMP_ATTEMPTS, DumpRefused, RequestSocket, open_socket
from tests.support.network.namespaces import Namespace, namespace

pytestmark = pytest.mark.netns
OURS = 103


class Faulty(socket.socket):
    """A real netlink socket with a fault in what is sent or received."""

    def __init__(self, fault: str, **options: int) -> None:
        super().__init__(fileno=open_socket(**options).detach())
        self.setblocking(False)
        self._fault = fault
        self.sent = 0

    def send(self, data: Any, flags: int = 0) -> int:
        self.sent += 1
        if self._fault == "noisy":
            super().send(frames.pack(frames.NetlinkRequest(0xFFF0, NLM_F_REQUEST, b""), 0xFFFF))  # refused
        return len(data) if self._fault == "deaf" else super().send(data, flags)

    def recvfrom_into(self, buffer: Any, nbytes: int = 0, flags: int = 0) -> tuple[int, Any]:
        length, sender = super().recvfrom_into(buffer, nbytes, flags)
        if self._fault == "mute":
            raise BlockingIOError
        match self._fault:
            case "torn" | "torn once":
                marked = struct.unpack_from("=H", buffer, 6)[0] | NLM_F_DUMP_INTR
                struct.pack_into("=H", buffer, 6, marked)
                if self._fault == "torn once":
                    self._fault = ""
            case "given up" if struct.unpack_from("=H", buffer, length - 16)[0] == NLMSG_DONE:  # the last 20 bytes
                struct.pack_into("=i", buffer, length - 4, -errno.EIO)
            case "cut":
                length = 1 << 20
            case "garbled":
                struct.pack_into("=I", buffer, 0, 3)
        return length, sender


class Sockets:
    """Opens faulty sockets first, as many as there are faults, and sound ones after them."""

    def __init__(self, *faults: str, **options: int) -> None:
        self.opened: list[Faulty] = []
        self.first_opened = asyncio.Event()
        self._faults = list(faults)
        self._options = options

    def __call__(self) -> socket.socket:
        faulty = len(self.opened) < len(self._faults)
        made = Faulty(self._faults[len(self.opened)], **self._options) if faulty else Faulty("")
        self.opened.append(made)
        self.first_opened.set()
        return made


@pytest.fixture(autouse=True)
def bed() -> Iterator[Namespace]:
    with namespace() as made, made.inside():
        made.veth("eth0", "192.168.77.1/24", peer="peer0")
        yield made


async def routes(requests: RequestSocket) -> tuple[KernelRoute, ...]:
    return await requests.dump(encoding.routes_request(None), DumpCache(encoding.decode_route).update)


async def bodies(found: list[bytes]) -> list[bytes]:
    return found


async def way(requests: RequestSocket, address: str) -> object:
    return await requests.ask(route_lookup.lookup_request(IPv4Address(address)), route_lookup.decode_lookup)


async def create(requests: RequestSocket, count: int, gateway: str = "192.168.77.2") -> dict[int, frames.KernelRefusal]:
    index = socket.if_nametoindex("eth0")
    dsts = (IPv4Network((0x0A050000 + number * 64, 26)) for number in range(count))
    changes = [Create(Route(dst, IPv4Address(gateway), index)) for dst in dsts]
    return await requests.transact(changes, lambda change, *asked: encoding.change_message(change, OURS, 0, *asked))


async def test_torn_dump_is_repeated() -> None:
    """A list that the kernel marks as torn is asked for again, and only the sound one is returned."""
    sockets = Sockets("torn once")
    requests = RequestSocket(sockets)
    assert len(await routes(requests)) == 1
    assert [opened.sent for opened in sockets.opened] == [2]
    await requests.close()


async def test_always_torn() -> None:
    """A list that is torn every time is an error in the end, never a shorter list; the next call is sound."""
    requests = RequestSocket(Sockets("torn"))
    with pytest.raises(KernelError, match=f"{DUMP_ATTEMPTS} times"):
        await routes(requests)
    assert len(await routes(requests)) == 1
    await requests.close()


async def test_list_with_an_errno() -> None:
    """A list that ends with an errno, since the kernel gave it up, is an error and no shorter list."""
    requests = RequestSocket(Sockets("given up"))
    with pytest.raises(DumpRefused) as refused:
        await routes(requests)
    assert refused.value.refusal == frames.KernelRefusal(errno.EIO, "")
    assert len(await routes(requests)) == 1
    await requests.close()


async def test_unchanged_list() -> None:
    """A list that has not changed is taken from what its datagrams held before; one that has changed is not."""
    requests = RequestSocket()
    await create(requests, 3000)
    before = [await requests.dump(encoding.routes_request(None), bodies) for _ in range(2)]
    assert all(map(operator.is_, *before))
    refused = await create(requests, 3001)
    assert refused.keys() == set(range(3000))
    assert len(await requests.dump(encoding.routes_request(None), bodies)) == len(before[0]) + 1
    await requests.close()


async def test_answers_to_other_requests() -> None:
    """What answers an earlier request is passed over, in lists and among acknowledgements."""
    requests = RequestSocket(Sockets("noisy"))
    assert await way(requests, "192.168.77.9") is not None
    assert await create(requests, 3) == {}
    assert len(await routes(requests)) == 4
    await requests.close()


async def test_kernel_without_filters(bed: Namespace) -> None:
    """Where the kernel cannot filter a list (before Linux 4.20), the result is the same."""
    lenient = Faulty("")
    lenient.setsockopt(270, 12, 0)  # SOL_NETLINK, NETLINK_GET_STRICT_CHK
    older = NetlinkKernel(protocol=OURS, requests=RequestSocket(lambda: lenient))
    current = NetlinkKernel(protocol=OURS)
    index = socket.if_nametoindex("eth0")
    bed.ip("route add 10.5.1.0/24 via 192.168.77.2 proto static")
    bed.ip("route add 10.5.2.0/24 via 192.168.77.2 table 99 proto static")
    bed.ip("route add fd00:5::/64 dev eth0 proto static")
    await current.apply([Create(Route(IPv4Network("10.5.3.0/24"), IPv4Address("192.168.77.2"), index))])
    for protocol in (None, 4, 99):
        assert await older.routes(protocol=protocol) == await current.routes(protocol=protocol)
    assert len(await older.routes(protocol=4)) == 1
    assert await older.links() == await current.links()
    await older.close()
    await current.close()


@pytest.mark.parametrize(("number", "expected"), [(errno.ENOENT, ()), (errno.EINVAL, None)])
async def test_missing_table(number: int, expected: tuple[()] | None) -> None:
    """No main table means no routes; every other refusal of the list is an error."""

    class Refusing(RequestSocket):
        async def dump(self, *_: Any) -> Any:
            raise DumpRefused(frames.KernelRefusal(number, "told to"))

    kernel = NetlinkKernel(protocol=OURS, requests=Refusing())
    if expected is None:
        with pytest.raises(KernelError, match="told to"):
            await kernel.routes()
    else:
        assert await kernel.routes() == expected


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("deaf", "no answer within"),
        ("mute", "no answer within"),
        ("cut", "datagram of"),
        ("garbled", "message of 3 bytes"),
    ],
)
async def test_fault_then_recovery(fault: str, message: str) -> None:
    """Silence, truncation and garbage end a request as an error; the next one has a new socket and succeeds."""
    sockets = Sockets(fault, fault, fault)
    requests = RequestSocket(sockets, request_deadline_s=0.05, dump_deadline_s=0.05)
    with pytest.raises(KernelError, match=message):
        await routes(requests)
    with pytest.raises(KernelError, match=message):
        await create(requests, 1)
    with pytest.raises(KernelError, match=message):
        await way(requests, "192.168.77.9")
    assert [opened.fileno() for opened in sockets.opened] == [-1, -1, -1]
    assert await way(requests, "192.168.77.9") is not None
    await create(requests, 2)
    assert len(await routes(requests)) == 3
    await requests.close()


async def test_lost_acknowledgements() -> None:
    """Refusals that did not fit into the socket are an error, not a success; afterwards all is well."""
    requests = RequestSocket(Sockets("", receive_buffer=1))
    assert await create(requests, CHUNK) == {}
    with pytest.raises(KernelError, match="No buffer space"):
        await create(requests, CHUNK)
    refused = await create(requests, CHUNK)
    assert refused == dict.fromkeys(range(CHUNK), frames.KernelRefusal(17, ""))
    assert len(await routes(requests)) == CHUNK + 1
    await requests.close()


async def test_cancelled_in_the_middle() -> None:
    """A cancelled request leaves nothing behind that the next one could take for its answer."""
    requests = RequestSocket()
    await create(requests, 3000)
    for turns in range(1, 6):
        dump = asyncio.create_task(routes(requests))
        for _ in range(turns):
            await asyncio.sleep(0)
        dump.cancel()
        assert len(await routes(requests)) == 3001
        assert dump.cancelled()
    await requests.close()


async def test_many_at_once() -> None:
    """Requests of several tasks at once do not mix."""
    requests = RequestSocket()
    async with asyncio.TaskGroup() as tasks:
        changes = tasks.create_task(create(requests, 500))
        dumps = [tasks.create_task(routes(requests)) for _ in range(10)]
    assert changes.result() == {}
    assert all(dump.result() for dump in dumps)
    assert len(await routes(requests)) == 501
    await requests.close()


async def test_forged_answer() -> None:
    """A message from another process, however well it fits, is not taken for the kernel's."""
    sockets = Sockets("deaf")
    requests = RequestSocket(sockets, dump_deadline_s=0.2)
    dump = asyncio.create_task(routes(requests))
    await sockets.first_opened.wait()
    with open_socket() as forger:
        for sequence in range(10):
            empty_list = frames.HEADER.pack(20, NLMSG_DONE, 2, sequence, 0) + bytes(4)
            forger.sendto(empty_list, (sockets.opened[0].getsockname()[0], 0))
    with pytest.raises(KernelError, match="no answer"):
        await dump
    await requests.close()


async def test_reason() -> None:
    """A refusal has the kernel's own words."""
    requests = RequestSocket()
    refused = await create(requests, 1, gateway="172.31.0.1")
    assert refused == {0: frames.KernelRefusal(101, "Nexthop has invalid gateway")}
    await requests.close()


@pytest.mark.parametrize("there", [{0}, {CHUNK - 1}, {CHUNK}, {5, 6, CHUNK - 2, CHUNK + 1, 2 * CHUNK - 1, 2 * CHUNK}])
async def test_every_refusal_counts(bed: Namespace, there: set[int]) -> None:
    """Of several chunks exactly those changes are refused that the kernel refuses, wherever in its chunk they stand."""
    for number in there:
        bed.ip(f"route add {IPv4Network((0x0A050000 + number * 64, 26))} via 192.168.77.9")
    requests = RequestSocket()
    assert (await create(requests, 2 * CHUNK + 1)).keys() == there
    assert len(await routes(requests)) == 1 + 2 * CHUNK + 1
    await requests.close()


async def test_sequence_numbers_start_again() -> None:
    """After four thousand million messages the numbers start again, and answers still find their changes."""
    requests = RequestSocket()
    requests._sequence = 0xFFFFFFFF - CHUNK
    for refused in ({}, dict.fromkeys(range(CHUNK), frames.KernelRefusal(errno.EEXIST, ""))):
        assert await create(requests, CHUNK) == refused
    assert len(await routes(requests)) == CHUNK + 1
    await requests.close()
