"""How to fix each condition: one sentence for an operator. Data only.

docs/troubleshooting.md says more about each.
"""

from collections.abc import Mapping

CONDITIONS: Mapping[str, str] = {
    "blackhole.failed": "Look for another blackhole or unreachable route of that destination with `ip route show`.",
    "certificates.unusable": "Correct the file that it names: it is read again within a minute, or at once on SIGHUP.",
    "config.changed": "Restore the former configuration (`pyflanneld config`), or restart the daemon for the new one.",
    "config.invalid": "Write a corrected configuration to that key in etcd; it is taken within a second.",
    "config.missing": "Write the network configuration to that key, or correct --etcd-prefix and --etcd-endpoints.",
    "config.refused_by_flanneld": "Correct the members that it names: `pyflanneld config check` tries a document.",
    "device.failed": "Do what it says: the device is made as soon as nothing is in the way.",
    "docker.bridge_differs": "Restart Docker with the options of `pyflanneld docker-opts`.",
    "etcd.denied": "Check user, password and client certificate of this host, and its role's rights in etcd.",
    "etcd.other_cluster": "Correct --etcd-endpoints, or that member: `pyflanneld doctor` shows each one's cluster.",
    "etcd.unavailable": "Check etcd, the network to it, and the certificates; routes on this host stay as they are.",
    "firewall.failed": "Read the program's message; if its lock is held for long, see `fuser /run/xtables.lock`.",
    "firewall.misread": "Use one iptables on this host: iptables-legacy and iptables-nft misread each other's rules.",
    "firewall.program_missing": "Install the program, or switch those rules off by their flag.",
    "forwarding.contested": "See `bridge monitor fdb`: a second daemon, networkd, a script.",
    "forwarding.failed": "See `bridge fdb show` for the device, and `dmesg`.",
    "guard.holding": "Check etcd: were leases deleted, an old backup restored? After a change of the backend, wait.",
    "health.not_listening": "Give this daemon a --healthz-port of its own (0: none), or free that port; it is retried.",
    "kernel.failed": "Check `dmesg` and the capability CAP_NET_ADMIN; if it persists, the daemon restarts.",
    "saved_state.failed": "Check the directory of --state-dir: does it exist, has it space, may this user write there?",
    "saved_state.in_use": "Bring etcd back: until then others may take the subnet, and new peers have no route here.",
    "saved_state.unusable": "Bring etcd back; the start waits for it. A wrong clock may be set: it is read again.",
    "lease.exhausted": "Delete leases of hosts that are gone (`pyflanneld leases`), or make the network larger.",
    "lease.overlapped": "Find out whose key that is; delete it if it is no host's: this one takes its subnet again.",
    "lease.shared": "Find the other host with that address (a clone?); give one of them another, and restart it.",
    "lease.shortened": "Find out who put this host's key on that etcd lease. It is put back once etcd takes writes.",
    "lease.unreadable": "Delete that key in etcd: this node creates it again, with the same subnet.",
    "lease.vanished": "If it lasts, etcd refuses the write: the line about etcd says why (no space, no right).",
    "link.address_gone": "Give the interface that address again; if it has a new one for good, wait.",
    "link.address_missing": "Give the interface that address again, or start with another --public-ip.",
    "link.down": "Set the interface up, or plug in its cable: `ip link show`.",
    "link.missing": "Bring the interface back, or correct --iface.",
    "link.no_ipv6": "Give the interface a permanent global IPv6 address.",
    "metrics.file_failed": "Check the directory of --metrics-textfile: does it exist, is it writable for this user?",
    "metrics.not_listening": "Free that port (see `ss -ltnp`), or give another --metrics-bind; it is retried.",
    "neighbour.contested": "See `ip monitor neigh`: a second daemon, networkd, a script.",
    "neighbour.failed": "See `ip neighbour show` for the device, and `dmesg`: ENOBUFS is a full neighbour table.",
    "operator.not_listening": "See which process has an abstract socket of that name (`ss -lxp`); it is retried.",
    "peer.covers_own_address": "Packets to that address stay here: take it off lo, or move that peer.",
    "peer.few_accepted": "See what those peers have in common: `pyflanneld peers`, and their own --iface.",
    "peer.none_accepted": "Compare --iface and the network with the peers': `pyflanneld peers`, `ip address`.",
    "peer.other_vni": "Restart that host's daemon: it was started when the network had another VNI.",
    "peer.shares_addresses": "Fine if no host of that LAN has such an address; else give one of them another range.",
    "probe.impossible": 'Allow ICMP: `sysctl net.ipv4.ping_group_range="0 2147483647"`; it is retried.',
    "probe.unanswered": "Check that host, its docker0, and firewalls that drop ICMP: `pyflanneld peers`.",
    "route.contested": "See `ip monitor route`: a second daemon whose network overlaps, networkd, a script.",
    "route.conflict": "Find out what put that route (`pyflanneld routes --diff`); once it is gone, ours is added.",
    "route.failed": "ENETUNREACH: the gateway is not on this link. Otherwise see `ip route get` for it, and `dmesg`.",
    "route.lost": "Correct the lease: `pyflanneld peers` shows what is wrong with it; its owner may have to restart.",
    "route.shadowed": "Find out what put that route: `pyflanneld routes --diff`; delete it if it is wrong.",
    "subnet_file.exposed": "Run the command that it names, or move the file with --subnet-file: root sources it.",
    "subnet_file.failed": "Check the directory: does it exist, has it space, may this user write there, and not all?",
}
"""By the log event of the condition."""

QUARANTINED: Mapping[str, str] = {
    "bad_gateway": "Correct that node: its PublicIP cannot be a peer's address.",
    "bad_key": "Delete the key, it is no subnet: `etcdctl del`.",
    "bad_length": "Delete the lease: `pyflanneld leases release`.",
    "bad_value": "Find out who wrote that value; delete the key if it is no node's.",
    "captures_address": "Keep that address out of the network's range (SubnetMin, SubnetMax); is docker0 an old one?",
    "captures_network": "Give that bridge or LAN another network: the kernel can use one of two routes of one prefix.",
    "gateway_off_link": "Correct --public-ip or --iface on that node, or here: host-gw needs both on one LAN.",
    "not_an_object": "Find out who wrote that value; delete the key if it is no node's.",
    "not_json": "Find out who wrote that value; delete the key if it is no node's.",
    "outside_network": "Delete the lease, a leftover of another network: `pyflanneld leases release`.",
    "own_elsewhere": "A reservation is taken at this host's next start; an old lease of it expires, or delete it.",
    "overlaps_older": "Delete one of the two leases: `pyflanneld leases` shows both.",
    "overlaps_own": "Find out whose lease it is: one subnet cannot be on two hosts.",
    "same_as_older": "On one of the hosts stop the daemon, `ip link delete` its device, start it: the MAC is another.",
    "too_large": "Find out who wrote that value; delete the key if it is no node's.",
}
"""By the reason of the quarantine."""

UNREADY: Mapping[str, str] = {
    "lease.unconfirmed": "Bring etcd back: others may take the subnet by now. Routes and containers stay as they are.",
    "peers.unknown": "Check the rights on the leases in etcd, and whether a member is slow: `pyflanneld doctor`.",
    "task.stalled": "Restart the daemon, which does not interrupt traffic, and keep its log for a report.",
    "start.pending": "Wait a moment; if it persists, the lines above and the log say what it waits for.",
}
"""By the other reasons for not being ready."""


def hint(event: str, reason: str = "") -> str:
    """Return how to fix the condition *event*, or a key that is quarantined for *reason*; may be empty."""
    return QUARANTINED.get(reason, "") or CONDITIONS.get(event, "") or UNREADY.get(event, "")
