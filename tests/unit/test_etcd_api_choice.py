"""``--etcd-api=auto``: which API is taken, and when none is."""

import asyncio

import pytest
import structlog

from pyflanneld.errors import RegistryDenied, RegistryUnavailable
from pyflanneld.etcd.discovery import AutoRegistry
from pyflanneld.etcd.v2.responses import ApiMissing
from tests.support.fakes.registry import FakeEtcd, FakeRegistry

CONFIG = b'{"Network":"10.0.0.0/8"}'


class FakeV2(FakeRegistry):
    """A fake that says it is the v2 API, of a server of some version."""

    version: tuple[int, ...] = (3, 4, 23)

    @property
    def api(self) -> int:
        return 2

    async def server_version(self) -> tuple[int, ...]:
        if isinstance(self.down, RegistryUnavailable) and not isinstance(self.down, ApiMissing):
            raise RegistryUnavailable("fake: down")
        return self.version


class Both:
    """The two stores of one etcd, and the registry that chooses."""

    def __init__(self) -> None:
        self.store3, self.store2 = FakeEtcd(), FakeEtcd()
        self.v3, self.v2 = FakeRegistry(self.store3), FakeV2(self.store2)
        self.auto = AutoRegistry(self.v3, lambda: self.v2, log=structlog.get_logger())


@pytest.fixture
def both() -> Both:
    return Both()


@pytest.mark.parametrize(("in3", "in2", "api"), [(True, True, 3), (True, False, 3), (False, True, 2)])
async def test_chosen_by_the_configuration(both: Both, in3: bool, in2: bool, api: int) -> None:
    """The API that holds the configuration is taken, v3 first; it is said once, and the other one is not used on."""
    for store, there in ((both.store3, in3), (both.store2, in2)):
        if there:
            store.put_config(CONFIG)
    with structlog.testing.capture_logs() as logs:
        assert (await both.auto.read_config()).value == CONFIG
        await both.auto.read_config()
    assert [(entry["event"], entry["api"]) for entry in logs] == [("registry.chosen", api)]
    assert both.auto.api == api
    assert (both.v3.closed, both.v2.closed) == (api == 2, False)
    assert (await both.auto.list_subnets()).records == ()


async def test_waits_for_either(both: Both, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a configuration both are looked at again and again, and the first that gets one is taken."""
    monkeypatch.setattr("pyflanneld.etcd.discovery.LOOK_AGAIN_S", 0.001)
    config = await both.auto.read_config()
    assert config.value is None
    async with asyncio.timeout(5), both.auto.watch_config(config.revision) as ticks:
        await anext(ticks)
        assert (await both.auto.read_config()).value is None
        both.store2.put_config(CONFIG)
        await anext(ticks)
        assert (await both.auto.read_config()).value == CONFIG
    assert both.auto.api == 2


async def test_stays(both: Both) -> None:
    """A choice is for good: a configuration that appears in v3 later moves nobody at run time."""
    both.store2.put_config(CONFIG)
    await both.auto.read_config()
    both.store3.put_config(b"{}")
    assert (await both.auto.read_config()).value == CONFIG


@pytest.mark.parametrize("error", [RegistryUnavailable("x"), RegistryDenied("x")])
async def test_silence_of_v3_is_no_answer(both: Both, error: Exception) -> None:
    """When v3 does not answer, or refuses us, what an old v2 still holds is not taken."""
    both.store2.put_config(CONFIG)
    both.v3.down = error  # type: ignore[assignment]
    with pytest.raises(type(error)):
        await both.auto.read_config()
    both.v3.down = None
    both.store3.put_config(b"{}")
    assert (await both.auto.read_config()).value == b"{}"


async def test_silence_of_v2_is_no_answer(both: Both) -> None:
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
    """On etcd 2, which has no v3 API, the silence of v3 is an answer."""
    both.v3.down = RegistryUnavailable("x")
    both.v2.version = (2, 3, 8)
    assert (await both.auto.read_config()).value is None
    both.store2.put_config(CONFIG)
    assert (await both.auto.read_config()).value == CONFIG
    assert both.auto.api == 2
