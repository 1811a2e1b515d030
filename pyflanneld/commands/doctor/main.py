"""``pyflanneld doctor``: what is wrong with this host, its etcd and its peers, and how to fix it. Shell side."""

import asyncio
import os
import sys
import textwrap
from collections.abc import Sequence

from pyflanneld.commands.common_flags import OUTPUT, is_on, own_switch, wants_json
from pyflanneld.commands.doctor.checks import examine
from pyflanneld.commands.doctor.collector import collect
from pyflanneld.commands.doctor.finding import Finding, Verdict, warn
from pyflanneld.commands.doctor.host_facts import Facts
from pyflanneld.commands.output import BOLD, DIM, GREEN, RED, YELLOW, Paint, json_text
from pyflanneld.commands.read_only_ports import read_only_context
from pyflanneld.config.load import load_as_daemon
from pyflanneld.config.settings import FLAGS, Settings
from pyflanneld.core.printable import printable

TITLE = """\
pyflanneld doctor: check this host, its etcd and its peers, and change nothing.

Usage: pyflanneld doctor [--output=text|json] [--all] [flags]

Give it the daemon's flags, or its FLANNELD_* variables, before or after the daemon's start. Each check reports what it
sees; where something is wrong, also why it matters and how to fix it.

Exit codes: 0 nothing is bad (there may be warnings), 1 something is bad, 2 wrong usage or an unusable certificate file.
"""
_ALL = own_switch("all", "Also show what is ok or was skipped (json always does).")
DOCTOR_FLAGS = (OUTPUT, _ALL, *FLAGS)
_COLOURS = {Verdict.OK: GREEN, Verdict.WARN: YELLOW, Verdict.BAD: RED, Verdict.SKIPPED: DIM}
_WIDTH = 118


def main(words: Sequence[str]) -> int:
    """Run the command with *words*, those after ``doctor``; return the exit code.

    Raises:
        UsageError: the command line is wrong.
    """
    settings, given = load_as_daemon(words, os.environ, title=TITLE, own=(OUTPUT, _ALL))
    json_wanted = wants_json(given)
    found = examine(asyncio.run(_collect(settings)))
    found += [warn("settings", text, "the daemon warns of it at its start, too") for text in settings.warnings]
    text = findings_json(found) if json_wanted else as_text(found, Paint(sys.stdout), whole=is_on(given, _ALL))
    sys.stdout.write(text)
    return 1 if any(finding.verdict is Verdict.BAD for finding in found) else 0


async def _collect(settings: Settings) -> Facts:
    context = read_only_context(settings)
    try:
        return await collect(context, settings)
    finally:
        await context.discovery.close()
        await context.kernel.close()


def findings_json(found: Sequence[Finding]) -> str:
    """Return one object: whether nothing is bad, and every finding."""
    findings = [
        {"check": one.check, "verdict": one.verdict.value, "seen": one.seen, "why": one.why, "fix": one.fix}
        for one in found
    ]
    well = not any(one.verdict is Verdict.BAD for one in found)
    return json_text({"well": well, "findings": findings})


def as_text(found: Sequence[Finding], paint: Paint, *, whole: bool) -> str:
    """Return what is wrong, the worst first, each with why it matters and how to fix it; then a summary."""
    order = [Verdict.BAD, Verdict.WARN, *((Verdict.OK, Verdict.SKIPPED) if whole else ())]
    shown = [one for verdict in order for one in found if one.verdict is verdict]
    width = max((len(one.check) for one in shown), default=0)
    lines = [line for one in shown for line in _lines(one, width, paint)]
    count = {verdict: sum(one.verdict is verdict for one in found) for verdict in Verdict}
    counts = ", ".join(f"{count[verdict]} {verdict.value}" for verdict in Verdict)
    hint = "" if whole else "; --all shows everything"
    return "\n".join([*lines, *([""] if lines else []), paint(f"{len(found)} checks: {counts}{hint}", BOLD), ""])


def _lines(one: Finding, width: int, paint: Paint) -> list[str]:
    head = f"{paint(f'{one.verdict.value:7}', _COLOURS[one.verdict])} {one.check:{width}}  {printable(one.seen)}"
    lines = [head]
    if one.why:
        lines += _paragraph("why", printable(one.why), paint)
    if one.fix:
        lines.append(f"{'':8}{paint('fix', DIM)}   {printable(one.fix, len(one.fix))}")  # one line: it is to be copied
    return lines


def _paragraph(word: str, text: str, paint: Paint) -> list[str]:
    first, *rest = textwrap.wrap(text, _WIDTH - 14, break_long_words=False, break_on_hyphens=False)
    return [f"{'':8}{paint(f'{word:4}', DIM)}  {first}", *(f"{'':14}{line}" for line in rest)]
