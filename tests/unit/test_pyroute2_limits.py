"""What pyroute2's sockets do not do, shown of its own classes: while these pass, ours in ``netlink/`` stay.

The kernel at the other end is played by a socket pair: pyroute2 does not look at who answers either.
"""

import asyncio
import errno
import socket
import struct
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from importlib import import_module

import pytest
from pyroute2 import AsyncIPRoute, NetlinkError
from pyroute2.netlink import (
    NLM_F_ACK,
    NLM_F_DUMP,
    NLM_F_DUMP_INTR,
    NLM_F_MULTI,
    NLM_F_REQUEST,
    NLMSG_DONE,
    NLMSG_ERROR,
)
from pyroute2.netlink.marshal import Marshal
from pyroute2.netlink.rtnl import RTM_GETROUTE, RTM_NEWROUTE
from pyroute2.netlink.rtnl.rtmsg import rtmsg

from pyflanneld.netlink.frames import HEADER, Malformed, frames
from pyflanneld.netlink.messages import encode

ROUTE = encode(rtmsg, {"family": socket.AF_INET, "dst_len": 24}, [("RTA_DST", "10.5.34.0")])
Answer = Callable[[bytes], list[bytes]]


def message(kind: int, flags: int, sequence: int, body: bytes) -> bytes:
    return HEADER.pack(HEADER.size + len(body), kind, flags, sequence, 0) + body


def listed(asked: bytes, flags: int = 0, number: int = 0) -> list[bytes]:
    """Return a list of one route, with these *flags*, that ends with this *number*."""
    (_, _, _, sequence, _) = HEADER.unpack_from(asked)
    done = message(NLMSG_DONE, NLM_F_MULTI | flags, sequence, struct.pack("=i", number))
    return [message(RTM_NEWROUTE, NLM_F_MULTI | flags, sequence, ROUTE) + done]


@asynccontextmanager
async def iproute(answer: Answer = listed) -> AsyncIterator[AsyncIPRoute]:
    """Have pyroute2's own socket, to which *answer* says what the kernel would."""
    theirs, kernel = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    theirs.setblocking(False)
    kernel.setblocking(False)

    def reply() -> None:
        for datagram in answer(kernel.recv(1 << 16)):
            kernel.send(datagram)

    asyncio.get_running_loop().add_reader(kernel, reply)
    with kernel, theirs:
        async with AsyncIPRoute(use_socket=theirs) as opened:
            yield opened
        asyncio.get_running_loop().remove_reader(kernel)


async def routes(iproute: AsyncIPRoute) -> list[str]:
    return [route.get_attr("RTA_DST") async for route in await iproute.get_routes()]


async def test_torn_list() -> None:
    """A list that the kernel marks as torn is returned as if it were whole; ``NetlinkDumpInterrupted`` never comes."""
    async with iproute(lambda asked: listed(asked, NLM_F_DUMP_INTR)) as opened:
        assert await routes(opened) == ["10.5.34.0"]


async def test_list_that_failed() -> None:
    """So is a list that the kernel gave up: the errno in its last message is not looked at."""
    async with iproute(lambda asked: listed(asked, number=-errno.EIO)) as opened:
        assert await routes(opened) == ["10.5.34.0"]


async def test_overrun() -> None:
    """After one ENOBUFS the object raises it for ever."""
    async with iproute() as opened:
        assert await routes(opened) == ["10.5.34.0"]
        opened.protocol.error_received(OSError(errno.ENOBUFS, "No buffer space available"))
        for _ in range(3):
            with pytest.raises(OSError, match="No buffer space"):
                await routes(opened)
        opened._error_event.clear()


async def test_batch() -> None:
    """Of a batch in which two messages are refused one errno comes, and nothing says whose it is, or none at all."""

    def refuse(asked: bytes) -> list[bytes]:
        exists = struct.pack("=i", -errno.EEXIST)
        return [
            message(NLMSG_ERROR, 0, number, exists + message(kind, flags, number, body))
            for kind, flags, number, _, body in frames(asked)
        ]

    async def told(opened: AsyncIPRoute, *, noraise: bool) -> list[object]:
        changes = [rtmsg() for _ in range(2)]
        for change in changes:
            change["header"]["flags"] = NLM_F_REQUEST | NLM_F_ACK
        return [found async for found in opened.nlm_request_batch(changes, noraise)]

    async with iproute(refuse) as opened:
        with pytest.raises(NetlinkError) as raised:
            await told(opened, noraise=False)
        assert raised.value.args == (errno.EEXIST, "File exists")
        assert await told(opened, noraise=True) == []


async def test_sender() -> None:
    """A datagram counts, whoever has sent it: here another process."""

    def forge(asked: bytes) -> list[bytes]:
        (forged,) = listed(asked)
        opened.protocol.datagram_received(forged, (4711, 0))
        return []

    async with iproute(forge) as opened:
        assert await routes(opened) == ["10.5.34.0"]


async def test_parser() -> None:
    """A parser that is passed with a request is not used: each message of a list is decoded in full."""
    async with iproute() as opened:
        answer = await opened.nlm_request(rtmsg(), RTM_GETROUTE, NLM_F_REQUEST | NLM_F_DUMP, parser=lambda *_: None)
        assert [route.get_attr("RTA_DST") async for route in answer] == ["10.5.34.0"]


async def test_queue() -> None:
    """What the kernel reports and nobody reads is kept without bound."""
    async with iproute() as opened:
        await opened.setup_endpoint()
        assert opened.msg_queue.root.maxsize == 0


def test_marshal_shortens_a_list() -> None:
    """What ``frames`` refuses is dropped in silence, or read from beyond its end; and padding is not left aside."""
    whole = message(RTM_NEWROUTE, NLM_F_MULTI, 1, ROUTE)
    too_long = HEADER.pack(len(whole) + 4, RTM_NEWROUTE, NLM_F_MULTI, 1, 0) + ROUTE
    for datagram, found in ((whole + whole[:12], 1), (whole + whole[:-4], 2), (whole + too_long, 2)):
        assert len(tuple(Marshal().parse(datagram))) == found
        with pytest.raises(Malformed):
            list(frames(datagram))
    padded = HEADER.pack(17, RTM_NEWROUTE, 0, 1, 0) + b"x" + bytes(3) + whole
    assert len(tuple(Marshal().parse(padded))) != len(list(frames(padded))) == 2


def test_no_names() -> None:
    """Neither pyroute2 nor Python's socket names the numbers that ``netlink/messages.py`` writes down."""
    ours = {"RTM_F_CLONED", "RTEXT_FILTER_SKIP_STATS", "SO_RCVBUFFORCE"}
    modules = [import_module(f"pyroute2.netlink{name}") for name in ("", ".rtnl", ".rtnl.rtmsg", ".rtnl.ifinfmsg")]
    for module in (socket, *modules):
        assert not ours & vars(module).keys()


def test_its_parts_are_imported_alone() -> None:
    """The kernel's port loads a few dozen modules of it, and not its database; all of it is there for who asks."""
    code = """
import sys
import pyflanneld.netlink.kernel
print(sum(name.startswith("pyroute2") for name in sys.modules), "pyroute2.ndb" in sys.modules)
from pyroute2 import IPRoute, NDB, config
from pyroute2.iproute.linux import DEFAULT_TABLE
from pyflanneld.netlink.route_template import MAIN_TABLE
print(IPRoute.__name__, NDB.__name__, config.__name__, MAIN_TABLE == DEFAULT_TABLE)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    (count, database), rest = (line.split() for line in done.stdout.splitlines())
    assert int(count) < 60
    assert database == "False"
    assert rest == ["IPRoute", "NDB", "pyroute2.config", "True"]
