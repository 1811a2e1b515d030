"""Collects what the checks of ``pyflanneld doctor`` are told. Shell side: it reads, and decides nothing.

What fails is a fact too: each part says what it could not find out, and the others go on without it.
"""

import asyncio
import http.client
import json
import os
import time
from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from random import Random
from typing import Any

import structlog

from pyflanneld.commands.doctor.checks.host import dropping_chains
from pyflanneld.commands.doctor.host_facts import (
    Asked,
    Certificate,
    Docker,
    Facts,
    FirewallFacts,
    HealthFacts,
    MemberReport,
    Networkd,
    Standing,
)
from pyflanneld.commands.dry_run import Preview, kernel_routes, settle_lease, wanted
from pyflanneld.commands.running_daemon import daemon_here
from pyflanneld.config.settings import Settings
from pyflanneld.core.etcd_types import Record
from pyflanneld.core.families import Network
from pyflanneld.core.firewall.rules import Family
from pyflanneld.core.host import PolicyRule, Process
from pyflanneld.core.invalid import Invalid
from pyflanneld.core.lease.codec import parse_value
from pyflanneld.core.link.selection import Choice, Link
from pyflanneld.core.network.config import NetworkConfig
from pyflanneld.core.routes.plan import KernelRoute
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
from pyflanneld.state.node import Context
from pyflanneld.system import procfs, x509
from pyflanneld.system.docker_version import installed
from pyflanneld.tasks.link import first_link
from pyflanneld.tasks.network import usable_config

_SYSCTLS = ("net/ipv4/ip_forward", "net/ipv4/conf/all/rp_filter", "net/bridge/bridge-nf-call-iptables")
_LINK_SYSCTLS = ("forwarding", "rp_filter")
_LEFT_FILES = ("/etc/cni/net.d/10-flannel.conflist", "/etc/cni/net.d/10-calico.conflist", "/run/flannel/subnet.env")
_NETWORKD = "systemd-network"  # as far as the kernel keeps a process's name
_HEALTH_S = 2.0


async def collect(context: Context, settings: Settings) -> Facts:
    """Return what there is to know."""
    known: dict[str, Any] = {"now_s": time.time(), "asked": _asked(settings), "certificates": _certificates(settings)}
    known |= _subnet_file(context)
    known |= _processes(settings)
    known |= await _links(context)
    members = await _connect(settings)
    known |= await _config(context, settings, members)
    known |= await _standing(context, known.get("config"), known.get("choice"), known["links"])
    known["policy_rules"] = await _policy_rules()
    known["rules"] = await _rules(context, known.get("config"))
    known["docker"] = _docker(known["processes"])
    known["sysctls"] = _sysctls(known.get("choice"))
    known["health"] = _health(settings)
    known["files"] = _left_files(settings)
    return Facts(**known)


def _left_files(settings: Settings) -> tuple[str, ...]:
    return tuple(path for path in _LEFT_FILES if Path(path).exists() and path != str(settings.subnet_file))


def _asked(settings: Settings) -> Asked:
    return Asked(
        endpoints=settings.etcd_endpoints,
        prefix=settings.etcd_prefix,
        subnet_file=str(settings.subnet_file),
        route_protocol=settings.route_protocol,
        docker_bridge=settings.docker_bridge,
        ip_masq=settings.ip_masq,
        forward_rules=settings.iptables_forward_rules,
        healthz_port=settings.healthz_port,
        public_ip=settings.public_ip,
        credentials={api: etcdctl_words(settings, api) for api in (2, 3)},
    )


def etcdctl_words(settings: Settings, api: int) -> tuple[str, ...]:
    """Return etcdctl's flags for the files and the user that the daemon has; it asks for the password itself."""
    names = ("--ca-file", "--cert-file", "--key-file", "--username") if api == 2 else (
        "--cacert", "--cert", "--key", "--user"
    )  # fmt: skip
    values = (settings.etcd_cafile, settings.etcd_certfile, settings.etcd_keyfile, settings.etcd_username)
    return tuple(f"{name}={value}" for name, value in zip(names, values, strict=True) if value)


def _certificates(settings: Settings) -> tuple[Certificate, ...]:
    files = (("--etcd-cafile", settings.etcd_cafile), ("--etcd-certfile", settings.etcd_certfile))
    return tuple(Certificate(role, str(path), x509.spans(path)) for role, path in files if path)


def _subnet_file(context: Context) -> dict[str, Any]:
    try:
        return {"subnet_text": context.subnet_file.read()}
    except UnicodeDecodeError:
        return {"subnet_trouble": "is not text"}
    except OSError as error:
        return {"subnet_trouble": error.strerror or str(error)}


def _processes(settings: Settings) -> dict[str, Any]:
    found, daemon = procfs.processes(), daemon_here(settings)
    runs = any(process.name == _NETWORKD for process in found)
    return {
        "processes": found, "daemon_runs": daemon is not None, "daemon": daemon.process if daemon else None,
        "networkd": networkd_settings() if runs else Networkd(),
    }  # fmt: skip


def networkd_settings(root: Path = Path("/")) -> Networkd:
    """Return what systemd-networkd is told about routes that it has not made (networkd.conf(5)); it runs."""
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
    return Networkd(runs=True, keeps_foreign_routes=keeps, where=where)


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
            return {"links": await context.kernel.links(), "choice_trouble": str(error)}
        return {"links": (), "choice_trouble": str(error)}
    return {"links": links, "choice": choice}


async def _connect(settings: Settings) -> list[MemberReport]:
    from pyflanneld.etcd.member_probe import probe_member

    access = wiring.access(settings)
    async with asyncio.TaskGroup() as tasks:
        asked = [tasks.create_task(probe_member(access, url), name=url) for url in settings.etcd_endpoints]
    return [one.result() for one in asked]


async def _config(context: Context, settings: Settings, members: Sequence[MemberReport]) -> dict[str, Any]:
    """Read the configuration, if anybody answers; then see what each member lets us do with the API that has it."""
    if all(member.fault is not None for member in members):
        return {"members": tuple(members)}
    known: dict[str, Any] = {}
    key = f"{context.options.prefix}/config"
    try:
        record = await context.registry.read_config()
        if record.value is None:
            known["config_trouble"] = f"there is none at {key}"
        else:
            known["config"] = usable_config(record.value, key)[0]
    except (RegistryError, Invalid, UnsupportedConfig) as error:
        known["config_trouble"] = f"{key}: {error}" if isinstance(error, Invalid) else str(error)
    known["api"] = context.registry.api
    known["config_on_v2_too"] = known["api"] == 3 and settings.etcd_api == "auto" and await _on_v2_too(settings)
    known["members"] = await _rights(settings, members, known["api"])
    return known


async def _on_v2_too(settings: Settings) -> bool:
    """Say whether the v2 store holds a configuration as well; one that cannot be asked holds none."""
    from pyflanneld.etcd.v2.registry import EtcdV2Registry

    store = EtcdV2Registry(wiring.access(settings), rng=Random(), log=structlog.get_logger("pyflanneld").bind())
    try:
        return (await store.read_config()).value is not None
    except RegistryError:
        return False
    finally:
        await store.close()


async def _policy_rules() -> tuple[PolicyRule, ...]:
    from pyflanneld.netlink.policy_rules import list_policy_rules

    with suppress(KernelError):
        return await asyncio.to_thread(list_policy_rules)
    return ()


async def _rights(settings: Settings, members: Sequence[MemberReport], api: int) -> tuple[MemberReport, ...]:
    from pyflanneld.etcd.member_probe import rights

    access, log = wiring.access(settings), structlog.get_logger("pyflanneld").bind()
    found = {member.url: member for member in members}
    async with asyncio.TaskGroup() as tasks:
        asked = [
            tasks.create_task(rights(access, member, api, log), name=member.url)
            for member in members if member.fault is None
        ]  # fmt: skip
    return tuple((found | {one.result().url: one.result() for one in asked}).values())


async def _standing(
    context: Context, config: NetworkConfig | None, choice: Choice | None, links: Sequence[Link]
) -> dict[str, Any]:
    """Go the daemon's way as far as the routes; what stops it is told by the checks of the parts."""
    networks: list[Network] = []
    if config is not None and config.ipv4 is not None:
        networks = [config.ipv4.network, *([config.ipv6.network] if config.ipv6 else [])]
    routes: list[KernelRoute] = []
    with suppress(KernelError):
        routes = await kernel_routes(context, networks)
    if config is None or config.ipv4 is None or choice is None:
        return {"routes": tuple(routes)}
    try:
        bootstrap = prepare(context, links, choice, config, config.ipv4)
        leases = await context.registry.list_subnets()
        lease = settle_lease(context, bootstrap.request, leases, Preview())
        held = lease.record in leases.records
        store: Any = context.registry
        left = await store.times_to_live([lease.record]) if held else {}
    except PyflanneldError:
        return {"routes": tuple(routes)}
    node = bootstrap.node(context, lease)
    node.peers.apply(leases)
    view, desired, todo = wanted(context, node, routes)
    own_left = left.get(lease.record.name)
    standing = Standing(
        networks=tuple(networks),
        view=view,
        todo=todo,
        desired=frozenset(desired),
        own=lease.key if held else None,
        own_left_s=own_left.left_s if own_left else None,
        also=tuple(_with_our_address(leases.records, bootstrap.request.attrs.public_ip, lease.record)),
    )
    return {"routes": tuple(routes), "standing": standing}


def _with_our_address(records: Iterable[Record], public_ip: object, own: Record) -> Iterable[Record]:
    for record in records:
        with suppress(Invalid):
            if record.name != own.name and parse_value(record.value).public_ip == public_ip:
                yield record


async def _rules(context: Context, config: NetworkConfig | None) -> FirewallFacts:
    missing: list[str] = []
    nft = config is not None and config.nftables
    if context.options.forward_rules or context.options.ip_masq:
        try:
            context.firewall.need_nft() if nft else context.firewall.need_iptables(Family.IPV4)
        except ProgramMissing:
            missing.append("nft" if nft else "iptables")
    saved, trouble = None, ""
    try:
        context.firewall.need_iptables(Family.IPV4)
        saved = await context.firewall.save(Family.IPV4, None)
    except FirewallError as error:
        trouble = str(error)
    return FirewallFacts(saved, trouble, tuple(missing), await _dropping())


async def _dropping() -> tuple[str, ...]:
    from pyflanneld.firewall.command_runner import Programs, program_directories

    with suppress(FirewallError, ValueError):
        listed = await Programs(program_directories(os.environ)).run("nft", "-j", "list", "chains")
        return dropping_chains(listed.stdout) if listed.code == 0 else ()
    return ()


def _docker(processes: Iterable[Process]) -> Docker:
    found = installed()
    option = "allow-direct-routing"
    words = {word for process in processes if process.name == "dockerd" for word in process.words}
    told = bool({f"--{option}", f"--{option}=true"} & words)
    with suppress(OSError, ValueError, AttributeError):
        told |= json.loads(Path("/etc/docker/daemon.json").read_text()).get(option) is True
    return Docker(str(found) if found else "", told)


def _sysctls(choice: Choice | None) -> dict[str, str]:
    names = [*_SYSCTLS]
    if choice is not None:
        names += [f"net/ipv4/conf/{choice.link.name}/{name}" for name in _LINK_SYSCTLS]
    return {name: value for name in names if (value := procfs.sysctl(name)) is not None}


def _health(settings: Settings) -> HealthFacts:
    ip, port = settings.healthz_ip, settings.healthz_port
    listener = procfs.tcp_listener(ip, port) if port else None
    if listener is None:
        return HealthFacts()
    address = ("127.0.0.1" if ip.version == 4 else "::1") if ip.is_unspecified else str(ip)
    connection = http.client.HTTPConnection(address, port, timeout=_HEALTH_S)
    try:
        connection.request("GET", "/readyz?verbose")
        answer = connection.getresponse()
        return HealthFacts(listener, answer.status == 200, answer.read(4096).decode(errors="replace"))
    except (OSError, http.client.HTTPException) as error:
        return HealthFacts(listener, None, str(error) or type(error).__name__)
    finally:
        connection.close()
