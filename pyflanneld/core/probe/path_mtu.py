"""The search for the largest packet that a path carries, one answer at a time. Pure."""

from dataclasses import dataclass

MTU_FLOOR_BYTES = 576
"""What every IPv4 host must be able to take (RFC 791)."""
_TRIES = 2


@dataclass(slots=True)
class MtuSearch:
    """Finds the largest packet that gets through: the link's MTU first, what a router says next, or by halving.

    Attributes:
        link_mtu: where it begins.
        low: what is known, or may be taken for granted, to fit.
        high: the smallest that does not.
        hint: what a router on the way says would fit.
        misses: how often the size in question has stayed without an answer.
    """

    link_mtu: int
    low: int = 0
    high: int = 0
    hint: int | None = None
    misses: int = 0

    def __post_init__(self) -> None:
        self.low, self.high = min(MTU_FLOOR_BYTES, self.link_mtu), self.link_mtu + 1

    @property
    def size_bytes(self) -> int | None:
        """What to send next; ``None`` when the MTU is known."""
        if self.high - self.low <= 1:
            return None
        if self.high > self.link_mtu:
            return self.link_mtu
        return self.hint or (self.low + self.high) // 2

    @property
    def mtu(self) -> int | None:
        """The path's MTU, once it is known."""
        return self.low if self.size_bytes is None else None

    def passed(self, size_bytes: int) -> None:
        """Say that *size_bytes* got through."""
        self.low, self.misses = max(self.low, min(size_bytes, self.high - 1)), 0
        self.hint = None if self.hint == size_bytes else self.hint

    def missed(self, size_bytes: int, mtu: int | None) -> None:
        """Say that *size_bytes* did not get through, and what would, where somebody has said so."""
        if size_bytes >= self.high:
            return
        self.misses += 1
        if mtu is not None and self.low < mtu < size_bytes:
            self.high, self.hint, self.misses = min(self.high, mtu + 1), mtu, 0
        elif self.misses >= _TRIES:
            self.high, self.hint, self.misses = min(self.high, max(size_bytes, self.low + 1)), None, 0
