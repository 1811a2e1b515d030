"""iptables, in its nft or its legacy form, as a ``FirewallProgram``.

As in flannel, two things depend on its version: from 1.6.2 on it has ``--random-fully``, and its restore has ``--wait``
for the lock that all users of the legacy form share. An earlier restore takes no lock.
"""

import copy
import re
from collections.abc import Collection, Sequence
from dataclasses import replace

from pyflanneld.core.families import Network
from pyflanneld.core.firewall import iptables
from pyflanneld.core.firewall.rules import FORWARD, Family, Removal, Section, WantedRules
from pyflanneld.errors import ProgramMissing
from pyflanneld.firewall.command_runner import Programs, success
from pyflanneld.ports import FirewallProgram

LOCK_WAIT_S = 5
MODERN = (1, 6, 2)
_NAMES = {Family.IPV4: "iptables", Family.IPV6: "ip6tables"}
_FORWARD_DROPPED = (
    "iptables drops what no rule of its own accepts (the policy of FORWARD is DROP), and the accept rules that are set "
    "by nft cannot overrule that: take EnableNFTables out of the network configuration, or change the policy"
)


class Iptables(FirewallProgram):
    """The programs iptables and ip6tables in the network namespace of the calling thread."""

    name = "iptables"
    one_transaction = False

    def __init__(self, programs: Programs) -> None:
        self._programs = programs
        self._versions: dict[Family, tuple[int, ...]] = {}
        self._snapshot: dict[Family, str] | None = None

    def for_reading(self) -> FirewallProgram:
        """Return a copy that reads all tables that exist, once; to ask for one table could create it."""
        reader = copy.copy(self)
        reader._snapshot = {}
        return reader

    def require(self, family: Family) -> None:
        """Raise ``ProgramMissing`` unless iptables, iptables-save and iptables-restore are found."""
        for suffix in ("", "-save", "-restore"):
            self._programs.find(_NAMES[family] + suffix)

    async def needed(
        self, family: Family, wanted: WantedRules, networks: Sequence[Network], *, take_over: bool
    ) -> str:
        """Return the transaction for the one section in *wanted*."""
        self.require(family)
        ((section, rules),) = wanted.items()
        if any(rule.random_fully for rule in rules) and not await self.can_randomize(family):
            rules = tuple(replace(rule, random_fully=False) for rule in rules)
        found = iptables.read(await self._saved(family, section.table), section)
        return iptables.repair(section, found, rules, networks, take_over=take_over)

    def only_adds(self, text: str) -> bool:
        """Return whether no rule is deleted in *text*."""
        return not any(line.startswith("-D ") for line in text.splitlines())

    async def removals(
        self,
        family: Family,
        networks: Sequence[Network],
        sections: Collection[Section],
        taken_over: Collection[Section] = (),
    ) -> list[Removal]:
        """Return one removal for each section that has rules of ours."""
        if not self._is_there(family):
            return []
        saved = await self._saved(family, None) if sections else ""
        found = []
        for section in sections:
            chains = iptables.read(saved, section)
            text = iptables.removal(section, chains, networks, take_over=section in taken_over)
            if text:
                found.append(Removal(self.name, family, text, {"table": section.table, "chain": section.chain}))
        return found

    async def drops_forward(self, family: Family) -> str:
        """Return what to tell the operator if the policy of FORWARD is DROP, else ``""``."""
        if not self._is_there(family):
            return ""
        policy = iptables.read(await self._saved(family, None), FORWARD).policy
        return _FORWARD_DROPPED if policy == "DROP" else ""

    async def apply(self, family: Family, text: str) -> None:
        """Apply *text* with ``iptables-restore --noflush``."""
        await self.restore(family, text)

    async def can_randomize(self, family: Family) -> bool:
        """Return whether this iptables has ``--random-fully``."""
        return await self._version(family) >= MODERN

    async def save(self, family: Family, table: str | None) -> str:
        """Return the output of ``iptables-save``, for *table* or for all tables that exist."""
        name = f"{_NAMES[family]}-save"
        return success(name, await self._programs.run(name, *(("-t", table) if table else ())))

    async def restore(self, family: Family, text: str) -> None:
        """Apply *text* with ``iptables-restore --noflush``, in one transaction per table."""
        name = f"{_NAMES[family]}-restore"
        wait = ("--wait", str(LOCK_WAIT_S)) if await self._version(family) >= MODERN else ()
        success(name, await self._programs.run(name, "--noflush", *wait, stdin=text))

    def _is_there(self, family: Family) -> bool:
        try:
            self.require(family)
        except ProgramMissing:
            return False
        return True

    async def _saved(self, family: Family, table: str | None) -> str:
        if self._snapshot is None:
            return await self.save(family, table)
        if family not in self._snapshot:
            self._snapshot[family] = await self.save(family, None)
        return self._snapshot[family]

    async def _version(self, family: Family) -> tuple[int, ...]:
        """Return iptables' version; ``()``, older than any, if its output has none."""
        if family not in self._versions:
            name = _NAMES[family]
            output = success(name, await self._programs.run(name, "--version"))
            found = re.search(r"\bv(\d+(?:\.\d+)+)", output)
            self._versions[family] = tuple(int(part) for part in found[1].split(".")) if found else ()
        return self._versions[family]
