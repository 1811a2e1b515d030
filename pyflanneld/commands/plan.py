"""``pyflanneld plan``: what the daemon would do here, without touching anything. Shell side."""

import asyncio
import json
import os
import sys
from collections.abc import Sequence

from pyflanneld.commands.common_flags import OUTPUT, wants_json
from pyflanneld.commands.daemon_client import daemon_here
from pyflanneld.commands.dry_run import Preview, preview
from pyflanneld.commands.output import BOLD, DIM, GREEN, RED, YELLOW, Paint
from pyflanneld.commands.read_only_ports import only_looking
from pyflanneld.config.flags import FLAGS
from pyflanneld.config.settings import Settings, load_as_daemon
from pyflanneld.core.status.dry_run import Act, DryRunStep, Trouble
from pyflanneld.system import procfs

WOULD_CHANGE = 10

TITLE = """\
pyflanneld plan: says what the daemon would do on this host, and touches nothing.

Usage: pyflanneld plan [--output=text|json] [flags]

Give it the daemon's flags, or its FLANNELD_* variables: write "plan" before those of the start script. It may be run
beside a Go flanneld or a pyflanneld. It reads etcd, links, routes, firewall rules and the subnet file; no key, route,
rule or file is written.

Exit codes: 0 nothing would change, 10 something would change, 1 the daemon would not start or would wait (the output
says why), 2 wrong usage.
"""
PLAN_FLAGS = (OUTPUT, *FLAGS)
_COLOURS = {
    Act.KEEP: DIM, Act.ADD: GREEN, Act.ADOPT: GREEN, Act.CHANGE: YELLOW, Act.REMOVE: RED, Act.LEAVE: YELLOW,
    Act.HOLD: YELLOW,
}  # fmt: skip
GO_DAEMON = "flanneld"


def main(words: Sequence[str]) -> int:
    """Do what *words* (those after ``plan``) ask for; return the exit code.

    Raises:
        UsageError: they cannot be understood.
    """
    settings, given = load_as_daemon(words, os.environ, title=TITLE, own=(OUTPUT,))
    json_wanted = wants_json(given)
    found = asyncio.run(_look(settings))
    found.troubles += [Trouble(text) for text in settings.warnings]
    sys.stdout.write(as_json(found) if json_wanted else as_text(found, Paint(sys.stdout)))
    if not found.starts:
        return 1
    return WOULD_CHANGE if found.changes else 0


async def _look(settings: Settings) -> Preview:
    context = only_looking(settings)
    try:
        found = await preview(context)
    finally:
        await context.discovery.close()
        await context.kernel.close()
    found.troubles += _others(settings)
    return found


def _others(settings: Settings) -> list[Trouble]:
    """Say what runs here already that the daemon would meet at its start."""
    running = daemon_here(settings)
    found = [Trouble(f"{running} already: this is what its next start would do")] if running else []
    go = [process for process in procfs.processes() if process.name == GO_DAEMON]
    found += [Trouble(f"a Go flanneld runs here, {one}: stop it before the start") for one in go]
    taken = procfs.tcp_listener(settings.healthz_ip, settings.healthz_port) if settings.healthz_port else None
    if taken is not None and running is None:
        by = f" by {taken.holder}" if taken.holder else ""
        text = f"the health port is in use{by}: {taken.address}; give another --healthz-port, or stop that"
        found.append(Trouble(text, blocks=taken.holder not in go))
    return found


def as_json(found: Preview) -> str:
    """Return one object: whether anything would change, the steps, and the troubles."""
    steps = [
        {"part": step.part, "act": step.act.value, "what": step.what, "why": step.why, "lines": list(step.lines)}
        for step in found.steps
    ]
    troubles = [{"text": trouble.text, "blocks": trouble.blocks} for trouble in found.troubles]
    document = {"starts": found.starts, "would_change": found.changes, "steps": steps, "troubles": troubles}
    return json.dumps(document, indent=2) + "\n"


def as_text(found: Preview, paint: Paint) -> str:
    """Return the steps in columns, what is written below each, then the troubles and a summary."""
    lines: list[str] = []
    kept = [step for step in found.steps if step.part == "route" and step.act is Act.KEEP]
    part = ""
    for step in found.steps:
        if step in kept and len(kept) > 3:
            continue
        lines += _step_lines(step, "" if step.part == part else step.part, paint)
        part = step.part
    if len(kept) > 3:
        lines.append(f"{'':13}{paint(f'{Act.KEEP.value:8}', DIM)}{len(kept)} routes that are as they should be")
    if found.troubles:
        lines.append("")
    for trouble in found.troubles:
        lines.append(paint("! ", RED if trouble.blocks else YELLOW) + trouble.text)
    return "\n".join([*lines, "", paint(_summary(found), BOLD), ""])


def _step_lines(step: DryRunStep, part: str, paint: Paint) -> list[str]:
    head = f"{part:13}{paint(f'{step.act.value:8}', _COLOURS[step.act])}{step.what}"
    lines = [head + (f"  {paint(step.why, DIM)}" if step.why else "")]
    return lines + [f"{'':21}{paint(line, _line_colour(line))}" for line in step.lines]


def _line_colour(line: str) -> str:
    if line.startswith(("-D", "- ", "-F", "-X", "delete")):
        return RED
    return GREEN if line.startswith(("+ ", "-A", "-I")) else DIM


def _summary(found: Preview) -> str:
    if not found.starts:
        return "the daemon would not become a node as things are: see the lines with ! above"
    count = sum(step.act.changes for step in found.steps)
    return f"{count} thing{'s' if count > 1 else ''} would change" if count else "nothing would change"
