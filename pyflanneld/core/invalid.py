"""The exception that the pure parsers raise for input from outside."""

_SHOWN_CHARS = 120


class Invalid(ValueError):
    """Input from outside that cannot be used.

    Attributes:
        reason: a short constant such as ``"outside_network"``, fit for a metric label.
        field: what was wrong, as its source names it (``"SubnetLen"``, ``"PublicIP"``, ``"key"``).
    """

    def __init__(self, reason: str, field: str, value: object, expected: str) -> None:
        self.reason = reason
        self.field = field
        super().__init__(f"{field}: {shown(value)} is not usable: {expected}")


def shown(value: object) -> str:
    """Return *value* in printable ASCII on one line, cut to a length that cannot flood a log."""
    text = ascii(value[:_SHOWN_CHARS] if isinstance(value, bytes | str) else value)
    return text if len(text) <= _SHOWN_CHARS else text[:_SHOWN_CHARS] + "..."
