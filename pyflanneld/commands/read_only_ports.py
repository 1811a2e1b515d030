"""Ports for commands that change nothing: the methods that write are missing. Shell side."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import structlog

from pyflanneld.commands.daemon_client import daemon_here
from pyflanneld.config.settings import Settings
from pyflanneld.core.host import ServedNetwork
from pyflanneld.daemon import wiring
from pyflanneld.logs.setup import configure_logging
from pyflanneld.ports import FirewallProgram, HostNetworks
from pyflanneld.state.context import Context, Ports


class ReadOnlyPort:
    """A port with some of its methods: a call of another one is an error and not a changed host."""

    def __init__(self, port: object, *names: str) -> None:
        self._port = port
        self._names = names

    def __getattr__(self, name: str) -> Any:
        if name not in self._names:
            raise AttributeError(f"{name} is not allowed in a command that changes nothing")
        return getattr(self._port, name)


class ReadOnlyDiscovery(ReadOnlyPort):
    """The ``Discovery`` port, whose registry cannot write."""

    def __init__(self, port: Any) -> None:
        super().__init__(port, "settled", "read_config", "close")
        self._discovery = port

    @property
    def registry(self) -> ReadOnlyPort:
        """The registry in use."""
        reads = ("api", "endpoint", "set_aside", "addresses", "read_config", "list_subnets", "times_to_live")
        return ReadOnlyPort(self._discovery.registry, *reads)


class OtherDaemons(ReadOnlyPort):
    """The ``HostNetworks`` port as the daemon with these settings has it: that daemon itself is none of the others."""

    def __init__(self, port: HostNetworks, settings: Settings) -> None:
        super().__init__(port)
        self._real, running = port, daemon_here(settings)
        self._own_pid = running.process.pid if running is not None and running.process is not None else 0

    def others(self) -> tuple[ServedNetwork, ...]:
        """Return what other daemons serve."""
        return tuple(one for one in self._real.others() if one.pid == 0 or one.pid != self._own_pid)


def read_only_context(settings: Settings) -> Context:
    """Return a context like the daemon's whose ports cannot write and whose log goes nowhere.

    The caller closes its discovery and its kernel.
    """
    context = wiring.build_context(settings, silent_log(settings))
    real = context.ports
    ports: Any = Ports(
        discovery=ReadOnlyDiscovery(real.discovery),
        kernel=ReadOnlyPort(real.kernel, "links", "loopback", "routes", "objects", "route_to", "close"),
        firewall={name: _reading(program) for name, program in real.firewall.items()},
        subnet_file=ReadOnlyPort(real.subnet_file, "read"),
        clock=real.clock,
        notifier=ReadOnlyPort(None),
        saved_state=None if real.saved_state is None else ReadOnlyPort(real.saved_state, "path", "read"),
        host_networks=OtherDaemons(real.host_networks, settings),
    )
    return replace(context, ports=ports)


def _reading(program: FirewallProgram) -> ReadOnlyPort:
    return ReadOnlyPort(program.for_reading(), "one_transaction", "require", "needed", "removals", "drops_forward")


def silent_log(settings: Settings) -> Any:
    """Return a log that goes nowhere: the command itself reports what matters."""
    configure_logging(settings.log_format, 0)
    return structlog.wrap_logger(None, processors=[_drop])


def _drop(_logger: object, _method: str, _event: Mapping[str, object]) -> Any:
    raise structlog.DropEvent
