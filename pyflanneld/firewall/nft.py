"""nft as a ``FirewallProgram``: all rules of a family are in one table of flannel's."""

from collections.abc import Collection, Sequence

from pyflanneld.core.families import Network
from pyflanneld.core.firewall import nft
from pyflanneld.core.firewall.rules import Family, Removal, Section, WantedRules
from pyflanneld.errors import FirewallError, ProgramMissing
from pyflanneld.firewall.command_runner import Programs, success
from pyflanneld.ports import FirewallProgram


class Nft(FirewallProgram):
    """The program nft in the network namespace of the calling thread."""

    name = "nft"
    one_transaction = True

    def __init__(self, programs: Programs) -> None:
        self._programs = programs

    def for_reading(self) -> FirewallProgram:
        """Return itself: reading creates nothing."""
        return self

    def require(self, family: Family) -> None:  # noqa: ARG002 - one program for both
        """Raise ``ProgramMissing`` unless nft is found."""
        self._programs.find("nft")

    async def needed(
        self, family: Family, wanted: WantedRules, networks: Sequence[Network], *,
        take_over: bool,  # noqa: ARG002 - of v0.11.0, which used no nft
    ) -> str:
        """Return the transaction for the table."""
        self.require(family)
        return nft.repair(family, await self._table(family), wanted, networks)

    def only_adds(self, text: str) -> bool:
        """Return whether no rule is deleted in *text*."""
        return not any(line.startswith("delete rule ") for line in text.splitlines())

    async def removals(
        self,
        family: Family,
        networks: Sequence[Network],
        sections: Collection[Section],
        taken_over: Collection[Section] = (),  # noqa: ARG002 - of v0.11.0, which used no nft
    ) -> list[Removal]:
        """Return one removal for all sections."""
        try:
            self.require(family)
        except ProgramMissing:
            return []
        found = await self._table(family) if sections else None
        text = nft.removal(family, found, sections, networks)
        return [Removal(self.name, family, text, {"table": nft.table_name(family)})] if text else []

    async def drops_forward(self, family: Family) -> str:  # noqa: ARG002 - nothing to look at
        """Return ``""``: the policies of flannel's table accept."""
        return ""

    async def apply(self, family: Family, text: str) -> None:  # noqa: ARG002 - *text* names it
        """Apply *text* with ``nft -f``."""
        await self.load(text)

    async def list_table(self, family: Family, name: str) -> str | None:
        """Return the output of ``nft -j list table``; ``None`` if ``nft list tables`` does not list it either."""
        word = nft.family_word(family)
        listed = await self._programs.run("nft", "-j", "list", "table", word, name)
        if listed.code == 0:
            return listed.stdout
        tables = success("nft", await self._programs.run("nft", "list", "tables", word))
        if f"table {word} {name}" in tables.splitlines():
            raise FirewallError(f"nft: {listed.message}")
        return None

    async def load(self, text: str) -> None:
        """Apply *text* with ``nft -f``, in one transaction."""
        success("nft", await self._programs.run("nft", "-f", "-", stdin=text))

    async def _table(self, family: Family) -> nft.Table | None:
        """Return flannel's table, ``None`` when there is none. Raises ``FirewallError``."""
        listing = await self.list_table(family, nft.table_name(family))
        try:
            return None if listing is None else nft.read(listing)
        except ValueError as error:
            raise FirewallError(f"nft's listing cannot be read: {error}") from error
