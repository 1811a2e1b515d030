"""``pyflanneld routes``: the wanted routes next to those in the kernel."""

import sys
from collections.abc import Mapping, Sequence
from typing import Any

from pyflanneld.commands.common_flags import OUTPUT, own_switch
from pyflanneld.commands.daemon_client import SUBNET_FILE, Query, run_query
from pyflanneld.commands.output import BOLD, GREEN, RED, YELLOW, Paint, columns, json_text

TITLE = """\
pyflanneld routes: the routes that the leases want, next to those in the kernel.

Usage: pyflanneld routes [--diff] [--output=text|json] [--subnet-file=PATH]

Exit codes: 0 done; with --diff: 0 nothing differs, 1 something does. 2 wrong usage or several daemons, 3 no daemon.
"""
_DIFF = own_switch("diff", "Only what differs; exit code 1 if anything does.")
FLAGS = (_DIFF, OUTPUT, SUBNET_FILE)
_HEAD = ("DESTINATION", "STATE", "WANTED", "KERNEL", "PROTO", "WHAT IT MEANS")
_COLOURS = {"ok": GREEN, "held": YELLOW, "frozen": YELLOW, "unwanted": YELLOW}
_MEANING = {
    "ok": "",
    "missing": "not there yet; the next scan of the kernel adds it",
    "refused": "the kernel refuses it",
    "wrong_gateway": "ours, but not as wanted; the next scan of the kernel corrects it",
    "conflict": "a foreign route is in the way, and is left alone",
    "shadowed": "ours is there, but the kernel prefers this one for packets, or for some of them",
    "held": "no lease asks for it any more; the withdraw guard waits for etcd to confirm that",
    "frozen": "its lease cannot be used; the route stays as it is",
    "unwanted": "no lease asks for it any more; the route goes soon, or once this host's lease is confirmed again",
}


def main(words: Sequence[str]) -> int:
    """Show the routes; return the exit code."""
    return run_query("routes", words, TITLE, FLAGS, _show)


def _show(query: Query) -> int:
    diff = query.given["diff"].value is True
    rows = [row for row in query.daemon.get("/routes") if not diff or row["state"] != "ok"]
    text = json_text(rows) if query.output == "json" else as_text(rows, Paint(sys.stdout), diff=diff)
    sys.stdout.write(text)
    return 1 if diff and rows else 0


def as_text(rows: Sequence[Mapping[str, Any]], paint: Paint, *, diff: bool = False) -> str:
    """Return the routes in columns."""
    if not rows:
        return "nothing differs\n" if diff else "no routes\n"
    head, *lines = columns([_HEAD, *(_cells(row) for row in rows)])
    painted = (
        line.replace(f" {_words(row)} ", f" {paint(_words(row), _COLOURS.get(row['state'], RED))} ", 1)
        for row, line in zip(rows, (f"{line} " for line in lines), strict=True)
    )
    return "\n".join([paint(head, BOLD), *(line.rstrip() for line in painted)]) + "\n"


def _cells(row: Mapping[str, Any]) -> tuple[str, ...]:
    return (
        row["dst"],
        _words(row),
        _next_hop(row["wanted_gateway"], row["wanted_link"]),
        _next_hop(row["kernel_gateway"], row["kernel_link"]),
        "-" if row["protocol"] is None else str(row["protocol"]),
        ": ".join(filter(None, (_MEANING[row["state"]], row["detail"]))),
    )


def _words(row: Mapping[str, Any]) -> str:
    return str(row["state"]).replace("_", " ")


def _next_hop(gateway: str | None, link: str | None) -> str:
    """Return ``via 192.168.14.22 dev eth1``, as far as known."""
    parts = ([f"via {gateway}"] if gateway else []) + ([f"dev {link}"] if link else [])
    return " ".join(parts) or "-"
