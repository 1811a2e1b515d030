"""The power fails while ``subnet.env`` is written, row F78: whatever of the unsynced work is lost, the file is whole.

Each step of ``files`` that changes the disk is done for real and noted. A simulated disk then plays the notes up to
each step and beyond it the worst that a file system may do: of a file's bytes that were not synced any part is there,
and of the changes of the directory that were not synced any selection.
"""

import itertools
import os
import stat
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from pyflanneld.system import atomic_files
from pyflanneld.system.atomic_files import SubnetEnvFile
from tests.faults.conftest import Measured, measured

__all__ = ["measured"]

NAME = "subnet.env"
TEXTS = tuple(f"FLANNEL_NETWORK=172.7.0.0/16\nFLANNEL_MTU={mtu}\n" for mtu in (1400, 1450, 1500))


@dataclass(frozen=True, slots=True)
class Step:
    """One change of the disk; *file* is an inode's number, *data* what is appended to it."""

    kind: str
    names: tuple[str, ...] = ()
    file: int = 0
    data: bytes = b""


class Recorder:
    """``os`` for ``atomic_files``: forwards the calls, and records each change of the disk."""

    def __init__(self) -> None:
        self.steps: list[Step] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(os, name)

    def open(self, path: str, flags: int, *args: Any, **kwargs: Any) -> int:
        fd = os.open(path, flags, *args, **kwargs)
        if flags & os.O_CREAT:
            self.steps.append(Step("create", (path,), os.fstat(fd).st_ino))
        return fd

    def write(self, fd: int, data: memoryview) -> int:
        written = os.write(fd, data[:20])  # several steps, so that the power can fail between them
        self.steps.append(Step("write", file=os.fstat(fd).st_ino, data=bytes(data[:written])))
        return written

    def fsync(self, fd: int) -> None:
        os.fsync(fd)
        status = os.fstat(fd)
        self.steps.append(Step("sync directory") if stat.S_ISDIR(status.st_mode) else Step("sync", file=status.st_ino))

    def rename(self, old: str, new: str, **kwargs: Any) -> None:
        os.rename(old, new, **kwargs)  # noqa: PTH104 - with dir_fd
        self.steps.append(Step("rename", (old, new)))

    def unlink(self, name: str, **kwargs: Any) -> None:
        os.unlink(name, **kwargs)
        self.steps.append(Step("unlink", (name,)))


Disk = dict[str, bytes]


def outcomes(before: Disk, steps: Sequence[Step]) -> Iterator[Disk]:
    """Yield every disk that may be found when the power fails after *steps*, which began on *before*."""
    synced = max((at + 1 for at, step in enumerate(steps) if step.kind == "sync directory"), default=0)
    pending = [step for step in steps[synced:] if step.names]
    contents = dict(_contents(steps))
    for chosen in itertools.product((False, True), repeat=len(pending)):
        done = [step for step in steps[:synced] if step.names]
        done += [step for step, happened in zip(pending, chosen, strict=True) if happened]
        named, fixed = _names(done, steps), dict(before)
        for step in done:
            fixed.pop(step.names[0], None)
        unsure = sorted({file for file in named.values() if len(contents[file]) > 1})
        for parts in itertools.product(*(contents[file] for file in unsure)):
            found = {file: choices[0] for file, choices in contents.items()} | dict(zip(unsure, parts, strict=True))
            yield fixed | {name: found[file] for name, file in named.items()}


def _names(done: Sequence[Step], steps: Sequence[Step]) -> dict[str, int]:
    """Return which file each name means after these changes of the directory."""
    made = {step.names[0]: step.file for step in steps if step.kind == "create"}
    named: dict[str, int] = {}
    for step in done:
        match step.kind:
            case "create":
                named[step.names[0]] = step.file
            case "rename":
                named.pop(step.names[0], None)
                named[step.names[1]] = made[step.names[0]]
            case "unlink":
                named.pop(step.names[0], None)
    return named


def _contents(steps: Sequence[Step]) -> Iterator[tuple[int, list[bytes]]]:
    """Yield, for each file, what may be in it: all of its bytes once synced, before that any part of them, or zeros."""
    for file in {step.file for step in steps if step.kind == "create"}:
        data = b"".join(step.data for step in steps if step.kind == "write" and step.file == file)
        last = max((at for at, step in enumerate(steps) if step.kind == "write" and step.file == file), default=-1)
        synced = any(step.kind == "sync" and step.file == file for step in steps[last + 1 :])
        parts = {data[:length] for length in range(0, len(data) + 1, 7)} | {data, b"\0" * len(data)}
        yield file, [data] if synced else sorted(parts)


@pytest.fixture
def recorder(monkeypatch: pytest.MonkeyPatch) -> Recorder:
    recorder = Recorder()
    monkeypatch.setattr(atomic_files, "os", recorder)
    return recorder


def worst(before: Disk, steps: Sequence[Step]) -> set[bytes | None]:
    """Return every content that the file may have when the power fails after any of *steps*."""
    return {disk.get(NAME) for end in range(len(steps) + 1) for disk in outcomes(before, steps[:end])}


@pytest.mark.parametrize("old", [None, TEXTS[0]], ids=["no file", "an old file"])
def test_f78_the_power_fails_at_any_moment(
    tmp_path: Path, recorder: Recorder, old: str | None, measured: Measured
) -> None:
    """Before: the old content. Meanwhile: the old or the new one. Once ``write`` has returned: the new one."""
    path, held = tmp_path / NAME, None if old is None else old.encode()
    if old is not None:
        path.write_text(old)
    new = TEXTS[1].encode()
    assert SubnetEnvFile(path).write(TEXTS[1])
    before: Disk = {} if held is None else {NAME: held}
    steps = recorder.steps
    assert worst(before, steps) == {held, new}
    assert {disk.get(NAME) for disk in outcomes(before, steps)} == {new}
    count = sum(1 for end in range(len(steps) + 1) for _ in outcomes(before, steps[:end]))
    measured(f"{count} disks after a power cut within {len(steps)} steps: each with the old or the new file")


def test_f78_the_next_start_tidies_up(tmp_path: Path, recorder: Recorder) -> None:
    """On each of these disks the next write succeeds and leaves the file alone in its directory."""
    path = tmp_path / "first" / NAME
    path.parent.mkdir()
    path.write_text(TEXTS[0])
    SubnetEnvFile(path).write(TEXTS[1])
    steps = tuple(recorder.steps)
    disks = {
        tuple(sorted(disk.items()))
        for end in range(len(steps) + 1)
        for disk in outcomes({NAME: TEXTS[0].encode()}, steps[:end])
    }
    assert len(disks) > 10
    for number, disk in enumerate(sorted(disks)):
        folder = tmp_path / str(number)
        folder.mkdir()
        for name, data in disk:
            (folder / name).write_bytes(data)
        assert SubnetEnvFile(folder / NAME).write(TEXTS[2])
        assert {one.name: one.read_text() for one in folder.iterdir()} == {NAME: TEXTS[2]}


@pytest.mark.parametrize("left_out", ["sync", "sync directory"])
def test_f78_the_disk_finds_what_is_not_synced(tmp_path: Path, recorder: Recorder, left_out: str) -> None:
    """The simulated disk detects a missing sync: without either one it shows a torn file, or an old one afterwards."""
    old, new = TEXTS[0].encode(), TEXTS[1].encode()
    (tmp_path / NAME).write_bytes(old)
    SubnetEnvFile(tmp_path / NAME).write(TEXTS[1])
    steps = [step for step in recorder.steps if step.kind != left_out]
    after = {disk.get(NAME) for disk in outcomes({NAME: old}, steps)}
    assert after != {new}
    assert (after <= {old, new}) == (left_out == "sync directory")


def test_f78_a_directory_that_could_not_be_synced_is_synced_later(
    tmp_path: Path, recorder: Recorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After a failed sync of the directory the file is right already; the next attempt is done when that is synced."""
    file, real = SubnetEnvFile(tmp_path / NAME), recorder.fsync
    (tmp_path / NAME).write_text(TEXTS[0])

    def fail(fd: int) -> None:
        if stat.S_ISDIR(os.fstat(fd).st_mode):
            raise OSError(5, "Input/output error")
        real(fd)

    with monkeypatch.context() as patch:
        patch.setattr(recorder, "fsync", fail)
        for _ in range(2):
            with pytest.raises(OSError, match="Input"):
                file.write(TEXTS[1])
    assert worst({NAME: TEXTS[0].encode()}, recorder.steps) == {text.encode() for text in TEXTS[:2]}
    file.write(TEXTS[1])
    assert {disk.get(NAME) for disk in outcomes({NAME: TEXTS[0].encode()}, recorder.steps)} == {TEXTS[1].encode()}
