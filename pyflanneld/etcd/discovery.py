"""Which of etcd's two APIs the cluster lives in: the one that holds the configuration, v3 first.

Theory of operation. Until there is a configuration both APIs are asked, every two seconds; the first that has one is
taken, for good. The order matters after a migration, when the old configuration still stands in v2: so v2 is taken only
when v3 has *said* that it has none, or when the server is too old to have a v3 API. A v3 API that does not answer, or
refuses us, is an error and no invitation to look elsewhere. A v2 API that is switched off has no configuration; one
that does not answer while v3 has none is an error, for nobody knows what it holds.

The v2 registry is made when it is first asked, for most clusters are on v3 and what v2 needs takes long to load.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Final, Protocol

from structlog.typing import FilteringBoundLogger

from pyflanneld.core.etcd_types import (
    ConfigRecord,
    Gone,
    Position,
    Put,
    Record,
    Renewal,
    Snapshot,
    TimeLeft,
    TimeToLive,
)
from pyflanneld.errors import RegistryUnavailable
from pyflanneld.ports import Administration, Configuration, Registry

LOOK_AGAIN_S: Final = 2.0
_FIRST_WITH_V3: Final = (3,)


class FullRegistry(Registry, Administration, Configuration, Protocol):
    """A registry with all that it can do."""


class V2Registry(FullRegistry, Protocol):
    """A registry on v2, which can also tell what server it talks to."""

    async def server_version(self) -> tuple[int, ...]:
        """Return the server's version, for example ``(2, 3, 8)``."""
        ...


class AutoRegistry:
    """``ports.Registry`` on the API that holds the configuration; it is chosen by reading that.

    Args:
        v3: the registry on the v3 API.
        make_v2: makes the registry on the v2 API; called once at most.
        log: where the choice is told.
    """

    def __init__(self, v3: FullRegistry, make_v2: Callable[[], V2Registry], *, log: FilteringBoundLogger) -> None:
        self._v3 = v3
        self._make_v2 = make_v2
        self._made_v2: V2Registry | None = None
        self._log = log
        self._chosen: FullRegistry | None = None

    @property
    def api(self) -> int:
        """The API in use; 3 as long as none was chosen."""
        return self._in_use.api

    @property
    def endpoint(self) -> str:
        """The endpoint in use, as the operator wrote it."""
        return self._in_use.endpoint

    @property
    def _in_use(self) -> FullRegistry:
        return self._chosen or self._v3

    @property
    def _v2(self) -> V2Registry:
        if self._made_v2 is None:
            self._made_v2 = self._make_v2()
        return self._made_v2

    async def read_config(self) -> ConfigRecord:
        """Return the configuration, from whichever API has one."""
        if self._chosen is not None:
            return await self._chosen.read_config()
        config, registry = await self._look()
        if config.value is not None:
            await self._choose(registry)
        return config

    async def _look(self) -> tuple[ConfigRecord, FullRegistry]:
        """Ask both APIs as far as needed; without a configuration, the answer is v3's."""
        config = await self._config_v3()
        if config is not None and config.value is not None:
            return config, self._v3
        from pyflanneld.etcd.v2.responses import ApiMissing  # late, as all of v2

        try:
            config_v2 = await self._v2.read_config()
        except ApiMissing:
            if config is None:
                raise
            return config, self._v3
        if config is None or config_v2.value is not None:
            return config_v2, self._v2
        return config, self._v3

    async def _config_v3(self) -> ConfigRecord | None:
        """Return what v3 says; ``None`` when the server has no such API."""
        try:
            return await self._v3.read_config()
        except RegistryUnavailable:
            if await self._too_old():
                return None
            raise

    async def _too_old(self) -> bool:
        try:
            return await self._v2.server_version() < _FIRST_WITH_V3
        except RegistryUnavailable:
            return False

    async def _choose(self, registry: FullRegistry) -> None:
        self._chosen = registry
        self._log.info("registry.chosen", api=registry.api, endpoint=registry.endpoint)
        other = self._made_v2 if registry is self._v3 else self._v3
        if other is not None:
            await other.close()

    def watch_config(self, after_revision: int) -> AbstractAsyncContextManager[AsyncIterator[None]]:
        """Tick after each change; as long as no API was chosen, every two seconds."""
        if self._chosen is not None:
            return self._chosen.watch_config(after_revision)
        return _ticking()

    async def list_subnets(self, *, elsewhere: bool = False) -> Snapshot:
        """Return all subnets."""
        return await self._in_use.list_subnets(elsewhere=elsewhere)

    def watch_subnets(self, after: Position) -> AbstractAsyncContextManager[AsyncIterator[tuple[Put | Gone, ...]]]:
        """Deliver every change after *after*."""
        return self._in_use.watch_subnets(after)

    async def create_subnet(self, name: bytes, value: bytes, *, ttl_s: int, listed: Snapshot) -> Record | None:
        """Create the key with a TTL."""
        return await self._in_use.create_subnet(name, value, ttl_s=ttl_s, listed=listed)

    async def rewrite_subnet(self, held: Record, value: bytes) -> Record | None:
        """Change the value of *held*."""
        return await self._in_use.rewrite_subnet(held, value)

    async def delete_subnet(self, held: Record) -> bool:
        """Delete *held*."""
        return await self._in_use.delete_subnet(held)

    async def renew(self, held: Record) -> Renewal:
        """Prolong the lease of *held*."""
        return await self._in_use.renew(held)

    async def time_left(self, held: Record) -> TimeLeft | None:
        """Return how long the lease of *held* still has."""
        return await self._in_use.time_left(held)

    async def times_to_live(self, records: Iterable[Record]) -> Mapping[bytes, TimeToLive]:
        """Return how long the *records* with a TTL still have, by name."""
        return await self._in_use.times_to_live(records)

    async def reserve_subnet(self, name: bytes, value: bytes, *, listed: Snapshot) -> Record | None:
        """Create the key without a TTL."""
        return await self._in_use.reserve_subnet(name, value, listed=listed)

    async def make_reservation(self, held: Record) -> Record | None:
        """Take the TTL of *held* away."""
        return await self._in_use.make_reservation(held)

    async def write_config(self, value: bytes, *, seen: ConfigRecord) -> bool:
        """Write the configuration to the API in use, if it is still as *seen*."""
        return await self._in_use.write_config(value, seen=seen)

    def reconnect(self) -> None:
        """Use new connections from now on, to both APIs."""
        self._v3.reconnect()
        if self._made_v2 is not None:
            self._made_v2.reconnect()

    async def close(self) -> None:
        """Close all connections, of both APIs."""
        await self._v3.close()
        if self._made_v2 is not None:
            await self._made_v2.close()


@asynccontextmanager
async def _ticking() -> AsyncIterator[AsyncIterator[None]]:
    yield _Ticks()


class _Ticks:
    def __aiter__(self) -> "_Ticks":
        return self

    async def __anext__(self) -> None:
        await asyncio.sleep(LOOK_AGAIN_S)
