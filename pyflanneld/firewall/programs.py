"""The firewall programs that the daemon can use. A new one is a file beside this one and a line here."""

from pyflanneld.firewall.command_runner import Programs
from pyflanneld.firewall.iptables import Iptables
from pyflanneld.firewall.nft import Nft
from pyflanneld.ports import FirewallProgram


def firewall_programs(programs: Programs) -> dict[str, FirewallProgram]:
    """Return all of them by name, each on the executables that *programs* finds."""
    return {program.name: program for program in (Iptables(programs), Nft(programs))}
