"""A message that pyroute2 has encoded once, and of which a few fields are patched: for thousands of them. Pure.

Where in the message a field is, two encodings show that differ in it alone; nothing of the layout is written down here.
The tests compare with pyroute2.
"""

from collections.abc import Callable, Mapping


class MessageTemplate:
    """One shape of a message.

    Args:
        encode: makes the message of the values of its variable fields.
        values: for each field two values that differ in every byte.
    """

    def __init__(self, encode: Callable[[Mapping[str, object]], bytes], **values: tuple[object, object]) -> None:
        blank = {name: one for name, (one, _) in values.items()}
        self._blank = encode(blank)
        self._at = {
            name: _differing(self._blank, encode({**blank, name: other})) for name, (_, other) in values.items()
        }

    def filled(self, **values: bytes) -> bytes:
        """Return the message with the bytes of each variable field."""
        body = bytearray(self._blank)
        for name, value in values.items():
            body[self._at[name]] = value
        return bytes(body)


def _differing(one: bytes, other: bytes) -> slice:
    places = [place for place, (left, right) in enumerate(zip(one, other, strict=True)) if left != right]
    return slice(places[0], places[-1] + 1)
