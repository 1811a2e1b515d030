"""What ``SubnetFile`` promises, and what lies below it: on a real directory, and on the simulated world's disk."""

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Protocol

import pytest

from pyflanneld.ports import SubnetFile
from pyflanneld.system import atomic_files, subnet_file
from pyflanneld.system.subnet_file import SubnetFileOnDisk
from tests.sim.disk import STEPS, Killed, SimDisk, SimFile

OLD, NEW = "FLANNEL_MTU=1400\n", "FLANNEL_MTU=1450\nFLANNEL_IPMASQ=true\n"
FULL = OSError(errno.ENOSPC, "No space left on device")
CHANGING = ("fchmod", "write", "fsync", "rename")


class Bed(Protocol):
    """A directory with a file in it, of which the next write may end at one of its steps."""

    file: SubnetFile

    def restart(self) -> None:
        """Have another process come in the place of the one that has died."""

    def ending_at(self, step: int, error: Exception) -> Any:
        """Return a block in which the step of that number, from 0, does not happen but raises *error*."""

    def names(self) -> list[str]:
        """Return what is in the directory."""


class RealBed:
    """A real one; the steps are counted between the daemon's code and the system."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.restart()

    def restart(self) -> None:
        self.file: SubnetFile = SubnetFileOnDisk(self.folder / "subnet.env")

    @contextmanager
    def ending_at(self, step: int, error: Exception) -> Iterator[None]:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(subnet_file, "in_child", lambda work: work())  # to count its steps
            patch.setattr(atomic_files, "os", _Counted(step, error))
            yield

    def names(self) -> list[str]:
        return sorted(one.name for one in self.folder.iterdir())


class _Counted:
    """``os``, of which a step fails; after a ``Killed`` nothing more is done."""

    def __init__(self, step: int, error: Exception) -> None:
        self._left, self._error = step, error

    def __getattr__(self, name: str) -> Any:
        def counted(*args: Any, **kwargs: Any) -> Any:
            if name == "unlink":
                if self._left < 0 and isinstance(self._error, Killed):
                    raise self._error
            elif name in CHANGING or args[1] & os.O_CREAT:
                self._left -= 1
                if self._left < 0:
                    raise self._error
            return found(*args, **kwargs)

        found = getattr(os, name)
        return counted if name in (*CHANGING, "open", "unlink") else found


class SimBed:
    """The simulated one."""

    def __init__(self) -> None:
        self._file = SimFile()
        self.file: SubnetFile = self._file

    def restart(self) -> None:
        self._file.disk.revive()

    @contextmanager
    def ending_at(self, step: int, error: Exception) -> Iterator[None]:
        disk = self._file.disk
        if isinstance(error, Killed):
            disk.dies_at = step
        else:
            disk.full, disk.fails_at = True, step
        yield
        disk.full, disk.dies_at = False, None

    def names(self) -> list[str]:
        return sorted(self._file.disk.listdir(0))


@pytest.fixture(params=["sim", "real"])
def bed(request: pytest.FixtureRequest, tmp_path: Path) -> Bed:
    return SimBed() if request.param == "sim" else RealBed(tmp_path)


async def test_what_is_written_is_read(bed: Bed) -> None:
    """Nothing is ``None``; the same text need not be written again; another takes its place, and stands alone."""
    assert await bed.file.read() is None
    assert [await bed.file.write(text) for text in (OLD, OLD, NEW)] == [True, False, True]
    assert await bed.file.read() == NEW
    assert bed.names() == ["subnet.env"]


@pytest.mark.parametrize("step", range(STEPS))
async def test_a_step_that_fails(bed: Bed, step: int) -> None:
    """Create, mode, write, sync, rename: the old text stays, alone. Once it is renamed the new text is there."""
    await bed.file.write(OLD)
    with bed.ending_at(step, FULL), pytest.raises(OSError, match="No space"):
        await bed.file.write(NEW)
    assert await bed.file.read() == (NEW if step == STEPS - 1 else OLD)
    assert bed.names() == ["subnet.env"]


@pytest.mark.parametrize("step", range(STEPS))
async def test_a_process_that_dies_at_a_step(bed: Bed, step: int) -> None:
    """The file is whole, something may lie beside it; the next process removes that, and can write."""
    await bed.file.write(OLD)
    with bed.ending_at(step, Killed()), suppress(Killed):
        await bed.file.write(NEW)
    assert await bed.file.read() == (NEW if step == STEPS - 1 else OLD)
    assert len(bed.names()) == (2 if 0 < step < STEPS - 1 else 1)
    bed.restart()
    assert await bed.file.write(NEW) is (step < STEPS - 1)
    assert bed.names() == ["subnet.env"]


@pytest.mark.parametrize("kind", ["sim", "real"])
def test_the_calls_below(kind: str, tmp_path: Path) -> None:
    """What the simulated disk does with directories, names and files is what Linux does."""
    def content(fd: int) -> bytes:
        with system.fdopen(fd, "rb") as file:
            return file.read()  # type: ignore[no-any-return]

    system: Any = SimDisk() if kind == "sim" else os
    folder = "/" if kind == "sim" else str(tmp_path)
    at = system.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    with pytest.raises(FileNotFoundError):
        system.open("a", os.O_RDONLY, dir_fd=at)
    for name, text in (("a", b"first"), ("b", b"second")):
        fd = system.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600, dir_fd=at)
        assert system.write(fd, memoryview(text)) == len(text)
        system.fsync(fd)
        system.close(fd)
    reader = system.open("b", os.O_RDONLY, dir_fd=at)
    system.rename("a", "b", src_dir_fd=at, dst_dir_fd=at)
    assert content(reader) == b"second"
    assert system.listdir(at) == ["b"]
    assert content(system.open("b", os.O_RDONLY, dir_fd=at)) == b"first"
    system.close(system.open("b", os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600, dir_fd=at))
    assert content(system.open("b", os.O_RDONLY, dir_fd=at)) == b""
    system.unlink("b", dir_fd=at)
    system.fsync(at)
    assert system.listdir(at) == []
    system.close(at)
