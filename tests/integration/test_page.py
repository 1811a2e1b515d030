"""The page in a real browser, against real daemons: Chromium in the host's namespace, driven over WebDriver."""

import contextlib
import time
from collections.abc import Callable, Iterator

import pytest

from pyflanneld.lab.cluster import Lab
from pyflanneld.lab.etcd import PREFIX
from pyflanneld.lab.node import LabHost
from tests.support.lab.testbed import Keeper, lease_key, lease_value, store_of
from tests.support.programs.browser import Browser, browser

pytestmark = [pytest.mark.etcd, pytest.mark.netns]
PAGE = "http://127.0.0.1:2402/"
SCRIPT = "<script>alert('etcd')</script><img src=x onerror=alert(1)>"
ROWS = "[...document.querySelectorAll('#peers tbody tr')].map((row) => row.innerText)"
FACTS = "document.querySelector('#facts').innerText"
EVENTS = "document.querySelector('#events tbody').innerText"


@pytest.fixture(scope="module")
def chromium(
    cluster_keeper: Keeper,  # noqa: ARG001 - the namespaces outlive the browser
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Callable[[str], Browser]]:
    """Return a browser in the namespace: the same one, unless its host was made anew after a test that has failed."""
    with contextlib.ExitStack() as stack:
        held: list[Browser] = []

        def get(namespace: str) -> Browser:
            if not held or not held[0].answers():
                held[:] = [stack.enter_context(browser(namespace, tmp_path_factory.mktemp("page")))]
            return held[0]

        yield get


@pytest.fixture
def page(chromium: Callable[[str], Browser], cluster: Lab) -> Iterator[Browser]:
    """The page of the first host, open and filled; it must not have complained, nor opened anything, afterwards."""
    page = chromium(first(cluster).namespace)
    page.size(1200, 1500)
    page.scheme("light")
    page.open(PAGE)
    page.wait(f"return {ROWS}.length === {len(cluster.nodes) - 1} && {EVENTS}.length > 0", "the page is filled")
    page.complaints()
    yield page
    assert not page.has_dialog()
    assert page.complaints() == []


def first(lab: Lab) -> LabHost:
    return lab.nodes[0]


def test_it_shows_this_node(page: Browser, cluster: Lab) -> None:
    """Readiness, facts, peers, map and events, from the daemon alone."""
    node, other = first(cluster), cluster.nodes[1]
    assert page.text("h1") == f"{node.address.ip} has {node.subnet}"
    assert page.text("#words") == "Ready."
    assert page.run("return document.querySelector('#verdict').className") == "good"
    facts = page.text("#facts")
    for fact in (node.subnet, "172.7.0.0/16", "eth1", "http://192.168.14.12:2379", "2 of 2 in place"):
        assert fact in facts
    (row,) = [row for row in page.run(f"return {ROWS}") if other.subnet in row]
    assert str(other.address.ip) in row
    assert "✓ routed" in row
    cells = page.run("return [...document.querySelectorAll('#map .cell')].map((cell) => cell.textContent)")
    assert len(cells) == 256
    assert f"{node.subnet}: this node, {node.address.ip}" in cells
    assert f"{other.subnet}: {other.address.ip}, routed" in cells
    assert cells[0] == "172.7.0.0/24: not allocated"
    assert "free 252" in page.text("#legend")
    assert "daemon.ready" in page.text("#events")
    assert "1 this node, 2 routed, 252 free" in page.run("return document.querySelector('#map svg').ariaLabel")


def test_a_repair_is_seen_without_a_reload(page: Browser, cluster: Lab) -> None:
    """A route that somebody deletes appears as an event with its cause, and the repairs are counted."""
    node, other = first(cluster), cluster.nodes[1]
    page.run("window.same = true")
    node.exec("ip", "route", "delete", other.subnet)
    put = f"route.put dst {other.subnet} gateway {other.address.ip} \\S+ deleted_by_others (another program deleted it)"
    put = put.replace("/", "\\/").replace("(", "\\(").replace(")", "\\)")
    page.wait(f"return /{put}/.test({EVENTS}.replace(/\\s+/g, ' '))", "the event is there")
    page.wait(f"return {FACTS}.includes('(another program deleted it)')", "it is counted")
    assert page.run("return window.same") is True


def test_peers_come_go_and_change(page: Browser, cluster: Lab) -> None:
    """A lease, a reservation, one of another backend and a foreign route each show in table and map, and go again."""
    store, node = store_of(cluster), first(cluster)
    lease = store.grant(3600)
    node.exec("ip", "route", "add", "172.7.103.0/24", "dev", "eth1", "proto", "static")
    store.put(lease_key("172.7.100.0/24"), lease_value("192.168.14.100"), lease=lease)
    store.put(lease_key("172.7.101.0/24"), lease_value("192.168.14.101"))
    store.put(lease_key("172.7.102.0/24"), lease_value("192.168.14.102", "wireguard"), lease=lease)
    store.put(lease_key("172.7.103.0/24"), lease_value("192.168.14.103"), lease=lease)
    page.wait(f"return {ROWS}.length === 6", "the peers are there")

    def kind(third: int) -> str:
        return str(page.run(f"return document.querySelectorAll('#map .cell')[{third}].classList[1]"))

    page.wait("return document.querySelectorAll('#map .cell.conflict').length === 1", "the conflict is there")
    assert [kind(third) for third in range(99, 104)] == ["free", "routed", "reserved", "other", "conflict"]
    page.wait("return document.querySelector('#findings').innerText.includes('To do: Find out')", "what to do is there")
    assert page.text("#words") == "Ready, with 1 warning."
    assert page.run("return document.title").startswith("! 192.168.14.21")

    node.exec("ip", "route", "delete", "172.7.103.0/24", "dev", "eth1", "proto", "static")
    for third in range(100, 104):
        store.delete(lease_key(f"172.7.{third}.0/24"))
    page.wait(f"return {ROWS}.length === 2", "the peers are gone")
    page.wait("return document.querySelector('#verdict').className === 'good'", "all is well", 20)
    assert kind(100) == kind(103) == "free"


def test_hostile_keys_and_values_are_text(page: Browser, cluster: Lab) -> None:
    """What anybody can write into etcd is shown as it is written, and never becomes a part of the page."""
    store = store_of(cluster)
    keys = [f"{PREFIX}/subnets/{SCRIPT}\x1b[31m\u202e", lease_key("172.7.110.0/24"), lease_key("172.7.111.0/24")]
    before = page.run("return [document.scripts.length, document.images.length]")
    store.put(keys[0], lease_value("192.168.14.99"))
    store.put(keys[1], f'{{"PublicIP":"{SCRIPT}","BackendType":"host-gw"}}')
    store.put(keys[2], lease_value("192.168.14.111", SCRIPT))
    page.wait(f"return {ROWS}.length === 5", "they are there")
    page.wait("return document.querySelector('#findings').innerText.includes('<script>')", "and in the findings")
    page.wait(f"return {EVENTS}.includes('peer.other_backend')", "and in the events")
    rows = page.run(f"return {ROWS}")
    assert sum(SCRIPT in row for row in rows) >= 2
    assert "\\x1b[31m" in "".join(rows)
    assert "\x1b" not in page.run("return document.body.innerText")
    assert page.run("return [document.scripts.length, document.images.length]") == before
    for key in keys:
        store.delete(key)
    page.wait(f"return {ROWS}.length === 2", "they are gone")


def test_find_and_sort(page: Browser, cluster: Lab) -> None:
    """What is typed narrows the table; a heading sorts it, and says so to whoever cannot see the arrow."""
    second, third = (node.subnet for node in cluster.nodes[1:])
    page.run("const box = byId('find'); box.value = arguments[0]; box.dispatchEvent(new Event('input'))", third)
    assert [third in row for row in page.run(f"return {ROWS}")] == [True]
    page.run("search('nobody')")
    assert page.text("#no-peers") == "No peer matches."
    page.run("search('')")
    page.run("document.querySelectorAll('#peers th button')[0].click()")
    assert page.run("return document.querySelectorAll('#peers th')[0].ariaSort") == "descending"
    assert [third in row for row in page.run(f"return {ROWS}")] == [True, False]
    page.run("document.querySelectorAll('#map .taken')[1].dispatchEvent(new Event('click'))")
    assert [second in row for row in page.run(f"return {ROWS}")] == [True]


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_can_be_read_by_day_and_by_night(page: Browser, scheme: str) -> None:
    """The scheme is followed, and each text stands out from what is behind it (WCAG AA, 4.5 to 1)."""
    page.scheme(scheme)
    low = page.run(_CONTRAST)
    assert low == []
    bright = page.run("return getComputedStyle(document.documentElement).backgroundColor.match(/\\d+/g).map(Number)")
    assert (min(bright) > 200) if scheme == "light" else (max(bright) < 60)


_CONTRAST = """
const shine = (colour) => {
  const [r, g, b] = colour.match(/[\\d.]+/g).slice(0, 3).map((one) => one / 255)
    .map((one) => one <= .04045 ? one / 12.92 : ((one + .055) / 1.055) ** 2.4);
  return .2126 * r + .7152 * g + .0722 * b;
};
const behind = (node) => {
  for (; node; node = node.parentElement) {
    const colour = getComputedStyle(node).backgroundColor;
    if (!/, 0\\)$/.test(colour)) return colour;
  }
};
const low = [];
for (const node of document.querySelectorAll("body *")) {
  const own = [...node.childNodes].some((child) => child.nodeType === 3 && child.textContent.trim());
  if (!own || node.closest("svg, script, noscript") || !node.getClientRects().length) continue;
  const [a, b] = [shine(getComputedStyle(node).color), shine(behind(node))];
  const ratio = (Math.max(a, b) + .05) / (Math.min(a, b) + .05);
  if (ratio < 4.5) low.push([node.textContent.trim().slice(0, 30), ratio]);
}
return low;
"""


@pytest.mark.parametrize("width", [320, 390, 768])
def test_nothing_sticks_out_on_a_phone(page: Browser, cluster: Lab, width: int) -> None:
    """No scrolling sideways, whatever stands in etcd, and the tables are still tables to a screen reader."""
    store, key = store_of(cluster), f"{PREFIX}/subnets/{'x' * 200}"
    store.put(key, lease_value("192.168.14.99"))
    page.wait(f"return {ROWS}.length === 3", "the long key is there")
    page.size(width, 800)
    page.wait(f"return innerWidth === {width}", "the window is that wide")
    assert page.run("return document.documentElement.scrollWidth") <= width
    parts = "document.querySelectorAll('#peers table, #peers tr, #peers td')"
    roles = page.run(f"return [...{parts}].map((one) => one.role)")
    assert set(roles) == {"table", "row", "cell"}
    store.delete(key)
    page.wait(f"return {ROWS}.length === 2", "the long key is gone")


def test_a_large_network_has_no_more_squares(page: Browser) -> None:
    """Beyond 1024 subnets a square stands for several, and shows the most severe; smaller ones have one each."""
    for network, length, squares, wide in (("172.0.0.0", 8, 1024, 18), ("172.7.16.0", 20, 16, 24)):
        shape = {"network": f"{network}/{length}", "subnet_min": network, "subnet_max": "172.7.31.0"}
        page.run("report = {...report, network: {...report.network, ...arguments[0]}}; showMap()", shape)
        cells = page.run("return [...document.querySelectorAll('#map .cell')].map((cell) => cell.textContent)")
        assert len(cells) == squares
        assert sum("this node" in cell for cell in cells) == 1
        assert page.run("return cellsOf().cells[0].subnet") == f"{network}/{wide}"


def test_it_shows_that_the_daemon_is_gone_and_comes_back_with_it(page: Browser, cluster: Lab) -> None:
    """A failed poll shows that the daemon does not answer; no reload is needed when it is back."""
    node = first(cluster)
    node.stop()
    page.wait("return document.querySelector('#link').innerText === 'not connected'", "the page says so")
    assert page.text("#cut").startswith("The daemon does not answer")
    node.start()
    page.wait("return document.querySelector('#link').innerText === 'live'", "it is live again", 30)
    page.wait(f"return {ROWS}.length === 2 && !document.querySelector('#cut').innerText", "and complete", 30)
    failed = ("ERR_CONNECTION_REFUSED", "ERR_CONNECTION_RESET", "ERR_EMPTY_RESPONSE", "INCOMPLETE")
    assert [line for line in page.complaints() if not any(error in line for error in failed)] == []


def test_a_hidden_page_does_not_poll(page: Browser) -> None:
    """It asks nothing while nobody sees it, and asks at once when it is seen again."""
    page.run(
        "window.polls = 0; const real = window.fetch; window.fetch = (...given) => { polls++; return real(...given); };"
        "window.hide = (yes) => { Object.defineProperty(document, 'hidden', { value: yes, configurable: true });"
        "document.dispatchEvent(new Event('visibilitychange')); };"
    )
    page.run("hide(true); polls = 0")
    time.sleep(2.5)
    assert page.run("return polls") == 0
    page.run("hide(false)")
    assert page.run("return polls") == 1
