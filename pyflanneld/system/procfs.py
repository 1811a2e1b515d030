"""Facts from ``/proc`` about this host, for commands that only read.

Processes are those of this network namespace, as the daemon belongs to one. Whatever cannot be read (no root, a process
that has just ended) is left out.
"""

import errno
import os
from collections.abc import Iterator
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path

from pyflanneld.core.families import host_port
from pyflanneld.core.host import ListeningSocket, Process

PROC = Path("/proc")
_NET = PROC / "self" / "net"  # /proc/net is not there under systemd's ProcSubset=pid
_LISTEN = "0A"  # TCP_LISTEN, include/net/tcp_states.h


def processes() -> tuple[Process, ...]:
    """Return the other processes of this network namespace, in the order of their ids."""
    here = _namespace("self")
    numbers = sorted(int(path.name) for path in PROC.iterdir() if path.name.isdigit())
    found = (_process(pid) for pid in numbers if pid != os.getpid() and here == _namespace(str(pid)) is not None)
    return tuple(process for process in found if process is not None)


def _namespace(pid: str) -> str | None:
    try:
        return str((PROC / pid / "ns" / "net").readlink())
    except OSError:
        return None


def _process(pid: int) -> Process | None:
    folder = PROC / str(pid)
    try:
        name, _, rest = (folder / "stat").read_text(errors="replace").partition("(")[2].rpartition(")")
        fields = rest.split()
        words = (folder / "cmdline").read_bytes().decode(errors="replace").split("\0")
    except OSError:
        return None
    supervised = "SUPERVISOR_ENABLED=" in _environment(folder)
    return Process(pid, int(fields[1]), name, tuple(words[:-1]), supervised, int(fields[2]) == pid)


def _environment(folder: Path) -> str:
    try:
        return (folder / "environ").read_bytes().decode(errors="replace")
    except OSError:
        return ""


def tcp_listener(ip: IPv4Address | IPv6Address, port: int) -> ListeningSocket | None:
    """Return the listener that prevents another one on *ip* and *port*; ``None`` if there is none."""
    for table in ("tcp", "tcp6"):
        for fields in _table(table):
            address, _, number = fields[1].partition(":")
            if fields[3] == _LISTEN and int(number, 16) == port and _conflict(ip, _address(address)):
                return ListeningSocket(host_port(_address(address), port), owner_of(int(fields[9])))
    return None


def udp_holder(port: int) -> Process | None:
    """Return the program that has a UDP port; what the kernel itself has there, no program holds."""
    for table in ("udp", "udp6"):
        for fields in _table(table):
            if int(fields[1].partition(":")[2], 16) == port and (holder := owner_of(int(fields[9]))) is not None:
                return holder
    return None


def abstract_names() -> set[str]:
    """Return the abstract names, each without its NUL, that UNIX sockets of this network namespace have."""
    return {fields[-1][1:] for fields in _table("unix") if fields and fields[-1].startswith("@")}


def has_ended(pid: int) -> bool:
    """Return whether there is no such process any more: the kernel says so where /proc hides other users' too."""
    try:
        os.kill(pid, 0)
    except OSError as error:
        return error.errno == errno.ESRCH
    return False


def process(pid: int) -> Process | None:
    """Return that process of this host, if it is of this network namespace."""
    return _process(pid) if _namespace(str(pid)) == _namespace("self") is not None else None


def owner_of(socket_number: int) -> Process | None:
    """Return the process that has a socket open, by the socket's inode number."""
    wanted = f"socket:[{socket_number}]"
    for process in processes():
        if any(wanted == target for target in _open_files(process.pid)):
            return process
    return None


def _open_files(pid: int) -> Iterator[str]:
    try:
        for path in (PROC / str(pid) / "fd").iterdir():
            yield str(path.readlink())
    except OSError:
        return


def _table(name: str) -> list[list[str]]:
    """Return the rows of a table of sockets (Documentation/networking/proc_net_tcp.rst), without the header."""
    try:
        return [line.split() for line in (_NET / name).read_text(errors="replace").splitlines()[1:]]
    except OSError:
        return []


def _address(text: str) -> IPv4Address | IPv6Address:
    """Parse an address: words of 32 bits, each in the byte order of this machine."""
    words = [int(text[at : at + 8], 16).to_bytes(4, "little") for at in range(0, len(text), 8)]
    return IPv4Address(words[0]) if len(words) == 1 else IPv6Address(b"".join(words))


def _conflict(wanted: IPv4Address | IPv6Address, there: IPv4Address | IPv6Address) -> bool:
    """Return whether two listeners exclude each other: the addresses are equal, or one is the wildcard."""
    if isinstance(there, IPv6Address) and there.ipv4_mapped is not None:
        there = there.ipv4_mapped
    return wanted == there or there.is_unspecified or (wanted.is_unspecified and wanted.version >= there.version)


def sysctl(name: str) -> str | None:
    """Return a kernel setting such as ``"net/ipv4/ip_forward"``; ``None`` if it does not exist."""
    try:
        return (PROC / "sys" / name).read_text(errors="replace").strip()
    except OSError:
        return None
