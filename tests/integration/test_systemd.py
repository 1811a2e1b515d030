"""The shipped unit, unchanged, under a real systemd: it starts, works inside its restrictions, and ends as promised."""

import contextlib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.support.etcd.server import Member, make_member
from tests.support.lab.rights import NET_ADMIN
from tests.support.network.namespaces import Namespace, namespace
from tests.support.programs.systemd import PYTHON_ENVIRONMENT, Machine, booted, systemd_missing, until

SHIPPED = Path(__file__).parents[2] / "systemd"
UNIT, TEMPLATE, LEGACY, SYSUSERS = (
    SHIPPED / name for name in ("pyflanneld.service", "pyflanneld@.service", "legacy-iptables.conf", "sysusers.conf")
)
HOST = "192.168.14.21"
SERVICE, SECOND = "pyflanneld.service", "pyflanneld@b.service"
DEFAULTS = "/etc/default/pyflanneld"
DROP_INS = f"/etc/systemd/system/{SERVICE}.d"
SETTINGS = f"FLANNELD_ETCD_ENDPOINTS=http://{HOST}:2379\nFLANNELD_IFACE=eth1\n"
CONFIG = '{"Network":"172.7.0.0/16","Backend":{"Type":"host-gw"}}'
PEER = '{"PublicIP":"192.168.14.22","PublicIPv6":null,"BackendType":"host-gw"}'
# Thirty seconds are too long for a test; what happens then is the same.
ADAPTED = f"[Service]\nWatchdogSec=2\nRestartSec=100ms\n{PYTHON_ENVIRONMENT}\n"

pytestmark = [pytest.mark.etcd, pytest.mark.netns]


@dataclass
class Site:
    """A machine with systemd on a host, and its etcd."""

    host: Namespace
    etcd: Member
    machine: Machine

    def settings(self, more: str = "") -> None:
        (self.machine.root / DEFAULTS[1:]).write_text(SETTINGS + more)

    def start(self) -> None:
        """Start the service; systemctl waits until it is ready."""
        self.machine.run("systemctl", "reset-failed", SERVICE)
        said = self.machine.run("systemctl", "restart", SERVICE)
        assert self.machine.show(SERVICE, "ActiveState") == "active", said + self.journal()

    def main_pid(self) -> int:
        return int(self.machine.show(SERVICE, "MainPID"))

    def journal(self) -> str:
        return self.machine.run("journalctl", "--no-pager", "--unit", SERVICE)

    def routes(self) -> str:
        return self.host.ip("route show proto 103")


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """A host with eth1, a configured etcd with one peer, and a booted systemd with the shipped unit."""
    if missing := systemd_missing():
        pytest.skip(f"systemd in namespaces needs {missing}")
    where = tmp_path_factory.mktemp("systemd")
    files = {f"/etc/systemd/system/{SERVICE}": UNIT.read_text(), DEFAULTS: SETTINGS}
    files |= {f"/etc/systemd/system/{TEMPLATE.name}": TEMPLATE.read_text()}
    files |= {f"/etc/systemd/system/{TEMPLATE.name}.d/adapted.conf": ADAPTED}
    files |= {f"{DROP_INS}/adapted.conf": ADAPTED, "/etc/sysusers.d/pyflanneld.conf": SYSUSERS.read_text()}
    with contextlib.ExitStack() as stack:
        host = stack.enter_context(namespace())
        host.veth("eth1", f"{HOST}/24", peer="wire")
        stack.enter_context(host.inside())
        url = f"http://{HOST}:2379"
        etcd = make_member(
            where, "m0", url=url, peers={"m0": f"http://{HOST}:2380"}, health_url="http://127.0.0.1:2381"
        )
        stack.callback(etcd.kill)
        etcd.start()
        etcd.wait_ready()
        for key, value in (
            ("network/config", CONFIG), ("network/subnets/172.7.22.0-24", PEER),
            ("b/config", CONFIG.replace("172.7.", "172.8.")), ("b/subnets/172.8.22.0-24", PEER),
        ):  # fmt: skip
            host.run("etcdctl", f"--endpoints={url}", "put", f"/coreos.com/{key}", value)
        site = Site(host, etcd, stack.enter_context(booted(where, files)))
        site.machine.run("systemd-sysusers")
        assert "pyflanneld" in site.machine.run("getent", "passwd", "pyflanneld")
        yield site


def status_of(pid: int, field: str) -> str:
    found = re.search(rf"^{field}:\s*(.*)$", Path(f"/proc/{pid}/status").read_text(), re.MULTILINE)
    assert found is not None
    return found[1]


def outside_pid(site: Site) -> int:
    """Return the daemon's process id as this test sees it."""
    inner = str(site.main_pid())
    for path in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if (path / "ns/pid").samefile(f"/proc/{site.machine.pid}/ns/pid") and status_of(
                int(path.name), "NSpid"
            ).split()[-1] == inner:
                return int(path.name)
    raise LookupError(inner)


def test_it_works_with_one_capability(site: Site) -> None:
    """READY with the lease, the file and the route, by a user that may do nothing else; the status line says so."""
    site.settings()
    site.start()
    assert "172.7.22.0/24 via 192.168.14.22 dev eth1" in site.routes()
    assert "FLANNEL_SUBNET=172.7." in (site.machine.root / "run/flannel/subnet.env").read_text()
    assert "ready" in site.machine.show(SERVICE, "StatusText")
    pid = outside_pid(site)
    assert {status_of(pid, name) for name in ("CapEff", "CapPrm", "CapBnd", "CapAmb")} == {NET_ADMIN}
    assert "0" not in status_of(pid, "Uid").split() + status_of(pid, "Gid").split()
    assert (status_of(pid, "NoNewPrivs"), status_of(pid, "Seccomp")) == ("1", "2")
    journal = site.journal()
    assert "daemon.ready" in journal
    assert " warning " not in journal
    assert " error " not in journal


def rules_of(site: Site, form: str) -> list[str]:
    saved = site.host.run(f"iptables-{form}-save").splitlines()
    return [line for line in saved if line.startswith("-A")]


@pytest.fixture(params=["nft", "legacy"])
def form(site: Site, request: pytest.FixtureRequest) -> Iterator[str]:
    """Make one form of iptables the machine's own; with the legacy one comes the drop-in that it needs."""
    site.machine.run("systemctl", "stop", SERVICE)  # a daemon that runs would meet it without the drop-in
    for name in ("iptables", "iptables-save", "iptables-restore"):
        real = name.replace("iptables", f"iptables-{request.param}")
        site.machine.run("ln", "-sf", f"/usr/sbin/{real}", f"/etc/alternatives/{name}")
    drop_in = site.machine.root / DROP_INS[1:] / LEGACY.name
    if request.param == "legacy":
        drop_in.write_text(LEGACY.read_text())
    site.machine.run("systemctl", "daemon-reload")
    yield request.param
    drop_in.unlink(missing_ok=True)
    site.machine.run("systemctl", "daemon-reload")


def test_the_firewall_works_inside_the_restrictions(site: Site, form: str) -> None:
    """Both forms of iptables set their rules, the legacy one with its drop-in: all that they need is allowed."""
    site.settings("FLANNELD_IP_MASQ=true\nFLANNELD_IPTABLES_RESYNC=1\n")
    site.start()
    assert status_of(outside_pid(site), "CapBnd") == (NET_ADMIN if form == "nft" else "0000000000003000")
    rules = rules_of(site, form)
    assert "-j FLANNEL-POSTRTG" in "".join(rules)
    assert "-j FLANNEL-FWD" in "".join(rules)
    assert "FLANNEL_IPMASQ=true" in (site.machine.root / "run/flannel/subnet.env").read_text()
    site.host.run(f"iptables-{form}", "--wait", "-F", "FLANNEL-FWD")
    until(lambda: rules_of(site, form) == rules, "repaired")
    assert "firewall.failed" not in site.journal()


def test_nft_works_inside_the_restrictions(site: Site) -> None:
    """The same with EnableNFTables."""
    config = CONFIG.replace("{", '{"EnableNFTables":true,', 1)
    put = ("etcdctl", f"--endpoints={site.etcd.url}", "put", "/coreos.com/network/config")
    try:
        site.host.run(*put, config)
        site.settings("FLANNELD_IP_MASQ=true\n")
        site.start()
        assert "chain postrtg" in site.host.run("nft", "list", "table", "ip", "flannel-ipv4")
    finally:
        site.host.run(*put, CONFIG)


def test_a_key_of_roots_is_named_and_chown_mends_it(site: Site) -> None:
    """The unit's user cannot read it: a usage error that says so. Given to that user it is used, and etcd is asked."""
    place = "/etc/pyflanneld"
    folder = site.machine.root / place[1:]
    folder.mkdir()
    files = ("-keyout", f"{folder}/client-key.pem", "-out", f"{folder}/client.pem")
    site.host.run("openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=x", *files)
    (folder / "client-key.pem").chmod(0o600)
    (site.machine.root / DEFAULTS[1:]).write_text(
        f"FLANNELD_ETCD_ENDPOINTS=https://{HOST}:9\nFLANNELD_IFACE=eth1\n"
        f"FLANNELD_ETCD_CAFILE={place}/client.pem\nFLANNELD_ETCD_CERTFILE={place}/client.pem\nFLANNELD_ETCD_KEYFILE={place}/client-key.pem\n"
    )
    site.machine.run("systemctl", "restart", SERVICE)
    assert site.machine.show(SERVICE, "ExecMainStatus") == "2"
    refused = f"FLANNELD_ETCD_KEYFILE: '{place}/client-key.pem' is not usable: the file cannot be read: Permission"
    assert refused in site.journal()
    site.machine.run("chown", "pyflanneld", f"{place}/client-key.pem")
    site.machine.run("systemctl", "restart", "--no-block", SERVICE)
    until(lambda: "etcd.unavailable" in site.journal(), "etcd is asked")
    site.machine.run("systemctl", "stop", SERVICE)


def test_a_stop_is_orderly_and_leaves_everything(site: Site) -> None:
    """``systemctl stop``: exit code 0; file and routes stay, and the next start finds its subnet again."""
    site.settings()
    site.start()
    file = site.machine.root / "run/flannel/subnet.env"
    text, routes = file.read_text(), site.routes()
    site.machine.run("systemctl", "stop", SERVICE)
    assert site.machine.show(SERVICE, "Result") == "success"
    assert site.machine.show(SERVICE, "ExecMainStatus") == "0"
    assert (file.read_text(), site.routes()) == (text, routes)
    site.start()
    assert file.read_text() == text


def test_a_usage_error_is_final(site: Site) -> None:
    """A wrong setting ends with exit code 2, one line in the journal, and no restart."""
    site.settings("FLANNELD_HEALTHZ_PORT=many\n")
    site.machine.run("systemctl", "restart", SERVICE)
    assert site.machine.show(SERVICE, "ActiveState") == "failed"
    assert site.machine.show(SERVICE, "ExecMainStatus") == "2"
    assert "pyflanneld: FLANNELD_HEALTHZ_PORT: 'many' is not usable" in site.journal()


@pytest.mark.parametrize("signal", ["KILL", "STOP"])
def test_a_dead_or_hung_daemon_is_replaced(site: Site, signal: str) -> None:
    """Killed, or silent for longer than the watchdog allows: a new one is ready soon, with the routes untouched."""
    site.settings()
    site.start()
    before, routes = site.main_pid(), site.routes()
    site.machine.run("kill", f"-{signal}", str(before))
    ready = "daemon.ready"
    count = site.journal().count(ready)
    until(lambda: site.journal().count(ready) > count and site.main_pid() not in (0, before), "a new daemon", 40)
    assert site.routes() == routes


def test_an_instance_serves_a_second_network_beside_the_unit(site: Site) -> None:
    """Both are ready with a subnet file each; the one without a file of settings does not start, and one with the
    unit's network is refused, though it sees no processes but its own. The unit's stop leaves the instance alone."""
    site.settings()
    site.start()
    machine, second = site.machine, site.machine.root / "etc/default/pyflanneld-b"
    machine.run("systemctl", "start", SECOND)
    assert machine.show(SECOND, "Result") == "resources", "it has no file of settings"
    machine.run("systemctl", "stop", SECOND)
    second.write_text(SETTINGS)
    machine.run("systemctl", "start", "--no-block", SECOND)
    until(lambda: machine.show(SECOND, "ExecMainStatus") == "73", "the network of the unit is refused")
    machine.run("systemctl", "stop", SECOND)
    second.write_text(f"{SETTINGS}FLANNELD_ETCD_PREFIX=/coreos.com/b\n")
    machine.run("systemctl", "restart", SECOND)
    assert machine.show(SECOND, "ActiveState") == "active", machine.run("journalctl", "--no-pager", "--unit", SECOND)
    assert "FLANNEL_SUBNET=172.8." in (machine.root / "run/flannel-b/subnet.env").read_text()
    assert "172.7.22.0/24" in site.routes()
    assert "172.8.22.0/24" in site.routes()
    both = site.routes()
    machine.run("systemctl", "stop", SERVICE)
    assert (site.routes(), machine.show(SECOND, "ActiveState")) == (both, "active")
    machine.run("systemctl", "stop", SECOND)
