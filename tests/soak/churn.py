"""The peers' changes, written into etcd one after the other by a thread, whatever happens to etcd meanwhile."""

import contextlib
import http.client
import threading
import time
from collections.abc import Iterator, Sequence

from tests.soak.peers import Peers
from tests.support.etcd.bulk_writer import Change, change_all
from tests.support.lab.etcd_members import ADDRESSES

GIVE_UP_S = 90.0
AGAIN_S = 0.2


def write(namespace: str, changes: Sequence[Change], over: threading.Event) -> None:
    """Write changes through any member that takes them, again and again until one does, or it is *over*.

    Raises:
        TimeoutError: none has taken them for a long time.
    """
    ways = [[address] for address in ADDRESSES]
    give_up_at = time.monotonic() + GIVE_UP_S
    while not over.is_set():
        for addresses in ways if len(changes) == 1 else (ADDRESSES, *ways):
            with contextlib.suppress(OSError, http.client.HTTPException, AssertionError):
                change_all(namespace, addresses, changes)
                return
        if time.monotonic() > give_up_at:
            raise TimeoutError(f"etcd has taken no change for {GIVE_UP_S:g} s")
        over.wait(AGAIN_S)


class Churn:
    """Something happens to a peer, again and again, for the length of a block.

    Args:
        peers: whose changes.
        namespace: where etcd is reached from.
        period_s: between two changes.
    """

    def __init__(self, peers: Peers, namespace: str, period_s: float) -> None:
        self._peers, self._namespace, self._period_s = peers, namespace, period_s
        self._lock = threading.Lock()
        self._over = threading.Event()
        self._failed: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="churn")
        self.made = 0

    def __enter__(self) -> "Churn":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    @contextlib.contextmanager
    def paused(self) -> Iterator[Peers]:
        """Wait until all is written that the peers know of; nothing happens to them until the block ends.

        Raises:
            TimeoutError: something could not be written.
        """
        with self._lock:
            if self._failed is not None:
                raise self._failed
            yield self._peers

    def write(self, changes: Sequence[Change]) -> None:
        """Write the changes; in a block of ``paused`` alone."""
        write(self._namespace, changes, self._over)
        self.made += len(changes)

    def _run(self) -> None:
        try:
            while not self._over.wait(self._period_s):
                with self._lock:
                    self.write(self._peers.churn())
        except BaseException as error:
            self._failed = error
