"""``pyflanneld plan``: what the daemon would do here, without changing anything. Shell side."""

import asyncio
import os
import sys
from collections.abc import Sequence

from pyflanneld.commands.common_flags import OUTPUT, wants_json
from pyflanneld.commands.daemon_client import daemon_here, go_daemons
from pyflanneld.commands.dry_run import DryRun
from pyflanneld.commands.output import BOLD, DIM, GREEN, RED, YELLOW, Paint, json_text
from pyflanneld.commands.read_only_ports import read_only_context
from pyflanneld.config.load import load_as_daemon
from pyflanneld.config.settings import FLAGS, Settings
from pyflanneld.core.host import Process
from pyflanneld.core.printable import printable
from pyflanneld.core.status.dry_run import Action, DryRunStep, StartProblem
from pyflanneld.system import procfs
from pyflanneld.system.host_names import address_of

WOULD_CHANGE = 10

TITLE = """\
pyflanneld plan: show what the daemon would do on this host, and change nothing.

Usage: pyflanneld plan [--output=text|json] [flags]

Give it the daemon's flags, or its FLANNELD_* variables: write "plan" before those of the start script. It may run
while a Go flanneld or a pyflanneld runs. It reads etcd, links, routes, firewall rules and the subnet file, and writes
no key, route, rule or file.

Exit codes: 0 nothing would change, 10 something would change, 1 the daemon would not start or would wait (the output
says why), 2 wrong usage.
"""
PLAN_FLAGS = (OUTPUT, *FLAGS)
_COLOURS = {
    Action.KEEP: DIM, Action.ADD: GREEN, Action.ADOPT: GREEN, Action.CHANGE: YELLOW, Action.REMOVE: RED,
    Action.LEAVE: YELLOW, Action.HOLD: YELLOW,
}  # fmt: skip


def main(words: Sequence[str]) -> int:
    """Run the command with *words*, those after ``plan``; return the exit code.

    Raises:
        UsageError: the command line is wrong.
    """
    settings, given = load_as_daemon(words, os.environ, title=TITLE, own=(OUTPUT,))
    json_wanted = wants_json(given)
    plan = asyncio.run(_dry_run(settings))
    plan.problems += [*_running_here(settings), *(StartProblem(text) for text in settings.warnings)]
    sys.stdout.write(plan_json(plan) if json_wanted else as_text(plan, Paint(sys.stdout)))
    if not plan.starts:
        return 1
    return WOULD_CHANGE if plan.changes else 0


async def _dry_run(settings: Settings) -> DryRun:
    context = read_only_context(settings)
    plan = DryRun(context)
    try:
        await plan.run()
    finally:
        await context.discovery.close()
        await context.kernel.close()
    return plan


def _running_here(settings: Settings) -> list[StartProblem]:
    """Return the daemons here that a start would meet, and whoever has the health port."""
    running = daemon_here(settings)
    found = [StartProblem(f"{running} already: this is what its next start would do")] if running else []
    go = go_daemons()
    found += [StartProblem(f"a Go flanneld runs here, {one}: stop it before the start") for one in go]
    if settings.healthz_port and running is None:
        found += _health_port(settings, go)
    return found


def _health_port(settings: Settings, go: Sequence[Process]) -> list[StartProblem]:
    """Return why the health port cannot be had."""
    try:
        ip = address_of(settings.healthz_ip)
    except OSError as error:
        return [StartProblem(f"--healthz-ip: {settings.healthz_ip} has no address: {error.strerror}", blocks=True)]
    taken = procfs.tcp_listener(ip, settings.healthz_port)
    if taken is None:
        return []
    by = f" by {taken.holder}" if taken.holder else ""
    text = f"the health port is in use{by}: {taken.address}; give another --healthz-port, or stop that process"
    return [StartProblem(text, blocks=settings.asked_for("healthz_port") and taken.holder not in go)]


def plan_json(plan: DryRun) -> str:
    """Return one object: whether the daemon starts, whether anything would change, the steps, and the problems."""
    steps = [
        {"part": step.part, "action": step.action.value, "what": step.what, "why": step.why, "lines": list(step.lines)}
        for step in plan.steps
    ]
    problems = [{"text": problem.text, "blocks": problem.blocks} for problem in plan.problems]
    document = {"starts": plan.starts, "would_change": plan.changes > 0, "steps": steps, "problems": problems}
    return json_text(document)


def as_text(plan: DryRun, paint: Paint) -> str:
    """Return the steps in columns, with their lines below, then the problems and a summary."""
    lines: list[str] = []
    kept = [step for step in plan.steps if step.part == "route" and step.action is Action.KEEP]
    part = ""
    for step in plan.steps:
        if step in kept and len(kept) > 3:
            continue
        lines += _step_lines(step, "" if step.part == part else step.part, paint)
        part = step.part
    if len(kept) > 3:
        lines.append(f"{'':13}{paint(f'{Action.KEEP.value:8}', DIM)}{len(kept)} routes that are as they should be")
    if plan.problems:
        lines.append("")
    for problem in plan.problems:
        lines.append(paint("! ", RED if problem.blocks else YELLOW) + printable(problem.text))
    return "\n".join([*lines, "", paint(_summary(plan), BOLD), ""])


def _step_lines(step: DryRunStep, part: str, paint: Paint) -> list[str]:
    head = f"{part:13}{paint(f'{step.action.value:8}', _COLOURS[step.action])}{printable(step.what)}"
    lines = [head + (f"  {paint(printable(step.why), DIM)}" if step.why else "")]
    return lines + [f"{'':21}{paint(printable(line), _line_colour(line))}" for line in step.lines]


def _line_colour(line: str) -> str:
    if line.startswith(("-D", "- ", "-F", "-X", "delete")):
        return RED
    return GREEN if line.startswith(("+ ", "-A", "-I")) else DIM


def _summary(plan: DryRun) -> str:
    if not plan.starts:
        return "the daemon would not become a node as things are: see the lines with ! above"
    count = plan.changes
    return f"{count} thing{'s' if count > 1 else ''} would change" if count else "nothing would change"
