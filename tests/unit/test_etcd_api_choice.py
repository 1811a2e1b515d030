"""``--etcd-api=auto``: which API is used, and when none is."""

import pytest

from pyflanneld.errors import ApiMissing, RegistryDenied, RegistryError, RegistryUnavailable
from pyflanneld.etcd.discovery import EitherApi, OneApi
from tests.support.fakes.node import CONFIG, FakeNode
from tests.support.fakes.registry import FakeEtcd, FakeRegistry
from tests.support.fakes.virtual_time import run, until


class FakeV2(FakeRegistry):
    """A fake of the v2 API, on a server of some version."""

    version: tuple[int, ...] = (3, 4, 23)

    @property
    def api(self) -> int:
        return 2

    async def server_version(self) -> tuple[int, ...]:
        if isinstance(self.down, RegistryUnavailable) and not isinstance(self.down, ApiMissing):
            raise RegistryUnavailable("fake: down")
        return self.version


class Both:
    """The two stores of one etcd, and the search for the one to use."""

    def __init__(self) -> None:
        self.store3, self.store2 = FakeEtcd(), FakeEtcd()
        self.v3, self.v2 = FakeRegistry(self.store3), FakeV2(self.store2)
        self.auto = EitherApi(self.v3, lambda: self.v2)


@pytest.fixture
def both() -> Both:
    return Both()


@pytest.mark.parametrize(("in3", "in2", "api"), [(True, True, 3), (True, False, 3), (False, True, 2)])
def test_chosen_by_the_configuration(both: Both, in3: bool, in2: bool, api: int) -> None:
    """The API that holds the configuration is used, v3 first; that is logged once, and the other one is closed."""

    async def scenario() -> None:
        node = FakeNode(both.store3)
        node.discovery = both.auto
        async with node.running():
            assert both.auto.settled
            assert both.auto.registry is (both.v3 if api == 3 else both.v2)
            assert (both.v3.closed, both.v2.closed) == (api == 2, False)
        assert [fields["api"] for _, event, fields in node.log.events if event == "registry.chosen"] == [api]
        assert (len(both.store3.records()), len(both.store2.records())) == ((1, 0) if api == 3 else (0, 1))

    for store, there in ((both.store3, in3), (both.store2, in2)):
        if there:
            store.put_config(CONFIG)
    run(scenario())


async def test_v2_is_not_made_without_need() -> None:
    """A configuration in v3 ends the search before anything of v2 is loaded."""
    store = FakeEtcd()
    store.put_config(CONFIG)
    auto = EitherApi(FakeRegistry(store), lambda: pytest.fail("v2 was made"))
    await auto.read_config()
    auto.reconnect()
    await auto.close()


def test_waits_for_either(both: Both) -> None:
    """Without a configuration a daemon asks both again and again, says so, and works on the first that gets one."""

    async def scenario() -> None:
        node = FakeNode(both.store2)
        node.discovery = both.auto
        async with node.running(ready=False):
            await until(lambda: node.log.count("config.missing"), 5)
            assert not both.auto.settled
            both.store2.put_config(CONFIG)
            await until(lambda: node.ready, 5)
        assert [fields["api"] for _, event, fields in node.log.events if event == "registry.chosen"] == [2]
        assert len(both.store2.records()) == 1
        assert not both.store3.records()

    run(scenario())


async def test_both_are_connected_anew_until_one_is_chosen(both: Both) -> None:
    """New certificates or addresses count for each API that is asked."""
    await both.auto.read_config()
    both.auto.reconnect()
    assert (both.v3.reconnects, both.v2.reconnects) == (1, 1)


async def test_stays(both: Both) -> None:
    """A choice is final: a configuration that appears in v3 later moves nobody at run time."""
    both.store2.put_config(CONFIG)
    await both.auto.read_config()
    both.store3.put_config(b"{}")
    assert (await both.auto.read_config()).value == CONFIG
    assert both.auto.registry is both.v2


@pytest.mark.parametrize("error", [RegistryUnavailable("x"), RegistryDenied("x")])
async def test_an_error_of_v3_is_no_answer(both: Both, error: RegistryError) -> None:
    """When v3 does not answer, or refuses us, what an old v2 still holds is not used."""
    both.store2.put_config(CONFIG)
    both.v3.down = error
    with pytest.raises(type(error)):
        await both.auto.read_config()
    assert not both.auto.settled
    both.v3.down = None
    both.store3.put_config(b"{}")
    assert (await both.auto.read_config()).value == b"{}"


async def test_an_error_of_v2_is_no_answer(both: Both) -> None:
    """When v3 has no configuration and v2 does not answer, that is an error and not "there is none"."""
    both.v2.down = RegistryUnavailable("x")
    with pytest.raises(RegistryUnavailable):
        await both.auto.read_config()
    both.store3.put_config(CONFIG)
    assert (await both.auto.read_config()).value == CONFIG


async def test_v2_switched_off(both: Both) -> None:
    """A server without the v2 API is waited for on v3 alone."""
    both.v2.down = ApiMissing("x")
    assert (await both.auto.read_config()).value is None
    both.store3.put_config(CONFIG)
    assert (await both.auto.read_config()).value == CONFIG


async def test_server_without_v3(both: Both) -> None:
    """On etcd 2, which has no v3 API, an error of v3 is an answer."""
    both.v3.down = RegistryUnavailable("x")
    both.v2.version = (2, 3, 8)
    assert (await both.auto.read_config()).value is None
    both.store2.put_config(CONFIG)
    assert (await both.auto.read_config()).value == CONFIG
    assert both.auto.registry is both.v2


async def test_the_operator_has_named_it(both: Both) -> None:
    """With ``--etcd-api=2`` or ``3`` there is nothing to find: that API is used, with a configuration or without."""
    named = OneApi(both.v2)
    both.store3.put_config(CONFIG)
    assert named.settled
    assert (await named.read_config()).value is None
    assert named.registry is both.v2
