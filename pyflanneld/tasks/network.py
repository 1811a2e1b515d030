"""The network configuration: wait for one that can be used, then watch it.

A node that runs goes on with the configuration that it has joined by. To follow a change at once would move every host
of a cluster, and its containers, at the same moment. So a change that a restart would not survive unmoved is reported,
and the node is not ready until the configuration fits again or somebody restarts the daemon. A network that has grown
around the lease moves nobody: it is taken up. Anything else, such as other bounds around our subnet, is logged.
"""

import asyncio
from contextlib import suppress
from ipaddress import IPv4Network

from pyflanneld.backends import BACKENDS
from pyflanneld.core.backoff import backoff
from pyflanneld.core.etcd_types import ConfigRecord
from pyflanneld.core.invalid import Invalid
from pyflanneld.core.network.config import NetworkConfig, SubnetRange, parse_config
from pyflanneld.core.network.go_versions import Refusal, refusals
from pyflanneld.core.network.review import misfits, reaches_on
from pyflanneld.errors import AlreadyRunning, RegistryError, RegistryUnavailable, UnsupportedConfig
from pyflanneld.ports import Change
from pyflanneld.state.context import Context
from pyflanneld.state.node import Node

RETRY_CAP_S = 5.0
READ_AGAIN_S = 60.0
ASK_BOTH_S = 1.0  # how often each API of etcd is asked for a configuration, while neither has one
BEAT_S = READ_AGAIN_S + RETRY_CAP_S
ENDED_S, CLAIM_AGAIN_S = 2.0, 0.1  # a process that has ended may keep its sockets for a moment
WATCH_RETRY_FIRST_S = 1.0
WATCH_RETRY_CAP_S = 30.0
CHANGED = "config_change"
GO_DAEMONS = "config_go_daemons"
_NONE_SEEN = object()


async def await_config(context: Context) -> tuple[NetworkConfig, SubnetRange[IPv4Network]]:
    """Return the configuration as soon as there is a usable one; until then report why there is none.

    Raises:
        UnsupportedConfig: it asks for a backend that we do not have.
    """
    waits = backoff(0.5, RETRY_CAP_S, context.rng)
    while True:
        context.liveness.beat("config", BEAT_S)
        try:
            async with asyncio.timeout(READ_AGAIN_S):
                found = await _first_usable(context)
        except TimeoutError:
            continue
        except RegistryError as error:
            context.registry_failed("config", error, blocks=True)
            await context.pause(error, next(waits))
        else:
            context.conditions.resolve("config")
            context.liveness.rest("config")
            _note_refusals(context, found[0].document)
            return found


async def claim_networks(context: Context, config: NetworkConfig) -> None:
    """Have the other daemons of this host know that this one serves the networks of *config*.

    Raises:
        AlreadyRunning: one of them serves a network that overlaps, and does not end.
    """
    give_up_at_s = context.clock.now_s() + ENDED_S
    while refused := context.ports.host_networks.claim(config.networks):
        if context.clock.now_s() >= give_up_at_s:
            raise AlreadyRunning(refused)
        await asyncio.sleep(CLAIM_AGAIN_S)


async def _first_usable(context: Context) -> tuple[NetworkConfig, SubnetRange[IPv4Network]]:
    """Read now and at every sign of a change.

    Raises:
        TimeoutError: nothing usable came for a while; read again, in case a change was missed.
    """
    record = await _discovered(context)
    found = _usable(context, record)
    if found is not None:
        context.registry_works("config")
        return found
    async with context.registry.watch_config(record.revision) as ticks:
        async for _ in ticks:
            found = _usable(context, await context.registry.read_config())
            context.registry_works("config")  # the watch too
            if found is not None:
                return found
    raise RegistryUnavailable("the watch on the network configuration has ended")


async def _discovered(context: Context) -> ConfigRecord:
    """Return the configuration as soon as it is known which of etcd's APIs to use; report while neither has one."""
    searching = not context.discovery.settled
    while True:
        record = await context.discovery.read_config()
        if context.discovery.settled:
            break
        context.registry_works("config")
        _usable(context, record)
        await asyncio.sleep(ASK_BOTH_S)
    if searching:
        context.log.info("registry.chosen", api=context.registry.api, endpoint=context.registry.endpoint)
    return record


def _usable(context: Context, record: ConfigRecord) -> tuple[NetworkConfig, SubnetRange[IPv4Network]] | None:
    key = f"{context.settings.etcd_prefix}/config"
    if record.value is None:
        where = f"{key} (asked at {context.registry.endpoint})"
        text = f"there is no network configuration in etcd at {where}; put one there, such as " + (
            '{"Network":"172.7.0.0/16","Backend":{"Type":"host-gw"}}'
        )
        context.conditions.report("config", "config.missing", text)
        return None
    try:
        return usable_config(record.value, f"the network configuration at {key}")
    except Invalid as error:
        text = f"the network configuration at {key} is not usable: {error}"
        context.conditions.report("config", "config.invalid", text, cause=str(error))
        return None


def _note_refusals(context: Context, document: bytes | None) -> None:
    """Report what Go daemons cannot read in *document*: they wait for ever, where this node goes on."""
    found: tuple[Refusal, ...] = ()
    with suppress(Invalid):  # which is another condition
        found = refusals(document) if document is not None else ()
    if not found:
        context.conditions.resolve(GO_DAEMONS)
        return
    why = "; ".join(one.text for one in found)
    text = f"the network configuration at {context.settings.etcd_prefix}/config is not for every flanneld: {why}"
    context.conditions.report(GO_DAEMONS, "config.refused_by_flanneld", text, blocks=False, cause=why)


def usable_config(value: bytes, what: str) -> tuple[NetworkConfig, SubnetRange[IPv4Network]]:
    """Read a document as the daemon does; *what* is its name in a message.

    Raises:
        Invalid: it cannot be used as it is.
        UnsupportedConfig: it asks for a backend that we do not have.
    """
    config = parse_config(value)
    subnet_range = _ipv4_range(config)
    if config.backend_type not in BACKENDS:
        supported = ", ".join(repr(name) for name in BACKENDS)
        raise UnsupportedConfig(f"{what} asks for the backend {config.backend_type!r}; supported: {supported}")
    return config, subnet_range


def _ipv4_range(config: NetworkConfig) -> SubnetRange[IPv4Network]:
    if config.ipv4 is None:
        raise Invalid("unsupported", "EnableIPv4", False, "true: etcd has no form of key for a lease without IPv4")
    return config.ipv4


async def watch_config(context: Context, node: Node) -> None:
    """Watch for ever, once the routes are placed. A break is reported by the tasks that need etcd more."""
    await node.progress.routes.wait()
    waits = backoff(WATCH_RETRY_FIRST_S, WATCH_RETRY_CAP_S, context.rng)
    seen: object = node.membership.config.document
    while True:
        try:
            record = await context.registry.read_config()
            async with context.registry.watch_config(record.revision) as ticks:
                seen = _compare(context, node, record, seen)
                async for _ in ticks:
                    waits = backoff(WATCH_RETRY_FIRST_S, WATCH_RETRY_CAP_S, context.rng)
                    seen = _compare(context, node, await context.registry.read_config(), seen)
            raise RegistryUnavailable("the watch on the network configuration has ended")
        except RegistryError as error:
            context.log.debug("config.unwatched", error=str(error))
            await asyncio.sleep(next(waits))


def _compare(context: Context, node: Node, record: ConfigRecord, seen: object) -> object:
    """Report a configuration that is another one than was *seen*; return what is seen from now on."""
    if record.value == seen:
        return seen
    _note_refusals(context, record.value)
    config, why = _fitting(node, record.value)
    grown = config is not None and config.networks != node.networks
    refused = context.ports.host_networks.claim(config.networks) if config is not None and grown else ""
    if config is None or refused:
        why = why or refused
        text = f"the network configuration in etcd does not fit this node any more, which goes on as before: {why}"
        context.conditions.report(CHANGED, "config.changed", text, blocks=not _goes_on(node, record.value), cause=why)
    else:
        context.conditions.resolve(CHANGED)
        context.log.info("config.fits", subnet=str(node.lease.key))
        if grown:
            _take_up(context, node, config)
    return _NONE_SEEN if refused else record.value  # the other daemon may end


def _goes_on(node: Node, value: bytes | None) -> bool:
    """Return whether hosts that go by the configuration are reached all the same: a restart can wait for its turn."""
    if value is None:
        return False
    try:
        config = parse_config(value)
    except Invalid:
        return False
    return reaches_on(node.membership.config, config) and config.admits(node.lease.key.ipv4, node.lease.key.ipv6)


def _fitting(node: Node, value: bytes | None) -> tuple[NetworkConfig | None, str]:
    """Return the configuration if this node would come out of a restart as it is; else why not."""
    if value is None:
        return None, "there is none"
    try:
        config = parse_config(value)
    except Invalid as error:
        return None, str(error)
    why = "; ".join(misfits(node.lease.key, node.membership.config, config))
    return (None, why) if why else (config, "")


def _take_up(context: Context, node: Node, config: NetworkConfig) -> None:
    """Go by networks that have grown from now on: everything that is derived from them is derived anew."""
    was, now = node.networks, config.networks
    node.membership = node.membership.grown(config, _ipv4_range(config))
    node.wake.kernel.set()
    node.wake.rules.set()
    node.wake.routes.set(Change.LINKS)
    node.wake.file.set()
    context.log.warning("config.network_grown", was=" ".join(map(str, was)), now=" ".join(map(str, now)))
