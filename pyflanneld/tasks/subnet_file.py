"""Keep ``subnet.env`` true to the lease and the link."""

from collections.abc import Callable
from ipaddress import IPv4Network, IPv6Network
from typing import TypeVar

from pyflanneld.core.backoff import backoff
from pyflanneld.core.invalid import Invalid
from pyflanneld.core.lease.subnet_env import previous_network, previous_subnet, previous_subnet6, render
from pyflanneld.state.context import Context
from pyflanneld.state.node import Node

T = TypeVar("T")

RETRY_CAP_S = 30.0
CHECK_S = 60.0


def remembered_subnet(context: Context) -> IPv4Network | None:
    """Return the subnet that the file names from an earlier run; what cannot be used is ignored with its reason."""
    return _remembered(context, previous_subnet)


def remembered_subnet6(context: Context) -> IPv6Network | None:
    """Return the IPv6 subnet in the same way."""
    return _remembered(context, previous_subnet6)


def _remembered(context: Context, parse: Callable[[str], T | None]) -> T | None:
    try:
        text = context.ports.subnet_file.read()
        return parse(text) if text is not None else None
    except (OSError, UnicodeDecodeError, Invalid) as error:
        context.log.warning("subnet_file.ignored", path=context.settings.subnet_file, why=str(error))
        return None


def remembered_network(context: Context) -> IPv4Network | None:
    """Return the network that the file names from an earlier run, if it can be read."""
    try:
        return previous_network(context.ports.subnet_file.read() or "")
    except (OSError, UnicodeDecodeError):
        return None  # remembered_subnet logs why


async def keep_file(context: Context, node: Node) -> None:
    """Write the file as soon as the firewall has been tried, on changes of the MTU, and when somebody has spoiled it.

    Whoever waits for the file, such as Docker's start, finds the rules in place.
    """
    await node.progress.rules_tried.wait()
    waits = backoff(1.0, RETRY_CAP_S, context.rng)
    while True:
        context.liveness.beat("file", 2 * CHECK_S)
        try:
            written = context.ports.subnet_file.write(file_text(context, node))
        except OSError as error:
            node.progress.file.clear()
            why = error.strerror or str(error)
            text = f"the subnet file {context.settings.subnet_file} cannot be written: {why}"
            context.conditions.report("file", "subnet_file.failed", text, cause=why)
            await node.wake.file.wait(next(waits))
            continue
        waits = backoff(1.0, RETRY_CAP_S, context.rng)
        context.conditions.resolve("file")
        node.progress.file.set()
        if written:
            context.log.info("subnet_file.written", subnet=str(node.lease.key), mtu=node.backend.mtu(node.link.mtu))
        await node.wake.file.wait(CHECK_S)


def file_text(context: Context, node: Node) -> str:
    """Return what the file has to hold."""
    lease = node.lease
    ipv6 = (
        (node.subnet_range6.network, lease.ipv6) if node.subnet_range6 is not None and lease.ipv6 is not None else None
    )
    mtu = node.backend.mtu(node.link.mtu)
    return render(node.subnet_range.network, lease.subnet, mtu, ip_masq=context.settings.ip_masq, ipv6=ipv6)
