"""Three etcd members for a laboratory, each on a host of its own, in the place of its single one."""

import contextlib
import json
import signal
from collections.abc import Iterator, Sequence
from ipaddress import IPv4Interface

from pyflanneld.lab import topology
from pyflanneld.lab.cluster import Lab
from pyflanneld.lab.node import LabHost
from pyflanneld.lab.run import until
from tests.support.etcd.server import Files, Member, make_member
from tests.support.lab.testbed import Journal, Store, pid_of

ADDRESSES = ("192.168.14.12", "192.168.14.13", "192.168.14.14")


class Members:
    """The cluster of etcd members."""

    def __init__(self, members: Sequence[Member], store: Store) -> None:
        self.all = tuple(members)
        self.store = store

    @property
    def endpoints(self) -> str:
        """What to give to ``--etcd-endpoints``."""
        return ",".join(member.url for member in self.all)

    def start(self) -> None:
        for member in self.all:
            member.start()
        until(self.healthy, "etcd has a leader", 30, poll_s=0.05)

    def healthy(self) -> bool:
        """Return whether every member serves requests."""
        try:
            self.store.ctl("endpoint", "health", "--command-timeout=1s")
        except RuntimeError:
            return False
        return True

    def leader(self) -> Member:
        """Return the member that leads now."""
        for status in self.store.json("endpoint", "status", "--command-timeout=2s"):
            if status["Status"]["leader"] == status["Status"]["header"]["member_id"]:
                return next(member for member in self.all if member.url == status["Endpoint"])
        raise AssertionError("no leader")

    def move_leader(self, member: Member) -> None:
        """Hand the leadership to a member; nothing if it leads already."""
        leader = self.leader()
        if leader is not member:
            ids = {each["name"]: each["ID"] for each in self.store.json("member", "list")["members"]}
            self.store.ctl(f"--endpoints={leader.url}", "move-leader", f"{ids[member.name]:x}")

    def restore(self) -> None:
        """Have every member running and serving again, whatever a test has done to it."""
        for member in self.all:
            member.resume()
            if member.process is None or member.process.poll() is not None:
                member.start()
        until(self.healthy, "all members serve", 30, poll_s=0.1)

    def put_elsewhere(self, avoided: Member, key: str, value: str) -> None:
        """Put a key through the other members, again and again if they have no leader yet."""
        others = ",".join(member.url for member in self.all if member is not avoided)

        def done() -> bool:
            try:
                self.store.ctl(f"--endpoints={others}", "--command-timeout=1s", "put", "--", key, value)
            except RuntimeError:
                return False
            return True

        until(done, f"{key} is put", 15, poll_s=0.1)

    def used_by(self, node: LabHost) -> Member:
        """Return the member that a host's daemon uses; it was started with these endpoints."""
        log = Journal.whole(node).text().rpartition('"daemon.started"')[2]  # earlier ones may have had other endpoints
        switches = [json.loads(line) for line in log.splitlines() if '"endpoint.switched"' in line]
        if switches:  # connections that it has left may still be open
            return next(member for member in self.all if member.url == switches[-1]["to"])
        lines = node.exec("ss", "-Htnp", "state", "established", "dport = :2379").splitlines()
        mine = [line.split() for line in lines if f"pid={pid_of(node)}," in line]
        far = {words[3].rpartition(":")[0].strip("[]").removeprefix("::ffff:") for words in mine}
        [member] = [member for member in self.all if member.url.split("/")[2].split(":")[0] in far]
        return member


@contextlib.contextmanager
def three_members(
    lab: Lab,
    hosts: Sequence[str],
    addresses: Sequence[str],
    *,
    server: Files | None = None,
    client: Files | None = None,
) -> Iterator[Members]:
    """Run three members until the block ends.

    Args:
        lab: is built, and its own etcd stopped.
        hosts: the namespaces to run in.
        addresses: of these hosts on the LAN.
        server: serve https with these, and demand a client certificate.
        client: what ``etcdctl`` uses for that.
    """
    scheme = "https" if server else "http"
    peers = {f"m{number}": f"http://{address}:2380" for number, address in enumerate(addresses)}
    args, options = [], []
    if server and client:
        args = [f"--cert-file={server.cert}", f"--key-file={server.key}"]
        args += [f"--trusted-ca-file={server.ca}", "--client-cert-auth"]
        options = [f"--cacert={client.ca}", f"--cert={client.cert}", f"--key={client.key}"]
    folder = lab.folder / "members"
    folder.mkdir()
    members = []
    for name, address, host in zip(peers, addresses, hosts, strict=True):
        urls = {"url": f"{scheme}://{address}:2379", "health_url": "http://127.0.0.1:2378"}
        members.append(make_member(folder, name, peers=peers, args=args, netns=host, **urls))
    endpoints = ",".join(member.url for member in members)
    cluster = Members(members, Store(lab.etcd.namespace, f"--endpoints={endpoints}", *options))
    try:
        cluster.start()
        yield cluster
    finally:
        for member in members:
            member.resume()
            member.kill()


def add_member_hosts(lab: Lab) -> list[str]:
    """Give two more members a host each, beside the laboratory's etcd; return the three namespaces.

    Their names are those of hosts, so that the laboratory removes them with the rest.
    """
    hosts = [lab.etcd.namespace]
    for number, address in enumerate(ADDRESSES[1:], start=91):
        host = topology.namespace(lab.name, f"n{number}")
        topology.add_namespace(host)
        topology.plug_in(lab.lan, host, IPv4Interface(f"{address}/24"), f"m{number}")
        hosts.append(host)
    lab.etcd.stop(signal.SIGKILL)
    return hosts
