"""Certificate files in memory."""

from collections.abc import Mapping

from pyflanneld.errors import UsageError


class FakeCertificates:
    """``ports.Certificates`` with levers: ``fresh``: they hold something new; ``broken``: they cannot be used."""

    def __init__(self) -> None:
        self.looks = 0
        self.fresh = False
        self.broken: str | None = None

    async def reload(self) -> bool:
        self.looks += 1
        if self.broken:
            raise UsageError(self.broken)
        fresh, self.fresh = self.fresh, False
        return fresh

    def ends_s(self) -> Mapping[str, float]:
        return {"etcd-certfile": 1900000000.0, "etcd-cafile": 2000000000.0}
