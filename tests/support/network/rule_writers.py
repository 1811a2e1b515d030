"""Daemons that keep the firewall rules of one network, on our ports: ours, and Go flanneld v0.28.9 as observed.

The Go daemon with iptables empties its chains at its start and fills them; every 5 s it looks whether each of its rules
is there, wherever it stands, and if one is missing deletes and appends them all. With nft it empties and fills its
chains once.
"""

from collections.abc import Mapping
from ipaddress import IPv4Network
from types import SimpleNamespace
from typing import Any

from pyflanneld.core.firewall.rules import SECTIONS, Family
from pyflanneld.firewall.iptables import Iptables
from pyflanneld.firewall.nft import Nft
from pyflanneld.ports import FirewallProgram
from pyflanneld.tasks.firewall.jobs import Job, Place

MASQ = '-m comment --comment "flanneld masq"'
FWD = '-m comment --comment "flanneld forward"'


class OurDaemon:
    """The rule jobs of a pyflanneld for one network, with masquerading.

    Attributes:
        writes: how many checks have found something wrong.
    """

    def __init__(self, firewall: Mapping[str, FirewallProgram], program: str, network: Any, subnet: Any) -> None:
        settings = SimpleNamespace(ip_masq_fully_random_disable=False)
        context: Any = SimpleNamespace(ports=SimpleNamespace(firewall=firewall), settings=settings)
        self._program, self._place = firewall[program], Place(network, subnet)
        groups = [SECTIONS] if self._program.one_transaction else [(section,) for section in SECTIONS]
        self._jobs = [Job(context, program, self._place, group) for group in groups]
        self.writes = 0

    async def check(self) -> bool:
        """Check and repair once; return whether anything was written."""
        wrote = [await job.keep(take_over=False) for job in self._jobs]
        self.writes += any(wrote)
        return any(wrote)

    async def leave(self) -> None:
        """Remove the rules, as ``pyflanneld cleanup`` does."""
        for removal in await self._program.removals(self._place.family, self._place.networks, SECTIONS):
            await self._program.apply(removal.family, removal.text)


class GoIptables:
    """The rules of one network in iptables."""

    def __init__(self, iptables: Iptables, network: IPv4Network, subnet: IPv4Network) -> None:
        self._iptables = iptables
        self._rules = {
            ("nat", "FLANNEL-POSTRTG"): [
                f"POSTROUTING {MASQ} -j FLANNEL-POSTRTG",
                f"FLANNEL-POSTRTG -m mark --mark 0x4000/0x4000 {MASQ} -j RETURN",
                f"FLANNEL-POSTRTG -s {subnet} -d {network} {MASQ} -j RETURN",
                f"FLANNEL-POSTRTG -s {network} -d {subnet} {MASQ} -j RETURN",
                f"FLANNEL-POSTRTG ! -s {network} -d {subnet} {MASQ} -j RETURN",
                f"FLANNEL-POSTRTG -s {network} ! -d 224.0.0.0/4 {MASQ} -j MASQUERADE --random-fully",
                f"FLANNEL-POSTRTG ! -s {network} -d {network} {MASQ} -j MASQUERADE --random-fully",
            ],
            ("filter", "FLANNEL-FWD"): [
                f"FORWARD {FWD} -j FLANNEL-FWD",
                f"FLANNEL-FWD -s {network} {FWD} -j ACCEPT",
                f"FLANNEL-FWD -d {network} {FWD} -j ACCEPT",
            ],
        }

    async def start(self) -> None:
        """Empty the chains, whoever has rules there, and fill them."""
        for table, chain in self._rules:
            await self._iptables.restore(Family.IPV4, f"*{table}\n:{chain} - [0:0]\nCOMMIT\n")
        await self.resync()

    async def resync(self) -> bool:
        """Look whether all rules are there, and write them if not; return whether it wrote."""
        wrote = False
        for (table, _), rules in self._rules.items():
            saved = (await self._iptables.save(Family.IPV4, table)).splitlines()
            there = [rule for rule in rules if f"-A {rule}" in saved]
            if there != rules:
                lines = [line for rule in rules for line in (["-D " + rule] if rule in there else []) + ["-A " + rule]]
                await self._iptables.restore(Family.IPV4, "\n".join([f"*{table}", *lines, "COMMIT", ""]))
                wrote = True
        return wrote


async def start_go_nft(nft: Nft, network: IPv4Network, subnet: IPv4Network) -> None:
    """Empty and fill the chains of nft, in one transaction."""
    await nft.load(f"""\
table ip flannel-ipv4 {{
  comment "rules for flannel-ipv4"
  chain forward {{
    comment "chain to accept flannel traffic"
    type filter hook forward priority filter; policy accept;
  }}
  chain postrtg {{
    comment "chain to manage traffic masquerading by flannel"
    type nat hook postrouting priority srcnat; policy accept;
  }}
}}
flush chain ip flannel-ipv4 forward
flush chain ip flannel-ipv4 postrtg
add rule ip flannel-ipv4 forward ip saddr {network} accept
add rule ip flannel-ipv4 forward ip daddr {network} accept
add rule ip flannel-ipv4 postrtg meta mark 0x4000 return
add rule ip flannel-ipv4 postrtg ip saddr {subnet} ip daddr {network} return
add rule ip flannel-ipv4 postrtg ip saddr {network} ip daddr {subnet} return
add rule ip flannel-ipv4 postrtg ip saddr != {subnet} ip daddr {network} return
add rule ip flannel-ipv4 postrtg ip saddr {network} ip daddr != 224.0.0.0/4 masquerade fully-random
add rule ip flannel-ipv4 postrtg ip saddr != {network} ip daddr {network} masquerade fully-random
""")
