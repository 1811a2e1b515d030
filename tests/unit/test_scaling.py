"""The model and the simulation of large clusters: laws, and the page that shows them."""

import re

import pytest
from aetcd import rpc
from hypothesis import given
from hypothesis import strategies as st

from pyflanneld.core.backoff import LISTED_KEYS_PER_S, list_round_s
from pyflanneld.etcd.v3.registry import PAGE
from pyflanneld.tasks.peers import RETRY_CAP_S
from tests.bench.scaling import model, page, simulate

NODES = st.integers(1, 100_000)


@pytest.mark.parametrize("name", page.MODEL_TABLES)
def test_the_page_shows_what_the_model_says(name: str) -> None:
    """Each table of docs/scaling.md that comes from formulas is the one that they give now."""
    text = page.PAGE_FILE.read_text("utf-8")
    told = "write it anew: python -m tests.bench.scaling --model --write"
    assert page.block(text, name) == page.MODEL_TABLES[name](), told


def test_a_table_gets_between_its_marks() -> None:
    """What was between the marks goes, what is around them stays; without marks it is an error."""
    text = "a\n<!-- x -->\nold\n<!-- /x -->\nb\n"
    assert page.put(text, "x", "new\nlines") == "a\n<!-- x -->\nnew\nlines\n<!-- /x -->\nb\n"
    assert page.put("<!-- x -->\n<!-- /x -->", "x", "new") == "<!-- x -->\nnew\n<!-- /x -->"
    with pytest.raises(ValueError, match="missing"):
        page.put(text, "y", "new")


@pytest.mark.parametrize(
    ("amount", "text"),
    [(0, "0"), (0.0667, "0.067"), (1.666, "1.7"), (46.2, "46"), (156, "160"), (123_456, "120,000")],
)
def test_numbers_have_two_digits_that_count(amount: float, text: str) -> None:
    """More would claim a precision that the model does not have."""
    assert page.number(amount) == text


@given(NODES, NODES)
def test_more_nodes_are_never_cheaper(one: int, other: int) -> None:
    """Memory, routes, times and the crowd after a lost member grow with the cluster."""
    small, large = sorted((one, other))
    for cost in (model.node_memory_bytes, model.route_memory_bytes, model.all_routes_s, model.creation_s):
        assert cost(small) <= cost(large)
    sites = model.Site(small), model.Site(large)
    for measure in (model.etcd_memory_bytes, model.database_bytes, model.convergence_s, model.mass_death_s):
        assert measure(sites[0]) <= measure(sites[1])
    assert model.lost_member(sites[0]).keys <= model.lost_member(sites[1]).keys


@given(NODES)
def test_every_change_reaches_every_node(nodes: int) -> None:
    """Events sent are changes times nodes; each renewal is one keep-alive and one read."""
    site = model.Site(nodes)
    load = model.load(site)
    assert load.events == pytest.approx(site.changes_per_s * nodes)
    assert load.keep_alives == load.own_reads == pytest.approx(nodes / 300)
    assert load.list_pages * PAGE >= load.listed_keys * 0.999
    assert load.requests >= load.keep_alives + load.own_reads + load.list_pages


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


def test_a_quiet_watch_asks_every_half_minute_and_a_busy_one_never() -> None:
    """Signs of life are asked for after 30 s of silence only."""
    quiet = model.load(model.Site(1000, changes_per_node_day=0.0)).signs_of_life
    busy = model.load(model.Site(1000, changes_per_node_day=1000.0)).signs_of_life
    assert quiet == pytest.approx(1000 / 30)
    assert busy < 0.01


def test_the_default_network_has_room_for_255_hosts() -> None:
    """A /16 of /24s: the first one is left out, as flannel does."""
    assert model.subnets(16, 24) == 255
    assert model.subnets(16, 26) == 1023


@pytest.mark.parametrize("scene", [simulate.lost_member, simulate.lost_etcd, simulate.power_back, simulate.first_start])
def test_one_seed_is_one_story(scene: simulate.Scene) -> None:
    """The same seed gives the same outcome, another one another."""
    site = model.Site(60)
    assert scene(site, 5) == scene(site, 5)
    assert scene(site, 5) != scene(site, 6)


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


def test_a_member_serves_no_faster_than_it_can() -> None:
    """Ten requests of a second each on one core take ten seconds, and those with a deadline before that fail."""
    world = simulate.World([simulate.Member()], cores=1)
    answers: list[tuple[bool, float]] = []

    def client(deadline: float) -> simulate.Process:
        answered = yield from world.ask(world.members[0], 1.0, deadline)
        answers.append((answered, round(world.now, 1)))

    for _ in range(10):
        world.start(client(5.5))
    world.run(100)
    assert answers == [(True, float(second)) for second in range(1, 6)] + [(False, 5.5)] * 5
    assert world.timeouts == 5


@pytest.mark.parametrize("nodes", [50, 120])
def test_simultaneous_first_starts_get_subnets_of_their_own(nodes: int) -> None:
    """Each node gets one, no two the same, chosen by the daemon's own rule."""
    out = simulate.first_start(model.Site(nodes), within_s=0.5)
    assert out.done == nodes == len(set(out.names))
    assert all(re.fullmatch(rb"10\.\d+\.\d+\.0-24", name) for name in out.names)


def test_with_the_power_back_a_thousand_nodes_list_once_each() -> None:
    """Nodes that find their leases again make one list each, without a request that fails."""
    out = simulate.power_back(model.Site(1000))
    assert (out.done, out.lists, out.timeouts, out.keys) == (1000, 1, 0, 1_000_000)
