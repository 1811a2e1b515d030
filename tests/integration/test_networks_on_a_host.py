"""Several daemons on one host, as hosts have them: one for each ``--etcd-prefix``, all else by default."""

import json
import re
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pyflanneld.lab.cluster import Lab
from pyflanneld.lab.etcd import CONFIG, ENDPOINT
from pyflanneld.lab.node import DAEMON, LabHost
from pyflanneld.lab.process import Background
from pyflanneld.lab.run import LabError, until
from tests.support.lab.testbed import Journal, gateways, launch, lease_value, pid_of, store_of, wait_exit
from tests.support.lab.untouched import command

pytestmark = [pytest.mark.etcd, pytest.mark.netns]

RESYNCS_S = 12.0  # two checks of the firewall rules, by default
PEERS = {"172.7.22.0/24": "192.168.14.22"}
PEERS2 = {"172.8.22.0/24": "192.168.14.22"}
PEERS_OF_BOTH = PEERS | PEERS2


class SecondDaemon(LabHost):
    """A second daemon of the first host, with a network, a file and a log of its own; its port is nobody's word."""

    def ready(self) -> bool:
        if (code := self.process.exit_code()) is not None:
            raise LabError(f"the second daemon ended with exit code {code}: {self.process.last_log_line()}")
        return command(self, "status", f"--subnet-file={self.subnet_file}").returncode == 0


@pytest.fixture
def one(site: Lab) -> Iterator[LabHost]:
    """The first host, whose policy drops what is forwarded; there are two networks in etcd, with a peer in each."""
    node, store = site.nodes[0], store_of(site)
    store.put("/second/config", CONFIG.replace("172.7.", "172.8."))
    store.put("/coreos.com/network/subnets/172.7.22.0-24", lease_value("192.168.14.22"))
    store.put("/second/subnets/172.8.22.0-24", lease_value("192.168.14.22"))
    node.exec("iptables", "-P", "FORWARD", "DROP")
    yield node
    if node.process.pid():
        node.kill()
    node.exec("iptables", "-P", "FORWARD", "ACCEPT")
    for table in ("nat", "filter"):
        node.exec("iptables", "-t", table, "-F")
        node.exec("iptables", "-t", table, "-X")
    for dst, gateway in gateways(node).items():
        node.exec("ip", "route", "del", *(["blackhole"] if gateway == "None" else []), dst)


@pytest.fixture
def two(site: Lab, one: LabHost) -> Iterator[LabHost]:  # noqa: ARG001 - it goes first
    second = SecondDaemon(site.name, 1, site.folder / "second")
    yield second
    if second.process.pid():
        second.kill()
    second.process.log.unlink(missing_ok=True)
    second.subnet_file.unlink(missing_ok=True)


def start(node: LabHost, *more: str, **changes: str | int | None) -> None:
    """Start a daemon with masquerading and otherwise by default."""
    launch(node, "--ip-masq", *more, **({"healthz_port": None} | changes))


def start_second(node: LabHost, *more: str, **changes: str | int | None) -> None:
    start(node, *more, **({"etcd_prefix": "/second"} | changes))


def wait_until_ready(node: LabHost) -> None:
    until(lambda: command(node, "status", f"--subnet-file={node.subnet_file}").returncode == 0, "ready", 30, 0.2)


def rules(node: LabHost) -> str:
    """Return the rules, without counters and comments of the programs."""
    lines = node.exec("iptables-save").splitlines()
    return "\n".join(re.sub(r"\[\d+:\d+\]", "", line) for line in lines if not line.startswith("#"))


def about(network: str, node: LabHost) -> list[str]:
    return [line for line in rules(node).splitlines() if network in line]


def doctor(node: LabHost, *flags: str) -> dict[str, Any]:
    words = ("--iface=eth1", f"--etcd-endpoints={ENDPOINT}", f"--subnet-file={node.subnet_file}", *flags)
    told = json.loads(command(node, "doctor", "--output=json", *words).stdout)
    return {finding["check"]: finding for finding in told["findings"]}


def cleanup(node: LabHost, *flags: str) -> "subprocess.CompletedProcess[str]":
    return command(node, "cleanup", f"--etcd-endpoints={ENDPOINT}", f"--subnet-file={node.subnet_file}", *flags)


def test_two_networks_with_default_flags(one: LabHost, two: LabHost) -> None:
    """Both ready, routes and rules of both, none repaired; what is shared is told, and the rest is each one's own."""
    said, said2 = Journal.whole(one), Journal.whole(two)
    start(one)
    wait_until_ready(one)
    start_second(two)
    wait_until_ready(two)
    one.wait_routes(PEERS_OF_BOTH)
    first = pid_of(one)

    # The port that both have by default
    told = said2.wait("health.not_listening", timeout_s=10)
    assert f"0.0.0.0:2401: Address already in use, by pyflanneld (pid {first})" in told["condition"]
    told = said2.wait("metrics.not_listening", timeout_s=10)
    assert f"127.0.0.1:2402: Address already in use, by pyflanneld (pid {first})" in told["condition"]
    assert one.get("/readyz")[0] == 200
    found = doctor(two, "--etcd-prefix=/second", "--ip-masq")
    assert (found["health port"]["verdict"], found["metrics port"]["verdict"]) == ("warn", "warn")
    assert f"by pyflanneld (pid {first})" in found["health port"]["seen"]
    assert found["other daemons"]["seen"] == f"172.7.0.0/16, which another pyflanneld (pid {first}) serves on this host"
    assert 'pyflanneld_network_info{backend="host-gw",ipv6_network="",network="172.7.0.0/16"' in one.exec(
        "curl", "-s", "http://127.0.0.1:2402/metrics"
    )

    # One part for each in the status
    shown = command(one, "status")
    assert (shown.returncode, shown.stderr) == (0, "")
    assert shown.stdout.count("ready\n\ndaemon") == 2
    assert "no probes are answered on 0.0.0.0:2401" in shown.stdout
    reports = json.loads(command(one, "status", "--output=json").stdout)
    assert [(one_["etcd"]["prefix"], one_["network"]["network"], one_["pid"]) for one_ in reports] == [
        ("/coreos.com/network", "172.7.0.0/16", first), ("/second", "172.8.0.0/16", pid_of(two)),
    ]  # fmt: skip

    # Docker's options, each from its own file
    for node, network in ((one, "172.7."), (two, "172.8.")):
        assert f"--bip={network}" in command(node, "docker-opts", "-f", str(node.subnet_file), "-d", "-").stdout

    # No fight
    before = rules(one)
    assert about("172.7.", one)
    assert about("172.8.", one)
    time.sleep(RESYNCS_S)
    assert rules(one) == before
    assert said.events("firewall.repaired") == said2.events("firewall.repaired") == []
    assert gateways(one) == PEERS_OF_BOTH

    # The end of one
    assert one.stop() == 0
    assert (gateways(one), rules(one)) == (PEERS_OF_BOTH, before)
    said2.wait("condition.resolved", timeout_s=30, topic="health")
    assert two.get("/readyz")[0] == 200
    refused = cleanup(one, "--network=172.8.0.0/16")
    assert refused.returncode == 73
    assert f"of 172.8.0.0/16, which another pyflanneld (pid {pid_of(two)}) serves on this host" in refused.stderr
    theirs = about("172.8.", one)
    assert cleanup(one).returncode == 0
    assert (gateways(one), about("172.7.", one), about("172.8.", one)) == (PEERS2, [], theirs)
    assert said2.events("firewall.repaired") == []
    said.check()
    said2.check()


def test_a_port_that_was_asked_for_ends_the_daemon(one: LabHost, two: LabHost) -> None:
    """By flag or by variable, also at its default: exit code 73, as ever."""
    start(one)
    wait_until_ready(one)
    start_second(two, healthz_port=2401)
    assert wait_exit(two) == 73
    launch(two, env={"FLANNELD_HEALTHZ_PORT": "2401"}, etcd_prefix="/second", healthz_port=None)
    assert wait_exit(two) == 73
    assert "0.0.0.0:2401 is in use" in two.process.last_log_line()
    words = ("plan", "--output=json", "--etcd-prefix=/second", f"--etcd-endpoints={ENDPOINT}", "--iface=eth1",
             f"--subnet-file={two.subnet_file}")  # fmt: skip
    for asked, starts in (((), True), (("--healthz-port=2401",), False)):
        told = json.loads(command(two, *words, *asked).stdout)
        (problem,) = [one_ for one_ in told["problems"] if "the health port is in use" in one_["text"]]
        assert (told["starts"], problem["blocks"]) == (starts, not starts)


def test_networks_that_overlap(site: Lab, one: LabHost, two: LabHost) -> None:
    """The second one ends with 73 and names both networks and the first, which does not notice; no lease is made. One
    whose network grows into another's is not ready and keeps to its own."""
    store = store_of(site)
    start(one)
    wait_until_ready(one)
    named = f"which another pyflanneld (pid {pid_of(one)}) serves on this host"
    store.put("/second/config", CONFIG.replace("172.7.0.0/16", "172.7.128.0/17"))
    start_second(two)
    assert wait_exit(two) == 73
    assert f"the network 172.7.128.0/17 overlaps 172.7.0.0/16, {named}" in two.process.last_log_line()
    assert not store.kvs("/second/subnets/172.7.")
    found = doctor(two, "--etcd-prefix=/second")["other daemons"]
    assert found["verdict"] == "bad"
    assert named in found["seen"]
    would = command(two, "plan", "--etcd-prefix=/second", f"--etcd-endpoints={ENDPOINT}", "--iface=eth1",
                    f"--subnet-file={two.subnet_file}")  # fmt: skip
    assert would.returncode == 1
    assert named in would.stdout
    assert gateways(one) == PEERS

    store.put("/second/config", CONFIG.replace("172.7.", "172.8."))
    start_second(two)
    wait_until_ready(two)
    said = Journal(two)
    store.put("/second/config", CONFIG.replace("172.7.0.0/16", "172.0.0.0/12"))
    assert f"172.0.0.0/12 overlaps 172.7.0.0/16, {named}" in said.wait("config.changed", timeout_s=15)["condition"]
    assert command(one, "status").returncode == 1, "the worst of both"
    assert gateways(one) == PEERS_OF_BOTH
    assert said.events("config.network_grown") == []


def test_blackholes_and_saved_states(one: LabHost, two: LabHost, tmp_path: Path) -> None:
    """Each keeps its own, with its file, and ``cleanup`` after the one leaves those of the other, which still runs."""
    options = ("--ip-blackhole-route", f"--state-dir={tmp_path / 'one'}")
    start(one, *options)
    start_second(two, options[0], f"--state-dir={tmp_path / 'two'}")
    for node, state in ((one, "one"), (two, "two")):
        wait_until_ready(node)
        until(lambda state=state: (tmp_path / state / "last-good.json").exists(), "the state is saved", 15)
    assert blackholes(one) == {one.subnet, two.subnet}
    assert one.stop() == 0
    assert cleanup(one, *options).returncode == 0
    assert blackholes(one) == {two.subnet}
    assert not (tmp_path / "one" / "last-good.json").exists()
    assert (tmp_path / "two" / "last-good.json").exists()
    one.exec("ip", "route", "del", "blackhole", two.subnet, "metric", "1000000")
    until(lambda: blackholes(one) == {two.subnet}, "put again", 15)


def blackholes(node: LabHost) -> set[str]:
    found = json.loads(node.exec("ip", "-j", "route", "show", "type", "blackhole"))
    return {route["dst"] for route in found}


def test_a_state_directory_of_its_own(one: LabHost, two: LabHost, tmp_path: Path) -> None:
    """Two daemons that would overwrite each other's saved state: the second one ends with 73 and names it."""
    start(one, state_dir=str(tmp_path / "state"))
    wait_until_ready(one)
    start_second(two, state_dir=str(tmp_path / "state"))
    assert wait_exit(two) == 73
    assert f"already serves the state directory {tmp_path / 'state'}" in two.process.last_log_line()


def test_other_daemons_are_seen_where_only_processes_are(one: LabHost, two: LabHost) -> None:
    """With /proc as in the systemd unit (ProcSubset=pid) a second daemon of the same network still ends with 73."""
    hidden = "mount -t proc -o subset=pid proc /proc"
    launch(one, healthz_port=None)
    wait_until_ready(one)
    box = Background(one.namespace, two.process.folder)
    box.start("unshare", "-m", "sh", "-c", f'{hidden} && exec "$@"', "sh", *DAEMON, "--iface=eth1",
              f"--etcd-endpoints={ENDPOINT}", f"--subnet-file={two.subnet_file}", "--log-format=json")  # fmt: skip
    until(lambda: box.pid() is None, "the second daemon ends", 15)
    assert box.exit_code() == 73
    assert "another pyflanneld" in box.last_log_line()
