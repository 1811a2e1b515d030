"""Builds the registry that ``--etcd-api`` asks for; what is not needed is not imported."""

import random
from functools import partial
from typing import TYPE_CHECKING

from structlog.typing import FilteringBoundLogger

from pyflanneld.etcd.access import EtcdAccess
from pyflanneld.etcd.discovery import AutoRegistry, FullRegistry
from pyflanneld.etcd.tls import Tls
from pyflanneld.etcd.v3.registry import EtcdV3Registry

if TYPE_CHECKING:
    from pyflanneld.etcd.v2.registry import EtcdV2Registry


def build(
    api: str, access: EtcdAccess, *, rng: random.Random, log: FilteringBoundLogger, tls: Tls | None = None
) -> FullRegistry:
    """Return the registry on an API.

    Args:
        api: ``"3"``, ``"2"``, or ``"auto"`` for the one that holds the configuration.
        access: where etcd is.
        rng: draws the endpoint to begin with.
        log: where events go.
        tls: the certificates in use; by default read now. Both APIs share them.

    Raises:
        UsageError: a TLS file is missing, unreadable or wrong.
    """
    tls = tls or Tls(access)
    if api == "3":
        return EtcdV3Registry(access, rng=rng, log=log, tls=tls)
    make_v2 = partial(_v2, access, rng=rng, log=log, tls=tls)
    if api == "2":
        return make_v2()
    return AutoRegistry(EtcdV3Registry(access, rng=rng, log=log, tls=tls), make_v2, log=log)


def _v2(access: EtcdAccess, *, rng: random.Random, log: FilteringBoundLogger, tls: Tls) -> "EtcdV2Registry":
    from pyflanneld.etcd.v2.registry import EtcdV2Registry

    return EtcdV2Registry(access, rng=rng, log=log, tls=tls)
