"""``pyflanneld status``, ``peers``, ``routes``, ``wait`` and ``log-level`` on real daemons, with faults planted."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from pyflanneld.lab.cluster import Lab
from pyflanneld.lab.etcd import ENDPOINT
from pyflanneld.lab.node import DAEMON, LabHost
from pyflanneld.lab.process import Background
from pyflanneld.lab.run import attempt, clean_environment, until
from pyflanneld.system import lock
from tests.support.lab.testbed import Journal, launch, lease_key, lease_value, pid_of, store_of

pytestmark = [pytest.mark.etcd, pytest.mark.netns]


class Ran:
    """A command that has ended: its exit code and words."""

    def __init__(self, node: LabHost, *words: str) -> None:
        command = ("ip", "netns", "exec", node.namespace, sys.executable, "-m", "pyflanneld", *words)
        done = attempt(*command, env={"NO_COLOR": ""})
        self.code, self.out, self.err = done.returncode, done.stdout, done.stderr

    @property
    def json(self) -> Any:
        return json.loads(self.out)


def ask(node: LabHost, *words: str) -> Ran:
    return Ran(node, *words)


def facts(node: LabHost) -> Any:
    return ask(node, "status", "--output", "json").json


@contextmanager
def without_etcd(lab: Lab) -> Iterator[None]:
    lab.etcd.stop()
    try:
        yield
    finally:
        lab.etcd.start()


def test_a_healthy_cluster(cluster: Lab) -> None:
    """Ready, exit code 0; the facts are those of the host, and no colour goes into a pipe."""
    node, *others = cluster.nodes
    shown = ask(node, "status")
    assert (shown.code, shown.err) == (0, "")
    assert shown.out.startswith("ready\n")
    assert "\033" not in shown.out
    told = facts(node)
    assert told["ready"]
    assert told["pid"] == pid_of(node)
    assert told["lease"]["subnet"] == node.subnet
    assert 86000 < told["lease"]["left_s"] <= 86400
    assert (told["link"]["name"], told["link"]["address"]) == ("eth1", str(node.address.ip))
    assert (told["peers"]["accepted"], told["peers"]["routed"], told["routes"]["missing"]) == (2, 2, 0)
    assert told["etcd"]["endpoint"] == ENDPOINT
    assert told["file"] == {"path": str(node.subnet_file), "written": True}
    peers = {row["subnet"]: row for row in ask(node, "peers", "--output=json").json}
    assert {subnet: row["wanted_gateway"] for subnet, row in peers.items()} == cluster.gateways_for(node)
    assert {(row["state"], row["route"], row["on_link"]) for row in peers.values()} == {("routed", "ok", True)}
    assert ask(node, "peers").code == 0
    diff = ask(node, "routes", "--diff")
    assert (diff.code, diff.out) == (0, "nothing differs\n")
    assert {row["dst"] for row in ask(node, "routes", "--output=json").json} == {other.subnet for other in others}
    assert ask(node, "wait", "--timeout=1").code == 0


def test_a_neighbour_that_answered(cluster: Lab) -> None:
    """After a word with a peer, its row says that the kernel knows it."""
    node, peer, _ = cluster.nodes
    node.exec("ping", "-c1", "-W2", str(peer.address.ip))

    def seen() -> Any:
        return next(row for row in ask(node, "peers", "--output=json").json if row["subnet"] == peer.subnet)

    until(lambda: seen()["neighbour"], "the neighbour in its row", 10)  # the kernel is read twice a second at most
    assert seen()["neighbour"] in ("reachable", "delay", "probe", "stale")
    assert len(seen()["mac"]) == 17


def test_etcd_killed(cluster: Lab) -> None:
    """It answers with etcd down: still ready, what is wrong, for how long, and what to do."""
    node = cluster.nodes[0]
    journal = Journal(node)
    with without_etcd(cluster):
        journal.wait("etcd.unavailable", timeout_s=30)
        shown = ask(node, "status")
        assert shown.code == 0
        assert "etcd.unavailable, for " in shown.out
        assert "to do: Check etcd" in shown.out
        told = facts(node)
        (finding,) = told["findings"]
        assert (finding["event"], finding["blocks"]) == ("etcd.unavailable", False)
        assert told["routes"]["present"] == 2
        assert ask(node, "peers").code == 0
    journal.wait("condition.resolved", timeout_s=60, topic="etcd:peers")
    until(lambda: not facts(node)["findings"], "nothing is wrong any more", 45, poll_s=0.5)


def test_a_daemon_that_waits_for_etcd_from_the_start(site: Lab) -> None:
    """Before there is a lease or a route: not ready, exit code 1, and why; ``wait`` says the same in the end."""
    node = site.nodes[0]
    with without_etcd(site):
        launch(node)
        until(lambda: ask(node, "status").code == 1, "the daemon can be asked", 10, poll_s=0.1)
        Journal.whole(node).wait("etcd.unavailable", timeout_s=30)
        shown = ask(node, "status")
        assert shown.out.startswith("not ready: etcd cannot be used")
        assert re.search(r"^lease +none yet$", shown.out, re.MULTILINE)
        waited = ask(node, "wait", "--timeout=1")
        assert waited.code == 1
        assert "after 1 s: not ready: etcd cannot be used" in waited.err
    assert ask(node, "wait", "--timeout=60").code == 0


def test_no_configuration(site: Lab) -> None:
    """The key that is missing is named, with what to do; ``wait`` ends as soon as it is there."""
    node, store = site.nodes[0], store_of(site)
    config = store.kv("/coreos.com/network/config")
    assert config is not None
    store.delete("/coreos.com/network/config")
    launch(node)
    Journal.whole(node).wait("config.missing", timeout_s=20)
    until(lambda: ask(node, "status").code == 1, "the daemon can be asked", 10, poll_s=0.1)
    shown = ask(node, "status").out
    assert shown.startswith("not ready: there is no network configuration in etcd at /coreos.com/network/config")
    assert "to do: Write the network configuration to that key" in shown
    store.put("/coreos.com/network/config", config.value.decode())
    assert ask(node, "wait").code == 0


def test_a_junk_key_and_a_peer_off_the_link(cluster: Lab) -> None:
    """Both are named in ``status`` and in ``peers`` with their reason and what to do; the node stays ready."""
    node, store, journal = cluster.nodes[0], store_of(cluster), Journal(cluster.nodes[0])
    store.put(lease_key("172.7.99.0/24"), "nonsense")
    store.put(lease_key("172.7.98.0/24"), lease_value("8.8.8.8"))
    journal.wait("peer.quarantined", key="172.7.98.0-24")
    shown = ask(node, "status")
    assert shown.code == 0
    assert "the key 172.7.99.0-24 is rejected (not_json)" in shown.out
    told = "the key 172.7.98.0-24 is rejected (gateway_off_link): PublicIP 8.8.8.8 is no neighbour on the link"
    assert told in shown.out
    assert "Correct --public-ip or --iface on that node" in shown.out
    table = ask(node, "peers")
    assert table.code == 1
    assert "gateway_off_link: PublicIP 8.8.8.8" in table.out
    rows = {row["key"]: row for row in ask(node, "peers", "--output=json").json}
    assert (rows["172.7.98.0-24"]["reason"], rows["172.7.98.0-24"]["on_link"]) == ("gateway_off_link", False)
    store.delete(lease_key("172.7.99.0/24"))
    store.delete(lease_key("172.7.98.0/24"))
    journal.wait("peer.quarantine_ended", key="172.7.98.0-24")
    assert facts(node)["findings"] == []


def test_a_foreign_route_in_the_way(cluster: Lab) -> None:
    """``status`` warns, ``routes --diff`` shows whose it is; when it goes, nothing differs any more."""
    node, store, journal = cluster.nodes[0], store_of(cluster), Journal(cluster.nodes[0])
    node.exec("ip", "route", "add", "172.7.99.0/24", "via", "192.168.14.98", "proto", "static")
    store.put(lease_key("172.7.99.0/24"), lease_value("192.168.14.99"))
    journal.wait("route.conflict")
    shown = ask(node, "status")
    assert shown.code == 0
    assert "1 in conflict" in shown.out
    assert "a foreign route stands where ours should" in shown.out
    diff = ask(node, "routes", "--diff", "--output=json")
    (row,) = diff.json
    assert (diff.code, row["dst"], row["state"], row["protocol"]) == (1, "172.7.99.0/24", "conflict", 4)
    assert (row["wanted_gateway"], row["kernel_gateway"]) == ("192.168.14.99", "192.168.14.98")
    assert "a foreign route is in the way" in ask(node, "routes", "--diff").out
    assert ask(node, "peers").code == 1
    node.exec("ip", "route", "del", "172.7.99.0/24")
    journal.wait("route.put", timeout_s=65, dst="172.7.99.0/24", reason="way_free")
    assert ask(node, "routes", "--diff").code == 0
    store.delete(lease_key("172.7.99.0/24"))
    journal.wait("route.dropped", dst="172.7.99.0/24", reason="peer_left")


def test_a_repair_is_counted_under_its_cause(cluster: Lab) -> None:
    """A route that somebody deletes and one that goes with the link are told apart, in ``status`` and in the log."""
    node, peer, _ = cluster.nodes
    journal, before = Journal(node), facts(node)["routes"]["repaired"]
    node.exec("ip", "route", "del", peer.subnet)
    journal.wait("route.put", dst=peer.subnet, reason="deleted_by_others")
    node.exec("ip", "link", "set", "eth1", "down")
    until(lambda: ask(node, "status").code == 1, "the link is missed", 12, poll_s=0.1)
    assert "eth1 is down" in ask(node, "status").out
    node.exec("ip", "link", "set", "eth1", "up")
    journal.wait("route.put", timeout_s=12, dst=peer.subnet, reason="link")
    repaired = facts(node)["routes"]["repaired"]
    assert repaired["deleted_by_others"] == before.get("deleted_by_others", 0) + 1
    assert repaired["link"] >= before.get("link", 0) + 2


def test_no_daemon_and_a_stopped_one(site: Lab) -> None:
    """Exit code 3 and what to do; the socket goes with its daemon and leaves nothing behind."""
    node = site.nodes[0]
    for words in (["status"], ["peers"], ["routes"], ["log-level"]):
        ran = ask(node, *words)
        assert (ran.code, ran.out) == (3, "")
        assert "no pyflanneld runs in this network namespace: start it" in ran.err
    waited = ask(node, "wait", "--timeout=0")
    assert (waited.code, "after 0 s: no pyflanneld runs" in waited.err) == (3, True)
    waiting = subprocess.Popen(
        ["ip", "netns", "exec", node.namespace, sys.executable, "-m", "pyflanneld", "wait", "--timeout=40"],
        stderr=subprocess.PIPE,
    )
    launch(node)
    assert waiting.wait(45) == 0, "it waits for a daemon that has yet to start"
    assert waiting.stderr is not None
    waiting.stderr.close()
    until(lambda: ask(node, "status").code == 0, "ready and asked", 10, poll_s=0.1)
    node.kill()
    assert ask(node, "status").code == 3


def test_two_daemons_in_one_namespace(site: Lab) -> None:
    """``status`` shows both, and each is reached by its subnet file; who does not choose elsewhere gets exit code 2."""
    node, store = site.nodes[0], store_of(site)
    store.put("/second/config", '{"Network":"172.8.0.0/16","Backend":{"Type":"host-gw"}}')
    launch(node)
    folder = Path(node.subnet_file.parent, "second")
    second = Background(node.namespace, folder)
    file = folder / "subnet.env"
    second.start(
        *DAEMON, "--iface=eth1", f"--etcd-endpoints={ENDPOINT}", "--etcd-prefix=/second", f"--subnet-file={file}",
        "--healthz-port=0", "--iptables-forward-rules=false", "--route-protocol=104", "--log-format=json",
    )  # fmt: skip
    try:
        for path in (node.subnet_file, file):
            assert ask(node, "wait", f"--subnet-file={path}").code == 0
        both = ask(node, "status")
        assert (both.code, both.err, both.out.count("daemon     pyflanneld")) == (0, "", 2)
        assert {one["pid"] for one in ask(node, "status", "--output=json").json} == {second.pid(), pid_of(node)}
        several = ask(node, "peers")
        assert several.code == 2
        assert "several daemons run here; name one with --subnet-file" in several.err
        assert f"--subnet-file={file}  (pid {second.pid()})" in several.err
        assert f"--subnet-file={node.subnet_file}  (pid {pid_of(node)})" in several.err
        assert ask(node, "wait").code == 2
        told = ask(node, "status", "--output=json", f"--subnet-file={file}").json
        assert (told["network"]["network"], told["routes"]["protocol"]) == ("172.8.0.0/16", 104)
        other = ask(node, "status", "--subnet-file=/run/other.env")
        assert other.code == 3
        assert "no pyflanneld with the subnet file /run/other.env" in other.err
        assert str(file) in other.err
    finally:
        second.stop()
    assert facts(node)["network"]["network"] == "172.7.0.0/16"


@contextmanager
def another_user(node: LabHost, name: str) -> Iterator[None]:
    """Have another user listen on an abstract name, and say that it is ready to whoever asks."""
    script = (
        "import os, socket, sys\n"
        "os.setgroups([]); os.setresgid(65534, 65534, 65534); os.setresuid(65534, 65534, 65534)\n"
        "s = socket.socket(socket.AF_UNIX); s.bind(chr(0) + sys.argv[1]); s.listen()\n"
        "while True:\n"
        "    c = s.accept()[0]; c.settimeout(0.2)\n"
        "    try: c.recv(999); c.sendall(b'HTTP/1.0 200 OK\\r\\n\\r\\n{\"ready\": true, \"live\": true}')\n"
        "    except OSError: pass\n"
        "    c.close()\n"
    )
    impostor = Background(node.namespace, Path(node.subnet_file.parent, "impostor"))
    impostor.start(sys.executable, "-c", script, name)
    try:
        until(lambda: f"@{name}\n" in node.exec("cat", "/proc/net/unix"), "the name is taken", 10)
        yield
    finally:
        impostor.stop()


def test_f98_another_users_socket_is_neither_asked_nor_in_the_way(site: Lab) -> None:
    """It has the name of the operators' socket: nobody believes it, before and after the daemon has come, which takes
    another name and is found by it, with and without ``--subnet-file``."""
    node = site.nodes[0]
    name = lock.abstract_name("operator", lock.file_key(node.subnet_file))[1:]
    asked = [["status"], ["status", f"--subnet-file={node.subnet_file}"]]
    with another_user(node, name):
        for words in (*asked, ["wait", "--timeout=1s"]):
            assert ask(node, *words).code != 0
        launch(node)
        node.wait_ready()
        for words in asked:
            until(lambda words=words: ask(node, *words).code == 0, "it answers", 10)
            assert ask(node, *words, "--output=json").json["pid"] == pid_of(node)
        assert ask(node, "wait").code == 0
    assert facts(node)["pid"] == pid_of(node)
    assert not Journal.whole(node).events("operator.not_listening")


def test_a_socket_that_cannot_be_opened_is_no_reason_to_end(site: Lab) -> None:
    """The name is taken: one warning, and the daemon becomes ready all the same; who asks is told of no answer."""
    node = site.nodes[0]
    name = lock.abstract_name("operator", lock.file_key(node.subnet_file))
    squat = "import socket,sys,time; s = socket.socket(1); s.bind(chr(0) + sys.argv[1]); s.listen(); time.sleep(60)"
    squatter = Background(node.namespace, Path(node.subnet_file.parent, "squatter"))
    squatter.start(sys.executable, "-c", squat, name[1:])
    try:
        until(lambda: f"@{name[1:]}" in node.exec("cat", "/proc/net/unix"), "the name is taken", 10)
        launch(node)
        node.wait_ready()
        Journal.whole(node).wait("operator.not_listening", timeout_s=10)
        shown = ask(node, "status")
        assert (shown.code, "the daemon does not answer" in shown.err) == (3, True)
    finally:
        squatter.stop()
    assert node.ready()


def test_the_level_of_a_running_daemon(cluster: Lab) -> None:
    """Debug events come from that moment on, until it is changed back."""
    node, journal = cluster.nodes[0], Journal(cluster.nodes[0])
    assert ask(node, "log-level").out == "info\n"
    assert ask(node, "log-level", "debug").out == "debug\n"
    store = store_of(cluster)
    try:
        assert facts(node)["log_level"] == "debug"
        store.put(lease_key("172.7.99.0/24"), lease_value("192.168.14.99"))
        node.exec("ip", "route", "replace", "172.7.99.0/24", "via", "192.168.14.98", "proto", "static")
        store.delete(lease_key("172.7.99.0/24"))
        node.exec("ip", "link", "set", "eth1", "down")
        until(lambda: any(event["level"] == "debug" for event in journal.events()), "a debug event", 20, poll_s=0.2)
    finally:
        node.exec("ip", "link", "set", "eth1", "up")
        ask(node, "log-level", "info")
    assert ask(node, "log-level").out == "info\n"
    assert ask(node, "log-level", "chatty").code == 2


@pytest.mark.parametrize("line", ["status extra", "peers --no-such", "status --output=xml", "wait -timeout=-1"])
def test_wrong_usage(line: str) -> None:
    """Exit code 2 and one line, before anybody is asked."""
    done = subprocess.run(
        [sys.executable, "-m", "pyflanneld", *line.split()], capture_output=True, text=True, timeout=20, check=False,
        env=clean_environment(os.environ),
    )  # fmt: skip
    assert (done.returncode, done.stdout, len(done.stderr.splitlines())) == (2, "", 1)


@pytest.mark.parametrize("command", ["status", "peers", "routes", "wait", "log-level"])
def test_help(command: str) -> None:
    """Each says what it does, its flags, and its exit codes."""
    done = subprocess.run(
        [sys.executable, "-m", "pyflanneld", command, "--help"], capture_output=True, text=True, timeout=20, check=False
    )
    assert done.returncode == 0
    assert done.stdout.startswith(f"pyflanneld {command}: ")
    for part in ("Usage: ", "Exit codes: 0 ", "--subnet-file=PATH"):
        assert part in done.stdout
    assert max(map(len, done.stdout.splitlines())) <= 120
