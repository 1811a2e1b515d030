"""The lossy path of ``network.tcp_proxy`` between a laboratory's host and its etcd, on a thread of its own."""

import asyncio
import contextlib
import threading
from collections.abc import Iterator

from hpack.huffman import HuffmanEncoder
from hpack.huffman_constants import REQUEST_CODES, REQUEST_CODES_LENGTH

from pyflanneld.lab.node import LabHost
from tests.support.network.namespaces import Namespace
from tests.support.network.tcp_proxy import Idle, Slow, TcpProxy


def first_call(method: str) -> bytes:
    """Return the bytes by which the first call of *method* on a connection is known: its path, as HPACK packs it."""
    packer = HuffmanEncoder(REQUEST_CODES, REQUEST_CODES_LENGTH)
    packed: bytes = packer.encode(f"/etcdserverpb.{method}".encode())
    return packed


class LossyPath:
    """What stands between: the levers of ``TcpProxy``, to be moved from the test's thread."""

    def __init__(self, loop: asyncio.AbstractEventLoop, proxy: TcpProxy) -> None:
        self._loop = loop
        self._proxy = proxy
        self.url = proxy.url

    @property
    def mute(self) -> bool:
        """Whether the server's words are swallowed."""
        return self._proxy.mute

    @mute.setter
    def mute(self, value: bool) -> None:
        self._proxy.mute = value

    @property
    def mute_after(self) -> bytes | None:
        """The client's bytes after which ``mute`` sets in."""
        return self._proxy.mute_after

    @mute_after.setter
    def mute_after(self, value: bytes | None) -> None:
        self._proxy.mute_after = value

    def slow_down(self, slow: Slow | None) -> None:
        """Let the server's words take long from now on; ``None``: no more."""
        self._proxy.slow = slow

    def cut_idle(self, idle: Idle | None) -> None:
        """Cut what is idle from now on, as balancers do; ``None``: no more."""
        self._proxy.idle = idle

    @property
    def idle_cuts(self) -> int:
        """How many connections were cut because they were idle."""
        return self._proxy.idle_cuts

    def cut(self) -> None:
        """Reset every connection."""
        self._loop.call_soon_threadsafe(self._proxy.cut)


@contextlib.contextmanager
def lossy_path(node: LabHost, url: str) -> Iterator[LossyPath]:
    """Offer *url*, which the host can reach, on the host's own loopback until the block ends.

    A socket belongs to the namespace of the thread that makes it, so a thread steps into the host's and stays there.
    """
    made: list[LossyPath] = []
    started, finish = threading.Event(), asyncio.Event()

    async def serve() -> None:
        async with TcpProxy.before(url) as proxy:
            made.append(LossyPath(asyncio.get_running_loop(), proxy))
            started.set()
            await finish.wait()

    def live_there() -> None:
        try:
            with Namespace(node.namespace).inside():
                asyncio.run(serve())
        finally:
            started.set()

    thread = threading.Thread(target=live_there, name=f"path of {node.name}")
    thread.start()
    started.wait(10)
    try:
        [path] = made
        yield path
    finally:
        for path in made:
            path._loop.call_soon_threadsafe(finish.set)
        thread.join(10)
