"""Messages of rtnetlink, encoded and decoded by pyroute2, which knows their layouts and attribute numbers. Pure."""

from collections.abc import Iterable, Mapping
from typing import Any

from pyroute2.netlink import nlmsg, nlmsgerr

from pyflanneld.netlink.frames import HEADER, KernelRefusal, Malformed

# What neither pyroute2 nor Python's socket module names, of linux/rtnetlink.h and asm-generic/socket.h:
RTM_F_CLONED = 0x200
RTEXT_FILTER_SKIP_STATS = 8
SO_RCVBUFFORCE = 33


def encode(kind: type[nlmsg], fields: Mapping[str, int], attributes: Iterable[tuple[str, object]] = ()) -> bytes:
    """Return a message of pyroute2's class *kind* without its netlink header."""
    message = kind()
    for name, value in fields.items():
        message[name] = value
    message["attrs"] = list(attributes)
    message.encode()
    return bytes(message.data[HEADER.size :])


class Decoded:
    """A message from the kernel without its netlink header; *fields* and attributes have pyroute2's names.

    Raises ``Malformed``; only the attributes in *wanted* are decoded.
    """

    def __init__(self, kind: type[nlmsg], body: bytes, *wanted: str) -> None:
        try:
            message: Any = kind(HEADER.pack(HEADER.size + len(body), 0, 0, 0, 0) + body)
            message.decode()
            self.fields: Mapping[str, Any] = message
            self.names = frozenset(slot[0] for slot in message["attrs"])
            self._found = {name: message.get_attr(name) for name in wanted}
        except Exception as error:  # pyroute2 raises its own kinds, struct.error, and what it stumbles over
            raise Malformed(f"{kind.__name__} of {len(body)} bytes: {error}") from error

    def __getitem__(self, name: str) -> Any:
        """Return the value of an attribute in *wanted*, ``None`` if it is not there."""
        return self._found[name]


def kernel_verdict(body: bytes) -> KernelRefusal | None:
    """Return what an ``NLMSG_ERROR`` or ``NLMSG_DONE`` says; ``None`` is success. Raises ``Malformed``.

    pyroute2's class takes the quoted request for an attribute, by its length; so it must be quoted as a whole.
    """
    verdict = Decoded(nlmsgerr, body, "NLMSGERR_ATTR_MSG")
    number = verdict.fields["error"]
    return KernelRefusal(-number, verdict["NLMSGERR_ATTR_MSG"] or "") if number < 0 else None
