"""What is measured, and with how many peers; ``docs/dev/performance.md`` says it for its readers."""

from tests.bench import changes, costs, crowd, inprocess, repair, start, traffic
from tests.bench.bench import Case

CASES = (
    Case("start", (0, 250, 1000, 4000, 16_000), start.start),
    Case("list", (250, 1000, 4000), inprocess.list_received),
    Case("lease", (250, 1000, 4000), changes.leases),
    Case("burst", (250,), changes.burst),
    Case("repair", (250,), repair.route),
    Case("link", (250,), repair.link),
    Case("restart", (250,), start.restart),
    Case("cut", (250,), changes.cut),
    Case("etcd", (250, 4000), costs.etcd),
    Case("renewal", (250,), costs.renewal),
    Case("crowd", (60,), crowd.at_once),
    Case("traffic", (250,), traffic.traffic),
    Case("idle", (4000,), costs.idle),  # with 250 peers at the same time
)
