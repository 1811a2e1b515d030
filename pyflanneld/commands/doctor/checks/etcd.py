"""Checks of etcd: each member with this TLS and these rights, versions, clocks, certificates, the configuration."""

import re
from collections.abc import Iterator
from typing import Final

from pyflanneld.commands.doctor.finding import Finding, Verdict, bad, etcdctl, ok, quoted, skipped, warn
from pyflanneld.commands.doctor.host_facts import Certificate, Facts
from pyflanneld.core.etcd_types import MemberFault, MemberReport
from pyflanneld.core.network.go_versions import refusals

DAY_S: Final = 86400.0
SOON_S: Final = 30 * DAY_S
SKEW_S: Final = 30.0
FIXED: Final[dict[tuple[int, ...], tuple[int, ...]]] = {(3, 4): (3, 4, 38), (3, 5): (3, 5, 23)}
"""The first releases with the known fixes for lost watch events and for keep-alives of revoked leases."""

_FIXES: Final = {
    MemberFault.NO_NAME: "put its name into DNS or /etc/hosts, or write its address into --etcd-endpoints",
    MemberFault.REFUSED: "start etcd on that host (systemctl status etcd), with this address in --listen-client-urls",
    MemberFault.TIMEOUT: "check that the host is up and no firewall drops TCP to that port",
    MemberFault.UNREACHABLE: "add a route to that address on this host",
    MemberFault.EXPIRED: "give that member a new certificate, and restart it",
    MemberFault.NOT_YET: "set the clock of this host, or of the host that issued the certificate",
    MemberFault.NAME: "write the certificate's name into --etcd-endpoints, or issue one with this name or address",
    MemberFault.AUTHORITY: "give the authority that signed it with --etcd-cafile",
    MemberFault.CLIENT: "give --etcd-certfile and --etcd-keyfile signed by etcd's authority (--trusted-ca-file)",
    MemberFault.TLS: "check that this port speaks TLS, as https:// in --etcd-endpoints requires",
    MemberFault.NO_ETCD: "find out what listens there; an etcd with TLS needs https:// in --etcd-endpoints",
    MemberFault.LOGIN: "correct --etcd-username and --etcd-password-file",
    MemberFault.BROKEN: "etcdctl endpoint status --cluster shows why; a member without a leader does not serve",
}
_WHY: Final = "the daemon reads the leases from etcd and keeps its own there"


def members(facts: Facts) -> Iterator[Finding]:
    """Check that each member serves us; one of several that does not is a warning."""
    some = any(member.fault is None for member in facts.members)
    for member in facts.members:
        check = f"etcd {member.url}"
        if member.fault is None:
            yield ok(check, f"serves, etcd {member.version or 'of unknown version'}, API v{facts.api}")
            continue
        verdict = Verdict.WARN if some else Verdict.BAD
        why = "the daemon uses the others, with one less in reserve" if some else _WHY
        yield Finding(check, verdict, _seen(member), why, _fix(facts, member))


def _seen(member: MemberReport) -> str:
    assert member.fault is not None  # noqa: S101 - called only for members with a fault
    return f"{member.fault.value}: {member.detail}" if member.detail else member.fault.value


def _fix(facts: Facts, member: MemberReport) -> str:
    prefix = facts.flags.prefix
    match member.fault:
        case MemberFault.CONFIG_DENIED:
            grant = f"read {quoted(f'{prefix}/config')}"
        case MemberFault.SUBNETS_DENIED:
            grant = f"--prefix readwrite {quoted(f'{prefix}/subnets/')}"
        case fault:
            return _FIXES[fault] if fault else ""
    return f"as etcd's root: etcdctl --user root role grant-permission ROLE {grant}"


def clusters(facts: Facts) -> Finding:
    """Check that all members belong to one cluster."""
    ids = {member.url: member.cluster_id for member in facts.members if member.cluster_id is not None}
    if len(ids) < 2:
        return skipped("etcd cluster", "fewer than two members have told their cluster")
    if len(set(ids.values())) == 1:
        return ok("etcd cluster", f"{len(ids)} members of one cluster")
    seen = "members of different clusters: " + ", ".join(f"{url} of {mine:x}" for url, mine in ids.items())
    why = "each cluster has keys of its own: the daemon uses the one of most members, and sets the others aside"
    fix = "correct --etcd-endpoints; a member that came up on its own: remove its data, and let it join the others"
    return bad("etcd cluster", seen, why, fix)


def etcd_version(facts: Facts) -> Finding:
    """Check that no member is older than the releases that fix what the daemon works around."""
    known = {member.version: numbers(member.version) for member in facts.members if numbers(member.version)}
    if not known:
        return skipped("etcd version", "no member reported its version")
    old = sorted(text for text, parts in known.items() if parts < FIXED.get(parts[:2], (3, 4)))
    if not old:
        return ok("etcd version", ", ".join(sorted(known)))
    why = (
        "before 3.4.38 and 3.5.23 etcd may lose watch events, repeat old ones, and report success for a lease that "
        "is gone; the daemon lists again and reads back, so each costs a delay of up to 5 minutes"
    )
    return warn("etcd version", ", ".join(old), why, "update the members one after the other, to 3.5.23 or later")


def numbers(text: str) -> tuple[int, ...]:
    """Return a version's numbers, ``()`` where there are none."""
    found = re.match(r"(\d+)\.(\d+)\.(\d+)", text)
    return tuple(int(part) for part in found.groups()) if found else ()


def alarms(facts: Facts) -> Finding:
    """Check that the cluster has raised no alarm."""
    asked = [member for member in facts.members if member.alarms is not None]
    raised = sorted({alarm for member in asked for alarm in member.alarms or ()})
    if not asked:
        return skipped("etcd alarms", "no member reported them; the v2 API cannot")
    if not raised:
        return ok("etcd alarms", "none")
    fix = etcdctl(facts, "alarm", "disarm")
    if any("NOSPACE" in alarm for alarm in raised):
        fix = f"{etcdctl(facts, 'compact', 'REVISION')}; {etcdctl(facts, 'defrag')}; {fix}"
    why = "etcd refuses writes until this is fixed: no lease can be created"
    return bad("etcd alarms", "; ".join(raised), why, fix)


def clock(facts: Facts) -> Finding:
    """Compare this host's clock with the members'."""
    skews = {member.url: member.skew_s for member in facts.members if member.skew_s is not None}
    if not skews:
        return skipped("clock", "no member reported its time")
    worst = max(skews, key=lambda url: abs(skews[url]))
    seen = f"{abs(skews[worst]):.0f} s {'behind' if skews[worst] > 0 else 'ahead of'} {worst}"
    if abs(skews[worst]) <= SKEW_S:
        return ok("clock", f"within {max(1.0, abs(skews[worst])):.0f} s of etcd's")
    why = "certificates are validated by the clock, and logs of several hosts are compared by it; leases do not use it"
    return warn("clock", seen, why, "timedatectl set-ntp true")


def certificates(facts: Facts) -> Iterator[Finding]:
    """Report until when each certificate file is valid, and the certificate that etcd shows."""
    for file in facts.certificates:
        yield _file(facts, file)
    shown = [member for member in facts.members if member.certificate_until_s is not None]
    if shown:
        yield _shown(facts, min(shown, key=lambda member: member.certificate_until_s or 0.0))


def _file(facts: Facts, file: Certificate) -> Finding:
    check = f"certificate {file.role}"
    if not file.spans:
        return skipped(check, f"{file.path}: its dates cannot be read")
    valid = [end for begin, end in file.spans if begin <= facts.now_s < end]
    ends = min(end for _, end in file.spans)
    begins = min(begin for begin, _ in file.spans)
    look = f"openssl x509 -noout -dates -in {quoted(file.path)}"
    if not valid and begins > facts.now_s:
        seen = f"{file.path} is valid only in {_days(begins - facts.now_s)}"
        return bad(check, seen, "is the clock of this host right?", f"date; {look}")
    if not valid:
        seen, why = f"{file.path} has expired {_days(facts.now_s - ends)} ago", "etcd refuses it, or is refused with it"
        return bad(check, seen, why, f"put a new one there; the daemon loads it within a minute; {look}")
    if ends < facts.now_s + SOON_S:
        which = "" if len(file.spans) == 1 else f" (one of {len(file.spans)})"
        left = ends - facts.now_s
        seen = f"{file.path}{which} " + (f"expires in {_days(left)}" if left > 0 else f"expired {_days(-left)} ago")
        return warn(check, seen, "without etcd, leases end after 24 hours", f"put a new one there in time; {look}")
    return ok(check, f"{file.path} is valid for {_days(ends - facts.now_s)}")


def _shown(facts: Facts, member: MemberReport) -> Finding:
    left_s = (member.certificate_until_s or 0.0) - facts.now_s
    check, seen = "certificate of etcd", f"{member.url} shows one that is valid for {_days(left_s)}"
    if left_s > SOON_S:
        return ok(check, seen)
    return warn(check, seen, "without etcd, leases end after 24 hours", "give that member a new certificate in time")


def _days(seconds: float) -> str:
    return f"{seconds / DAY_S:.0f} days" if seconds >= 2 * DAY_S else f"{seconds / 3600:.0f} hours"


def configuration(facts: Facts) -> Finding:
    """Check that the network configuration is usable."""
    key = f"{facts.flags.prefix}/config"
    if facts.config is not None and facts.config.ipv4 is not None:
        subnet_range = facts.config.ipv4
        seen = f"{key}: {subnet_range.network}, /{subnet_range.subnet_len} each, {facts.config.backend_type}"
        refused = "; ".join(one.text for one in refusals(facts.config.document))
        if not refused:
            return ok("configuration", seen)
        why = "this daemon reads it; hosts with that flanneld wait for ever at their next start"
        return warn("configuration", f"{key}: {refused}", why, "pyflanneld config check FILE, then config set FILE")
    if not any(member.fault is None for member in facts.members):
        return skipped("configuration", "no etcd member serves")
    why = "the daemon waits until there is a usable one"
    return bad("configuration", facts.config_error, why, "pyflanneld config set FILE (see docs/configuration.md)")


def two_stores(facts: Facts) -> Finding:
    """Check that etcd's v2 store holds no second network."""
    if facts.config is None:
        return skipped("etcd stores", "no usable configuration")
    if not facts.config_on_v2_too:
        return ok("etcd stores", f"only the v{facts.api} store is known to hold a network configuration")
    key = f"{facts.flags.prefix}/config"
    why = "hosts on v2 are a separate network: no routes to them from here, and subnets may be leased twice"
    fix = f"if no host uses v2 any more: ETCDCTL_API=2 etcdctl rm {key}; else give all hosts the same --etcd-api"
    return warn("etcd stores", "both the v3 and the v2 store hold a network configuration; v3 counts here", why, fix)
