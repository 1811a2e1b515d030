"""iptables and nft in memory: same contract, same texts, and the hand of an administrator.

Of iptables it knows what its restore is told here: chains made or flushed, rules appended, inserted, deleted by their
text, and chains deleted. Of nft: tables and chains made, flushed and deleted; rules added, inserted, and deleted by
their handle.
"""

import asyncio
import copy
import json
import re
from collections import Counter
from typing import Any

from pyflanneld.core.firewall.rules import Family
from pyflanneld.errors import FirewallError, ProgramMissing
from pyflanneld.firewall.command_runner import Programs
from pyflanneld.firewall.iptables import Iptables
from pyflanneld.firewall.nft import Nft
from pyflanneld.ports import FirewallProgram

BUILT_IN = {
    "nat": ("PREROUTING", "INPUT", "OUTPUT", "POSTROUTING"),
    "filter": ("INPUT", "FORWARD", "OUTPUT"),
}
Chains = dict[str, list[str]]
Tables = dict[tuple[Family, str], Chains]


class FakeFirewall:
    """The rules of a host in memory, with the commands that read and write them.

    Attributes:
        absent: programs that are not there: ``iptables``, ``ip6tables``, ``nft``.
        broken: what every call raises while it is set.
        random_fully: whether iptables knows it.
        writes: the transactions that took effect.
        policies: of built-in chains, where it is not ACCEPT.
        calls: how often each method was called.
    """

    def __init__(self) -> None:
        self.absent: set[str] = set()
        self.broken: FirewallError | None = None
        self.random_fully = True
        self.writes: list[str] = []
        self.policies: dict[str, str] = {}
        self.calls: Counter[str] = Counter()
        self.nft: NftTables = {}
        self._tables: Tables = {}

    def programs(self) -> dict[str, FirewallProgram]:
        """Return the ``FirewallProgram`` port on these rules: the real decisions, and commands in memory."""
        return {"iptables": FakeIptables(self), "nft": FakeNft(self)}

    # The commands.

    def need_iptables(self, family: Family) -> None:
        self._need("iptables" if family is Family.IPV4 else "ip6tables")

    def need_nft(self) -> None:
        self._need("nft")

    async def can_randomize(self, family: Family) -> bool:
        await self._called("can_randomize", family)
        return self.random_fully

    async def save(self, family: Family, table: str | None) -> str:
        await self._called("save", family)
        if table is not None:
            self._table(self._tables, family, table)
        names = [name for of, name in self._tables if of is family and table in (None, name)]
        return "".join(self._printed(family, name) for name in names)

    async def restore(self, family: Family, text: str) -> None:
        await self._called("restore", family)
        tables, chains = copy.deepcopy(self._tables), Chains()
        for line in text.splitlines():
            if line.startswith("*"):
                chains = self._table(tables, family, line[1:])
            elif line != "COMMIT":
                _change(chains, line)
        self._tables = tables
        self.writes.append(text)

    async def list_table(self, family: Family, name: str) -> str | None:
        await self._called("list_table", None)
        word = "ip" if family is Family.IPV4 else "ip6"
        items = self.nft.get((word, name))
        return None if items is None else json.dumps({"nftables": [{"metainfo": {}}, *items]})

    async def load(self, text: str) -> None:
        await self._called("load", None)
        self.nft = _loaded(self.nft, text)
        self.writes.append(text)

    # What a test looks at, and the hand of others.

    def rules(self, table: str, chain: str, family: Family = Family.IPV4) -> list[str] | None:
        """Return a chain's rules as text, ``None`` where there is no such chain; to look at and to change."""
        return self._table(self._tables, family, table).get(chain)

    def put(self, table: str, chain: str, *rules: str, family: Family = Family.IPV4) -> None:
        """Append rules, written as ``iptables-save`` does, without ``-A CHAIN``."""
        self._table(self._tables, family, table).setdefault(chain, []).extend(rules)

    def drop(self, table: str, chain: str, family: Family = Family.IPV4) -> None:
        """Delete a chain and every rule that leads into it."""
        chains = self._table(self._tables, family, table)
        chains.pop(chain, None)
        for rules in chains.values():
            rules[:] = [rule for rule in rules if chain not in rule.split()]

    def everything(self) -> Tables:
        """Return a copy of all tables of iptables."""
        return copy.deepcopy(self._tables)

    def _need(self, program: str) -> None:
        if program in self.absent:
            raise ProgramMissing(f"there is no program {program}")

    async def _called(self, method: str, family: Family | None) -> None:
        self.calls[method] += 1
        await asyncio.sleep(0)
        if family is None:
            self.need_nft()
        else:
            self.need_iptables(family)
        if self.broken:
            raise self.broken

    @staticmethod
    def _table(tables: Tables, family: Family, name: str) -> Chains:
        return tables.setdefault((family, name), {chain: [] for chain in BUILT_IN[name]})

    def _printed(self, family: Family, name: str) -> str:
        chains = self._tables[family, name]
        lines = ["# Generated by iptables-save v1.8.9 (nf_tables) on Mon Nov 23 19:26:39 2026", f"*{name}"]
        for chain in chains:
            policy = self.policies.get(chain, "ACCEPT") if chain in BUILT_IN[name] else "-"
            lines.append(f":{chain} {policy} [0:0]")
        lines += [f"-A {chain} {rule}" for chain, rules in chains.items() for rule in rules]
        return "\n".join([*lines, "COMMIT", "# Completed on Mon Nov 23 19:26:39 2026", ""])


class FakeIptables(Iptables):
    """iptables on a ``FakeFirewall``."""

    def __init__(self, host: FakeFirewall) -> None:
        super().__init__(Programs([]))
        self._host = host

    def require(self, family: Family) -> None:
        self._host.need_iptables(family)

    async def can_randomize(self, family: Family) -> bool:
        return await self._host.can_randomize(family)

    async def save(self, family: Family, table: str | None) -> str:
        return await self._host.save(family, table)

    async def restore(self, family: Family, text: str) -> None:
        await self._host.restore(family, text)


class FakeNft(Nft):
    """nft on a ``FakeFirewall``."""

    def __init__(self, host: FakeFirewall) -> None:
        super().__init__(Programs([]))
        self._host = host

    def require(self, family: Family) -> None:  # noqa: ARG002 - one program for both
        self._host.need_nft()

    async def list_table(self, family: Family, name: str) -> str | None:
        return await self._host.list_table(family, name)

    async def load(self, text: str) -> None:
        await self._host.load(text)


def _change(chains: Chains, line: str) -> None:
    """Follow one line of iptables-restore. Raises ``FirewallError``."""
    command, chain, *words = line.split(" ")
    if command.startswith(":"):
        chains[command[1:]] = []
        return
    if command == "-N":
        if chain in chains:
            raise FirewallError(f"line {line!r} failed: Chain already exists.")
        chains[chain] = []
        return
    target = re.search(r"-j (FLANNEL\S+)", line)
    if chain not in chains or (target is not None and target[1] not in chains):
        raise FirewallError(f"line {line!r} failed: no chain by that name")
    try:
        _COMMANDS[command](chains, chain, words)
    except (LookupError, ValueError) as error:
        raise FirewallError(f"line {line!r} failed: {error}") from error


def _append(chains: Chains, chain: str, words: list[str]) -> None:
    chains[chain].append(" ".join(words))


def _insert(chains: Chains, chain: str, words: list[str]) -> None:
    place = int(words[0])
    if not 1 <= place <= len(chains[chain]) + 1:
        raise ValueError("index of insertion too big")
    chains[chain].insert(place - 1, " ".join(words[1:]))


def _delete(chains: Chains, chain: str, words: list[str]) -> None:
    chains[chain].remove(" ".join(words))


def _flush(chains: Chains, chain: str, _: list[str]) -> None:
    chains[chain].clear()


def _delete_chain(chains: Chains, chain: str, _: list[str]) -> None:
    if chains[chain] or any(chain in rule.split() for rules in chains.values() for rule in rules):
        raise ValueError("the chain is in use or not empty")
    del chains[chain]


_COMMANDS = {"-A": _append, "-I": _insert, "-D": _delete, "-F": _flush, "-X": _delete_chain}


Items = list[dict[str, Any]]
_PRIORITIES = {"filter": 0, "srcnat": 100}
NftTables = dict[tuple[str, str], Items]


def _loaded(before: NftTables, text: str) -> NftTables:
    """Follow ``nft -f``. Raises ``FirewallError``."""
    tables = copy.deepcopy(before)
    key, chain = ("", ""), ""
    for words in (line.split() for line in text.splitlines() if line.strip() not in {"", "}"}):
        match words:
            case ["table", *key_words, "{"] | ["add", "table", *key_words]:
                key = (key_words[0], key_words[1])
                items = tables.setdefault(key, [{"table": {"family": key[0], "name": key[1]}}])
                items[0]["table"].pop("flags", None)
            case ["delete", "table", *key_words]:
                if tables.pop((key_words[0], key_words[1]), None) is None:
                    raise FirewallError("No such file or directory")
            case ["flags", "dormant;"]:
                tables[key][0]["table"]["flags"] = "dormant"
            case ["comment", *_]:
                pass
            case ["chain", name, "{"]:
                chain = name
            case ["type", *_]:
                _declare(tables[key], chain, words)
            case [verb, "chain" | "rule" as kind, family, table, name, *rest] if (family, table) in tables:
                _change_chain(tables[family, table], f"{verb} {kind}", name, rest)
            case _:
                raise FirewallError(f"No such file or directory, or a syntax error: {words}")
    return tables


def _declare(items: Items, chain: str, words: list[str]) -> None:
    name = words[5].rstrip(";")
    priority = _PRIORITIES[name] if name in _PRIORITIES else int(name)
    hook = {"type": words[1], "hook": words[3], "prio": priority}
    declared = {"name": chain, **hook, "policy": words[7].rstrip(";")}
    for item in items:
        if item.get("chain", {}).get("name") == chain:
            if hook.items() - item["chain"].items():
                raise FirewallError("the chain is on another hook")
            item["chain"] |= declared
            return
    items.append({"chain": declared})


def _change_chain(items: Items, command: str, chain: str, words: list[str]) -> None:
    rules = [item for item in items if item.get("rule", {}).get("chain") == chain]
    declared = [item for item in items if item.get("chain", {}).get("name") == chain]
    if not declared:
        raise FirewallError("No such file or directory")
    place = len(items)
    if words[:1] in (["position"], ["handle"]):
        handles = {item["rule"]["handle"]: item for item in rules}
        if int(words[1]) not in handles:
            raise FirewallError("No such file or directory")
        place, words = items.index(handles[int(words[1])]), words[2:]
    if command in {"flush chain", "delete chain"}:
        gone = rules + declared if command == "delete chain" else rules
        items[:] = [item for item in items if item not in gone]
    elif command == "delete rule":
        del items[place]
    else:
        handle = 1 + max((item["rule"]["handle"] for item in items if "rule" in item), default=0)
        items.insert(place, {"rule": {"chain": chain, "handle": handle, "expr": _expressions(" ".join(words))}})


def _expressions(line: str) -> Items:
    """Return nft's JSON for one rule."""
    found = Items()
    if line.startswith("meta mark 0x4000 "):  # as flannel writes it
        found.append({"match": {"op": "==", "left": {"meta": {"key": "mark"}}, "right": 0x4000}})
    marked = re.match(r"meta mark & (\w+) == (\w+) ", line)
    if marked:
        masked = {"&": [{"meta": {"key": "mark"}}, int(marked[1], 16)]}
        found.append({"match": {"op": "==", "left": masked, "right": int(marked[2], 16)}})
    for word, field, negated, address, length in re.findall(r"(ip6?) ([sd]addr) (!= )?([\d.:a-f]+)/(\d+)", line):
        left = {"payload": {"protocol": word, "field": field}}
        right = {"prefix": {"addr": address, "len": int(length)}}
        found.append({"match": {"op": "!=" if negated else "==", "left": left, "right": right}})
    verdict = re.search(r"(return|accept|masquerade|drop)( fully-random)?$", line)
    if verdict is None:
        raise FirewallError(f"syntax error: {line}")
    return [*found, {verdict[1]: {"flags": "fully-random"} if verdict[2] else None}]
