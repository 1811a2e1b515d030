"""All checks on one record, and what was looked at."""

from tests.support.observers import checks_etcd, checks_kernel, checks_process
from tests.support.observers.record import Finding, Record


def violations(record: Record) -> list[Finding]:
    """Return every invariant that did not hold."""
    return [finding for checks in (checks_etcd, checks_kernel, checks_process) for finding in checks.violations(record)]


def counted(record: Record) -> dict[str, int]:
    """Return how much there was to check."""
    return {
        "changes in etcd": len(record.history.changes),
        "route messages": sum(len(host.route_events) + host.unread for host in record.hosts),
        "packets between pods": len(record.packets),
        "health answers": sum(len(host.answers) for host in record.hosts),
        "versions of subnet.env": sum(len(host.versions) for host in record.hosts),
        "lives of daemons": sum(len(host.runs) for host in record.hosts),
        "lines of log": sum(host.log.count("\n") for host in record.hosts),
    }
