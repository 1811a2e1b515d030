"""The error tree: one class for each way in which a caller reacts differently.

    PyflanneldError
    ├── UsageError              2   wrong flag or setting: say it, exit
    ├── UnsupportedConfig       2   the network configuration asks for what this program does not do
    ├── LinkUnusable            1   no usable interface at start
    ├── PublicIpNotOnLink       2   host-gw needs the published address on the interface
    ├── AlreadyRunning         73   another pyflanneld serves this network or this subnet file
    ├── PortTaken              73   the health port that was asked for is in use
    ├── NoDaemon                3   of the commands: there is no running daemon to ask
    ├── RequestRefused          1   of the commands: a check, or the daemon, says no; nothing was changed
    ├── LeaseLost              75   our subnet belongs to another node now
    ├── RegistryError           1
    │   ├── RegistryUnavailable     wait and try again; the outcome of a write may be unknown
    │   │   ├── NameUnresolved          the member's name has no address
    │   │   ├── ConnectFailed           its address accepts no connection
    │   │   │   └── ConnectionCut           an open one, or a call on it, was closed from outside: open another one
    │   │   ├── TlsFailed               no TLS: its certificate, or a peer that speaks another protocol
    │   │   │   └── ClientRefused           it refuses our client certificate, or the lack of one
    │   │   ├── NotEtcd                 the connection works, and what answers is not etcd's API
    │   │   ├── NoAnswer                nothing came in time
    │   │   ├── HistoryChanged          what is known cannot be continued: list again soon
    │   │   └── ApiMissing              the server has no v2 API: nothing is stored there
    │   ├── RegistryDenied          credentials or rights refused: keep everything, alert, try again slowly
    │   └── RevisionCompacted       the watch position is gone: list again
    ├── KernelError             1   netlink refused or went silent
    ├── ProbeError                  no socket to probe the peers with
    └── FirewallError               iptables or nft has failed: the rules are as they were; try again
        └── ProgramMissing      1   it is not installed; ends the daemon only where its rules were asked for

Foreign exceptions (h2, OSError, aiohttp) are translated once, at the edge, with ``from``. The number is the
process's exit code when the error ends the daemon.
"""

from pyflanneld.core.printable import printable


class PyflanneldError(Exception):
    """Anything that this program raises on purpose."""

    exit_code = 1


class UsageError(PyflanneldError):
    """A flag, variable or setting is wrong; the message names it and what would be right."""

    exit_code = 2


class UnsupportedConfig(PyflanneldError):
    """The network configuration is well formed but asks for something this program does not do."""

    exit_code = 2


class LinkUnusable(PyflanneldError):
    """No interface fits what the operator asked for; the message lists those that exist."""


class PublicIpNotOnLink(PyflanneldError):
    """The address to publish is not on the chosen interface, which host-gw needs."""

    exit_code = 2


class AlreadyRunning(PyflanneldError):
    """Another pyflanneld in this network namespace serves the same network or subnet file."""

    exit_code = 73


class PortTaken(PyflanneldError):
    """The health listener cannot bind its address."""

    exit_code = 73


class NoDaemon(PyflanneldError):
    """No running daemon can be asked, or it does not answer; the message says what to do."""

    exit_code = 3


class RequestRefused(PyflanneldError):
    """A command's request must not or cannot be carried out: by its own check, or by the daemon's answer."""


class LeaseLost(PyflanneldError):
    """This host's subnet is held by another node. It is never overwritten."""

    exit_code = 75


class RegistryError(PyflanneldError):
    """Something between us and etcd; what etcd says is made printable."""

    def __init__(self, text: str = "") -> None:
        super().__init__(printable(text))


class RegistryUnavailable(RegistryError):
    """No answer, or not in time. A write may or may not have happened: read before writing again."""


class NameUnresolved(RegistryUnavailable):
    """The name of a member cannot be resolved, or not in time."""


class ConnectFailed(RegistryUnavailable):
    """The addresses of a member accept no connection, or an open one is lost; ``__cause__`` is the ``OSError``."""


class ConnectionCut(ConnectFailed):
    """An open connection, or a call on it, was closed or reset by the server or by something between, which is no sign
    that the server does not work: balancers do it to what is idle."""


class TlsFailed(RegistryUnavailable):
    """TLS with a member fails.

    Attributes:
        verify_code: why its certificate is not trusted, ``X509_V_ERR_*`` of OpenSSL's ``x509_vfy.h``; 0 when something
            else has failed.
    """

    def __init__(self, text: str, verify_code: int = 0) -> None:
        super().__init__(text)
        self.verify_code = verify_code


class ClientRefused(TlsFailed):
    """A member refuses our client certificate, or the lack of one."""


class NotEtcd(RegistryUnavailable):
    """What answers speaks another protocol, for example HTTP/1 where the v3 API needs HTTP/2."""


class NoAnswer(RegistryUnavailable):
    """A member has not answered by the deadline."""


class HistoryChanged(RegistryUnavailable):
    """Another cluster has answered, or one whose revisions lie before those that were seen."""


class ApiMissing(RegistryUnavailable):
    """The server answers and has no v2 API, or has it switched off."""


class RegistryDenied(RegistryError):
    """etcd (or TLS) refused our credentials or rights."""


class RevisionCompacted(RegistryError):
    """The revision to watch from has been compacted away."""


class KernelError(PyflanneldError):
    """A netlink socket failed, went silent, or refused a whole request."""


class ProbeError(PyflanneldError):
    """The kernel allows no socket with which peers could be probed."""


class FirewallError(PyflanneldError):
    """A firewall program failed or took too long; the message has its own words."""


class ProgramMissing(FirewallError):
    """A firewall program is not installed; the message names it."""
