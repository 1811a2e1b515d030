"""Observer O1: all that happens in etcd, from its own JSON gateway: every key, from the first revision of the test on.

The watch is opened anew when it breaks, at the member that answers; from the beginning when the history is another one.
"""

import base64
import contextlib
import http.client
import json
import selectors
import socket
import time
from collections.abc import Callable, Sequence
from typing import Any

from tests.support.observers.record import Change, History

ALL = {"key": "AA==", "range_end": "AA=="}
RETRY_S = 0.3
PATIENCE_S = 2.0
VALUE_KEPT_BYTES = 4096
BLIND_TLS = "etcd speaks TLS"

Connect = Callable[[str, int], socket.socket]
"""Make a socket that connects, without waiting, as a process in etcd's namespace would."""


class Watcher:
    """Follows one etcd and fills its history.

    Args:
        history: to be filled.
        members: (host, port) of each.
        connect: see there.
    """

    def __init__(self, history: History, members: Sequence[tuple[str, int]], connect: Connect) -> None:
        self.history = history
        self._members, self._connect = members, connect
        self._turn = 0
        self._seen = 0  # revision
        self._cluster = ""
        self._sock: socket.socket | None = None
        self._buffer = b""
        self._try_at_s = 0.0
        self._asked_from = 0
        self._moving_at_s: float | None = None

    def begin(self) -> None:
        """Take the keys that are there."""
        answer = self._range()
        if answer is None:
            self.history.blind = "etcd did not answer at the start"
            return
        self._seen, self._cluster = int(answer["header"]["revision"]), answer["header"]["cluster_id"]
        for kv in answer.get("kvs", ()):
            change = _change(time.monotonic(), kv, deleted=False)
            self.history.before[change.key] = change
        self.history.began_at = self._seen

    def end(self) -> None:
        """Stop watching."""
        if self._sock is not None:
            self._sock.close()
            self._sock = None

    def behind(self) -> bool:
        """Return whether etcd has a newer revision than was told; what cannot be asked now counts as told."""
        answer = self._range(count_only=True)
        if answer is None:
            self.history.blind = self.history.blind or "etcd did not answer at the end"
            return False
        header = answer["header"]
        return (header["cluster_id"], int(header["revision"])) != (self._cluster, self._seen)

    def elsewhere(self) -> None:
        """Ask another member if this one tells nothing for a while longer."""
        if self._moving_at_s is None:
            self._moving_at_s = time.monotonic() + RETRY_S

    def _range(self, *, count_only: bool = False) -> Any:
        for host, port in self._members:
            with contextlib.suppress(OSError, ValueError, KeyError, http.client.HTTPException):
                connection = http.client.HTTPConnection(host, port)
                connection.sock = self._connect(host, port)
                connection.sock.settimeout(PATIENCE_S)
                with contextlib.closing(connection):
                    connection.request("POST", "/v3/kv/range", json.dumps({**ALL, "count_only": count_only}))
                    answer = json.loads(connection.getresponse().read())
                if answer["header"]:
                    return answer
        return None

    # The watch, in the observers' thread

    def tick(self, selector: selectors.BaseSelector, now: float) -> None:
        """Open the watch when there is none."""
        if self._sock is not None and self._moving_at_s is not None and now > self._moving_at_s:
            self._drop(selector)
        if self._sock is not None or now < self._try_at_s:
            return
        self._try_at_s = now + RETRY_S
        host, port = self._members[self._turn % len(self._members)]
        self._turn += 1
        self._asked_from, self._buffer = self._seen + 1, b""
        request = json.dumps({"create_request": {**ALL, "start_revision": self._asked_from}}).encode()
        head = f"POST /v3/watch HTTP/1.0\r\nHost: {host}\r\nContent-Length: {len(request)}\r\n\r\n".encode()
        sock = None
        try:
            sock = self._connect(host, port)
            sock.settimeout(0.2)
            sock.sendall(head + request)
            sock.setblocking(False)
        except OSError:
            if sock is not None:
                sock.close()
            return
        self._sock, self._moving_at_s = sock, None
        selector.register(sock, selectors.EVENT_READ, self.read)

    def read(self, selector: selectors.BaseSelector) -> None:
        """Take what has come; drop the connection when it has ended."""
        assert self._sock is not None
        try:
            data = self._sock.recv(1 << 20)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        self._buffer += data
        *lines, self._buffer = self._buffer.split(b"\n")
        if not all(map(self._line, lines)) or not data:
            self._drop(selector)

    def _drop(self, selector: selectors.BaseSelector) -> None:
        assert self._sock is not None
        selector.unregister(self._sock)
        self.end()

    def _line(self, line: bytes) -> bool:
        """Take a line; return whether the watch goes on."""
        if not line.startswith(b"{"):
            return True  # of the head
        message = json.loads(line)
        result = message.get("result")
        if result is None:
            return False
        header = result["header"]
        if self._is_another_history(header):
            self._seen, self._cluster = 0, header["cluster_id"]
            self.history.blind = ""
            self.history.retold.append(len(self.history.changes))
            return False
        if result.get("canceled"):
            return self._canceled(result)
        for event in result.get("events", ()):
            change = _change(time.monotonic(), event["kv"], deleted=event.get("type") == "DELETE")
            self.history.changes.append(change)
            self._seen = max(self._seen, change.mod_revision)
        return True

    def _is_another_history(self, header: dict[str, str]) -> bool:
        return header["cluster_id"] != self._cluster or int(header["revision"]) < self._seen

    def _canceled(self, result: dict[str, Any]) -> bool:
        compacted = int(result.get("compact_revision", 0))
        if compacted:
            self.history.blind = f"revisions {self._asked_from} to {compacted - 1} were compacted"
            self._seen = compacted - 1
        return False


def _change(at_s: float, kv: dict[str, str], *, deleted: bool) -> Change:
    key = base64.b64decode(kv["key"]).decode(errors="backslashreplace")
    if deleted:
        return Change(at_s, key, None, int(kv["mod_revision"]))
    value = base64.b64decode(kv.get("value", ""))[:VALUE_KEPT_BYTES]
    return Change(at_s, key, value, int(kv["mod_revision"]), int(kv.get("version", 0)), int(kv.get("lease", 0)))
