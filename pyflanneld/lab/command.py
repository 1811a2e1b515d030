"""Tool: the command line of the laboratory, ``pyflanneld lab …``."""

import argparse
import io
import os
import shutil
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import NoReturn

from pyflanneld.errors import PyflanneldError, UsageError
from pyflanneld.lab import demo
from pyflanneld.lab.cluster import ROOT, Lab
from pyflanneld.lab.node import LabHost
from pyflanneld.lab.run import LabError, require_machine
from pyflanneld.lab.terminal import Terminal


def main(argv: list[str]) -> int:
    """Run ``pyflanneld lab`` with these arguments (without the word ``lab``) and return the exit code."""
    options = parser().parse_args(argv)
    stop_on_signals()
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # a terminal that has no ✓ shows a question mark
    try:
        command: Callable[[argparse.Namespace], int] = options.command
        return command(options)
    except PyflanneldError as error:
        print(f"pyflanneld lab: {error}", file=sys.stderr)
        return error.exit_code
    except BrokenPipeError:  # the reader of our output is gone; the laboratory is removed again
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except OSError as error:
        print(f"pyflanneld lab: {error}", file=sys.stderr)
        return 1


def parser() -> argparse.ArgumentParser:
    """Return the parser of the sub-commands."""
    top = argparse.ArgumentParser(
        prog="pyflanneld lab", description="A cluster on this machine: etcd, hosts and pods in network namespaces."
    )
    commands = top.add_subparsers(required=True, metavar="up|status|exec|down|demo")
    shape = add(commands, up, "start a laboratory and leave it running", nodes=True)
    shape.add_argument(
        "--networks", type=int, default=1, metavar="N", help="how many networks each host has (default: %(default)s)"
    )
    shape.add_argument("--backend", choices=("host-gw", "vxlan"), default="host-gw", help="(default: %(default)s)")
    shape.add_argument("--direct-routing", action="store_true", help="vxlan: hosts on one LAN do without it")
    shape.add_argument(
        "--segments", type=int, default=1, metavar="N", help="vxlan: how many LANs, with a router between (1 or 2)"
    )
    add(commands, status, "show hosts, leases and routes; exit 1 unless all are ready")
    enter = add(commands, execute, "run a program in it and pass its exit code on", name="exec")
    enter.add_argument("node", metavar="NODE", help="n1, n2 …, pod1, pod2 …, etcd or lan")
    enter.add_argument("words", metavar="CMD", nargs=argparse.REMAINDER, help="the program, after --")
    add(commands, down, "remove everything, also what a crash left behind")
    add(commands, demonstrate, "show what the daemon promises; exit 0 if every claim holds", name="demo", nodes=True)
    return top


def add(
    commands: "argparse._SubParsersAction[argparse.ArgumentParser]",
    command: Callable[[argparse.Namespace], int],
    help_text: str,
    *,
    name: str = "",
    nodes: bool = False,
) -> argparse.ArgumentParser:
    """Add a sub-command with the options that all share."""
    name = name or command.__name__
    sub = commands.add_parser(name, help=help_text, description=f"{help_text[0].upper()}{help_text[1:]}.")
    default = "demo" if name == "demo" else "lab"
    sub.add_argument("--name", default=default, help="which laboratory, if there are several (default: %(default)s)")
    sub.add_argument("--root", type=Path, default=ROOT, help="folder for its state (default: %(default)s)")
    if nodes:
        sub.add_argument("--nodes", type=int, default=3, metavar="N", help="how many hosts (default: %(default)s)")
    sub.set_defaults(command=command)
    return sub


def stop_on_signals() -> None:
    """Turn the first stop signal into an exit that cleans up; ignore further ones."""
    wanted = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)

    def leave(number: int, _frame: FrameType | None) -> NoReturn:
        for each in wanted:
            signal.signal(each, signal.SIG_IGN)
        print(f"\npyflanneld lab: stopped by {signal.Signals(number).name}, cleaning up", file=sys.stderr)
        raise SystemExit(128 + number)

    for each in wanted:
        signal.signal(each, leave)


def up(options: argparse.Namespace) -> int:
    """Start a laboratory and leave it running."""
    shape = {name: getattr(options, name) for name in ("networks", "backend", "direct_routing", "segments")}
    with Lab(options.name, options.nodes, options.root, **shape) as lab:
        lab.up()
        lab.leave_running()
        show(lab)
    return 0


def down(options: argparse.Namespace) -> int:
    """Remove a laboratory."""
    with Lab(options.name, root=options.root) as lab:
        lab.down()
    print(f"laboratory {options.name} is removed")
    return 0


def demonstrate(options: argparse.Namespace) -> int:
    """Run the demonstration."""
    if not 2 <= options.nodes <= demo.MAX_NODES:
        raise UsageError(f"--nodes {options.nodes}: the demo needs 2 to {demo.MAX_NODES} hosts")
    with Lab(options.name, options.nodes, options.root) as lab:
        try:
            demo.run_demo(lab, Terminal())
        except PyflanneldError:
            for node in lab.nodes:
                print(f"last log line of {node.name}: {node.process.last_log_line()}", file=sys.stderr)
            raise
    return 0


def status(options: argparse.Namespace) -> int:
    """Show a running laboratory."""
    require_machine()
    return 0 if show(Lab.load(options.name, options.root)) else 1


def show(lab: Lab) -> bool:
    """Print a table of the hosts; return whether etcd answers and all hosts are ready."""
    say = Terminal()
    etcd_up = lab.etcd.answers()
    heading = ("host", "daemon", "ready", "address", "subnet", "MTU", "peer routes", "pod")
    rows = [describe_lab(daemon) for daemon in lab.daemons]
    several = f" with {len(lab.networks)} networks each" if len(lab.networks) > 1 else ""
    hosts, etcd = f"{len(lab.nodes)} hosts{several}", f"etcd {'up' if etcd_up else 'down'}"
    say.title(f"laboratory {lab.name}: {hosts}, {etcd}, state in {lab.folder}")
    say.table([heading, *rows])
    return etcd_up and all(daemon.ready() for daemon in lab.daemons)


def describe_lab(node: LabHost) -> tuple[object, ...]:
    """Return one row of the table."""
    env, pid = node.env(), node.process.pid()
    return (
        node.name,
        f"pid {pid}" if pid else "down",
        "yes" if node.ready() else "no",
        node.address.ip,
        env.get("FLANNEL_SUBNET", "none"),
        env.get("FLANNEL_MTU", ""),
        len(node.own_routes()),
        f"{node.pod_name} {node.pod_address}" if env else "none",
    )


def execute(options: argparse.Namespace) -> int:
    """Replace this process by a program in one of the namespaces."""
    require_machine()
    words = options.words[1:] if options.words[:1] == ["--"] else options.words
    roles = Lab.load(options.name, options.root).roles()
    if options.node not in roles:
        raise UsageError(f"no {options.node!r} here; there are {', '.join(roles)}")
    if not words:
        raise UsageError(f"nothing to run: pyflanneld lab exec {options.node} -- ip route")
    if shutil.which(words[0]) is None:
        raise LabError(f"no program {words[0]!r} on this machine")
    os.execvp("ip", ["ip", "netns", "exec", roles[options.node], *words])  # noqa: S606 - the program takes our place
