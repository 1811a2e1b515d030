"""The ``Firewall`` port on the host's programs: iptables in its nft or legacy form, and nft.

As in flannel, two things depend on iptables' version: from 1.6.2 on it has ``--random-fully``, and its restore has
``--wait`` for the lock that all users of the legacy form share. An earlier restore takes no lock.
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
    """Implements ``ports.Firewall`` in the network namespace of the calling thread."""

    def __init__(self, programs: Programs) -> None:
        self._programs = programs
        self._versions: dict[Family, tuple[int, ...]] = {}

    def need_iptables(self, family: Family) -> None:
        """Raise ``ProgramMissing`` unless iptables, iptables-save and iptables-restore are found."""
        for suffix in ("", "-save", "-restore"):
            self._programs.find(_NAMES[family] + suffix)

    def need_nft(self) -> None:
        """Raise ``ProgramMissing`` unless nft is found."""
        self._programs.find("nft")

    async def can_randomize(self, family: Family) -> bool:
        """Return whether this iptables has ``--random-fully``."""
        return await self._version(family) >= MODERN

    async def save(self, family: Family, table: str | None) -> str:
        """Return the output of ``iptables-save``, for *table* or for all tables that exist."""
        name = f"{_NAMES[family]}-save"
        return _success(name, await self._programs.run(name, *(("-t", table) if table else ())))

    async def restore(self, family: Family, text: str) -> None:
        """Apply *text* with ``iptables-restore --noflush``, in one transaction per table."""
        name = f"{_NAMES[family]}-restore"
        wait = ("--wait", str(LOCK_WAIT_S)) if await self._version(family) >= MODERN else ()
        _success(name, await self._programs.run(name, "--noflush", *wait, stdin=text))

    async def list_table(self, family: Family, name: str) -> str | None:
        """Return the output of ``nft -j list table``; ``None`` if ``nft list tables`` does not list it either."""
        word = family_word(family)
        listed = await self._programs.run("nft", "-j", "list", "table", word, name)
        if listed.code == 0:
            return listed.stdout
        tables = _success("nft", await self._programs.run("nft", "list", "tables", word))
        if f"table {word} {name}" in tables.splitlines():
            raise FirewallError(f"nft: {listed.message}")
        return None

    async def load(self, text: str) -> None:
        """Apply *text* with ``nft -f``, in one transaction."""
        _success("nft", await self._programs.run("nft", "-f", "-", stdin=text))

    async def _version(self, family: Family) -> tuple[int, ...]:
        """Return iptables' version; ``()``, older than any, if its output has none."""
        if family not in self._versions:
            name = _NAMES[family]
            output = _success(name, await self._programs.run(name, "--version"))
            found = re.search(r"\bv(\d+(?:\.\d+)+)", output)
            self._versions[family] = tuple(int(part) for part in found[1].split(".")) if found else ()
        return self._versions[family]


def _success(name: str, output: Output) -> str:
    if output.code != 0:
        raise FirewallError(f"{name} failed with exit code {output.code}: {output.message}")
    return output.stdout
