"""How fast the kernel room puts, reads and drops routes, beside ``ip -batch``; in a namespace of its own.

    python -m tests.bench.routes [NUMBER OF ROUTES]

Each figure is the median of five runs on the same empty table. Compare only figures of one machine and one run.
"""

import asyncio
import statistics
import sys
import time
from collections.abc import Awaitable, Callable
from ipaddress import IPv4Address, IPv4Network

from pyflanneld.core.routes import Create, Drop, Route
from pyflanneld.kernel.rtnl import NetlinkKernel
from tests.netns import Namespace, namespace

RUNS = 5
PROTOCOL = 103


def wanted(count: int, link_index: int) -> list[Route]:
    """Return /24 routes of 10.0.0.0/8 over 250 gateways in turn."""
    subnets = IPv4Network("10.0.0.0/8").subnets(new_prefix=24)
    gateways = [IPv4Address("192.168.0.0") + 2 + number for number in range(250)]
    return [Route(next(subnets), gateways[number % len(gateways)], link_index) for number in range(count)]


async def measure(
    name: str, count: int, act: Callable[[], Awaitable[object]], undo: Callable[[], Awaitable[object]]
) -> None:
    """Print one line: the median time of *act*, after each of which *undo* restores the table."""
    times = []
    for _ in range(RUNS):
        began = time.perf_counter()
        await act()
        times.append(time.perf_counter() - began)
        await undo()
    median = statistics.median(times)
    print(f"{name:<34} {median * 1000:9.1f} ms {count / median:11,.0f} routes/s")


async def compare(space: Namespace, count: int) -> None:
    """Run all comparisons inside the namespace."""
    kernel = NetlinkKernel(protocol=PROTOCOL)
    link = next(link for link in await kernel.links() if link.name == "eth1")
    routes = wanted(count, link.index)
    lines = [f"route add {route.dst} via {route.gateway} dev eth1 proto {PROTOCOL}" for route in routes]

    async def put() -> None:
        if failed := await kernel.apply([Create(route) for route in routes]):
            raise RuntimeError(f"{len(failed)} routes refused")

    async def read() -> None:
        if len(await kernel.routes(protocol=PROTOCOL)) != count:
            raise RuntimeError("not all routes are there")

    async def drop() -> None:
        await kernel.apply([Drop(route) for route in await kernel.routes(protocol=PROTOCOL)])

    async def put_with_ip() -> None:
        space.ip_batch(lines)

    async def nothing() -> None: ...

    await measure("ip -batch: add", count, put_with_ip, drop)
    await measure("pyflanneld: put", count, put, drop)
    await put()
    await measure("pyflanneld: read", count, read, nothing)
    await measure("pyflanneld: read and drop", count, drop, put)
    await kernel.close()


def main() -> None:
    """Make the namespace and measure in it."""
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 4000
    print(f"{count} routes, one gateway each, median of {RUNS} runs")
    with namespace() as space:
        space.veth("eth1", "192.168.0.1/16", peer="lan")
        with space.inside():
            asyncio.run(compare(space, count))


if __name__ == "__main__":
    main()
