"""``pyflanneld status``: the state of this host's daemon, what is wrong, and what to do about it."""

import sys
from collections.abc import Mapping, Sequence
from typing import Any

from pyflanneld.commands.common_flags import OUTPUT
from pyflanneld.commands.daemon_client import SUBNET_FILE, Query, run_query
from pyflanneld.commands.output import BOLD, DIM, GREEN, RED, YELLOW, Paint, columns, duration_text, json_text
from pyflanneld.errors import NoDaemon, RequestRefused

TITLE = """\
pyflanneld status: the state of this host's daemon, what is wrong and since when, and what to do about it.

Usage: pyflanneld status [--output=text|json] [--subnet-file=PATH]

It asks the running daemon over a local socket, and works with etcd down. Several daemons on one host are shown one
after the other, as json in a list, unless --subnet-file names one.

Exit codes: 0 ready, 1 not ready, 2 wrong usage, 3 no daemon, or it does not answer; of several daemons the worst.
"""
FLAGS = (OUTPUT, SUBNET_FILE)


def main(words: Sequence[str]) -> int:
    """Show the status; return the exit code."""
    return run_query("status", words, TITLE, FLAGS, _show, act_on_all=_show_all)


def _show(query: Query) -> int:
    report = query.daemon.get("/status")
    sys.stdout.write(json_text(report) if query.output == "json" else as_text(report, Paint(sys.stdout)))
    return _exit_code(report)


def _show_all(queries: Sequence[Query]) -> int:
    """Show the state of each daemon, and return the worst exit code."""
    reports, codes = [], []
    for query in queries:
        try:
            reports.append(query.daemon.get("/status"))
            codes.append(_exit_code(reports[-1]))
        except (NoDaemon, RequestRefused) as error:
            sys.stderr.write(f"pyflanneld status: {query.daemon}: {error}\n")
            codes.append(error.exit_code)
    reports.sort(key=lambda report: str(report["etcd"]["prefix"]))
    texts = [as_text(report, Paint(sys.stdout)) for report in reports]
    sys.stdout.write(json_text(reports) if queries[0].output == "json" else "\n\n".join(texts))
    return max(codes)


def _exit_code(report: Mapping[str, Any]) -> int:
    return 0 if report["ready"] else 1


def as_text(report: Mapping[str, Any], paint: Paint) -> str:
    """Return the report as text: readiness, the facts, what is wrong."""
    lines = [_verdict(report, paint), "", *_facts(report, paint)]
    if report["findings"]:
        lines += ["", paint("what is wrong", BOLD)]
        for finding in report["findings"]:
            lines += _finding(finding, paint)
    return "\n".join(lines) + "\n"


def _verdict(report: Mapping[str, Any], paint: Paint) -> str:
    if report["ready"]:
        return paint("ready", GREEN)
    return paint("not ready", RED) + f": {'; '.join(report['not_ready'])}"


def _finding(finding: Mapping[str, Any], paint: Paint) -> list[str]:
    since = "" if finding["for_s"] is None else f", for {duration_text(finding['for_s'])}"
    kind = "not ready" if finding["blocks"] else "warning"
    head = f"  {paint(kind, RED if finding['blocks'] else YELLOW)}: {finding['text']}"
    lines = [head, paint(f"      {finding['event']}{since}", DIM)]
    return lines + ([f"      to do: {finding['hint']}"] if finding["hint"] else [])


def _facts(report: Mapping[str, Any], paint: Paint) -> list[str]:
    facts = [
        ("daemon", f"pyflanneld {report['version']}, pid {report['pid']}, up {duration_text(report['uptime_s'])}"),
        ("etcd", _etcd(report["etcd"])),
        ("restored", _saved(report.get("unconfirmed_s"))),
        ("interface", _link(report["link"])),
        *(("device", _device(device)) for device in report["devices"]),
        ("network", _network(report["network"])),
        ("lease", _lease(report["lease"])),
        ("peers", _peers(report["peers"])),
        ("routes", _routes(report["routes"])),
        ("entries", _entries(report["entries"])),
        ("guard", _guard(report["guard"])),
        ("firewall", _firewall(report["firewall"])),
        ("file", f"{report['file']['path']}, {'written' if report['file']['written'] else 'not written yet'}"),
    ]
    return [_with_bold_head(line, paint) for line in columns([(name, text) for name, text in facts if text])]


def _with_bold_head(line: str, paint: Paint) -> str:
    head, gap, rest = line.partition("  ")
    return paint(head, BOLD) + gap + rest


def _etcd(etcd: Mapping[str, Any]) -> str:
    heard = etcd["heard_s_ago"]
    parts = [f"v{etcd['api']} at {etcd['endpoint']}{etcd['prefix']}"]
    parts.append("no answer yet" if heard is None else f"answered {duration_text(heard)} ago")
    if etcd["revision"]:
        parts.append(f"revision {etcd['revision']}, peers as of {duration_text(etcd['lag_s'])} ago")
    return ", ".join(parts)


def _saved(age_s: float | None) -> str:
    return "" if age_s is None else f"from the state saved {duration_text(age_s)} ago, not confirmed by etcd yet"


def _link(link: Mapping[str, Any] | None) -> str:
    if link is None:
        return ""
    return f"{link['name']} {link['address']}, MTU {link['mtu']}, {'up' if link['up'] else 'down'} ({link['why']})"


def _device(device: Mapping[str, Any]) -> str:
    state = "not there" if device["state"] == "missing" else device["state"]
    parameters = f"VNI {device['vni']}, port {device['port']}, MAC {device['mac']}, MTU {device['mtu']}"
    return f"{device['name']} {device['address']}, {parameters}, {state}"


def _network(network: Mapping[str, Any] | None) -> str:
    if network is None:
        return ""
    both = f" and {network['ipv6_network']}" if network["ipv6_network"] else ""
    return f"{network['network']}{both}, {network['backend']}"


def _lease(lease: Mapping[str, Any] | None) -> str:
    if lease is None:
        return "none yet"
    both = f" and {lease['ipv6_subnet']}" if lease["ipv6_subnet"] else ""
    if lease.get("absent"):
        return f"{lease['subnet']}{both}, gone from etcd, confirmed {duration_text(lease['confirmed_s_ago'])} ago"
    life = "reserved" if lease["reserved"] else f"{duration_text(lease['left_s'])} left"
    confirmed = f"confirmed {duration_text(lease['confirmed_s_ago'])} ago" + (
        "" if lease["confirmed"] else ", too long ago"
    )
    return f"{lease['subnet']}{both}, {life}, {confirmed}, renewed every {duration_text(lease['renew_interval_s'])}"


def _peers(peers: Mapping[str, Any] | None) -> str:
    if peers is None:
        return ""
    parts = [f"{peers['accepted']}, {peers['routed']} routed"]
    parts += [f"{count} quarantined ({reason})" for reason, count in sorted(peers["quarantined"].items())]
    parts += [f"{peers['other_backend']} of another backend"] if peers["other_backend"] else []
    parts += [f"{peers['frozen']} frozen"] if peers["frozen"] else []
    return ", ".join(parts)


def _routes(routes: Mapping[str, Any] | None) -> str:
    if routes is None:
        return ""
    parts = [f"{routes['wanted']} wanted, {routes['present']} present"]
    parts += [f"{routes[what]} {words}" for what, words in _ROUTE_WORDS.items() if routes[what]]
    repaired = sum(routes["repaired"].values())
    reasons = ", ".join(f"{reason.replace('_', ' ')} {count}" for reason, count in sorted(routes["repaired"].items()))
    parts.append(f"{repaired} repaired" + (f" ({reasons})" if repaired else ""))
    return ", ".join([*parts, f"proto {routes['protocol']}"])


_ROUTE_WORDS = {"missing": "missing", "conflict": "in conflict", "refused": "refused", "held": "held"}


def _entries(kinds: Sequence[Mapping[str, Any]]) -> str:
    return ", ".join(_kind(one) for one in kinds)


def _kind(one: Mapping[str, Any]) -> str:
    refused = f" ({one['refused']} refused)" if one["refused"] else ""
    return f"{one['wanted'] - one['missing']} of {one['wanted']} {_PLURALS[one['kind']]}{refused}"


_PLURALS = {"neighbour": "neighbours", "forwarding entry": "forwarding entries"}


def _guard(guard: Mapping[str, Any] | None) -> str:
    if guard is None:
        return ""
    if not guard["enabled"]:
        return "off"
    return f"holds {guard['held']} routes" if guard["held"] else "on, holds nothing"


def _firewall(rules: Sequence[Mapping[str, Any]] | None) -> str:
    if rules is None:
        return ""
    each = (f"{one['rules']} by {one['program']}{'' if one['placed'] else ' (not in place)'}" for one in rules)
    return ", ".join(each) or "nothing asked for"
