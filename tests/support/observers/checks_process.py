"""What must hold of file, process, health port and log: I16, I18, I20 to I23."""

import re
import signal
from collections.abc import Iterator

from tests.sim.spec import contains, network
from tests.support.failpoints import PLAN
from tests.support.lab.testbed import POISON
from tests.support.observers.actions import RUN, Action
from tests.support.observers.record import Finding, Host, Record, Run, Version

CHARSET = re.compile(rb"[0-9a-fA-F.:/]+|true|false")
NAMES = [b"FLANNEL_NETWORK", b"FLANNEL_SUBNET", b"FLANNEL_IPV6_NETWORK", b"FLANNEL_IPV6_SUBNET", b"FLANNEL_MTU",
         b"FLANNEL_IPMASQ"]  # fmt: skip
NEEDED = {b"FLANNEL_MTU", b"FLANNEL_IPMASQ"}
STOPPING = (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT)
STOP_S = 5.0
NEAR_S = 3.0  # a deed may take a while, a notice too
NOTICED_S = 1.0  # how late the observers may see an end
CODES = {0, 1, 2, 73, 75}
ANON_BYTES, PEER_BYTES = 64 << 20, 8 << 10
DESCRIPTORS, THREADS = 32 + 24, 24  # and what the HTTP listeners may have open
LOG_LINE_CHARS = 4096


def violations(record: Record) -> Iterator[Finding]:
    """Yield what did not hold."""
    peers = len(record.history.before) + len({change.key for change in record.history.changes})
    for host in record.hosts:
        for version in host.versions:
            if (why := _bad_version(version, host, record)):
                yield Finding("I16", host.name, f"subnet.env {why}: {(version.content or b'')[:200]!r}")
        for run in host.runs:
            yield from _end(run, host, record)
            yield from _size(run, host, peers)
        yield from _secrets(host)
        yield from _log(host)
        yield from _health(host)


def _bad_version(version: Version, host: Host, record: Record) -> str:
    """I16: say what is wrong with a content of the file that the daemon has put there; empty when nothing is."""
    if version.how in ("there", "gone") or version.content is None or _by_test(version, host, record):
        return ""
    if version.how == "written":
        return "was written in place"
    return bad_env(version.content)


def _by_test(version: Version, host: Host, record: Record) -> bool:
    near = (action for action in record.actions if abs(version.at_s - action.at_s) < NEAR_S)
    return any(action.names(host.subnet_file) for action in near)


def bad_env(content: bytes) -> str:
    """Say what a shell that sources the file could stumble over; empty when nothing is wrong."""
    if not content.endswith(b"\n"):
        return "is incomplete"
    pairs = [line.partition(b"=")[::2] for line in content.splitlines()]
    names = [name for name, _ in pairs]
    if names != [name for name in NAMES if name in names] or not NEEDED.issubset(names):
        return "has other lines than it should"
    if not all(CHARSET.fullmatch(value) for _, value in pairs):
        return "has characters that do not belong there"
    values = {name.decode(): value.decode() for name, value in pairs}
    if "FLANNEL_NETWORK" not in values:
        return "" if "FLANNEL_IPV6_NETWORK" in values else "has no network"
    try:
        outer, (first, length) = network(values["FLANNEL_NETWORK"]), network(values["FLANNEL_SUBNET"])
        sane = contains(outer, (first, length)) and first % (1 << (32 - length)) == 1
    except (ValueError, KeyError):
        return "cannot be read"
    return "" if sane and 68 <= int(values["FLANNEL_MTU"]) <= 65536 else "makes no sense"


def _end(run: Run, host: Host, record: Record) -> Iterator[Finding]:
    """I18, I20: it ends in time when it is told to, with 0 only then, and never by itself with a signal."""
    if run.ended_s is None:
        return
    sent = record.signals(run.pid)
    asked = [at_s for at_s, number in sent if number in STOPPING]
    others = any(_ends_processes(action, host) for action in record.actions)
    frozen = any(number in (signal.SIGSTOP, signal.SIGKILL) for _, number in sent)
    if asked and not frozen and run.ended_s - asked[0] > STOP_S + NOTICED_S:
        yield Finding("I18", host.name, f"ended {run.ended_s - asked[0]:.1f} s after it was told to")
    if run.code is None or others:
        return
    if run.code == 0 and not asked:
        yield Finding("I20", host.name, "ended with 0 though nobody had told it to end")
    if run.code not in CODES and not (run.code < 0 and any(number == -run.code for _, number in sent)):
        yield Finding("I20", host.name, f"ended with {run.code}")


def _ends_processes(action: Action, host: Host) -> bool:
    """Return whether a program was run that sends signals, or this host's daemon with failpoints that do."""
    if action.kind != RUN:
        return False
    plans = [word for word in action.words if word.startswith(f"{PLAN}=")] if action.names(host.subnet_file) else []
    return bool({"kill", "pkill"} & set(action.words)) or any("signal:" in plan or "=kill" in plan for plan in plans)


def _size(run: Run, host: Host, peers: int) -> Iterator[Finding]:
    """I21: memory, descriptors and threads are bounded."""
    limits = {
        "bytes of memory of its own": (run.anon_bytes, ANON_BYTES + PEER_BYTES * peers),
        "descriptors": (run.descriptors, DESCRIPTORS),
        "threads": (run.threads, THREADS),
    }
    for what, (seen, limit) in limits.items():
        if seen > limit:
            yield Finding("I21", host.name, f"{seen} {what}, more than {limit}")


def _secrets(host: Host) -> Iterator[Finding]:
    """I22: no password in what others can read."""
    places = {"the log": host.log, "subnet.env": " ".join(str(version.content) for version in host.versions)}
    places["an answer of the health port"] = " ".join(answer.body for answer in host.answers)
    for where, content in places.items():
        if POISON in content:
            yield Finding("I22", host.name, f"a password is in {where}")


def _log(host: Host) -> Iterator[Finding]:
    """I21, I23: lines are events of bounded length, and none tells of an exception that nobody had expected."""
    for line in host.log.rpartition("\n")[0].splitlines():
        if len(line) > LOG_LINE_CHARS:
            yield Finding("I21", host.name, f"a line of {len(line)} characters in the log: {line[:200]}")
        if "Traceback" in line or '"exception"' in line or '"daemon.crashed"' in line:
            yield Finding("I23", host.name, f"an exception in the log: {line[:500]}")


def _health(host: Host) -> Iterator[Finding]:
    """I19: whoever answers on the health port says one of two things."""
    for answer in host.answers:
        if answer.status not in (0, 200, 503):
            yield Finding("I19", host.name, f"{answer.path} answered {answer.status}")
