"""What a signal does that asks the soak to stop."""

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def stopped_by_signals() -> Iterator[Callable[[], None]]:
    """Have the first INT or TERM raise ``KeyboardInterrupt``; further ones do not disturb the cleaning up.

    INT has a handler also when it is ignored, as shells have it for what they start in the background. What this yields
    raises the exception again, for whoever works in steps to ask between them: Python drops those that come in a
    ``__del__`` or a callback.
    """
    asked = False

    def stop(*_: object) -> None:
        nonlocal asked
        first, asked = not asked, True
        if first:
            raise KeyboardInterrupt

    def check() -> None:
        if asked:
            raise KeyboardInterrupt

    before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield check
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
