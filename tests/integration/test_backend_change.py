"""Section 7 of the walkthrough: a cluster that runs with host-gw is changed to vxlan, and with what its table shows."""

import re
from collections.abc import Callable
from pathlib import Path

import pytest

from pyflanneld.lab.cluster import Lab
from pyflanneld.lab.etcd import PREFIX
from pyflanneld.lab.run import until
from tests.support.lab.testbed import store_of

pytestmark = [pytest.mark.etcd, pytest.mark.netns]

PAGE = Path(__file__).parents[2] / "docs" / "walkthrough.md"


def section() -> str:
    return PAGE.read_text("utf-8").partition("\n## 7. ")[2]


def documents() -> list[str]:
    """Return the configurations that the section shows."""
    return re.findall(r"'(\{.*\})'", section())


@pytest.mark.parametrize("number", [0, 1])
def test_from_host_gw_to_vxlan(make_lab: Callable[..., Lab], number: int) -> None:
    """The document, then a restart of every daemon: same subnets, and what the section's table shows."""
    lab = make_lab(2)
    lab.up()
    before = [node.subnet for node in lab.nodes]
    store_of(lab).put(f"{PREFIX}/config", documents()[number])
    for node in lab.nodes:
        node.stop()
        node.start()
    for node in lab.nodes:
        node.wait_ready()
    kb21, kb22 = lab.nodes
    assert [node.subnet for node in lab.nodes] == before
    until(lambda: "172.7.22.0/24" in kb21.exec("ip", "route", "show", "proto", "103"), "routed")
    route = " ".join(kb21.exec("ip", "route", "show", "proto", "103").split())
    if number:
        assert route == "172.7.22.0/24 via 192.168.14.22 dev eth1"
        assert kb21.exec("bridge", "fdb", "show", "dev", "flannel.1") == ""
    else:
        assert route == "172.7.22.0/24 via 172.7.22.0 dev flannel.1 onlink"
        assert f"`{route}`" in section()
        assert "dst 192.168.14.22 self permanent" in kb21.exec("bridge", "fdb", "show", "dev", "flannel.1")
    device = " ".join(kb21.exec("ip", "-d", "link", "show", "flannel.1").split())
    for part in ("mtu 1450", "vxlan id 1 local 192.168.14.21 dev eth1", "dstport 8472"):
        assert part in device
        assert part in section()
    assert kb21.env()["FLANNEL_MTU"] == "1450"
    kb21.pod_exec("ping", "-c1", "-W2", str(kb22.pod_address))
    kb22.pod_exec("ping", "-c1", "-W2", str(kb21.pod_address))
