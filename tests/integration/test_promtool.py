"""Prometheus' own judgement: of the metrics of a real daemon, and of the alert rules."""

import http.client
import subprocess
from pathlib import Path

import pytest

from pyflanneld.lab import topology
from pyflanneld.lab.cluster import Lab
from pyflanneld.lab.node import LabHost
from pyflanneld.lab.run import until
from tests.support.lab.testbed import lease_key, store_of

ROOT = Path(__file__).parents[2]
PORT = 2402


def promtool(*words: str, stdin: str = "") -> tuple[int, str]:
    done = subprocess.run(
        ["promtool", *words], input=stdin, cwd=ROOT, capture_output=True, text=True, check=False, timeout=60
    )
    return done.returncode, done.stdout + done.stderr


def scrape(node: LabHost) -> str:
    connection = http.client.HTTPConnection("127.0.0.1", PORT)
    connection.sock = topology.connect_namespaces(node.namespace, "127.0.0.1", PORT, 5.0)
    try:
        connection.request("GET", "/metrics")
        return connection.getresponse().read().decode()
    finally:
        connection.close()


@pytest.mark.etcd
@pytest.mark.netns
def test_the_metrics_of_a_daemon(cluster: Lab) -> None:
    """Names, units, help and types are as Prometheus wants them, on a node that has something to tell."""
    node, store = cluster.nodes[0], store_of(cluster)
    until(lambda: "pyflanneld_ready 1.0" in scrape(node), "the listener answers", 10.0)
    store.put(lease_key("172.7.99.0/24"), "{")
    node.exec("ip", "route", "delete", cluster.nodes[1].subnet)
    node.wait_routes(cluster.gateways_for(node))
    until(lambda: 'route_repairs_total{reason="deleted_by_others"} 1.0' in scrape(node), "the repair is counted", 5.0)
    text = scrape(node)
    store.delete(lease_key("172.7.99.0/24"))
    assert 'pyflanneld_quarantined_keys{reason="not_json"} 1.0' in text
    assert 'pyflanneld_peers{state="routed"} 2.0' in text
    assert promtool("check", "metrics", stdin=text) == (0, "")


def test_the_alert_rules() -> None:
    """They can be loaded, and go off when they should and not before."""
    code, words = promtool("check", "rules", "docs/monitoring/alerts.yaml")
    assert code == 0, words
    code, words = promtool("test", "rules", "tests/integration/alerts_test.yaml")
    assert code == 0, words


def test_a_rule_that_is_wrong_is_seen(tmp_path: Path) -> None:
    """The checks above can fail."""
    rules = (ROOT / "docs" / "monitoring" / "alerts.yaml").read_text()
    (tmp_path / "alerts.yaml").write_text(rules.replace("> 900", "> > 900"))
    assert promtool("check", "rules", str(tmp_path / "alerts.yaml"))[0] != 0
    assert promtool("check", "metrics", stdin="# TYPE bad_total gauge\nbad_total 1\n")[0] != 0
