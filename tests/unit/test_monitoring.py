"""docs/monitoring.md, the alert rules and the dashboard name metrics that exist; the page names all of them."""

import json
import re
from itertools import chain
from pathlib import Path

from prometheus_client.parser import text_string_to_metric_families

from pyflanneld.http.metrics import metrics_of
from tests.support.fakes.certificates import FakeCertificates
from tests.support.fakes.node import FakeNode
from tests.support.fakes.registry import FakeEtcd
from tests.support.fakes.virtual_time import run
from tests.unit.test_daemon_vxlan import cluster as vxlan_cluster
from tests.unit.test_metrics import PINNED, cluster

ROOT = Path(__file__).parents[2]
MONITORING = ROOT / "docs" / "monitoring"
ALERTS = (MONITORING / "alerts.yaml").read_text("utf-8")
DASHBOARD = (MONITORING / "dashboard.json").read_text("utf-8")
PAGE = (ROOT / "docs" / "monitoring.md").read_text("utf-8")
_PARTS = ("_bucket", "_sum", "_count")  # of a histogram


def scraped() -> dict[str, dict[str, set[str]]]:
    """Return the metrics of a daemon that is ready, with host-gw and with vxlan: name to labels to values."""

    async def scenario(etcd: FakeEtcd) -> str:
        node = FakeNode(etcd, env=PINNED)
        node.certificates = FakeCertificates()
        async with node.running():
            assert node.daemon is not None
            return metrics_of(node.daemon.status_source)()[0].decode()

    found: dict[str, dict[str, set[str]]] = {}
    texts = (run(scenario(cluster(22))), run(scenario(vxlan_cluster())))
    for family in chain.from_iterable(map(text_string_to_metric_families, texts)):
        for sample in family.samples:
            labels = found.setdefault(sample.name, {})
            for name, label in sample.labels.items():
                labels.setdefault(name, set()).add(label)
    return found


def test_the_expressions_of_alerts_and_dashboard_name_what_exists() -> None:
    """Each metric, each label and each label's value that an expression names."""
    exists = scraped()
    expressions = re.findall(r"^ +expr: (.*)$", ALERTS, re.MULTILINE)
    expressions += [target["expr"] for panel in json.loads(DASHBOARD)["panels"] for target in panel["targets"]]
    assert len(expressions) > 30
    for expression in expressions:
        for name, selector in re.findall(r"(pyflanneld_\w+)(?:\{([^}]*)\})?", expression):
            assert name in exists, f"{name} in {expression}"
            for label, values in re.findall(r'(\w+)=~?"([^"$]+)"', selector):
                assert set(values.split("|")) <= exists[name][label], expression
    everywhere = {"instance", "job", "le"} | {label for labels in exists.values() for label in labels}
    for labels in re.findall(r"(?:by|without) \(([^)]*)\)", "\n".join(expressions)):
        assert set(labels.split(", ")) <= everywhere, labels


def test_the_dashboard_is_one_that_grafana_loads() -> None:
    """Panels with numbers of their own, side by side without overlapping, each asking the chosen data source."""
    dashboard = json.loads(DASHBOARD)
    assert {"title", "uid", "schemaVersion", "panels", "templating", "time"} <= dashboard.keys()
    assert [variable["name"] for variable in dashboard["templating"]["list"]] == ["datasource", "job", "instance"]
    panels = dashboard["panels"]
    assert len({panel["id"] for panel in panels}) == len({panel["title"] for panel in panels}) == len(panels)
    squares: set[tuple[int, int]] = set()
    for panel in panels:
        assert panel["datasource"] == {"type": "prometheus", "uid": "${datasource}"}
        at = panel["gridPos"]
        assert at["x"] + at["w"] <= 24
        covered = {(x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])}
        assert not covered & squares, panel["title"]
        squares |= covered


def test_the_docs_list_every_metric_and_no_other() -> None:
    """The table of metrics has a row for each, with its labels."""
    rows = re.findall(r"^\| `(pyflanneld_\w+)(?:\{([^}]*)\})?` \|", PAGE, re.MULTILINE)
    documented = {name: set(filter(None, labels.split(", "))) for name, labels in rows}
    assert len(documented) == len(rows)
    metrics = {
        next((name.removesuffix(part) for part in _PARTS if "duration" in name and name.endswith(part)), name): {
            label for label in labels if label != "le"
        }
        for name, labels in scraped().items()
    }
    assert documented == metrics


def test_the_docs_list_every_alert() -> None:
    """What to do about each."""
    alerts = re.findall(r"^ +- alert: (\w+)$", ALERTS, re.MULTILINE)
    assert re.findall(r"^\| `(Pyflanneld\w+)` \|", PAGE, re.MULTILINE) == alerts
