"""Never ready and wrong about the own lease: rows F103 to F110 of the fault matrix, against a real etcd."""

import sys

import pytest

from pyflanneld.lab.cluster import Lab
from pyflanneld.lab.node import LabHost
from pyflanneld.lab.run import attempt, until
from tests.faults.conftest import Measured
from tests.faults.test_etcd_rights import QUOTA_BYTES, fill, restart
from tests.support.etcd.server import ON_EACH_RELEASE
from tests.support.lab.testbed import Journal, launch, lease_key, pid_of, store_of, why_not_ready

pytestmark = [pytest.mark.etcd, pytest.mark.netns, ON_EACH_RELEASE]


def status(node: LabHost) -> str:
    """Return what ``pyflanneld status`` shows."""
    command = ("ip", "netns", "exec", node.namespace, sys.executable, "-m", "pyflanneld", "status")
    return attempt(*command, env={"NO_COLOR": ""}).stdout


def test_f103_own_key_gone_and_no_space(site: Lab, measured: Measured) -> None:
    """etcd takes deletions and no writes: a host whose key is gone is not ready until it is back, and says why."""
    node = site.nodes[0]
    restart(site, f"--quota-backend-bytes={QUOTA_BYTES}")
    store, journal = store_of(site), Journal(node)
    launch(node)
    node.wait_ready()
    pid, key = pid_of(node), lease_key(node.subnet)
    fill(store)
    store.delete(key)
    gone_s = until(lambda: node.get("/readyz")[0] == 503, "not ready", 5)
    assert "space" in journal.wait("etcd.unavailable")["condition"]
    assert f"the lease of {node.subnet} is gone from etcd" in why_not_ready(node)
    assert all(text in status(node) for text in ("gone from etcd, confirmed", "space", "etcd refuses the write"))
    assert node.get("/healthz")[0] == 200
    store.ctl("del", "--prefix", "/fill/")
    store.ctl("compact", "--physical", str(store.revision()))
    store.ctl("defrag")
    store.ctl("alarm", "disarm")
    back_s = node.wait_ready(45)
    assert store.kv(key) is not None
    assert pid_of(node) == pid
    restart(site)
    measured(f"not ready {gone_s:.1f} s after the key was gone; ready again {back_s:.1f} s after there is space")
