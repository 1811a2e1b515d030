"""``pyflanneld peers``: each peer with its lease, its route, and whether it answers on the link."""

import sys
from collections.abc import Mapping, Sequence
from typing import Any

from pyflanneld.commands.common_flags import OUTPUT
from pyflanneld.commands.daemon_client import SUBNET_FILE, Query, run_query
from pyflanneld.commands.output import BOLD, DIM, GREEN, RED, YELLOW, Paint, columns, duration_text, json_text

TITLE = """\
pyflanneld peers: each peer's lease and route, whether its address is on the link, and whether it answers.

Usage: pyflanneld peers [--output=text|json] [--subnet-file=PATH]

Exit codes: 0 every peer is routed, 1 some are not or are quarantined, 2 wrong usage or several daemons, 3 no daemon.
"""
FLAGS = (OUTPUT, SUBNET_FILE)
_HEAD = ("SUBNET", "PUBLIC IP", "STATE", "ROUTE", "WAY", "ON LINK", "NEIGHBOUR", "PROBE")
_COLOURS = {"routed": GREEN, "known": GREEN, "other_backend": YELLOW}


def main(words: Sequence[str]) -> int:
    """Show the peers; return the exit code."""
    return run_query("peers", words, TITLE, FLAGS, _show)


def _show(query: Query) -> int:
    rows = query.daemon.get("/peers")
    text = json_text(rows) if query.output == "json" else as_text(rows, Paint(sys.stdout))
    sys.stdout.write(text)
    return 1 if any(row["state"] in ("unrouted", "quarantined") for row in rows) else 0


def as_text(rows: Sequence[Mapping[str, Any]], paint: Paint) -> str:
    """Return the peers in columns; below a quarantined one, the reason."""
    if not rows:
        return "no peers\n"
    head, *lines = columns([_HEAD, *(_cells(row) for row in rows)])
    out = [paint(head, BOLD)]
    for row, line in zip(rows, lines, strict=True):
        out.append(line.replace(_words(row["state"]), paint(_words(row["state"]), _COLOURS.get(row["state"], RED)), 1))
        if row["why"]:
            since = "" if row["quarantined_s"] is None else f", for {duration_text(row['quarantined_s'])}"
            out.append(paint(f"    {row['reason']}: {row['why']}{since}", DIM))
    return "\n".join(out) + "\n"


def _cells(row: Mapping[str, Any]) -> tuple[str, ...]:
    return (
        row["subnet"] or row["key"],
        row["public_ip"] or "?",
        _words(row["state"]),
        _route(row),
        row["way"] or "-",
        {True: "yes", False: "no", None: "-"}[row["on_link"]],
        " ".join(filter(None, (row["neighbour"] or "-", row["mac"]))),
        _probe(row["probe"]),
    )


def _route(row: Mapping[str, Any]) -> str:
    """Return the kernel's route, ``via 192.168.14.22``, and what is wrong with it."""
    there = f"via {row['kernel_gateway']}" if row["kernel_gateway"] else ""
    state = "" if row["route"] in ("ok", None) else _words(row["route"])
    return ", ".join(filter(None, (there, state))) or "-"


def _probe(probe: Mapping[str, Any] | None) -> str:
    """Return the result of the probes, ``reachable, 0.31 ms``; a dash without probes."""
    if probe is None:
        return "-"
    rtt_s = probe["rtt_s"]
    return probe["state"] if rtt_s is None else f"{probe['state']}, {rtt_s * 1000:.2f} ms"


def _words(constant: str) -> str:
    return constant.replace("_", " ")
