"""The file in ``--state-dir``: whole whatever crashes, for the daemon alone, and read only if it can be trusted."""

import asyncio
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from pyflanneld.core.invalid import Invalid
from pyflanneld.core.lease.saved_state import SavedState, encode_state
from pyflanneld.system import atomic_files, state_file
from pyflanneld.system.state_file import NAME, StateFile
from tests.unit.test_atomic_files_crash import Disk, Recorder, outcomes
from tests.unit.test_saved_state import STATE

NEWER = replace(STATE, revision=STATE.revision + 1)


def write(directory: Path, state: SavedState) -> None:
    asyncio.run(StateFile(directory).write(state))


def read(directory: Path) -> SavedState | None:
    return asyncio.run(StateFile(directory).read())


def test_it_is_read_back(tmp_path: Path) -> None:
    """The directory is made, the file is for its owner alone, and nothing else is left there."""
    directory = tmp_path / "lib" / "pyflanneld"
    assert read(directory) is None
    for state in (STATE, NEWER):
        write(directory, state)
        assert read(directory) == state
    assert [path.name for path in directory.iterdir()] == [NAME]
    assert (directory / NAME).stat().st_mode & 0o777 == 0o600
    assert directory.stat().st_mode & 0o777 == 0o755


def test_the_power_fails_at_any_moment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Before: the old state. Meanwhile: the old or the new one. Once it is written: the new one."""
    write(tmp_path, STATE)
    recorder = Recorder()
    monkeypatch.setattr(state_file, "in_child", lambda work: work())  # to see its steps
    for module in (atomic_files, state_file):
        monkeypatch.setattr(module, "os", recorder)
    write(tmp_path, NEWER)
    old, new, before = encode_state(STATE), encode_state(NEWER), Disk({NAME: encode_state(STATE)})
    steps = recorder.steps
    assert {disk.get(NAME) for end in range(len(steps) + 1) for disk in outcomes(before, steps[:end])} == {old, new}
    assert {disk.get(NAME) for disk in outcomes(before, steps)} == {new}


def test_leftovers_of_a_killed_process_are_removed(tmp_path: Path) -> None:
    """The next write removes an incomplete file under a temporary name."""
    (tmp_path / f".{NAME}.0123456789abcdef").write_text("half")
    write(tmp_path, STATE)
    assert [path.name for path in tmp_path.iterdir()] == [NAME]


SPOIL: dict[str, tuple[Callable[[Path], object], str]] = {
    "link": (lambda file: (file.rename(file.with_name("f")), file.symlink_to("f")), "Too many levels of symbolic"),
    "fifo": (lambda file: (file.unlink(), os.mkfifo(file)), "not a regular file"),
    "directory": (lambda file: (file.unlink(), file.mkdir()), "not a regular file"),
    "writable": (lambda file: file.chmod(0o620), "users other than its owner"),
    "sticky directory of everybody": (lambda file: file.parent.chmod(0o1777), "chmod o-w"),
}


@pytest.mark.parametrize(("spoil", "why"), SPOIL.values(), ids=SPOIL)
def test_a_file_that_others_may_have_written_is_not_read(
    tmp_path: Path, spoil: Callable[[Path], object], why: str
) -> None:
    """Its content decides where this host's packets go."""
    write(tmp_path, STATE)
    spoil(tmp_path / NAME)
    with pytest.raises(OSError, match=why):
        read(tmp_path)


def test_it_is_not_written_where_everybody_may(tmp_path: Path) -> None:
    """Nor where no file is possible; a link in its place is replaced."""
    (tmp_path / NAME).symlink_to("/etc/passwd")
    write(tmp_path, STATE)
    assert not (tmp_path / NAME).is_symlink()
    tmp_path.chmod(0o777)
    with pytest.raises(PermissionError, match="chmod o-w"):
        write(tmp_path, NEWER)
    tmp_path.chmod(0o755)
    assert read(tmp_path) == STATE
    with pytest.raises(OSError, match="Not a directory"):
        write(tmp_path / NAME, STATE)


def test_a_large_file_is_an_error_before_it_is_read(tmp_path: Path) -> None:
    """A huge file takes no memory."""
    write(tmp_path, STATE)
    os.truncate(tmp_path / NAME, 10**12)
    with pytest.raises(Invalid, match="at most"):
        read(tmp_path)


def test_a_forgotten_state_stays_away(tmp_path: Path) -> None:
    """Another node has the lease: the file is gone, and no write that was under way brings it back."""

    async def scenario() -> None:
        file = StateFile(tmp_path)
        await file.write(STATE)
        await file.forget()
        await file.write(NEWER)
        await file.forget()
        await StateFile(tmp_path / "nowhere").forget()

    asyncio.run(scenario())
    assert list(tmp_path.iterdir()) == []
