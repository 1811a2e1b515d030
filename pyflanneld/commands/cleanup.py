"""``pyflanneld cleanup``: remove what a stopped daemon has left on this host. Shell side.

It removes only what carries our mark: routes of our protocol inside our networks, vxlan devices with flannel's name
and an address inside them, flannel's chains and table about these networks, and on demand the lease that both the
address and the subnet file prove to be this host's. It removes nothing while a daemon runs: the command holds the
daemon's lock while it works.
"""

import asyncio
import errno
import os
import sys
from collections.abc import Sequence
from contextlib import nullcontext, suppress
from ipaddress import ip_network
from pathlib import Path
from typing import Any

from pyflanneld.commands.common_flags import OWN, is_on, own_switch
from pyflanneld.commands.daemon_client import daemon_here, go_daemons
from pyflanneld.commands.read_only_ports import read_only_context, silent_log
from pyflanneld.config.go_flags import Flag, FlagKind, Given
from pyflanneld.config.load import load_as_daemon
from pyflanneld.config.settings import FLAGS, Settings
from pyflanneld.core.families import Network
from pyflanneld.core.firewall.rules import SECTIONS, Family, Removal
from pyflanneld.core.host import overlapping
from pyflanneld.core.invalid import Invalid
from pyflanneld.core.lease.cleanup_rules import NotOurs, known_networks, our_devices, our_lease, our_routes
from pyflanneld.core.lease.subnet_env import previous_subnet
from pyflanneld.core.network.config import NetworkConfig, parse_config
from pyflanneld.core.objects.plan import Drop
from pyflanneld.core.routes import KernelRoute
from pyflanneld.daemon import wiring
from pyflanneld.errors import AlreadyRunning, FirewallError, PyflanneldError, RegistryError, UsageError
from pyflanneld.state.context import Context
from pyflanneld.system import lock
from pyflanneld.system.state_file import NAME as LAST_GOOD
from pyflanneld.tasks.firewall.jobs import remove
from pyflanneld.tasks.link import first_link

TITLE = """\
pyflanneld cleanup: remove what a stopped daemon has left on this host.

Usage: pyflanneld cleanup [--release] [--dry-run] [--network=CIDR] [flags]

Give it the daemon's flags, or its FLANNELD_* variables. It removes routes with our protocol number inside the network
that etcd or the subnet file names, its vxlan devices, flannel's firewall rules about it, and the saved state in
--state-dir. Foreign routes stay. With --release it also deletes this host's lease and then the subnet file: the next
start takes any free subnet. It may be repeated at any time.

Exit codes: 0 nothing of ours is left, 1 something is left (the output says what), 2 wrong usage, 73 a pyflanneld runs
here: stop it first.
"""
_RELEASE = own_switch("release", "Also delete this host's lease and the subnet file.")
_DRY_RUN = own_switch("dry-run", "Only show what would be removed.")
_NETWORK = Flag(
    "network", FlagKind.STRINGS, (), "The cluster's network, if neither etcd nor the subnet file names it.", "CIDR",
    OWN, from_env=False,
)  # fmt: skip
CLEANUP_FLAGS = (_RELEASE, _DRY_RUN, _NETWORK, *FLAGS)


def main(words: Sequence[str]) -> int:
    """Run the command with *words*, those after ``cleanup``; return the exit code.

    Raises:
        UsageError: the command line is wrong.
    """
    settings, given = load_as_daemon(words, os.environ, title=TITLE, own=(_RELEASE, _DRY_RUN, _NETWORK))
    named, dry_run = _networks(given["network"]), is_on(given, _DRY_RUN)
    running = daemon_here(settings) if dry_run else None
    key = lock.network_key(settings.etcd_prefix, settings.etcd_endpoints)
    try:
        if running is not None:
            raise AlreadyRunning(str(running))
        with nullcontext() if dry_run else lock.hold(key, settings.subnet_file, settings.state_dir):
            return asyncio.run(_clean(settings, named, release=is_on(given, _RELEASE), dry_run=dry_run))
    except AlreadyRunning as error:
        sys.stderr.write(f"pyflanneld cleanup: {error}: stop it first\n")
        return error.exit_code
    except PyflanneldError as error:
        sys.stderr.write(f"pyflanneld cleanup: {error}\n")
        return 1


def _networks(given: Given) -> tuple[Network, ...]:
    texts = given.value if isinstance(given.value, tuple) else ()
    try:
        return tuple(ip_network(text) for text in texts)
    except ValueError as error:
        raise UsageError(f"{given.written}: {error}; a network such as 172.7.0.0/16 is needed") from None


async def _clean(settings: Settings, named: Sequence[Network], *, release: bool, dry_run: bool) -> int:
    context = read_only_context(settings) if dry_run else wiring.build_context(settings, silent_log(settings))
    cleanup = Cleanup(context, settings, dry_run=dry_run)
    try:
        config = await cleanup.config()
        networks = known_networks(config, await cleanup.subnet_text(), named)
        if (other := overlapping(networks, context.ports.host_networks.others())) is not None:
            raise AlreadyRunning(f"nothing is removed of {other}")
        await cleanup.routes(networks)
        await cleanup.devices(networks, config)
        await cleanup.rules(networks)
        if settings.state_dir is not None:
            cleanup.file(settings.state_dir / LAST_GOOD)
        if release:
            await cleanup.release()
    finally:
        await context.discovery.close()
        await context.kernel.close()
    if not cleanup.removed and not cleanup.left:
        print("there is nothing of ours here")
    return 1 if cleanup.left else 0


class Cleanup:
    """One run, reported line by line.

    Attributes:
        removed: how many things were, or would be, removed.
        left: how many could not be removed.
    """

    def __init__(self, context: Context, settings: Settings, *, dry_run: bool) -> None:
        self.removed = self.left = 0
        self._context = context
        self._settings = settings
        self._dry_run = dry_run
        self._etcd_error = ""

    async def subnet_text(self) -> str:
        """Return what the subnet file says; nothing where it cannot be read."""
        with suppress(OSError, UnicodeDecodeError):
            return await self._context.ports.subnet_file.read() or ""
        return ""

    async def config(self) -> NetworkConfig | None:
        """Return the network configuration, ``None`` where it cannot be read: the subnet file may name the network."""
        try:
            value = (await self._context.discovery.read_config()).value
            return parse_config(value) if value is not None else None
        except RegistryError as error:
            self._etcd_error = str(error)
        except Invalid:
            pass
        return None

    async def routes(self, networks: Sequence[Network]) -> None:
        """Remove the routes with our mark inside *networks*, blackholes among them."""
        protocol = self._settings.route_protocol
        present: list[KernelRoute] = []
        for version in sorted({network.version for network in networks} | {4}):  # a kernel may have no IPv6 at all
            present += await self._context.kernel.routes(protocol=protocol, version=version)
        names = {link.index: link.name for link in await self._context.kernel.links()}
        ours, others = our_routes(present, protocol, networks)
        changes = [Drop(route) for route in ours]
        failed = await self._context.kernel.apply(changes) if changes and not self._dry_run else {}
        for change in changes:
            what = f"route {_shown(change.object, names)}"
            if change in failed:
                self._leave(what, f"the kernel refuses: {errno.errorcode.get(failed[change], failed[change])}")
            else:
                self._remove(what)
        self._report_others(others, names, networks)

    async def devices(self, networks: Sequence[Network], config: NetworkConfig | None) -> None:
        """Remove the vxlan devices of *networks*, and with them their neighbours and forwarding entries."""
        for link in our_devices(await self._context.kernel.links(), networks, config):
            what = f"device {link.name}"
            if go := go_daemons():
                print(f"left {what}: a Go flanneld uses it, {go[0]}")
                continue
            drop = Drop(link)
            failed = {} if self._dry_run else await self._context.kernel.apply([drop])
            if drop in failed:
                self._leave(what, f"the kernel refuses: {errno.errorcode.get(failed[drop], failed[drop])}")
            else:
                self._remove(what)

    def _report_others(self, others: Sequence[KernelRoute], names: dict[int, str], networks: Sequence[Network]) -> None:
        for route in others if networks else ():
            print(f"left route {_shown(route, names)}: outside {', '.join(map(str, networks))}, another daemon's")
        if not networks and others:
            why = f"etcd cannot be read ({self._etcd_error})" if self._etcd_error else "etcd names no network"
            what = f"{len(others)} route{'s' if len(others) > 1 else ''} of protocol {self._settings.route_protocol}"
            self._leave(what, f"{why}, nor does the subnet file: name the network with --network")

    async def rules(self, networks: Sequence[Network]) -> None:
        """Remove flannel's chains and table about *networks*."""
        for family in Family:
            theirs = [network for network in networks if Family.of(network) is family]
            if not theirs:
                continue
            found: list[Removal] = []
            try:
                for program in self._context.ports.firewall.values():
                    found += await program.removals(family, theirs, SECTIONS)
            except FirewallError as error:
                self._leave(f"firewall rules ({family.value})", str(error))
            for removal in found:
                await self._remove_rules(removal)

    async def _remove_rules(self, removal: Removal) -> None:
        what = f"rules {' '.join(removal.where.values())} in {removal.program} ({removal.family.value})"
        if go := go_daemons():
            print(f"left {what}: a Go flanneld maintains them too, {go[0]}")
            return
        try:
            if not self._dry_run:
                await remove(self._context, removal)
            self._remove(what)
        except FirewallError as error:
            self._leave(what, str(error))

    async def release(self) -> None:
        """Delete this host's lease, if the address and the subnet file prove it, and then the file."""
        try:
            subnet = previous_subnet(await self.subnet_text())
            public_ip = self._settings.public_ip or (await first_link(self._context))[1].address
            found = our_lease((await self._context.registry.list_subnets()).records, public_ip, subnet)
        except (PyflanneldError, Invalid) as error:
            return self._leave("the lease", str(error))
        if isinstance(found, NotOurs):
            if not found.gone:
                return self._leave("the lease", found.why)
            print(f"no lease: {found.why}")
        elif await self._delete(found.record):
            self._remove(f"lease {found.subnet}")
        else:
            return self._leave(f"lease {found.subnet}", "somebody changed it at this moment; try again")
        return self.file(Path(self._settings.subnet_file))

    async def _delete(self, record: Any) -> bool:
        return self._dry_run or await self._context.registry.delete_subnet(record)

    def file(self, path: Path) -> None:
        """Remove a file, if it exists."""
        try:
            if self._dry_run:
                path.lstat()
            else:
                path.unlink()
            self._remove(f"file {path}")
        except FileNotFoundError:
            pass
        except OSError as error:
            self._leave(f"file {path}", error.strerror or str(error))

    def _remove(self, what: str) -> None:
        self.removed += 1
        print(f"{'would remove' if self._dry_run else 'removed'} {what}")

    def _leave(self, what: str, why: str) -> None:
        self.left += 1
        print(f"not removed {what}: {why}")


def _shown(route: KernelRoute, names: dict[int, str]) -> str:
    if route.blackhole:
        return f"blackhole {route.dst}"
    via = f" via {route.gateway}" if route.gateway else ""
    return f"{route.dst}{via} dev {names.get(route.link_index, route.link_index)}"
