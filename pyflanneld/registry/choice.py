"""Builds the registry that ``--etcd-api`` asks for; what is not needed is not imported."""

import random

from structlog.typing import FilteringBoundLogger

from pyflanneld.ports import Registry
from pyflanneld.registry.access import EtcdAccess


def build(api: str, access: EtcdAccess, *, rng: random.Random, log: FilteringBoundLogger) -> Registry:
    """Return the registry on an API.

    Args:
        api: ``"3"``, ``"2"``, or ``"auto"`` for the one that holds the configuration.
        access: where etcd is.
        rng: draws the endpoint to begin with.
        log: where events go.

    Raises:
        UsageError: a TLS file is missing, unreadable or wrong.
    """
    if api == "3":
        from pyflanneld.registry.etcd_v3 import EtcdV3Registry

        return EtcdV3Registry(access, rng=rng, log=log)
    from pyflanneld.registry.etcd_v2 import EtcdV2Registry

    v2 = EtcdV2Registry(access, rng=rng, log=log)
    if api == "2":
        return v2
    from pyflanneld.registry.auto import AutoRegistry
    from pyflanneld.registry.etcd_v3 import EtcdV3Registry

    return AutoRegistry(EtcdV3Registry(access, rng=rng, log=log), v2, log=log)
