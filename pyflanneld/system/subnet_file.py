"""``subnet.env``, as the tasks use it: no slow disk holds up the loop, or the end of the process."""

from functools import partial
from pathlib import Path

from pyflanneld.system.atomic_files import SubnetEnvFile, exposure
from pyflanneld.system.disk import DiskLane, in_child


class SubnetFileOnDisk:
    """Implements ``ports.SubnetFile``; its path is absolute or relative to the working directory."""

    def __init__(self, path: Path) -> None:
        self._file = SubnetEnvFile(path)
        self._directory = path.parent
        self._lane = DiskLane()

    async def read(self) -> str | None:
        """Return the text, as ``SubnetEnvFile.read``."""
        return await self._lane.run(self._file.read)

    async def write(self, text: str) -> bool:
        """Write *text*, as ``SubnetEnvFile.write``."""
        self._file.synced, synced = False, self._file.synced  # until the child says otherwise
        written, owner, mode = await self._lane.run(partial(in_child, partial(self._write, text, synced)))
        self._file.synced, self._file.ours = True, (owner, mode)
        return bool(written)

    def _write(self, text: str, synced: bool) -> tuple[bool, int, int]:
        self._file.synced = synced
        return (self._file.write(text), *self._file.ours)

    async def exposure(self) -> str:
        """Return why other users can replace the file, as ``atomic_files.exposure``."""
        return await self._lane.run(partial(exposure, self._directory))
