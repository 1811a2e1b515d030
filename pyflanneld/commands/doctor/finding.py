"""What a check finds, and commands for an operator to copy, quoted whatever stands in a key."""

import base64
import enum
import re
from dataclasses import dataclass

from pyflanneld.commands.doctor.host_facts import Facts
from pyflanneld.core.etcd_types import Record
from pyflanneld.core.lease.codec import TTL_S

_PLAIN = re.compile(rb"[A-Za-z0-9_@%+=:,./-]+")
_PRINTABLE = re.compile(rb"[ -~]+")


class Verdict(enum.Enum):
    """How severe a finding is."""

    OK = "ok"
    WARN = "warn"
    BAD = "bad"
    SKIPPED = "skipped"


@dataclass(frozen=True, slots=True)
class Finding:
    """The result of one check.

    Attributes:
        check: what was checked, ``"forwarding"``.
        seen: what was found; for a skipped check, why it was skipped.
        why: why it matters; empty when nothing is wrong.
        fix: the command, or the step, that fixes it.
    """

    check: str
    verdict: Verdict
    seen: str
    why: str = ""
    fix: str = ""


def ok(check: str, seen: str) -> Finding:
    """Return a finding that nothing is wrong."""
    return Finding(check, Verdict.OK, seen)


def skipped(check: str, why: str) -> Finding:
    """Return a finding that the check was skipped, and why."""
    return Finding(check, Verdict.SKIPPED, why)


def warn(check: str, seen: str, why: str, fix: str = "") -> Finding:
    """Return a finding that it works, but should be fixed."""
    return Finding(check, Verdict.WARN, seen, why, fix)


def bad(check: str, seen: str, why: str, fix: str = "") -> Finding:
    """Return a finding that it does not work."""
    return Finding(check, Verdict.BAD, seen, why, fix)


def quoted(word: bytes | str) -> str:
    """Return *word* quoted as one word of a shell (of bash where it is not printable)."""
    data = word.encode() if isinstance(word, str) else word
    if _PLAIN.fullmatch(data):
        return data.decode()
    if _PRINTABLE.fullmatch(data):
        return "'" + data.decode().replace("'", "'\\''") + "'"
    parts = [chr(byte) if 32 <= byte < 127 and byte not in b"\\'" else f"\\x{byte:02x}" for byte in data]
    return "$'" + "".join(parts) + "'"


def set_sysctl(name: str, value: int) -> str:
    """Return the command that sets a kernel setting, ``"net/ipv4/ip_forward"``; a device's name may have dots."""
    return f"sysctl -w {name if '.' in name else name.replace('/', '.')}={value}"


def etcdctl(facts: Facts, *words: bytes | str) -> str:
    """Return an ``etcdctl`` command with the daemon's endpoints, files and user."""
    options = [f"--endpoints={','.join(facts.flags.endpoints)}", *facts.flags.credentials.get(facts.api, ())]
    return " ".join([f"ETCDCTL_API={facts.api} etcdctl", *map(quoted, (*options, *words))])


def own_etcd_lease(facts: Facts, record: Record) -> str:
    """Return the command that puts the key of *record* on an etcd lease of its own, with flannel's TTL."""
    key = f"{facts.flags.prefix}/subnets/".encode() + record.name
    grant = etcdctl(facts, "lease", "grant", str(TTL_S))
    return f"{etcdctl(facts, 'put')} --lease=$({grant} | cut -d' ' -f2) {quoted(key)} {quoted(record.value)}"


def delete_key(facts: Facts, name: bytes) -> str:
    """Return the command that deletes the key *name* below ``subnets/``."""
    key = f"{facts.flags.prefix}/subnets/".encode() + name
    if b"\0" not in key:
        return etcdctl(facts, "del" if facts.api == 3 else "rm", key)
    # No command line can carry a zero byte, but etcd's JSON gateway takes keys in base64.
    body = '{"key":"' + base64.b64encode(key).decode() + '"}'
    return f"curl {facts.flags.endpoints[0]}/v3/kv/deleterange -d {quoted(body)}"
