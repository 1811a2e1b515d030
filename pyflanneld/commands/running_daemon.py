"""Whether a daemon of ours runs here for the same network or the same subnet file. Shell side; nobody notices."""

from dataclasses import dataclass

from pyflanneld.config.settings import Settings
from pyflanneld.core.host import Process
from pyflanneld.system import lock, procfs


@dataclass(frozen=True, slots=True)
class Running:
    """A daemon: what it serves, and its process where that can be found out."""

    what: str
    process: Process | None

    def __str__(self) -> str:
        return f"a pyflanneld{f' (pid {self.process.pid})' if self.process else ''} serves {self.what}"


def daemon_here(settings: Settings) -> Running | None:
    """Return the daemon that holds the lock which one with these settings would take."""
    network = lock.network_key(settings.etcd_prefix, settings.etcd_endpoints)
    for name, what in lock.lock_names(network, settings.subnet_file).items():
        number = procfs.unix_listener(name)
        if number is not None:
            return Running(what, procfs.owner_of(number))
    return None
