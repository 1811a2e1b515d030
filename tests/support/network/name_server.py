"""A DNS server for tests, with the ways in which name servers fail."""

import socket
import threading
from collections import Counter
from contextlib import suppress
from ipaddress import IPv4Address

from tests.support.network.namespaces import Namespace

_A, _AAAA = 1, 28


class NameServer:
    """Answers on UDP port 53 of a namespace's loopback.

    Attributes:
        names: the IPv4 addresses of each name; others do not exist.
        silent: answers nothing.
        drops_ipv6: answers no question for an IPv6 address.
        asked: how often each name was asked for, by name and type.
    """

    def __init__(self, namespace: Namespace) -> None:
        with namespace.inside():
            self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.bind(("127.0.0.1", 53))
        self.names: dict[str, list[str]] = {}
        self.silent = self.drops_ipv6 = False
        self.asked: Counter[tuple[str, int]] = Counter()
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def _serve(self) -> None:
        with suppress(OSError):
            while True:
                query, client = self._socket.recvfrom(4096)
                if not query:
                    return
                if answer := self._answer(query):
                    self._socket.sendto(answer, client)

    def _answer(self, query: bytes) -> bytes | None:
        """Return the response to *query*: RFC 1035, section 4."""
        end = query.index(b"\0", 12) + 5
        labels, kind = query[12 : end - 5], int.from_bytes(query[end - 4 : end - 2])
        name = ""
        while labels:
            name += labels[1 : 1 + labels[0]].decode() + "."
            labels = labels[1 + labels[0] :]
        name = name.rstrip(".")
        self.asked[name, kind] += 1
        if self.silent or (kind == _AAAA and self.drops_ipv6):
            return None
        addresses = self.names.get(name, []) if kind == _A else []
        code = 0 if name in self.names else 3
        head = query[:2] + bytes((0x81, 0x80 | code)) + b"\0\1" + len(addresses).to_bytes(2) + b"\0\0\0\0"
        records = [b"\xc0\x0c\0\1\0\1\0\0\0\0\0\4" + IPv4Address(address).packed for address in addresses]
        return head + query[12:end] + b"".join(records)

    def close(self) -> None:
        with suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)  # wakes the thread
        self._thread.join(5)
        self._socket.close()
