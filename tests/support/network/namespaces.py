"""Throw-away network namespaces for the tests that need a real kernel.

Names carry the process id and a counter. They are deleted at the end of the block, at the exit of the interpreter,
and, after a test run that was killed, by the next run.
"""

import asyncio
import atexit
import contextlib
import ctypes
import functools
import itertools
import os
import subprocess
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path

PREFIX = "pft"
RUN = Path("/run/netns")
_CLONE_NEWNET = 0x40000000
_libc = ctypes.CDLL(None, use_errno=True)
_numbers = itertools.count(1)


@dataclass(frozen=True, slots=True)
class Namespace:
    """A network namespace that has a name for ``ip netns``; its loopback is up."""

    name: str

    def command(self, *argv: str) -> tuple[str, ...]:
        """Return *argv* so that it runs inside."""
        return ("ip", "netns", "exec", self.name, *argv)

    def run(self, *argv: str, check: bool = True, stdin: str | None = None) -> str:
        """Run a program inside and return what it wrote to stdout. Raises ``RuntimeError`` with its stderr."""
        return _run(*self.command(*argv), check=check, stdin=stdin)

    def ip(self, command: str, *, check: bool = True) -> str:
        """Run ``ip`` inside, *command* as one would type it; quicker than ``run``."""
        return _run("ip", "-n", self.name, *command.split(), check=check)

    def swallow(self, address: str) -> None:
        """Drop all packets from and to *address*, also those of connections that exist."""
        rules = f"""
            table inet hole {{
                chain out {{ type filter hook output priority 0; ip daddr {address} drop; }}
                chain in {{ type filter hook input priority 0; ip saddr {address} drop; }}
            }}"""
        self.run("nft", "-f", "-", stdin=rules)

    def ip_batch(self, commands: Iterator[str] | list[str]) -> None:
        """Run many ``ip`` commands inside, in one process."""
        _run("ip", "-n", self.name, "-batch", "-", stdin="\n".join(commands) + "\n")

    @contextlib.contextmanager
    def inside(self) -> Iterator[None]:
        """Move this thread, and what it starts, inside for the length of the block."""
        with Path("/proc/thread-self/ns/net").open() as before, (RUN / self.name).open() as there:
            _setns(there.fileno())
            try:
                yield
            finally:
                _setns(before.fileno())

    @contextlib.asynccontextmanager
    async def process(
        self, *argv: str, stdout: int = asyncio.subprocess.PIPE
    ) -> AsyncIterator[asyncio.subprocess.Process]:
        """Run a program inside for the length of the block; it is killed at its end if it still runs."""
        process = await asyncio.create_subprocess_exec(*self.command(*argv), stdout=stdout)
        try:
            yield process
        finally:
            if process.returncode is None:
                process.kill()
            await process.wait()

    def veth(self, name: str, *addresses: str, peer: str, peer_in: "Namespace | None" = None) -> None:
        """Add an Ethernet cable: *name* here with *addresses*, *peer* here or there; return when both are up."""
        there = peer_in or self
        self.ip(f"link add {name} type veth peer name {peer} netns {there.name}")
        for address in addresses:
            self.ip(f"address add {address} dev {name}")
        there.ip(f"link set {peer} up")
        self.ip(f"link set {name} up")
        until_up(self, name)
        until_up(there, peer)


def until_up(namespace: Namespace, link: str) -> None:
    """Wait until the kernel has finished bringing *link* up, so that it sends no more notifications about that."""
    for _ in range(500):
        if "state UP" in namespace.ip(f"-oneline link show dev {link}"):
            return
    raise TimeoutError(f"{link} in {namespace.name} does not come up")


@contextlib.contextmanager
def namespace() -> Iterator[Namespace]:
    """Make a namespace for the length of the block."""
    _tidy_once()
    made = Namespace(f"{PREFIX}-{os.getpid()}-{next(_numbers)}")
    _run("ip", "netns", "add", made.name)
    try:
        made.ip("link set lo up")
        yield made
    finally:
        _delete(made.name)


def _run(*argv: str, check: bool = True, stdin: str | None = None) -> str:
    done = subprocess.run(argv, input=stdin, capture_output=True, text=True, timeout=60, check=False)
    if check and done.returncode:
        raise RuntimeError(f"{' '.join(argv)}: exit code {done.returncode}: {done.stderr.strip()}")
    return done.stdout


def _setns(descriptor: int) -> None:
    if _libc.setns(descriptor, _CLONE_NEWNET) != 0:  # os.setns is there from Python 3.12 on
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def _delete(name: str) -> None:
    _run("ip", "netns", "delete", name, check=False)


@functools.cache
def _tidy_once() -> None:
    _sweep()
    atexit.register(_sweep)


def _sweep() -> None:
    """Delete what this process, or one that is gone, has left."""
    for path in RUN.glob(f"{PREFIX}-*-*"):
        owner = path.name.split("-")[1]
        if owner == str(os.getpid()) or not Path("/proc", owner).exists():
            _delete(path.name)
