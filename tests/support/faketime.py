"""libfaketime for one process: its clocks are put so far from what they really are as a file says."""

from pathlib import Path


def put_clock(file: Path, offset: str) -> None:
    """Put the clocks that go by *file* ahead of the real ones, or behind: ``+1h``, ``-10y``; in one step."""
    new = file.with_suffix(".new")
    new.write_text(f"{offset}\n")
    new.replace(file)


def faked_clock(file: Path, *, monotonic: bool) -> dict[str, str]:
    """Return the environment of a process whose wall clock goes by *file*; with *monotonic* the other clocks too.

    Neither the library's mutex nor its shared semaphore are used: a child that the process forks at the wrong moment
    would wait for them for ever, and the daemon writes its files in such children.
    """
    [library] = Path("/usr/lib").glob("*/faketime/libfaketime.so.1")
    return {
        "LD_PRELOAD": str(library), "FAKETIME_TIMESTAMP_FILE": str(file), "FAKETIME_NO_CACHE": "1",
        "FAKETIME_DONT_FAKE_MONOTONIC": "0" if monotonic else "1", "FAKETIME_DISABLE_SHM": "1",
    }  # fmt: skip
