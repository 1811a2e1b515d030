"""The model and the simulation of large clusters: laws, and the page that shows them."""


import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyflanneld.core.backoff import LISTED_KEYS_PER_S, list_round_s
from pyflanneld.etcd.v3 import rpc_pb2 as rpc
from pyflanneld.tasks.peers import RETRY_CAP_S
from tests.bench.scaling import model, page, simulate

NODES = st.integers(1, 100_000)


@pytest.mark.parametrize("name", page.MODEL_TABLES)
def test_the_page_shows_what_the_model_says(name: str) -> None:
    """Each table of docs/scaling.md that comes from formulas is the one that they give now."""
    text = page.PAGE_FILE.read_text("utf-8")
    told = "write it anew: python -m tests.bench.scaling --model --write"
    assert page.block(text, name) == page.MODEL_TABLES[name](), told


@given(NODES)
def test_lists_stay_within_their_budget(nodes: int) -> None:
    """However large the cluster, its periodic lists read no more than the budget."""
    assert model.load(model.Site(nodes)).listed_keys <= LISTED_KEYS_PER_S * 1.000001


@pytest.mark.parametrize("nodes", [250, 1_000, 50_000])
def test_a_key_has_the_size_that_protobuf_gives_it(nodes: int) -> None:
    """The formula for one lease in a list is within 2 % of etcd's own message."""
    kv = rpc.RangeResponse().kvs.add(
        key=b"/coreos.com/network/subnets/10.100.100.0-24",
        value=b'{"PublicIP":"192.168.100.100","PublicIPv6":null,"BackendType":"host-gw"}',
        create_revision=3 * nodes, mod_revision=3 * nodes, version=1, lease=1 << 61,
    )  # fmt: skip
    exact = kv.ByteSize() + 1 + model.varint_bytes(kv.ByteSize())
    assert model.key_value_bytes(nodes) == pytest.approx(exact, rel=0.02)


@pytest.mark.parametrize("nodes", [30, 250, 1_000])
def test_after_a_break_each_node_lists_once(nodes: int) -> None:
    """No storm: one list for each broken watch, no request without an answer, and all of them watch again."""
    out = simulate.lost_member(model.Site(nodes))
    assert (out.done, out.lists, out.timeouts) == (out.nodes, 1, 0)
    assert out.keys == out.nodes * nodes
    assert out.seconds <= list_round_s(nodes) + 2


def test_after_an_outage_all_watch_again_before_the_lists_are_done() -> None:
    """In a large cluster nobody waits for the crowd of lists: the watch is back within ten seconds of etcd."""
    site = model.Site(4000)
    out, before = simulate.lost_etcd(site, away_s=60), simulate.lost_etcd(site, away_s=60, in_turn=False)
    assert out.done == before.done == 4000
    assert out.blind_s <= 60 + RETRY_CAP_S + 0.5 < before.blind_s
    assert out.seconds > out.blind_s + 60


def test_with_the_power_back_a_thousand_nodes_list_once_each() -> None:
    """Nodes that find their leases again make one list each, without a request that fails."""
    out = simulate.power_back(model.Site(1000))
    assert (out.done, out.lists, out.timeouts, out.keys) == (1000, 1, 0, 1_000_000)
