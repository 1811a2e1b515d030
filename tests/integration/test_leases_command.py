"""``pyflanneld leases`` on a real etcd: listing, reserving, releasing, and what it refuses."""

import base64
import itertools
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass

import pytest
import structlog

from pyflanneld.cli import main
from tests.support.etcd.server import Etcd, etcd_missing, running_etcd

pytestmark = pytest.mark.etcd
CONFIG = '{"Network":"172.7.0.0/16","Backend":{"Type":"host-gw"}}'
LEASE = '{"PublicIP":"192.168.14.21","PublicIPv6":null,"BackendType":"host-gw"}'
_prefixes = itertools.count(1)


@pytest.fixture(scope="module")
def etcd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Etcd]:
    if missing := etcd_missing():
        pytest.skip(f"needs {missing}")
    with running_etcd(tmp_path_factory.mktemp("etcd")) as running:
        yield running


@dataclass
class Cluster:
    """One prefix of the etcd, the command on it, and what it said."""

    etcd: Etcd
    prefix: str
    capsys: pytest.CaptureFixture[str]
    out: str = ""
    err: str = ""

    def put(self, path: str, value: str, *, ttl_s: int = 0) -> None:
        lease = ["--lease", self.etcd.ctl("lease", "grant", str(ttl_s)).split()[1]] if ttl_s else []
        self.etcd.ctl("put", *lease, f"{self.prefix}/{path}", value)

    def keys(self) -> dict[str, dict[str, object]]:
        answer = json.loads(self.etcd.ctl("get", "--prefix", f"{self.prefix}/subnets/", "-w", "json"))
        return {self._name(kv["key"]): kv for kv in answer.get("kvs", [])}

    def _name(self, key: str) -> str:
        return base64.b64decode(key).decode().rpartition("/")[2]

    def leases(self, *words: str) -> int:
        try:
            code = main(["leases", *words, f"--etcd-endpoints={self.etcd.endpoints[0]}", "--etcd-prefix", self.prefix])
        finally:
            structlog.reset_defaults()
        self.out, self.err = self.capsys.readouterr()
        return code


@pytest.fixture
def cluster(etcd: Etcd, capsys: pytest.CaptureFixture[str]) -> Cluster:
    made = Cluster(etcd, f"/leases/{next(_prefixes)}", capsys)
    made.put("config", CONFIG)
    return made


def test_list(cluster: Cluster) -> None:
    """Leases, reservations and broken keys have a row each, with what is known of them."""
    cluster.put("subnets/172.7.21.0-24", LEASE, ttl_s=7200)
    cluster.put("subnets/172.7.22.0-24", LEASE.replace("21", "22"))
    cluster.put("subnets/172.7.23.0-24", "junk")
    assert cluster.leases() == 0
    head, lease, reservation, broken = cluster.out.splitlines()
    assert head.split() == ["SUBNET", "PUBLIC", "IP", "BACKEND", "TTL", "LEFT", "RENEWED", "REVISION"]
    assert lease.split()[:4] in (["172.7.21.0/24", "192.168.14.21", "host-gw", span] for span in ("2h00m", "1h59m"))
    assert reservation.split()[:4] == ["172.7.22.0/24", "192.168.14.22", "host-gw", "reserved"]
    assert "not usable" in broken


def test_list_as_json(cluster: Cluster) -> None:
    """``--output json`` is one array with the same facts, for programs; no lease is an empty one."""
    assert cluster.leases("list", "--output", "json") == 0
    assert json.loads(cluster.out) == []
    cluster.put("subnets/172.7.21.0-24", LEASE, ttl_s=7200)
    assert cluster.leases("--output=json", "list") == 0
    (row,) = json.loads(cluster.out)
    assert (row["subnet"], row["public_ip"], row["backend"]) == ("172.7.21.0/24", "192.168.14.21", "host-gw")
    assert row["reserved"] is False
    assert 7100 < row["ttl_s"] <= 7200
    assert row["problem"] is None


def test_reserve_a_free_subnet(cluster: Cluster) -> None:
    """A key without TTL and with flannel's bytes is there afterwards; saying it twice is no failure."""
    assert cluster.leases("reserve", "172.7.30.0/24", "192.168.14.30") == 0
    kv = cluster.keys()["172.7.30.0-24"]
    assert "lease" not in kv
    written = cluster.etcd.ctl("get", "--print-value-only", f"{cluster.prefix}/subnets/172.7.30.0-24").strip()
    assert written == LEASE.replace("192.168.14.21", "192.168.14.30")
    assert cluster.leases("reserve", "172.7.30.0/24", "192.168.14.30") == 0
    assert "already" in cluster.out
    assert cluster.keys()["172.7.30.0-24"] == kv


def test_reserve_takes_the_ttl_off_the_nodes_own_lease(cluster: Cluster) -> None:
    """What that very node leases becomes a reservation, with the same value; its etcd lease is not needed any more."""
    cluster.put("subnets/172.7.21.0-24", LEASE, ttl_s=7200)
    before = cluster.keys()["172.7.21.0-24"]
    assert cluster.leases("reserve", "172.7.21.0-24", "192.168.14.21") == 0
    after = cluster.keys()["172.7.21.0-24"]
    assert "lease" not in after
    assert (after["value"], after["create_revision"]) == (before["value"], before["create_revision"])


@pytest.mark.parametrize(
    ("subnet", "public_ip", "why"),
    [
        ("172.7.21.0/24", "192.168.14.99", "leased by 192.168.14.21"),
        ("172.7.40.0/24", "192.168.14.99", "overlaps 172.7.40.128/25"),
        ("172.7.23.0/24", "192.168.14.99", "cannot be read"),
        ("172.7.0.0/24", "192.168.14.99", "not one of the subnets"),
        ("172.7.50.0/25", "192.168.14.99", "not one of the subnets"),
        ("10.0.0.0/24", "192.168.14.99", "not one of the subnets"),
        ("172.7.50.0/24", "172.7.50.1", "inside the subnet"),
    ],
)
def test_reserve_refuses(cluster: Cluster, subnet: str, public_ip: str, why: str) -> None:
    """What overlaps, is another's, or could be no node's lease is refused with its reason, and nothing is written."""
    cluster.put("subnets/172.7.21.0-24", LEASE, ttl_s=7200)
    cluster.put("subnets/172.7.40.128-25", LEASE.replace("21", "40"))
    cluster.put("subnets/172.7.23.0-24", "junk")
    before = cluster.keys()
    assert cluster.leases("reserve", subnet, public_ip) == 1
    assert why in cluster.err
    assert cluster.keys() == before


def test_reserve_in_a_dual_stack_network(cluster: Cluster) -> None:
    """Both halves are reserved in one key, with flannel's bytes; half a reservation is refused."""
    dual = CONFIG.replace('"Backend"', '"EnableIPv6":true,"IPv6Network":"2001:cafe:42::/56","Backend"')
    cluster.put("config", dual)
    assert cluster.leases("reserve", "172.7.30.0/24,2001:cafe:42:7::/64", "192.168.14.30,2001:db8::30") == 0
    key = "172.7.30.0-24&2001:cafe:42:7::-64"
    assert cluster.keys().keys() == {key}
    written = cluster.etcd.ctl("get", "--print-value-only", f"{cluster.prefix}/subnets/{key}").strip()
    assert written == '{"PublicIP":"192.168.14.30","PublicIPv6":"2001:db8::30","BackendType":"host-gw"}'
    assert cluster.leases("reserve", "172.7.31.0/24", "192.168.14.31") == 1
    assert "dual-stack" in cluster.err
    assert cluster.leases("reserve", "172.7.31.0/24,2001:cafe:42:7::/64", "192.168.14.31,2001:db8::31") == 1
    assert "overlaps" in cluster.err
    assert cluster.leases("release", "172.7.30.0/24") == 0
    assert cluster.keys() == {}


def test_reserve_for_a_node_that_holds_another(cluster: Cluster) -> None:
    """It is done, and said that the node keeps what it has until somebody moves it."""
    cluster.put("subnets/172.7.21.0-24", LEASE, ttl_s=7200)
    assert cluster.leases("reserve", "172.7.30.0/24", "192.168.14.21") == 0
    assert "holds 172.7.21.0/24 as well" in cluster.err


def test_reserve_without_a_configuration(cluster: Cluster) -> None:
    """Without a network configuration nobody can say what may be reserved: refused."""
    cluster.etcd.ctl("del", f"{cluster.prefix}/config")
    assert cluster.leases("reserve", "172.7.30.0/24", "192.168.14.30") == 1
    assert "no network configuration" in cluster.err


def test_release_a_reservation(cluster: Cluster) -> None:
    """A reservation goes without force, and only it."""
    cluster.put("subnets/172.7.21.0-24", LEASE)
    cluster.put("subnets/172.7.22.0-24", LEASE.replace("21", "22"))
    assert cluster.leases("release", "172.7.21.0/24") == 0
    assert cluster.keys().keys() == {"172.7.22.0-24"}


def test_release_a_live_lease(cluster: Cluster) -> None:
    """A lease with a TTL is a live node's: refused, and deleted only by force."""
    cluster.put("subnets/172.7.21.0-24", LEASE, ttl_s=7200)
    assert cluster.leases("release", "172.7.21.0/24") == 1
    assert "--force" in cluster.err
    assert cluster.keys().keys() == {"172.7.21.0-24"}
    assert cluster.leases("release", "--force", "172.7.21.0/24") == 0
    assert cluster.keys() == {}


def test_release_nothing(cluster: Cluster) -> None:
    """A subnet that nobody holds cannot be released."""
    assert cluster.leases("release", "172.7.21.0/24") == 1
    assert "no lease of 172.7.21.0/24" in cluster.err


def test_as_a_program(cluster: Cluster) -> None:
    """Flags may stand before and after the words, variables count, a daemon's other variables do not; codes 0, 1, 2."""
    command = (sys.executable, "-W", "error", "-m", "pyflanneld", "leases")
    environ = {**os.environ, "FLANNELD_ETCD_PREFIX": cluster.prefix, "FLANNELD_HEALTHZ_PORT": "junk"}
    endpoint = f"--etcd-endpoints={cluster.etcd.endpoints[0]}"
    cluster.put("subnets/172.7.21.0-24", LEASE, ttl_s=7200)

    def run(*words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run([*command, *words], env=environ, capture_output=True, text=True, timeout=60, check=False)

    listed = run(endpoint, "list", "-output", "json")
    assert (listed.returncode, listed.stderr) == (0, "")
    assert len(json.loads(listed.stdout)) == 1
    refused = run("release", "172.7.21.0/24", endpoint)
    assert (refused.returncode, refused.stdout) == (1, "")
    wrong = run("release", endpoint)
    assert (wrong.returncode, wrong.stdout) == (2, "")
    assert "release needs: SUBNET" in wrong.stderr


def test_etcd_is_away(cluster: Cluster) -> None:
    """Without etcd the exit code is 1, with a line that says why."""
    code = main(["leases", "--etcd-endpoints=http://127.0.0.1:1"])
    structlog.reset_defaults()
    assert code == 1
    assert "127.0.0.1:1" in cluster.capsys.readouterr().err
