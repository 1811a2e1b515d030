"""The networks that the daemons of this network namespace serve, as each of them tells the others.

A daemon listens on an abstract name for each network that it serves, with the network in it and a random end; the
kernel frees it with the process. The names are those of the lock in all else (``lock``): anybody can bind one, so only
a listener that may be a daemon counts, and each daemon binds first and looks for others afterwards.
"""

import asyncio
import re
import socket
import time
from collections.abc import Iterable, Sequence
from contextlib import suppress
from ipaddress import ip_network

from pyflanneld.core.families import Network
from pyflanneld.core.host import ServedNetwork, overlap_text
from pyflanneld.system import lock, procfs
from pyflanneld.system.listening import bind_abstract
from pyflanneld.system.unix_peers import listener

_NAME = re.compile(r"pyflanneld/serves/([0-9a-f.:]+)-([0-9]{1,3})/[0-9a-f]{16}")
_ASK_S = 0.2


def served_networks(*, but: Iterable[str] = (), wait_s: float = 0.0) -> tuple[ServedNetwork, ...]:
    """Return what the daemons of this network namespace serve, other than by the names *but*; changes nothing.

    One with whom too many wait already is left out, unless it has room within *wait_s*; that blocks.
    """
    found, give_up_at = [], time.monotonic() + wait_s
    for name in sorted(procfs.abstract_names().difference(but)):
        match = _NAME.fullmatch(name)
        peer = listener(name, give_up_at) if match else None
        if match and peer is not None and peer.trusted:
            with suppress(ValueError):
                found.append(ServedNetwork(ip_network(f"{match[1]}/{match[2]}"), peer.pid))
    return tuple(found)


class HostNetworks:
    """Implements ``ports.HostNetworks`` for the process; needs a running loop."""

    def __init__(self) -> None:
        self._bound: dict[str, socket.socket] = {}

    def claim(self, networks: Sequence[Network]) -> str:
        """Claim *networks*; as the port says."""
        new: dict[str, socket.socket] = {}
        try:
            for network in networks:
                name = lock.own_name(f"pyflanneld/serves/{network.network_address}-{network.prefixlen}")
                new[name] = bind_abstract(f"\0{name}")
                lock.answer(new[name])
        except OSError as error:  # no descriptor left
            refused = f"the network {network} cannot be claimed on this host: {error.strerror}"
        else:
            refused = overlap_text(networks, served_networks(but=(*self._bound, *new), wait_s=_ASK_S))
        _close(new if refused else self._bound)
        if not refused:
            self._bound = new
        return refused

    def others(self) -> tuple[ServedNetwork, ...]:
        """Return what others serve."""
        return served_networks(but=self._bound)


def _close(bound: dict[str, socket.socket]) -> None:
    for sock in bound.values():
        asyncio.get_running_loop().remove_reader(sock)
        sock.close()
