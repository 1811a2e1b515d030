"""Collects the facts for the checks of ``pyflanneld doctor``. Shell side: it reads, and decides nothing.

A failure is a fact too: each part says what it could not find out, and the others go on without it.
"""

import asyncio
import http.client
import json
import os
import time
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any

import structlog

from pyflanneld.commands.daemon_client import daemon_here
from pyflanneld.commands.docker_opts import installed_version
from pyflanneld.commands.doctor.checks.host import dropping_chains
from pyflanneld.commands.doctor.host_facts import (
    Certificate,
    DaemonFlags,
    Docker,
    Facts,
    FirewallFacts,
    HealthFacts,
    Networkd,
    NodeFacts,
)
from pyflanneld.commands.dry_run import choose_lease, kernel_routes, plan_peer_routes
from pyflanneld.config.settings import Settings
from pyflanneld.core.etcd_types import MemberReport, Record
from pyflanneld.core.families import host_port
from pyflanneld.core.firewall.rules import Family
from pyflanneld.core.host import PolicyRule, Process
from pyflanneld.core.invalid import Invalid
from pyflanneld.core.link.selection import Choice, Link
from pyflanneld.core.network.config import NetworkConfig
from pyflanneld.core.objects.plan import plan
from pyflanneld.core.routes import KernelRoute, Route
from pyflanneld.core.vxlan.device import Device
from pyflanneld.daemon import wiring
from pyflanneld.daemon.bootstrap import prepare
from pyflanneld.errors import (
    FirewallError,
    KernelError,
    ProgramMissing,
    PyflanneldError,
    RegistryError,
    UnsupportedConfig,
)
from pyflanneld.etcd.member_probe import probe_member, rights
from pyflanneld.etcd.v2.registry import EtcdV2Registry
from pyflanneld.firewall.command_runner import Programs, program_directories
from pyflanneld.firewall.iptables import Iptables
from pyflanneld.netlink.policy_rules import list_policy_rules
from pyflanneld.state.context import Context
from pyflanneld.state.node import Node
from pyflanneld.system import lock, procfs
from pyflanneld.system.certificates import validity_in_file
from pyflanneld.system.host_names import address_of
from pyflanneld.tasks.link import first_link
from pyflanneld.tasks.network import usable_config

_SYSCTLS = ("net/ipv4/ip_forward", "net/ipv4/conf/all/rp_filter", "net/bridge/bridge-nf-call-iptables")
_LINK_SYSCTLS = ("forwarding", "rp_filter")
_LEFT_FILES = ("/etc/cni/net.d/10-flannel.conflist", "/etc/cni/net.d/10-calico.conflist", "/run/flannel/subnet.env")
_MANAGED = {"ADMIN_STATE=configuring", "ADMIN_STATE=configured", "ADMIN_STATE=failed"}
_NETWORKD = "systemd-network"  # the kernel keeps the first 15 characters of a process's name
_HEALTH_S = 2.0


async def collect(context: Context, settings: Settings) -> Facts:
    """Return all facts about this host, its etcd and its peers."""
    known: dict[str, Any] = {"now_s": time.time(), "flags": _flags(settings), "certificates": _certificates(settings)}
    known |= await _subnet_file(context)
    known |= _processes(settings)
    known |= await _links(context)
    members = await _members(settings)
    known |= await _config(context, settings, members)
    known |= await _node(context, known.get("config"), known.get("choice"), known["links"])
    known["policy_rules"] = await _policy_rules()
    known |= _devices(known.get("node"))
    known["rules"] = await _rules(context, known.get("config"), known.get("node"))
    known["docker"] = _docker(known["processes"])
    known["sysctls"] = _sysctls(known.get("choice"), known.get("node"))
    known["health"] = _health(settings)
    known["metrics"] = procfs.tcp_listener(*settings.metrics_bind) if settings.metrics_bind else None
    known["served"] = context.ports.host_networks.others()
    known["files"] = _left_files(settings)
    return Facts(**known)


def _left_files(settings: Settings) -> tuple[str, ...]:
    """Return the files of other networks that no daemon of ours keeps."""
    found = (Path(name) for name in _LEFT_FILES if Path(name).exists() and name != str(settings.subnet_file))
    names = {path: lock.abstract_name("file", lock.file_key(path))[1:] for path in found}
    return tuple(str(path) for path, name in names.items() if lock.trusted_holder(name) is None)


def _flags(settings: Settings) -> DaemonFlags:
    return DaemonFlags(
        endpoints=settings.etcd_endpoints,
        prefix=settings.etcd_prefix,
        subnet_file=str(settings.subnet_file),
        route_protocol=settings.route_protocol,
        docker_bridge=settings.docker_bridge,
        ip_masq=settings.ip_masq,
        forward_rules=settings.iptables_forward_rules,
        healthz_port=settings.healthz_port,
        healthz_asked=settings.asked_for("healthz_port"),
        metrics_bind=host_port(*settings.metrics_bind) if settings.metrics_bind else "",
        docker_bridge_asked=settings.asked_for("docker_bridge"),
        public_ip=settings.public_ip,
        credentials={api: etcdctl_words(settings, api) for api in (2, 3)},
    )


def etcdctl_words(settings: Settings, api: int) -> tuple[str, ...]:
    """Return etcdctl's flags for the daemon's files and user; etcdctl asks for the password itself."""
    names = ("--ca-file", "--cert-file", "--key-file", "--username") if api == 2 else (
        "--cacert", "--cert", "--key", "--user"
    )  # fmt: skip
    values = (settings.etcd_cafile, settings.etcd_certfile, settings.etcd_keyfile, settings.etcd_username)
    return tuple(f"{name}={value}" for name, value in zip(names, values, strict=True) if value)


def _certificates(settings: Settings) -> tuple[Certificate, ...]:
    files = (("--etcd-cafile", settings.etcd_cafile), ("--etcd-certfile", settings.etcd_certfile))
    return tuple(Certificate(role, str(path), validity_in_file(path)) for role, path in files if path)


async def _subnet_file(context: Context) -> dict[str, Any]:
    try:
        return {"subnet_text": await context.ports.subnet_file.read()}
    except UnicodeDecodeError:
        return {"subnet_error": "is not text"}
    except OSError as error:
        return {"subnet_error": error.strerror or str(error)}


def _processes(settings: Settings) -> dict[str, Any]:
    found, daemon = procfs.processes(), daemon_here(settings)
    runs = any(process.name == _NETWORKD for process in found)
    return {
        "processes": found, "daemon_runs": daemon is not None, "daemon": daemon.process if daemon else None,
        "networkd": networkd_settings() if runs else Networkd(),
    }  # fmt: skip


def networkd_settings(root: Path = Path("/")) -> Networkd:
    """Return the settings of a running systemd-networkd about routes that it did not add (networkd.conf(5))."""
    folders = [root / name for name in ("etc/systemd", "run/systemd", "usr/local/lib/systemd", "usr/lib/systemd")]
    main = next((folder / "networkd.conf" for folder in folders if (folder / "networkd.conf").exists()), None)
    drop_ins: dict[str, Path] = {}
    for folder in reversed(folders):
        drop_ins |= {path.name: path for path in (folder / "networkd.conf.d").glob("*.conf")}
    keeps, where = False, ""
    for path in ([main] if main else []) + [drop_ins[name] for name in sorted(drop_ins)]:
        for line in _lines(path):
            name, _, value = line.partition("=")
            if name.strip() == "ManageForeignRoutes":
                keeps, where = value.strip().lower() in ("no", "false", "off", "0"), str(path)
    return Networkd(runs=True, keeps_foreign_routes=keeps, where=where, managed=_managed_links(root))


def _managed_links(root: Path) -> frozenset[int]:
    """Return the indexes of the links that systemd-networkd configures, from its own notes."""
    notes = [path for path in (root / "run/systemd/netif/links").glob("*") if path.name.isdigit()]
    return frozenset(int(path.name) for path in notes if _MANAGED.intersection(_lines(path)))


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text(errors="replace").splitlines()
    except OSError:
        return []


async def _links(context: Context) -> dict[str, Any]:
    try:
        links, choice = await first_link(context)
    except PyflanneldError as error:
        with suppress(KernelError):
            return {"links": await context.kernel.links(), "choice_error": str(error)}
        return {"links": (), "choice_error": str(error)}
    return {"links": links, "choice": choice}


async def _members(settings: Settings) -> list[MemberReport]:
    access = wiring.access(settings)
    async with asyncio.TaskGroup() as tasks:
        probes = [tasks.create_task(probe_member(access, url), name=url) for url in settings.etcd_endpoints]
    return [probe.result() for probe in probes]


async def _config(context: Context, settings: Settings, members: Sequence[MemberReport]) -> dict[str, Any]:
    """Read the configuration, if a member answers; then try the rights at each member in the API that holds it."""
    if all(member.fault is not None for member in members):
        return {"members": tuple(members)}
    known: dict[str, Any] = {}
    key = f"{context.settings.etcd_prefix}/config"
    try:
        record = await context.discovery.read_config()
        if record.value is None:
            known["config_error"] = f"there is none at {key}"
        else:
            known["config"] = usable_config(record.value, key)[0]
    except (RegistryError, Invalid, UnsupportedConfig) as error:
        known["config_error"] = f"{key}: {error}" if isinstance(error, Invalid) else str(error)
    known["api"] = context.registry.api
    known["config_on_v2_too"] = known["api"] == 3 and settings.etcd_api == "auto" and await _on_v2_too(settings)
    known["members"] = await _rights(settings, members, known["api"])
    return known


async def _on_v2_too(settings: Settings) -> bool:
    """Return whether the v2 store holds a configuration as well; one that does not answer counts as empty."""
    store = EtcdV2Registry(wiring.access(settings), rng=Random(), log=structlog.get_logger("pyflanneld").bind())
    try:
        return (await store.read_config()).value is not None
    except RegistryError:
        return False
    finally:
        await store.close()


async def _policy_rules() -> tuple[PolicyRule, ...]:
    with suppress(KernelError):
        return await asyncio.to_thread(list_policy_rules)
    return ()


async def _rights(settings: Settings, members: Sequence[MemberReport], api: int) -> tuple[MemberReport, ...]:
    access, log = wiring.access(settings), structlog.get_logger("pyflanneld").bind()
    found = {member.url: member for member in members}
    async with asyncio.TaskGroup() as tasks:
        probes = [
            tasks.create_task(rights(access, member, api, log), name=member.url)
            for member in members if member.fault is None
        ]  # fmt: skip
    return tuple((found | {probe.result().url: probe.result() for probe in probes}).values())


async def _node(
    context: Context, config: NetworkConfig | None, choice: Choice | None, links: Sequence[Link]
) -> dict[str, Any]:
    """Derive lease and routes as a start would; the checks of the other parts report what prevents it."""
    networks = config.networks if config is not None and config.ipv4 is not None else ()
    routes: list[KernelRoute] = []
    with suppress(KernelError):
        routes = await kernel_routes(context, networks)
    known: dict[str, Any] = {"routes": tuple(routes)}
    if config is None or config.ipv4 is None or choice is None:
        return known
    try:
        bootstrap = await prepare(context, links, choice, config, config.ipv4)
        leases = await context.registry.list_subnets()
        lease, _ = choose_lease(context, bootstrap.request, leases)
        held = lease.record in leases.records
        store: Any = context.registry
        left = await store.times_to_live([lease.record]) if held else {}
    except PyflanneldError:
        return known
    node = bootstrap.node(context, lease)
    node.peers.apply(leases)
    view, todo = await plan_peer_routes(context, node, routes)
    known["node"] = NodeFacts(
        networks=networks,
        view=view,
        todo=todo,
        desired=frozenset(node.routes.wanted),
        own=lease.key if held else None,
        own_record=lease.record if held else None,
        own_left=left.get(lease.record.name),
        same_etcd_lease=tuple(_on_one_etcd_lease(leases.records, lease.record)) if store.api == 3 else (),
        same_address=tuple(_with_our_address(leases.records, bootstrap.request.attrs.public_ip, lease.record)),
        devices=tuple(node.backend.devices(node.host)),
        entries=await _entries(context, node),
    )
    return known


async def _entries(context: Context, node: Node) -> dict[str, tuple[int, int]]:
    """Return how many objects of each kind but routes are wanted, and how many of these are there."""
    found: dict[str, tuple[int, int]] = {}
    for table in node.tables:
        if table.kind.wanted_type is Route:
            continue
        present: list[Any] = []
        with suppress(KernelError):
            for listing in table.kind.listings(foreign=False):
                present += await context.kernel.objects(listing)
        todo = plan(table.kind, table.wanted, present)
        found[table.kind.plural] = len(table.wanted), len(table.wanted) - len(todo.puts)
    return found


def _devices(node: NodeFacts | None) -> dict[str, Any]:
    """Return what only matters to a network with devices: who has their UDP port."""
    if node is None or not node.devices:
        return {}
    return {"udp_holder": procfs.udp_holder(node.devices[0].vxlan.port)}


def _on_one_etcd_lease(records: Iterable[Record], own: Record) -> Iterable[Record]:
    for record in records:
        if record.name != own.name and own.lease_id and record.lease_id == own.lease_id:
            yield record


def _with_our_address(records: Iterable[Record], public_ip: object, own: Record) -> Iterable[Record]:
    for record in records:
        attrs = record.lease.attrs
        if record.name != own.name and attrs is not None and attrs.public_ip == public_ip:
            yield record


async def _rules(context: Context, config: NetworkConfig | None, node: NodeFacts | None) -> FirewallFacts:
    missing: list[str] = []
    program = "iptables" if config is None else config.firewall_program
    if context.settings.iptables_forward_rules or context.settings.ip_masq:
        try:
            context.ports.firewall[program].require(Family.IPV4)
        except ProgramMissing:
            missing.append(program)
    saved, failed = None, ""
    try:
        saved = await Iptables(Programs(program_directories(os.environ))).save(Family.IPV4, None)
    except FirewallError as error:
        failed = str(error)
    facts = FirewallFacts(saved, failed, tuple(missing), await _dropping())
    return await _with_tunnel_rules(facts, node.devices) if node is not None and node.devices else facts


async def _with_tunnel_rules(facts: FirewallFacts, devices: Sequence[Device]) -> FirewallFacts:
    """Return *facts* with the other rules that the packets of tunnels meet."""
    programs = Programs(program_directories(os.environ))
    with suppress(FirewallError):
        if any(device.vxlan.version == 6 for device in devices):
            facts = replace(facts, ip6tables=await Iptables(programs).save(Family.IPV6, None))
    with suppress(FirewallError):
        listed = await programs.run("nft", "-j", "list", "ruleset")
        facts = replace(facts, nft=listed.stdout if listed.code == 0 else "")
    return facts


async def _dropping() -> tuple[str, ...]:
    with suppress(FirewallError, ValueError):
        listed = await Programs(program_directories(os.environ)).run("nft", "-j", "list", "chains")
        return dropping_chains(listed.stdout) if listed.code == 0 else ()
    return ()


def _docker(processes: Iterable[Process]) -> Docker:
    found = installed_version()
    option = "allow-direct-routing"
    words = {word for process in processes if process.name == "dockerd" for word in process.words}
    direct = bool({f"--{option}", f"--{option}=true"} & words)
    with suppress(OSError, ValueError, AttributeError):
        direct |= json.loads(Path("/etc/docker/daemon.json").read_text()).get(option) is True
    return Docker(str(found) if found else "", direct)


def _sysctls(choice: Choice | None, node: NodeFacts | None) -> dict[str, str]:
    links = [choice.link.name] if choice is not None else []
    links += [device.name for device in node.devices] if node is not None else []
    names = [*_SYSCTLS, *(f"net/ipv4/conf/{link}/{name}" for link in links for name in _LINK_SYSCTLS)]
    return {name: value for name in names if (value := procfs.sysctl(name)) is not None}


def _health(settings: Settings) -> HealthFacts:
    try:
        ip, port = address_of(settings.healthz_ip), settings.healthz_port
    except OSError:  # no daemon can have started with it
        return HealthFacts()
    listener = procfs.tcp_listener(ip, port) if port else None
    if listener is None:
        return HealthFacts()
    address = ("127.0.0.1" if ip.version == 4 else "::1") if ip.is_unspecified else str(ip)
    connection = http.client.HTTPConnection(address, port, timeout=_HEALTH_S)
    try:
        connection.request("GET", "/readyz?verbose")
        response = connection.getresponse()
        return HealthFacts(listener, response.status == 200, response.read(4096).decode(errors="replace"))
    except (OSError, http.client.HTTPException) as error:
        return HealthFacts(listener, None, str(error) or type(error).__name__)
    finally:
        connection.close()
