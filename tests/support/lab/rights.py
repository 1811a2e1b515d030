"""The daemon as another user than root, on a node of a laboratory; and what the kernel says of a process's rights.

The daemon gets a ``/run`` of its own, in memory, where it makes ``/run/flannel``. What it needs of this test run's
Python is put within reach: the directories above may be closed, as /root is.
"""

import re
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path

from pyflanneld.lab.node import LabHost
from tests.support.lab.testbed import launch, pid_of

USER, UID = "nobody", 65534
NET_ADMIN = f"{1 << 12:016x}"
_PROGRAM = (Path(sys.base_prefix), Path(sys.prefix), Path(__file__).parents[3])


def launch_as_user(
    node: LabHost,
    *more: str,
    prepare: str = "",
    user: str | None = USER,
    env: Mapping[str, str] | None = None,
    **changes: str | int | None,
) -> None:
    """Start a node's daemon as ``bed.launch`` does, with ``--user`` and the subnet file of an installation."""
    named = {"user": user, "subnet_file": "/run/flannel/subnet.env"} | changes
    # the folder's name in the command line is how the laboratory knows its process again
    launch(
        node, *more, prepare=f": {node.process.folder}; {within_reach(_PROGRAM)}; {prepare or ':'}", env=env, **named
    )


def within_reach(paths: Iterable[Path]) -> str:
    """Return shell commands that let everybody get to *paths*, in this mount namespace; ``/run`` is empty then."""
    steps = ["mount --make-rprivate /", "mount -t tmpfs -o mode=755 run /run"]
    closed: dict[Path, list[Path]] = {}
    for path in paths:
        gates = [above for above in reversed(path.parents) if not above.stat().st_mode & 0o001]
        if gates:
            closed.setdefault(gates[0], []).append(path)
    kept = {
        path: f"/run/kept/{number}" for number, path in enumerate(path for group in closed.values() for path in group)
    }
    steps += [f"mkdir -p {place}; mount --rbind {path} {place}" for path, place in kept.items()]
    steps += [f"mount -t tmpfs -o mode=755 open {gate}" for gate in closed]
    steps += [f"mkdir -p {path}; mount --rbind {place} {path}" for path, place in kept.items()]
    return "; ".join(f"{{ {step}; }}" for step in steps)


def inside(node: LabHost, path: str) -> Path:
    """Return a file as the node's daemon sees it."""
    return Path(f"/proc/{pid_of(node)}/root{path}")


def status(pid: int) -> dict[str, str]:
    """Return what ``/proc/PID/status`` says."""
    return fields(Path(f"/proc/{pid}/status").read_text())


def fields(text: str) -> dict[str, str]:
    return dict(re.findall(r"^(\w+):[ \t]*(.*?)[ \t]*$", text, re.MULTILINE))


def threads(pid: int) -> list[dict[str, str]]:
    """Return the same of each of its threads: capabilities belong to these."""
    return [fields((task / "status").read_text()) for task in Path(f"/proc/{pid}/task").iterdir()]
