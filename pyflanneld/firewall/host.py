"""The ``Firewall`` port on the programs of the host, iptables in its nft or its legacy form and nft itself.

What depends on the version, as in flannel: from 1.6.2 on iptables knows ``--random-fully``, and its restore ``--wait``
for the lock that all users of the legacy form share. An earlier restore takes no lock at all.
"""

import re

from pyflanneld.core.firewall.nft import family_word
from pyflanneld.core.firewall.rules import Family
from pyflanneld.errors import FirewallError
from pyflanneld.firewall.command_runner import Output, Programs
from pyflanneld.ports import Firewall

LOCK_WAIT_S = 5
MODERN = (1, 6, 2)
_NAMES = {Family.IPV4: "iptables", Family.IPV6: "ip6tables"}


class HostFirewall(Firewall):
    """The host's own programs, in the network namespace of the thread that calls."""

    def __init__(self, programs: Programs) -> None:
        self._programs = programs
        self._versions: dict[Family, tuple[int, ...]] = {}

    def need_iptables(self, family: Family) -> None:
        """Raise ``ProgramMissing`` unless iptables, its save and its restore are there."""
        for suffix in ("", "-save", "-restore"):
            self._programs.find(_NAMES[family] + suffix)

    def need_nft(self) -> None:
        """Raise ``ProgramMissing`` unless nft is there."""
        self._programs.find("nft")

    async def can_randomize(self, family: Family) -> bool:
        """Say whether this iptables knows ``--random-fully``."""
        return await self._version(family) >= MODERN

    async def save(self, family: Family, table: str | None) -> str:
        """Return what ``iptables-save`` prints, of *table* or of all tables that exist."""
        name = f"{_NAMES[family]}-save"
        return _success(name, await self._programs.run(name, *(("-t", table) if table else ())))

    async def restore(self, family: Family, text: str) -> None:
        """Have ``iptables-restore`` make the changes that *text* says."""
        name = f"{_NAMES[family]}-restore"
        wait = ("--wait", str(LOCK_WAIT_S)) if await self._version(family) >= MODERN else ()
        _success(name, await self._programs.run(name, "--noflush", *wait, stdin=text))

    async def list_table(self, family: Family, name: str) -> str | None:
        """Return what ``nft -j list table`` prints; ``None`` when ``nft list tables`` does not know it either."""
        word = family_word(family)
        listed = await self._programs.run("nft", "-j", "list", "table", word, name)
        if listed.code == 0:
            return listed.stdout
        tables = _success("nft", await self._programs.run("nft", "list", "tables", word))
        if f"table {word} {name}" in tables.splitlines():
            raise FirewallError(f"nft: {listed.words}")
        return None

    async def load(self, text: str) -> None:
        """Have ``nft -f`` make the changes that *text* says."""
        _success("nft", await self._programs.run("nft", "-f", "-", stdin=text))

    async def _version(self, family: Family) -> tuple[int, ...]:
        """Return iptables' version; ``()`` where it does not tell, which is older than any."""
        if family not in self._versions:
            name = _NAMES[family]
            said = _success(name, await self._programs.run(name, "--version"))
            found = re.search(r"\bv(\d+(?:\.\d+)+)", said)
            self._versions[family] = tuple(int(part) for part in found[1].split(".")) if found else ()
        return self._versions[family]


def _success(name: str, output: Output) -> str:
    if output.code != 0:
        raise FirewallError(f"{name} has failed with exit code {output.code}: {output.words}")
    return output.stdout
