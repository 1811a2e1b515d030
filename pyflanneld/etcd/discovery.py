"""Which of etcd's two APIs to use: with ``--etcd-api=auto`` the one that holds the network configuration, v3 first.

Theory of operation. Until one API has a configuration, each read asks both; the one that has it is used from then on,
until the process ends. After a migration the old configuration is still in v2, so the order matters: v2 is used only
when v3 has *said* that it has no configuration, or when the server is too old to have a v3 API. An error of v3 is no
answer. A v2 API that is switched off has no configuration. An error of v2, while v3 has no configuration, is an error,
because v2 may hold one.

The import of the v2 registry is deferred here and nowhere else: most clusters use v3, and what v2 needs loads slowly.
"""

import random
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Final, Protocol

from structlog.typing import FilteringBoundLogger

from pyflanneld.core.etcd_types import ConfigRecord
from pyflanneld.errors import ApiMissing, RegistryUnavailable
from pyflanneld.etcd.access import EtcdAccess
from pyflanneld.etcd.tls import Tls
from pyflanneld.etcd.v3.registry import EtcdV3Registry
from pyflanneld.ports import FullRegistry

if TYPE_CHECKING:
    from pyflanneld.etcd.v2.registry import EtcdV2Registry

_FIRST_WITH_V3: Final = (3,)


def discover(
    api: str, access: EtcdAccess, *, rng: random.Random, log: FilteringBoundLogger, tls: Tls | None = None
) -> "OneApi":
    """Return the ``ports.Discovery`` for ``--etcd-api``.

    Args:
        api: ``"3"``, ``"2"``, or ``"auto"`` for the one that holds the configuration.
        access: where etcd is.
        rng: picks the endpoint to begin with.
        log: where events go.
        tls: the certificates in use; by default they are read now. Both APIs share them.

    Raises:
        UsageError: a TLS file is missing, unreadable or wrong.
    """
    tls = tls or Tls(access)
    make_v2 = partial(_v2_registry, access, rng=rng, log=log, tls=tls)
    if api == "2":
        return OneApi(make_v2())
    v3 = EtcdV3Registry(access, rng=rng, log=log, tls=tls)
    return OneApi(v3) if api == "3" else EitherApi(v3, make_v2)


def _v2_registry(access: EtcdAccess, *, rng: random.Random, log: FilteringBoundLogger, tls: Tls) -> "EtcdV2Registry":
    from pyflanneld.etcd.v2.registry import EtcdV2Registry

    return EtcdV2Registry(access, rng=rng, log=log, tls=tls)


class OneApi:
    """``ports.Discovery`` with nothing to find: the operator has named the API.

    Attributes:
        registry: the registry to use.
        settled: whether it stays that one.
    """

    def __init__(self, registry: FullRegistry) -> None:
        self.registry = registry
        self.settled = True

    async def read_config(self) -> ConfigRecord:
        """Return the configuration as it is now."""
        return await self.registry.read_config()

    def reconnect(self) -> None:
        """Use new connections from now on."""
        self.registry.reconnect()

    async def close(self) -> None:
        """Close all connections."""
        await self.registry.close()


class V2Registry(FullRegistry, Protocol):
    """A registry on the v2 API, which also knows what server it talks to."""

    async def server_version(self) -> tuple[int, ...]:
        """Return the server's version, for example ``(2, 3, 8)``."""
        ...


class EitherApi(OneApi):
    """``ports.Discovery`` by the configuration; until there is one, ``registry`` is the one on v3.

    Args:
        v3: the registry on the v3 API.
        make_v2: makes the registry on the v2 API; called once at most.
    """

    def __init__(self, v3: FullRegistry, make_v2: Callable[[], V2Registry]) -> None:
        super().__init__(v3)
        self.settled = False
        self._v3 = v3
        self._make_v2 = make_v2
        self._made_v2: V2Registry | None = None

    @property
    def _v2(self) -> V2Registry:
        if self._made_v2 is None:
            self._made_v2 = self._make_v2()
        return self._made_v2

    async def read_config(self) -> ConfigRecord:
        """Return the configuration from the API that has one, and settle for that; v3's answer while none has."""
        if self.settled:
            return await super().read_config()
        config, registry = await self._ask_both()
        if config.value is not None:
            await self._settle(registry)
        return config

    async def _ask_both(self) -> tuple[ConfigRecord, FullRegistry]:
        """Ask v3, and v2 where that is needed."""
        config = await self._ask_v3()
        if config is not None and config.value is not None:
            return config, self._v3
        try:
            config_v2 = await self._v2.read_config()
        except ApiMissing:
            if config is None:
                raise
            return config, self._v3
        if config is None or config_v2.value is not None:
            return config_v2, self._v2
        return config, self._v3

    async def _ask_v3(self) -> ConfigRecord | None:
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

    async def _settle(self, registry: FullRegistry) -> None:
        self.registry, self.settled = registry, True
        for other in self._made():
            if other is not registry:
                await other.close()

    def _made(self) -> list[FullRegistry]:
        return [self._v3] if self._made_v2 is None else [self._v3, self._made_v2]

    def reconnect(self) -> None:
        """Use new connections from now on, to both APIs."""
        for registry in self._made():
            registry.reconnect()

    async def close(self) -> None:
        """Close all connections, of both APIs."""
        for registry in self._made():
            await registry.close()
