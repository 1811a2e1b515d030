"""libfaketime for one process: its clocks are put so far from what they really are as a file says."""

from pathlib import Path

WAIT_MS = 5
"""How long a thread waits for the interpreter before it asks for it, as ``sys.getswitchinterval`` has it."""


def put_clock(file: Path, offset: str) -> None:
    """Put the clocks that go by *file* ahead of the real ones, or behind: ``+1h``, ``-10y``; in one step."""
    new = file.with_suffix(".new")
    new.write_text(f"{offset}\n")
    new.replace(file)


def faked_clock(file: Path, *, monotonic: bool) -> dict[str, str]:
    """Return the environment of a process whose wall clock goes by *file*; with *monotonic* the other clocks too.

    The library's mutex, and the semaphore that it takes to fake the times of files, are not used: a child that the
    process forks at the wrong moment would wait for them for ever, and the daemon writes its files in such children.

    Waits of ``pthread_cond_timedwait`` last ``WAIT_MS``. The library would turn their ends into real time by the faked
    wall clock, also where the monotonic clock is the real one; each wait is over at once then, and in Python a thread
    that wants the interpreter's lock asks for it in such waits: it asks without a pause, holds the mutex that the
    owner needs to give the lock away, and the whole process stands still. Nothing else in Python waits like this.
    """
    [library] = Path("/usr/lib").glob("*/faketime/libfaketime.so.1")
    return {
        "LD_PRELOAD": str(library), "FAKETIME_TIMESTAMP_FILE": str(file), "FAKETIME_NO_CACHE": "1",
        "FAKETIME_DONT_FAKE_MONOTONIC": "0" if monotonic else "1", "NO_FAKE_STAT": "1",
        "FAKETIME_WAIT_MS": str(WAIT_MS),
    }  # fmt: skip
