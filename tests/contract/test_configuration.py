"""The contract of ``ports.Configuration``, kept by the fake and by the real etcd alike."""

from pyflanneld.ports import Configuration
from tests.contract.registry_bench import Bench


def configuration(bench: Bench) -> Configuration:
    return bench.registry


async def test_the_first(bench: Bench) -> None:
    """Where there is none it is written, and read back as it is."""
    seen = await bench.registry.read_config()
    assert seen.value is None
    assert await configuration(bench).write_config(b'{"a":1}', seen=seen)
    assert (await bench.registry.read_config()).value == b'{"a":1}'


async def test_another(bench: Bench) -> None:
    """One that is still as it was seen is replaced."""
    await bench.put(b"config", b"old")
    assert await configuration(bench).write_config(b"new", seen=await bench.registry.read_config())
    assert (await bench.registry.read_config()).value == b"new"


async def test_changed_meanwhile(bench: Bench) -> None:
    """One that somebody has changed since is left alone, also where its value is the same again."""
    await bench.put(b"config", b"old")
    seen = await bench.registry.read_config()
    await bench.put(b"config", b"other")
    assert not await configuration(bench).write_config(b"new", seen=seen)
    await bench.put(b"config", b"old")
    assert not await configuration(bench).write_config(b"new", seen=seen)
    assert (await bench.registry.read_config()).value == b"old"


async def test_appeared_or_gone_meanwhile(bench: Bench) -> None:
    """One that has come or gone since is left alone."""
    seen = await bench.registry.read_config()
    await bench.put(b"config", b"theirs")
    assert not await configuration(bench).write_config(b"new", seen=seen)
    seen = await bench.registry.read_config()
    await bench.delete(b"config")
    assert not await configuration(bench).write_config(b"new", seen=seen)
    assert (await bench.registry.read_config()).value is None


async def test_other_keys_do_not_count(bench: Bench) -> None:
    """Changes below subnets/ do not count."""
    await bench.put(b"config", b"old")
    seen = await bench.registry.read_config()
    await bench.put(b"subnets/10.1.0.0-24", b"{}")
    assert await configuration(bench).write_config(b"new", seen=seen)
