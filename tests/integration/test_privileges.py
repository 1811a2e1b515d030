"""``--user`` for real: what the kernel lets the daemon do, and that this is enough for all of its work."""

import contextlib
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from pyflanneld.lab.cluster import Lab
from pyflanneld.lab.node import DAEMON, LabHost
from pyflanneld.lab.run import until
from tests.support.lab.rights import NET_ADMIN, UID, USER, fields, inside, launch_as_user, status, threads
from tests.support.lab.testbed import (
    CONFIG,
    PREFIX,
    Journal,
    gateways,
    http_answer,
    launch,
    lease_key,
    lease_value,
    pid_of,
    store_of,
    wait_answer,
    wait_exit,
)

pytestmark = [pytest.mark.etcd, pytest.mark.netns]
CAPABILITIES = ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")
FILE, METRICS, STATE = "/run/flannel/subnet.env", "/run/flannel/node.prom", "/run/pyflanneld/state"
PEER, PEER_SUBNET = "192.168.14.99", "172.7.99.0/24"
# Stands before iptables-save in PATH and notes down with what rights it was started.
NOTING = (
    "mkdir -p /run/bin; printf '#!/bin/sh\\ncat /proc/self/status >/run/flannel/child\\nexec /usr/sbin/iptables-save "
    '"$@"\\n\' >/run/bin/iptables-save; chmod 755 /run/bin/iptables-save; PATH=/run/bin:$PATH'
)


def only_net_admin(found: dict[str, str]) -> None:
    assert {name: found[name] for name in CAPABILITIES} == dict.fromkeys(CAPABILITIES, NET_ADMIN)
    assert set(found["Uid"].split()) == {str(UID)}
    assert set(found["Gid"].split()) == {str(UID)}
    assert (found["Groups"], found["NoNewPrivs"]) == ("", "1")


@contextlib.contextmanager
def running(node: LabHost, *more: str, **changes: str | int | None) -> Iterator[Journal]:
    journal = Journal(node)
    launch_as_user(node, *more, **changes)  # type: ignore[arg-type]
    try:
        wait_answer(node)
        yield journal
    finally:
        node.kill()


@pytest.mark.parametrize("nftables", [False, True])
def test_the_whole_work_is_done_with_one_capability(site: Lab, nftables: bool) -> None:
    """Routes, firewall rules, file, socket, metrics and health, by a user with CAP_NET_ADMIN alone in every thread."""
    node, store = site.nodes[0], store_of(site)
    store.put(lease_key(PEER_SUBNET), lease_value(PEER))
    if nftables:
        store.put(f"{PREFIX}/config", CONFIG.replace("{", '{"EnableNFTables":true,', 1))
    told = {"metrics_textfile": METRICS, "state_dir": STATE}
    with running(node, "--ip-masq", "--probe", prepare=NOTING, **told) as journal:
        journal.wait("daemon.ready", 20)
        for found in threads(pid_of(node)):
            only_net_admin(found)
        assert gateways(node) == {PEER_SUBNET: PEER}
        assert "masquerade" in node.exec("nft", "list", "ruleset").lower()
        everything_is_told(node)
        assert not [event for event in journal.events() if event["level"] in {"warning", "error"}]
        node.exec("ip", "route", "del", PEER_SUBNET)
        until(lambda: gateways(node) == {PEER_SUBNET: PEER}, "the route is put back", 20)
        if not nftables:
            only_net_admin(fields(inside(node, "/run/flannel/child").read_text()))


def everything_is_told(node: LabHost) -> None:
    """File, metrics, probes and the operators' socket are there, all of them the user's."""
    assert inside(node, FILE).stat().st_uid == UID
    assert "FLANNEL_SUBNET=172.7." in inside(node, FILE).read_text()
    until(inside(node, METRICS).exists, "the metrics are written", 20)
    until(inside(node, f"{STATE}/last-good.json").exists, "the last good state is written", 20)
    assert inside(node, f"{STATE}/last-good.json").stat().st_uid == inside(node, STATE).stat().st_uid == UID
    assert b"pyflanneld_ready 1" in http_answer(
        node.namespace, 2402, b"GET /metrics HTTP/1.0\r\nHost: 127.0.0.1\r\n\r\n"
    )
    assert node.get("/readyz")[0] == 200
    assert "ready" in node.exec(*DAEMON, "status", f"--subnet-file={FILE}")


def test_root_without_the_flag_keeps_its_rights_but_no_core(site: Lab) -> None:
    """As flanneld: root. Its memory, with passwords in it, is no other process's business all the same."""
    node = site.nodes[0]
    launch(node)
    wait_answer(node)
    assert status(pid_of(node))["Uid"].split()[0] == "0"
    limits = Path(f"/proc/{pid_of(node)}/limits").read_text()
    assert limits.split("Max core file size")[1].split()[:2] == ["0", "0"]


def test_an_abort_leaves_no_core_but_its_trace(site: Lab, tmp_path: Path) -> None:
    """SIGABRT, as the watchdog sends it: no core file although the limit allows one; the log shows where it was."""
    allowed = f"cd {tmp_path}; ulimit -c unlimited"
    subprocess.run(["sh", "-c", f"{allowed}; sh -c 'kill -ABRT $$'"], check=False, capture_output=True)
    assert list(tmp_path.glob("*core*")), "without the daemon's care there is one"
    for left in tmp_path.iterdir():
        left.unlink()
    node = site.nodes[0]
    launch(node, env={"PYTHONFAULTHANDLER": "1"}, prepare=allowed)
    wait_answer(node)
    node.process.send(signal.SIGABRT)
    assert wait_exit(node) == -signal.SIGABRT
    assert list(tmp_path.iterdir()) == []
    log = node.process.log.read_text()
    assert "Fatal Python error: Aborted" in log
    node.process.log.write_text("")  # what faulthandler writes is no event


def refused(node: LabHost, *, prepare: str, **changes: str | int | None) -> str:
    """Return the words with which the daemon ends: a usage error."""
    node.process.log.write_text("")
    launch_as_user(node, prepare=prepare, **changes)  # type: ignore[arg-type]
    assert wait_exit(node) == 2
    lines = node.process.log.read_text().splitlines()
    node.process.log.write_text("")  # its last line is no event
    return lines[-1]


def test_a_directory_of_roots_is_named_with_the_remedy(site: Lab) -> None:
    """The user cannot write there: an error at once, with the command that fixes it; nothing was changed."""
    node = site.nodes[0]
    said = refused(node, prepare="mkdir /run/flannel")
    assert said.endswith("--subnet-file: nobody cannot write to the directory /run/flannel: chown nobody /run/flannel")
    said = refused(node, prepare="mkdir -p /run/a/flannel; chmod 700 /run/a", subnet_file="/run/a/flannel/subnet.env")
    assert said.endswith("--subnet-file: /run/a/flannel cannot be reached by nobody: chmod o+x /run/a")
    assert gateways(node) == {}


def test_a_key_that_the_user_cannot_read_is_named(site: Lab) -> None:
    """A key of root's with mode 0600 would fail at the first connection; it is named at the start."""
    make = (
        "openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=x -keyout /run/key -out /run/cert 2>/dev/null; "
        "chmod 644 /run/cert; chmod 600 /run/key"
    )
    tls = {"etcd_certfile": "/run/cert", "etcd_keyfile": "/run/key", "etcd_endpoints": "https://127.0.0.1:1"}
    said = refused(site.nodes[0], prepare=make, **tls)
    assert said.endswith("--etcd-keyfile: /run/key cannot be read by nobody: chown nobody /run/key")


def test_without_the_capability_it_ends_at_once(site: Lab) -> None:
    """Neither root without CAP_NET_ADMIN nor a user without it goes on to fail with each route."""
    node = site.nodes[0]
    said = refused(node, prepare='set -- setpriv --bounding-set=-net_admin "$@"')
    assert "root lacks CAP_NET_ADMIN, which routes need: start as root" in said
    said = refused(node, prepare=f'set -- setpriv --reuid={UID} --regid={UID} --clear-groups "$@"', user=None)
    assert f"uid {UID} lacks CAP_NET_ADMIN" in said


def test_a_user_with_the_capability_needs_no_root(site: Lab) -> None:
    """Started by a service manager that has done it all: works, and firewall programs have the capability too."""
    drop = (
        f"setpriv --reuid={UID} --regid={UID} --clear-groups --no-new-privs "
        "--bounding-set=-all,+net_admin --inh-caps=-all,+net_admin --ambient-caps=-all,+net_admin"
    )
    prepare = f'mkdir /run/flannel; chown {USER} /run/flannel; set -- {drop} "$@"; {NOTING}'
    with running(site.nodes[0], prepare=prepare, user=None) as journal:
        journal.wait("daemon.ready", 20)
        only_net_admin(status(pid_of(site.nodes[0])))
        until(inside(site.nodes[0], "/run/flannel/child").exists, "a firewall program is started", 20)
        only_net_admin(fields(inside(site.nodes[0], "/run/flannel/child").read_text()))


def test_a_second_start_of_the_user_finds_its_file(site: Lab) -> None:
    """The directory is made for the user; after a restart the same subnet is held, and the file is left alone."""
    node = site.nodes[0]
    with running(node) as journal:
        first = journal.wait("daemon.ready", 20)["subnet"]
        assert journal.wait("privileges.dropped")["user"] == USER
        assert inside(node, "/run/flannel").stat().st_uid == UID
    with running(node) as journal:
        assert journal.wait("daemon.ready", 20)["subnet"] == first


def test_nobody_can_look_into_its_memory(site: Lab) -> None:
    """Another process of the same user reads neither memory nor environment."""
    with running(site.nodes[0]):
        for name in ("mem", "environ"):
            look = f"head -c 1 /proc/{pid_of(site.nodes[0])}/{name}"
            as_user = ["setpriv", f"--reuid={UID}", f"--regid={UID}", "--clear-groups", "sh", "-c", look]
            done = subprocess.run(as_user, capture_output=True, text=True, check=False)
            assert "Permission denied" in done.stderr


def test_the_end_of_the_start_script_is_still_noticed(site: Lab) -> None:
    """A change of user clears the request for that signal; the daemon makes it again."""
    node = site.nodes[0]
    script = """set -- sh -c '"$@" & wait' sh "$@\""""
    launch_as_user(node, prepare=script, env={"SUPERVISOR_ENABLED": "1"})
    wait_answer(node)
    journal = Journal.whole(node)
    node.kill()
    assert journal.wait("daemon.stopping", 20)["reason"] == "start script ended"
    assert journal.wait("daemon.stopped", 20)


@pytest.mark.parametrize("ambient", [True, False])
def test_the_capability_is_made_ambient_where_it_is_not(ambient: bool) -> None:
    """A user who has it, but not for the programs that it starts: afterwards these have it too."""
    script = (
        "import os, sys\nfrom pyflanneld.system import privileges as p\nfrom pyflanneld.system.prctl import prctl\n"
        f"p.become(p.Account('somebody', {UID}, {UID}))\nprctl(47, 4)  # clear the ambient set\n"
        f"{ambient} and p.make_ambient()\nos.execv('/bin/cat', ['cat', '/proc/self/status'])"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert fields(done.stdout)["CapEff"] == (NET_ADMIN if ambient else f"{0:016x}")
    assert fields(done.stdout)["Uid"].split() == [str(UID)] * 4


@pytest.mark.parametrize("nftables", [False, True])
def test_no_program_is_started_but_those_of_the_firewall(site: Lab, nftables: bool) -> None:
    """Under strace, from the start through routes, rules, metrics and a stop: iptables' and nft, and no others."""
    node, store = site.nodes[0], store_of(site)
    if nftables:
        store.put(f"{PREFIX}/config", CONFIG.replace("{", '{"EnableNFTables":true,', 1))
    trace = node.process.folder / "trace"
    strace = f'set -- strace -D -f -qq -e trace=execve,execveat -o {trace} -- "$@"'
    journal = Journal(node)
    launch(node, "--ip-masq", "--probe", metrics_textfile=str(node.process.folder / "x.prom"), prepare=strace)
    journal.wait("daemon.ready", 60)
    store.put(lease_key(PEER_SUBNET), lease_value(PEER))
    until(lambda: gateways(node) == {PEER_SUBNET: PEER}, "the route is there", 20)
    assert node.get("/readyz", timeout_s=20)[0] == 200  # strace makes it slow
    node.exec(*DAEMON, "status", f"--subnet-file={node.subnet_file}")
    node.process.send(signal.SIGTERM)
    assert wait_exit(node, 30) == 0
    started = re.findall(r'execve(?:at)?\("([^"]+)".*(?: = 0|<unfinished \.\.\.>)$', trace.read_text(), re.MULTILINE)
    assert Path(started[0]).name.startswith("python"), "the daemon itself"
    assert {Path(path).parent for path in started[1:]} <= {Path("/usr/sbin"), Path("/sbin")}
    names = {Path(path).name for path in started[1:]}  # of both kinds: what the other has left is looked for
    assert names <= {"iptables", "iptables-save", "iptables-restore", "nft"}
    assert {"nft" if nftables else "iptables-restore"} <= names
