"""Checks of what else runs here: other daemons, leftovers of other networks, the service manager, the health port."""

import re
from collections.abc import Iterator

from pyflanneld.commands.doctor.finding import Finding, bad, ok, quoted, skipped, warn
from pyflanneld.commands.doctor.host_facts import Facts
from pyflanneld.core.families import inside
from pyflanneld.core.host import ListeningSocket, Process, overlap_text
from pyflanneld.core.link.selection import Link

_LINKS = {
    "flannel.": "flannel's vxlan", "flannel-v6.": "flannel's vxlan",
    "cni0": "a CNI bridge", "weave": "Weave", "cali": "Calico", "vxlan.calico": "Calico",
    "tunl0": "an IPIP tunnel", "cilium_": "Cilium", "kube-ipvs0": "kube-proxy", "kube-bridge": "kube-router",
}  # fmt: skip
_CHAINS = re.compile(r"^:((?:KUBE|CNI|cali|WEAVE|CILIUM)[-_A-Za-z0-9]*)", re.MULTILINE)
_SHELLS = frozenset({"sh", "bash", "dash", "zsh", "ksh", "ash"})


def daemons(facts: Facts) -> Iterator[Finding]:
    """Report the flannel daemons that run here."""
    go = [process for process in facts.processes if process.name == "flanneld"]
    if facts.daemon_runs:
        yield ok("daemon", f"pyflanneld runs here{f', {facts.daemon}' if facts.daemon else ''}")
    elif not go:
        yield ok("daemon", "none runs here")
    for process in go:
        fix = f"supervisorctl stop it, or systemctl disable --now flanneld, or kill {process.pid}"
        if facts.daemon_runs:
            yield bad("daemon", f"a Go flanneld runs next to pyflanneld, {process}",
                      "both renew the same lease, and each sets routes that the other does not know", fix)  # fmt: skip
        else:
            yield warn("daemon", f"a Go flanneld runs here, {process}", "it has to be stopped before pyflanneld starts",
                       f"pyflanneld plan; then {fix}")  # fmt: skip


def leftovers(facts: Facts) -> Finding:
    """Report leftovers of other container networks."""
    found = [
        f"{link.name} ({what})"
        for link in facts.links
        for start, what in _LINKS.items()
        if link.name.startswith(start) and not _is_in_use(link, facts)
        and not (link.name == "tunl0" and not (link.up or link.addresses))
    ]
    chains = sorted(set(_CHAINS.findall(facts.rules.iptables or "")))
    if chains:
        found.append(f"chains of iptables: {', '.join(chains[:3])}{' …' if len(chains) > 3 else ''}")
    found += facts.files
    if not found:
        return ok("other networks", "no traces of another container network")
    links = [link.name for link in facts.links if any(f"{link.name} (" in one for one in found)]
    fix = "; ".join(f"ip link del {quoted(name)}" for name in links) or "run its own uninstaller"
    why = "its routes, rules and addresses may catch packets for the containers here"
    return warn("other networks", "; ".join(found), why, f"if it is no longer in use: {fix}")


def _is_in_use(link: Link, facts: Facts) -> bool:
    """Return whether a device is this network's, another daemon's of this host, or may be."""
    if link.vxlan is None:
        return False
    before = facts.daemon_runs and facts.backend_before == "vxlan"
    ours = facts.node is None or before or link.name in {device.name for device in facts.devices}
    return ours or any(inside(own.network, one.network) for own in link.addresses for one in facts.served)


def health_port(facts: Facts) -> Finding:
    """Check that the health port is free, or that the daemon answers there and is ready."""
    port, health = facts.flags.healthz_port, facts.health
    if not port:
        return skipped("health port", "--healthz-port=0 switches it off")
    if health.listener is None:
        if facts.daemon_runs:
            return warn("health port", f"nobody listens on {port}", "the daemon runs with another --healthz-port",
                        "give this command the daemon's flags")  # fmt: skip
        return ok("health port", f"{port} is free")
    if not facts.daemon_runs or _of_others(facts, health.listener):
        fix = f"ss -ltnp 'sport = :{port}' shows who: stop it, or give another --healthz-port"
        if facts.flags.healthz_asked:
            why = "the daemon ends with exit code 73 at its start"
            return bad("health port", _in_use(health.listener), why, fix)
        why = "nobody answers probes for this daemon until the port is free; it runs on without it"
        return warn("health port", _in_use(health.listener), why, fix)
    if health.ready:
        return ok("health port", "the daemon reports that it is ready")
    if health.ready is None:
        return bad("health port", f"the daemon does not answer: {health.answer}", "a liveness probe would restart it",
                   "read its log; restart it")  # fmt: skip
    return bad("health port", " / ".join(health.answer.splitlines()), "the daemon itself reports that it is not ready",
               "fix what it names; see docs/troubleshooting.md")  # fmt: skip


def metrics_port(facts: Facts) -> Finding:
    """Check that the port of the metrics and the page is free, or the daemon's."""
    where, listener = facts.flags.metrics_bind, facts.metrics
    if not where:
        return skipped("metrics port", "--metrics-bind=off switches it off")
    if listener is None:
        return ok("metrics port", f"nobody listens on {where}")
    if facts.daemon_runs and not _of_others(facts, listener):
        return ok("metrics port", f"the daemon listens on {where}")
    port = where.rpartition(":")[2]
    return warn("metrics port", _in_use(listener), "this daemon has no metrics and no page until the port is free",
                f"ss -ltnp 'sport = :{port}' shows who: stop it, or give another --metrics-bind")  # fmt: skip


def _of_others(facts: Facts, listener: ListeningSocket) -> bool:
    """Return whether another process than the daemon is known to listen there."""
    return listener.holder is not None and facts.daemon is not None and listener.holder.pid != facts.daemon.pid


def _in_use(listener: ListeningSocket) -> str:
    return f"{listener.address} is in use{f' by {listener.holder}' if listener.holder else ''}"


def networks(facts: Facts) -> Finding:
    """Check that no other daemon of this host serves a network that overlaps this one."""
    own = facts.node.networks if facts.node else ()
    if not facts.served:
        return ok("other daemons", "none serves another network on this host")
    if text := overlap_text(own, facts.served):
        why = "each would change the routes and rules of the other: the daemon ends with exit code 73 at its start"
        return bad("other daemons", text, why, "pyflanneld config, or stop one of the two")
    return ok("other daemons", "; ".join(map(str, facts.served)))


def start_script(facts: Facts) -> Finding:
    """Check that supervisor signals the daemon itself: the start script has to use ``exec``."""
    supervised = [process for process in facts.processes if process.supervised and _is_daemon(process)]
    if not supervised:
        return skipped("supervisor", "no daemon runs under supervisor")
    by_pid = {process.pid: process for process in facts.processes}
    for process in supervised:
        script = by_pid.get(process.parent)
        if not process.leads and script is not None and script.name in _SHELLS:
            name = script.words[-1] if len(script.words) > 1 else script.name
            return warn("supervisor", f"{process} was started by a script without exec: {name}",
                        "supervisor signals the script and not the daemon: a stop takes longer than necessary",
                        f"write exec before the daemon's command in {quoted(name)}")  # fmt: skip
    return ok("supervisor", "signals the daemon itself")


def _is_daemon(process: Process) -> bool:
    return process.name in ("flanneld", "pyflanneld") or any("pyflanneld" in word for word in process.words[:4])
