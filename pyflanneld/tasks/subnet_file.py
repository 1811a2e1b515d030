"""Keep ``subnet.env`` true to the lease and the link."""

from collections.abc import Callable
from dataclasses import dataclass
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


@dataclass(frozen=True, slots=True)
class Remembered:
    """What the file names from an earlier run; ``None`` for what it does not name, or what cannot be used."""

    network: IPv4Network | None = None
    subnet: IPv4Network | None = None
    subnet6: IPv6Network | None = None


async def remembered(context: Context) -> Remembered:
    """Return what the file names from an earlier run; what cannot be used is ignored with its reason."""
    try:
        text = await context.ports.subnet_file.read()
    except (OSError, UnicodeDecodeError) as error:
        _ignore(context, str(error))
        return Remembered()
    if text is None:
        return Remembered()
    return Remembered(
        previous_network(text), _parsed(context, previous_subnet, text), _parsed(context, previous_subnet6, text)
    )


def _parsed(context: Context, parse: Callable[[str], T | None], text: str) -> T | None:
    try:
        return parse(text)
    except Invalid as error:
        _ignore(context, str(error))
        return None


def _ignore(context: Context, why: str) -> None:
    context.log.warning("subnet_file.ignored", path=context.settings.subnet_file, why=why)


async def keep_file(context: Context, node: Node) -> None:
    """Write the file as soon as the firewall has been tried, on changes of the MTU, and when somebody has spoiled it.

    Whoever waits for the file, such as Docker's start, finds the rules in place.
    """
    await node.progress.rules_tried.wait()
    waits = backoff(1.0, RETRY_CAP_S, context.rng)
    while True:
        context.liveness.beat("file", 2 * CHECK_S)
        try:
            written = await context.ports.subnet_file.write(file_text(context, node))
            exposed = await context.ports.subnet_file.exposure()
        except OSError as error:
            node.progress.file.clear()
            why = error.strerror or str(error)
            text = f"the subnet file {context.settings.subnet_file} cannot be written: {why}"
            context.conditions.report("file", "subnet_file.failed", text, cause=why)
            await node.wake.file.wait(next(waits))
            continue
        waits = backoff(1.0, RETRY_CAP_S, context.rng)
        context.conditions.resolve("file")
        _note_exposure(context, exposed)
        node.progress.file.set()
        if written:
            context.log.info("subnet_file.written", subnet=str(node.lease.key), mtu=node.backend.mtu(node.link.mtu))
        await node.wake.file.wait(CHECK_S)


def _note_exposure(context: Context, exposed: str) -> None:
    """Report that users other than root and the daemon's own can replace the file, which root sources."""
    if not exposed:
        context.conditions.resolve("file_exposure")
        return
    text = f"other users can replace the subnet file {context.settings.subnet_file}, which root sources: {exposed}"
    context.conditions.report("file_exposure", "subnet_file.exposed", text, blocks=False, cause=exposed)


def file_text(context: Context, node: Node) -> str:
    """Return what the file has to hold."""
    lease = node.lease
    ipv6 = (
        (node.subnet_range6.network, lease.ipv6) if node.subnet_range6 is not None and lease.ipv6 is not None else None
    )
    mtu = node.backend.mtu(node.link.mtu)
    return render(node.subnet_range.network, lease.subnet, mtu, ip_masq=context.settings.ip_masq, ipv6=ipv6)
