"""Commands for an operator to copy: every word quoted, whatever somebody has written into a key."""

import base64
import re

from pyflanneld.commands.doctor.host_facts import Facts

_PLAIN = re.compile(rb"[A-Za-z0-9_@%+=:,./-]+")
_PRINTABLE = re.compile(rb"[ -~]+")


def quoted(word: bytes | str) -> str:
    """Return *word* as one word of a shell (bash for what is not printable)."""
    data = word.encode() if isinstance(word, str) else word
    if _PLAIN.fullmatch(data):
        return data.decode()
    if _PRINTABLE.fullmatch(data):
        return "'" + data.decode().replace("'", "'\\''") + "'"
    parts = [chr(byte) if 32 <= byte < 127 and byte not in b"\\'" else f"\\x{byte:02x}" for byte in data]
    return "$'" + "".join(parts) + "'"


def etcdctl(facts: Facts, *words: bytes | str) -> str:
    """Return an ``etcdctl`` command with the endpoints, files and user that the daemon has."""
    options = [f"--endpoints={','.join(facts.asked.endpoints)}", *facts.asked.credentials.get(facts.api, ())]
    return " ".join([f"ETCDCTL_API={facts.api} etcdctl", *map(quoted, (*options, *words))])


def delete_key(facts: Facts, name: bytes) -> str:
    """Return the command that deletes the key *name* below ``subnets/``."""
    key = f"{facts.asked.prefix}/subnets/".encode() + name
    if b"\0" not in key:
        return etcdctl(facts, "del" if facts.api == 3 else "rm", key)
    # No command line can carry a zero byte, but etcd's JSON gateway takes keys in base64.
    body = '{"key":"' + base64.b64encode(key).decode() + '"}'
    return f"curl {facts.asked.endpoints[0]}/v3/kv/deleterange -d {quoted(body)}"
