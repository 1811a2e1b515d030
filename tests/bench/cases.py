"""What is measured, and with how many peers; ``docs/dev/performance.md`` says it for its readers."""

from tests.bench import changes, costs, crowd, inprocess, repair, start, traffic
from tests.bench.bench import Case
from tests.bench.results import HOST_GW, VXLAN

BOTH = (HOST_GW, VXLAN)

CASES = (
    Case("start", (0, 250, 1000, 4000, 16_000), start.start, BOTH),
    Case("list", (250, 1000, 4000), inprocess.list_received, BOTH),
    Case("lease", (250, 1000, 4000), changes.leases, BOTH),
    Case("burst", (250,), changes.burst),
    Case("repair", (250,), repair.entry, BOTH),
    Case("device", (250,), repair.device, (VXLAN,)),
    Case("link", (250,), repair.link),
    Case("restart", (250,), start.restart, BOTH),
    Case("cut", (250,), changes.cut),
    Case("etcd", (250, 4000), costs.etcd),
    Case("renewal", (250,), costs.renewal, BOTH),
    Case("crowd", (60,), crowd.at_once),
    Case("traffic", (250,), traffic.traffic),
    Case("idle", (4000,), costs.idle, BOTH),  # with 250 peers at the same time
)
