"""Things to plant on a host of the lab, for the commands that have to find them."""

import contextlib
import subprocess
import sys
from collections.abc import Iterator

from pyflanneld.lab.node import LabHost


@contextlib.contextmanager
def process_named(node: LabHost, name: str, *, listen: int = 0) -> Iterator[int]:
    """Run a process that the kernel calls *name* on a host, with a TCP listener if asked for; give its id."""
    script = (
        "import socket, time\n"
        f"open('/proc/self/comm', 'w').write({name!r})\n"
        f"server = {listen} and socket.create_server(('', {listen}))\n"
        "print('up', flush=True)\n"
        "time.sleep(60)\n"
    )
    with subprocess.Popen(
        ["ip", "netns", "exec", node.namespace, sys.executable, "-c", script], stdout=subprocess.PIPE
    ) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == b"up\n"
            yield process.pid
        finally:
            process.kill()
