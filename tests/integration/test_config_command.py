"""``pyflanneld config show`` and ``set`` on a real etcd, in both its APIs."""

import base64
import itertools
import json
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlencode

import pytest
import structlog

from pyflanneld.cli import main
from tests.support.etcd.server import Etcd, etcd_missing, running_etcd

pytestmark = pytest.mark.etcd
GOOD = '{"Network":"172.7.0.0/16","Backend":{"Type":"host-gw"}}'
LONGER = '{"Network":"172.7.0.0/16","SubnetLen":25,"Backend":{"Type":"host-gw"}}'
WIDER = '{"Network":"172.6.0.0/15","Backend":{"Type":"host-gw"}}'
LEASE = '{"PublicIP":"192.168.14.21","PublicIPv6":null,"BackendType":"host-gw"}'
_prefixes = itertools.count(1)


@pytest.fixture(scope="module")
def etcd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Etcd]:
    if missing := etcd_missing():
        pytest.skip(f"needs {missing}")
    with running_etcd(tmp_path_factory.mktemp("etcd"), args=["--enable-v2=true"]) as running:
        yield running


@dataclass
class Cluster:
    """One prefix of one API, the command on it, and what it said."""

    etcd: Etcd
    api: int
    prefix: str
    file: Path
    capsys: pytest.CaptureFixture[str]
    out: str = ""
    err: str = ""

    def put(self, path: str, value: str, *, ttl_s: int = 0) -> None:
        if self.api == 2:
            self._v2(path, {"value": value, **({"ttl": ttl_s} if ttl_s else {})})
            return
        lease = ["--lease", self.etcd.ctl("lease", "grant", str(ttl_s)).split()[1]] if ttl_s else []
        self.etcd.ctl("put", *lease, f"{self.prefix}/{path}", value)

    def _v2(self, path: str, form: dict[str, object] | None = None) -> str | None:
        url = f"{self.etcd.endpoints[0]}/v2/keys{self.prefix}/{path}"
        body = urlencode(form).encode() if form else None
        request = urllib.request.Request(url, data=body, method="PUT" if form else "GET")  # noqa: S310
        try:
            with urllib.request.urlopen(request, timeout=5) as answer:  # noqa: S310
                return str(json.loads(answer.read())["node"]["value"])
        except urllib.error.HTTPError as error:
            error.close()
            return None

    @property
    def config(self) -> str | None:
        if self.api == 2:
            return self._v2("config")
        kvs = json.loads(self.etcd.ctl("get", f"{self.prefix}/config", "-w", "json")).get("kvs", [])
        return base64.b64decode(kvs[0]["value"]).decode() if kvs else None

    def __call__(self, *words: str) -> int:
        flags = (f"--etcd-endpoints={self.etcd.endpoints[0]}", f"--etcd-prefix={self.prefix}", f"--etcd-api={self.api}")
        try:
            code = main(["config", *words, *flags])
        finally:
            structlog.reset_defaults()
        self.out, self.err = self.capsys.readouterr()
        return code

    def set(self, document: str, *flags: str) -> int:
        self.file.write_text(document + "\n")
        return self("set", str(self.file), *flags)


@pytest.fixture(params=[3, 2])
def cluster(
    request: pytest.FixtureRequest, etcd: Etcd, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> Cluster:
    return Cluster(etcd, request.param, f"/config/{next(_prefixes)}", tmp_path / "net.json", capsys)


def test_the_first(cluster: Cluster) -> None:
    """Where there is none the bytes of the file are written; a second time nothing is to be done."""
    assert cluster("show") == 1
    assert "there is no network configuration" in cluster.err
    assert cluster.set(GOOD) == 0
    assert cluster.config == GOOD
    assert cluster.set(GOOD) == 0
    assert "holds exactly this already" in cluster.out
    assert cluster("show") == 0
    assert cluster.out.splitlines()[0] == GOOD
    assert "valid" in cluster.out


def test_show_what_is_not_usable(cluster: Cluster) -> None:
    """Junk in etcd is shown with what is wrong with it, exit code 1."""
    cluster.put("config", '{"Network":"172.7.0.0/99"}')
    assert cluster("show") == 1
    assert "not usable: Network" in cluster.out
    assert cluster("show", "--output=json") == 1
    assert json.loads(cluster.out)["valid"] is False


def test_a_document_that_is_not_usable_is_never_written(cluster: Cluster) -> None:
    """Not even with force."""
    cluster.put("config", GOOD)
    assert cluster.set('{"Network":"172.7.0.0/16","Backend":{"Type":"wireguard"}}', "--force") == 1
    assert "'wireguard'" in cluster.out
    assert cluster.config == GOOD


def test_a_document_that_a_go_daemon_cannot_read(cluster: Cluster) -> None:
    """It is refused with who cannot read it, and written with force; show and check are exit code 1 then."""
    bad = GOOD.replace("{", '{"SubnetMin":null,', 1)
    cluster.put("config", GOOD)
    assert cluster.set(bad) == 1
    assert "flanneld v0.11.0 and v0.28.9 cannot read SubnetMin: null" in cluster.out
    assert "it is not for every flanneld; nothing was done; --force" in cluster.err
    assert cluster.config == GOOD
    assert cluster.set(bad, "--force") == 0
    assert cluster.config == bad
    assert cluster("show") == 1
    assert "not for every flanneld" in cluster.out


def test_live_leases_that_would_not_fit(cluster: Cluster) -> None:
    """They are named, and the change is refused; force writes it; a dry run does not."""
    cluster.put("config", GOOD)
    cluster.put("subnets/172.7.21.0-24", LEASE, ttl_s=600)
    assert cluster.set(LONGER) == 1
    assert "SubnetLen: 24 -> 25" in cluster.out
    assert "172.7.21.0/24 of 192.168.14.21 does not fit: that host takes another subnet" in cluster.out
    assert "1 live lease would no longer fit; nothing was done" in cluster.err
    assert cluster.set(LONGER, "--force", "--dry-run") == 0
    assert cluster.config == GOOD
    assert cluster.set(LONGER, "--force") == 0
    assert cluster.config == LONGER


def test_a_change_that_leaves_all_leases_in_place(cluster: Cluster) -> None:
    """A wider network is written without force; a reservation that does not fit does not stand in the way."""
    cluster.put("config", GOOD)
    cluster.put("subnets/172.7.21.0-24", LEASE, ttl_s=600)
    cluster.put("subnets/10.9.9.0-24", LEASE.replace("21", "9"))
    assert cluster.set(WIDER) == 0
    assert "Network: 172.7.0.0/16 -> 172.6.0.0/15" in cluster.out
    assert "1 of 2 leases stay as they are" in cluster.out
    assert "10.9.9.0/24 of 192.168.14.9 is a reservation that does not fit" in cluster.out
    assert cluster.config == WIDER


def test_etcd_down(cluster: Cluster) -> None:
    """Without etcd it is exit code 1 and one line."""
    cluster.file.write_text(GOOD)
    try:
        assert main(["config", "set", str(cluster.file), "--etcd-endpoints=http://127.0.0.1:1"]) == 1
    finally:
        structlog.reset_defaults()
    assert "http://127.0.0.1:1" in cluster.capsys.readouterr().err
