"""What must hold of the history of etcd: I2, whose subnets may be created; I3, whose keys may be changed.

Says once more and naively, with numbers alone, what the daemon has to keep to; nothing is shared with its code.
"""

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from tests.sim.spec import Net, address, contains, network, overlap
from tests.support.observers.actions import RUN, Action
from tests.support.observers.record import Change, Finding, Record

NAME = re.compile(r"(.*)/subnets/(\d+\.\d+\.\d+\.\d+)-(\d+)(&.*)?")
DAY_S = 86400


@dataclass(frozen=True, slots=True)
class Config:
    """A network configuration: the network, the length of subnets, the lowest and the highest of them."""

    network: Net
    length: int
    lowest: int
    highest: int

    def admits(self, subnet: Net) -> bool:
        """Return whether a host may have this subnet."""
        aligned = subnet[0] % (1 << (32 - subnet[1])) == 0
        return subnet[1] == self.length and aligned and self.lowest <= subnet[0] <= self.highest


def config_of(value: bytes | None) -> Config | None:
    """Read a configuration; ``None`` for one that no daemon can use."""
    try:
        found = {name.lower(): each for name, each in json.loads(value or b"").items()}
        first, length = network(found["network"])
        first -= first % (1 << (32 - length))
        subnet = int(found.get("subnetlen") or (24 if length <= 22 else length + 2))
        step = 1 << (32 - subnet)
        last = first + (1 << (32 - length)) - step
        lowest = address(found["subnetmin"]) if found.get("subnetmin") else first + step
        highest = address(found["subnetmax"]) if found.get("subnetmax") else last
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return None
    return Config((first, length), subnet, lowest, highest)


def subnet_of(key: str) -> tuple[str, Net] | None:
    """Return prefix and subnet of a lease's key; ``None`` for another key."""
    found = NAME.fullmatch(key)
    if not found or int(found[3]) > 32 or any(int(part) > 255 for part in found[2].split(".")):
        return None
    return found[1], (address(found[2]), int(found[3]))


def owner_of(value: bytes | None) -> str:
    """Return the address in a lease's value; empty if there is none."""
    try:
        return str(json.loads(value or b"")["PublicIP"])
    except (ValueError, TypeError, KeyError, RecursionError):
        return ""


def owners(record: Record) -> dict[str, str]:
    """Return the hosts by the addresses that they have had."""
    return {
        ".".join(str(number >> shift & 255) for shift in (24, 16, 8, 0)): host.name
        for host in record.hosts
        for number, _, _ in host.addresses
        if number >> 24 != 127
    }


def by_test(change: Change, actions: tuple[Action, ...]) -> bool:
    """Return whether the test has put this itself: it ran a program with the key and the value, or a transaction."""
    value = (change.value or b"").decode(errors="backslashreplace")
    runs = [action for action in actions if action.kind == RUN and action.at_s <= change.at_s + 1]
    return any("put" in action.words and change.key in action.words and value in action.words for action in runs)


def violations(record: Record) -> Iterator[Finding]:
    """Yield what did not hold."""
    ours, history = owners(record), record.history
    keys = dict(history.before)
    configs: dict[str, list[Config]] = {}
    leases: dict[str, set[int]] = {}
    lost: dict[str, frozenset[str]] = {}  # what cannot be read and was there when a key went
    for change in history.before.values():
        _learn(change, configs)
        leases.setdefault(ours.get(owner_of(change.value), ""), set()).add(change.lease)
    for change in history.news():
        if change.value is None:
            gone = keys.pop(change.key, None)
            lost[change.key] = frozenset(name for name, kept in keys.items() if not owner_of(kept.value))
            if gone and not _given_back(gone, ours, configs) and (why := _unexplained(gone, change, record)):
                yield Finding("I3", "etcd", why)
            continue
        _learn(change, configs)
        host = ours.get(owner_of(change.value), "")
        if host and change.lease and subnet_of(change.key) and not by_test(change, record.actions):
            beside = {name: kept for name, kept in keys.items() if name not in lost.get(change.key, ())}
            yield from _creation(change, host, beside, configs)
            yield from _takeover(change, host, keys.get(change.key), ours, leases.get(host, set()))
            leases.setdefault(host, set()).add(change.lease)
        keys[change.key] = change


def _learn(change: Change, configs: dict[str, list[Config]]) -> None:
    prefix, _, name = change.key.rpartition("/")
    if name == "config" and (config := config_of(change.value)):
        configs.setdefault(prefix, []).append(config)


def _creation(
    change: Change, host: str, keys: Mapping[str, Change], configs: Mapping[str, list[Config]]
) -> Iterator[Finding]:
    """I2: a created key is a subnet of the network, and overlaps none that is there."""
    found = subnet_of(change.key)
    if found is None or change.version != 1:
        return
    prefix, subnet = found
    if not any(config.admits(subnet) for config in configs.get(prefix, ())):
        yield Finding("I2", host, f"created {change.key}, which no configuration allows")
    for other in keys:
        theirs = subnet_of(other)
        if not theirs or theirs[0] != prefix or other == change.key or not overlap(subnet, theirs[1]):
            continue
        if _in_use(theirs[1], prefix, configs):
            yield Finding("I2", host, f"created {change.key} while {other} was there")


def _in_use(subnet: Net, prefix: str, configs: Mapping[str, list[Config]]) -> bool:
    """Return whether a key stands for a subnet at all: junk outside of the network takes nothing away."""
    aligned = subnet[0] % (1 << (32 - subnet[1])) == 0
    inside = any(contains(config.network, subnet) and subnet != config.network for config in configs.get(prefix, ()))
    return aligned and inside and subnet[1] <= 30


def _takeover(
    change: Change, host: str, before: Change | None, ours: Mapping[str, str], leases: set[int]
) -> Iterator[Finding]:
    """I3: a key that was there and is written again was the same host's."""
    if before is None or change.version == 1:
        return
    theirs = owner_of(before.value)
    if ours.get(theirs) != host and before.lease not in leases - {0}:
        yield Finding("I3", host, f"wrote over {change.key}, which was {theirs or 'nobody'}'s")


def _given_back(gone: Change, ours: Mapping[str, str], configs: Mapping[str, list[Config]]) -> bool:
    """Return whether a host of ours may have deleted its own key: one that the network now has no place for."""
    found = subnet_of(gone.key)
    if found is None or owner_of(gone.value) not in ours or not configs.get(found[0]):
        return False
    return not configs[found[0]][-1].admits(found[1])


def _unexplained(gone: Change, change: Change, record: Record) -> str:
    """I3: whoever deleted a key was not one of our hosts; return the reproach, empty when there is an explanation."""
    if record.history.blind:
        return ""
    for action in record.actions:
        if action.kind != RUN or action.at_s > change.at_s + 1:
            continue
        if _deletes(action, change.key) or _revokes(action, gone.lease) or _is_tool(action):
            return ""
    return f"{change.key} was deleted, and not by the test"


def _deletes(action: Action, key: str) -> bool:
    if "txn" in action.words:
        return True  # what it does came by its input
    if "del" not in action.words:
        return False
    # a word that the key begins with, or the beginning of a range: enough to be the test's doing
    rest = action.words[action.words.index("del") + 1 :]
    return any(key.startswith(word) or word == "" or "--from-key" in rest for word in rest if not word.startswith("--"))


def _revokes(action: Action, lease: int) -> bool:
    """Return whether the test has revoked a lease, or granted it with a short life."""
    if "lease" not in action.words:
        return False
    return ("revoke" in action.words and f"{lease:x}" in action.words) or "grant" in action.words


def _is_tool(action: Action) -> bool:
    """Return whether a command for operators was run, such as ``pyflanneld leases delete``."""
    if "pyflanneld" not in action.words:
        return False
    behind = action.words[action.words.index("pyflanneld") + 1 :]
    return bool(behind) and not behind[0].startswith("-")
