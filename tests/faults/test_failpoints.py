"""What happens at a failpoint: the points themselves, and rows F75 and F76 of the fault matrix at each of them."""

from pathlib import Path

import pytest

from pyflanneld.lab.cluster import Lab
from pyflanneld.lab.etcd import PREFIX
from pyflanneld.lab.node import Node
from tests.bed import Journal, Store, launch, lease_key, lease_value, store_of
from tests.failpoints import PASSED
from tests.failpoints.plan import POINTS

pytestmark = [pytest.mark.etcd, pytest.mark.netns]
STRANGER, OTHER = "192.168.14.99", "192.168.14.98"
PEERS = {f"172.7.{number}.0/24": STRANGER for number in range(90, 96)}
GONE = ("172.7.90.0/24", "172.7.91.0/24")
MOVED = "172.7.92.0/24"
LEFT = {subnet: OTHER if subnet == MOVED else gateway for subnet, gateway in PEERS.items() if subnet not in GONE}


def put_peers(store: Store) -> None:
    for subnet, gateway in PEERS.items():
        store.put(lease_key(subnet), lease_value(gateway))


def move_peers(store: Store) -> None:
    """Take two away and give one another gateway, in one revision."""
    store.txn(
        *(f'del "{lease_key(subnet)}"' for subnet in GONE),
        f'put "{lease_key(MOVED)}" "{lease_value(OTHER).replace(chr(34), chr(92) + chr(34))}"',
    )


def live(node: Node, store: Store) -> None:
    """Live a life from the creation of the lease to the end, in which peers come, move and go."""
    node.wait_ready()
    node.wait_routes(PEERS)
    move_peers(store)
    node.wait_routes(LEFT)


def test_every_point_is_passed_in_a_normal_life(site: Lab, tmp_path: Path) -> None:
    """A daemon that starts, follows its peers and is stopped, twice, passes each of the points."""
    node, store, passed = site.nodes[0], store_of(site), tmp_path / "passed"
    manager = f"@{site.name}.nobody"  # nobody listens there: READY=1 is lost, but it is said
    node.subnet_file.unlink()
    for _ in range(2):  # the second life renews a lease
        put_peers(store)
        launch(node, failpoints="", env={PASSED: str(passed), "NOTIFY_SOCKET": manager})
        live(node, store)
        assert node.stop() == 0
    assert sorted(set(passed.read_text().split())) == sorted(POINTS)
    assert len(Journal.whole(node).events("daemon.stopped")) == 2
    assert store.kvs(f"{PREFIX}/subnets/")
