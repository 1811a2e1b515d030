"""Users, tokens, rights and space of etcd that change under a daemon: rows F15 to F18 of the fault matrix."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from itertools import pairwise
from pathlib import Path

import pytest

from pyflanneld.lab.cluster import Lab
from pyflanneld.lab.etcd import PREFIX
from pyflanneld.lab.measure import RouteMonitor
from pyflanneld.lab.node import LabHost
from pyflanneld.lab.run import run, until
from tests.faults.conftest import Measured
from tests.support.etcd.counters import etcd_counters
from tests.support.etcd.server import ON_EACH_RELEASE
from tests.support.lab.testbed import (
    POISON,
    Journal,
    Store,
    gateways,
    launch,
    lease_key,
    lease_value,
    pid_of,
    store_of,
    why_not_ready,
)

pytestmark = [pytest.mark.etcd, pytest.mark.netns, ON_EACH_RELEASE]
STRANGER = "192.168.14.99"
SUBNET, KEY = "172.7.99.0/24", lease_key("172.7.99.0/24")
ROOT = "root:administrator"
TTL_S = 3604  # a renewal every 4 s, for they begin an hour before the end
QUOTA_BYTES = 16 << 20


def root_of(lab: Lab) -> Store:
    """Return ``etcdctl`` of an administrator."""
    return Store(lab.etcd.namespace, f"--user={ROOT}")


@contextmanager
def users(lab: Lab) -> Iterator[Store]:
    """Have an administrator, and a user ``flannel`` with rights on our prefix, until the block ends."""
    store = store_of(lab)
    store.ctl("user", "add", ROOT)
    store.ctl("user", "grant-role", "root", "root")
    store.ctl("role", "add", "flannel")
    store.ctl("role", "grant-permission", "flannel", "--prefix=true", "readwrite", f"{PREFIX}/")
    store.ctl("user", "add", f"flannel:{POISON}")
    store.ctl("user", "grant-role", "flannel", "flannel")
    try:
        yield root_of(lab)
    finally:
        if _enabled(lab):
            root_of(lab).ctl("auth", "disable")
        for name in ("flannel", "root"):
            store.ctl("user", "delete", name)
        store.ctl("role", "delete", "flannel")


def _enabled(lab: Lab) -> bool:
    try:
        store_of(lab).ctl("user", "list")
    except RuntimeError:
        return True
    return False


def launch_as(node: LabHost, user: str, password: str, *, lease_s: int | None = None) -> None:
    variables = {"FLANNELD_ETCD_USERNAME": user, "FLANNELD_ETCD_PASSWORD": password}
    launch(node, "--allow-plaintext-auth", "-v=1", env=variables, lease_s=lease_s)


def short_lease(store: Store, node: LabHost) -> int:
    """Leave a lease as from an earlier run, which is renewed every few seconds."""
    lease = store.grant(TTL_S)
    store.put(lease_key(node.bridge_address.network), lease_value(node.address.ip), lease=lease)
    return lease


def token_flags(kind: str, folder: Path) -> tuple[str, ...]:
    """Return flags for tokens that live for two seconds."""
    if kind == "simple":
        return ("--auth-token-ttl=2",)
    private, public = folder / "token.key", folder / "token.pub"
    run("openssl", "genrsa", "-out", str(private), "2048")
    run("openssl", "rsa", "-in", str(private), "-pubout", "-out", str(public))
    return (f"--auth-token=jwt,pub-key={public},priv-key={private},sign-method=RS256,ttl=2s",)


@pytest.mark.thorough
@pytest.mark.parametrize("kind", ["simple", "jwt"])
def test_f16_tokens_die(site: Lab, kind: str, measured: Measured) -> None:
    """Tokens run out between two renewals, and with each change of users: nobody notices, at most one new token is
    fetched per second, and no password is logged."""
    node, store = site.nodes[0], store_of(site)
    lease, journal = short_lease(store, node), Journal(node)
    restart(site, *token_flags(kind, site.folder))
    with users(site) as root:
        store.ctl("auth", "enable")
        launch_as(node, "flannel", POISON, lease_s=TTL_S)
        node.wait_ready()
        renewed = len(journal.events("auth.renewed"))
        for number in range(4):
            root.ctl("user", "add", f"other{number}:x")
            root.put(KEY, lease_value(STRANGER))
            node.wait_routes({SUBNET: STRANGER}, 10)
            root.delete(KEY)
            node.wait_routes({}, 10)
        until(lambda: len(journal.events("auth.renewed")) >= renewed + 2, "tokens are renewed, again and again", 20)
        assert root.ttl(lease)[0] >= TTL_S - 10
        assert node.get("/readyz")[0] == 200
        assert node.stop() == 0
        for number in range(4):
            root.ctl("user", "delete", f"other{number}")
    restart(site)
    assert not journal.events("etcd.denied")
    at_s = [datetime.fromisoformat(event["timestamp"]).timestamp() for event in journal.events("auth.renewed")]
    gaps_s = [later - earlier for earlier, later in pairwise(at_s)]
    assert min(gaps_s) > 0.9
    measured(f"{len(at_s)} tokens fetched in {at_s[-1] - at_s[0]:.0f} s, at least {min(gaps_s):.1f} s apart; no error")


def restart(lab: Lab, *flags: str) -> None:
    lab.etcd.stop()
    lab.etcd.flags = flags
    lab.etcd.start()


def test_f15_rights_taken_away(site: Lab, monkeypatch: pytest.MonkeyPatch, measured: Measured) -> None:
    """The role is taken away, and etcd restarted, which ends the watch: that is an alarm, routes stay as they are; what
    changed meanwhile is caught up when the role is back."""
    node = site.nodes[0]
    rights = ("--prefix=true", "readwrite", f"{PREFIX}/")
    with users(site) as root:
        store_of(site).ctl("auth", "enable")
        root.put(KEY, lease_value(STRANGER))
        launch_as(node, "flannel", POISON)
        node.wait_ready()
        node.wait_routes({SUBNET: STRANGER})
        pid, journal = pid_of(node), Journal(node)
        with RouteMonitor(node) as monitor:
            root.ctl("role", "revoke-permission", "flannel", "--prefix=true", f"{PREFIX}/")
            with monkeypatch.context() as environ:
                environ.setenv("ETCDCTL_USER", ROOT)  # for the laboratory, which asks whether etcd answers
                restart(site)
            denied = journal.wait("etcd.denied", timeout_s=20)
            assert denied["level"] in ("warning", "error")
            assert "permission denied" in denied["condition"]
            root.delete(KEY)
            assert node.get("/healthz")[0] == 200
            assert monitor.messages() == ()
            root.ctl("role", "grant-permission", "flannel", *rights)
            took_s = node.wait_routes({}, 30)
        assert node.get("/readyz")[0] == 200
        assert pid_of(node) == pid
        assert node.stop() == 0
    measured(f"routes frozen; right again {took_s:.1f} s after the role was given back")


def test_f17_switched_on_and_off_at_run_time(site: Lab, measured: Measured) -> None:
    """Authentication is switched on: who has credentials goes on; who has none is frozen and says so, until it is
    switched off again."""
    armed, bare, _ = site.nodes
    store, journals = store_of(site), [Journal(node) for node in site.nodes[:2]]
    leases = [short_lease(store, node) for node in (armed, bare)]
    with users(site) as root:
        launch_as(armed, "flannel", POISON, lease_s=TTL_S)
        launch(bare, lease_s=TTL_S)
        for node in (armed, bare):
            node.wait_ready()
        journals[0].wait("auth.not_enabled")
        store.ctl("auth", "enable")
        journals[1].wait("etcd.denied", timeout_s=20)
        with RouteMonitor(bare) as monitor:
            assert bare.get("/healthz")[0] == 200
            root.put(KEY, lease_value(STRANGER))
            armed.wait_routes(site.gateways_for(armed, site.nodes[:2]) | {SUBNET: STRANGER}, 15)
            assert not [message for message in monitor.messages() if message.deleted]
        assert not journals[0].events("etcd.denied")
        root.ctl("auth", "disable")
        took_s = bare.wait_routes(site.gateways_for(bare, site.nodes[:2]) | {SUBNET: STRANGER}, 30)
        until(lambda: store.ttl(leases[1])[0] > TTL_S - 3, "the bare one renews again", 40, 0.2)
        assert all(node.get("/readyz")[0] == 200 for node in (armed, bare))
        assert all(node.stop() == 0 for node in (armed, bare))
    measured(f"frozen without credentials; right again {took_s:.1f} s after it was switched off")


@pytest.mark.thorough
def test_f17_wrong_password_is_not_shown_in_a_storm(site: Lab, measured: Measured) -> None:
    """A wrong password is shown every five seconds at most, and never logged."""
    node, journal = site.nodes[0], Journal(site.nodes[0])
    with users(site):
        store_of(site).ctl("auth", "enable")
        before = etcd_counters(site.etcd.namespace).calls("Authenticate")
        launch_as(node, "flannel", "wrong" + POISON)
        journal.wait("etcd.denied", timeout_s=15)
        began = time.monotonic()
        until(lambda: time.monotonic() > began + 21, "20 s have passed", 30, 0.1)
        asked = etcd_counters(site.etcd.namespace).calls("Authenticate") - before
        assert 2 <= asked <= 6
        assert node.get("/healthz")[0] == 200
        assert node.stop() == 0
    measured(f"shown {asked} times in 21 s")


@pytest.mark.thorough
def test_f18_no_space(site: Lab, measured: Measured) -> None:
    """etcd is full: who holds a lease goes on, over a restart too; who needs one waits and says why; with space again
    all is well."""
    holder, comer, _ = site.nodes
    restart(site, f"--quota-backend-bytes={QUOTA_BYTES}")
    store = store_of(site)
    lease = short_lease(store, holder)
    store.put(KEY, lease_value(STRANGER))
    launch(holder, lease_s=TTL_S)
    holder.wait_ready()
    holder.wait_routes({SUBNET: STRANGER})
    fill(store)
    journal = Journal(comer)
    with RouteMonitor(holder) as monitor:
        launch(comer)
        failed = journal.wait("etcd.unavailable", timeout_s=20)
        assert "space" in failed["condition"]
        assert "space" in why_not_ready(comer)
        assert comer.get("/healthz")[0] == 200
        assert holder.stop() == 0
        launch(holder, lease_s=TTL_S)
        holder.wait_ready()
        assert monitor.messages() == ()
    assert store.ttl(lease)[0] > TTL_S - 20
    store.ctl("del", "--prefix", "/fill/")
    store.ctl("compact", "--physical", str(store.revision()))
    store.ctl("defrag")
    store.ctl("alarm", "disarm")
    took_s = comer.wait_ready(30)
    holder.wait_routes(site.gateways_for(holder, site.nodes[:2]) | {SUBNET: STRANGER})
    assert gateways(comer) == site.gateways_for(comer, site.nodes[:2]) | {SUBNET: STRANGER}
    restart(site)
    measured(f"the holder goes on; the comer is ready {took_s:.1f} s after there is space again")


def fill(store: Store) -> None:
    """Put large values until etcd refuses."""

    def put_many() -> None:
        for number in range(2 * QUOTA_BYTES >> 20):
            store.put(f"/fill/{number}", "x" * (1 << 20))

    with pytest.raises(RuntimeError, match="space exceeded"):
        put_many()
