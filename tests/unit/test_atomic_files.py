"""subnet.env on disk: complete or absent, and untouched when it is right."""

import errno
import os
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from pyflanneld.system.atomic_files import SubnetEnvFile, exposure, put_file

OLD, NEW = "FLANNEL_MTU=1400\n", "FLANNEL_MTU=1500\n"


def names(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir())


def test_what_is_written_is_read(tmp_path: Path) -> None:
    """A written text is read back, the file has mode 0644 whatever the umask, and nothing else is left there."""
    before = os.umask(0o077)
    try:
        assert SubnetEnvFile(tmp_path / "subnet.env").write(NEW) is True
    finally:
        os.umask(before)
    assert SubnetEnvFile(tmp_path / "subnet.env").read() == NEW
    assert stat.S_IMODE((tmp_path / "subnet.env").stat().st_mode) == 0o644
    assert names(tmp_path) == ["subnet.env"]


def test_missing_directories_are_made_readable(tmp_path: Path) -> None:
    """Directories that are missing are created 0755 whatever the umask; existing ones keep their mode."""
    tmp_path.chmod(0o700)
    before = os.umask(0o077)
    try:
        SubnetEnvFile(tmp_path / "run" / "flannel" / "subnet.env").write(NEW)
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "run").stat().st_mode) == 0o755
    assert stat.S_IMODE((tmp_path / "run" / "flannel").stat().st_mode) == 0o755
    assert stat.S_IMODE(tmp_path.stat().st_mode) == 0o700


def test_a_relative_path_is_in_the_working_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """``./subnet.env`` of the usual start script works."""
    monkeypatch.chdir(tmp_path)
    assert SubnetEnvFile(Path("./subnet.env")).write(NEW)
    assert (tmp_path / "subnet.env").read_text() == NEW


def test_the_same_text_leaves_the_file_alone(tmp_path: Path) -> None:
    """Equal content: not written, same inode, same times."""
    path = tmp_path / "subnet.env"
    path.write_text(NEW)
    os.utime(path, ns=(1, 1))
    before = path.stat()
    assert SubnetEnvFile(path).write(NEW) is False
    after = path.stat()
    assert (after.st_ino, after.st_mtime_ns) == (before.st_ino, before.st_mtime_ns)


AS_ROOT = pytest.mark.skipif(os.geteuid() != 0, reason="gives files to another user")
NOBODY = 65534


@pytest.mark.parametrize("mode", [0o666, 0o664, 0o600, 0o4644])
def test_f99_another_mode_is_not_kept(mode: int, tmp_path: Path) -> None:
    """The right text in a file that others may write to, or that Docker's side cannot read, is replaced by ours."""
    path = tmp_path / "subnet.env"
    path.write_text(NEW)
    path.chmod(mode)
    with path.open("r+") as other:
        assert SubnetEnvFile(path).write(NEW) is True
        other.write("rm -rf /")
    assert path.read_text() == NEW
    assert stat.S_IMODE(path.stat().st_mode) == 0o644
    assert SubnetEnvFile(path).write(NEW) is False


@AS_ROOT
@pytest.mark.parametrize("mode", [0o755, 0o1777])
def test_f99_another_users_file_is_not_kept(mode: int, tmp_path: Path) -> None:
    """He could change it later, whatever it says now; in a sticky directory anybody can be first."""
    (tmp_path / "flannel").mkdir()
    (tmp_path / "flannel").chmod(mode)
    path = tmp_path / "flannel" / "subnet.env"
    path.write_text(NEW)
    os.chown(path, NOBODY, NOBODY)
    assert SubnetEnvFile(path).write(NEW) is True
    assert (path.stat().st_uid, path.read_text()) == (0, NEW)


def test_f99_a_file_system_without_owners_is_not_written_at_every_look(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What becomes of a file of ours there counts as ours."""
    monkeypatch.setattr(os, "fchmod", lambda fd, _mode: os.chmod(f"/proc/self/fd/{fd}", 0o700))  # noqa: PTH101
    file = SubnetEnvFile(tmp_path / "subnet.env")
    assert [file.write(NEW), file.write(NEW)] == [True, False]


def give(path: Path) -> None:
    os.chown(path, NOBODY, 0)


def share(path: Path) -> None:
    os.chown(path, 0, NOBODY)
    path.chmod(0o775)


EXPOSED = {
    "another user's": (give, f"belongs to uid {NOBODY}: chown root"),
    "another group's": (share, f"the group {NOBODY} may write to"),
    "everybody's": (lambda path: path.chmod(0o777), "everybody may write to"),
}


@AS_ROOT
@pytest.mark.parametrize(("expose", "why"), EXPOSED.values(), ids=EXPOSED)
@pytest.mark.parametrize("where", ["itself", "above", "behind a link"])
def test_f99_who_else_can_replace_it_is_said(
    expose: Callable[[Path], None], why: str, where: str, tmp_path: Path
) -> None:
    """The directory of the file, and each above it, has to be root's or ours; a link leads to those that count."""
    real = tmp_path / "opt" / "flannel"
    real.mkdir(parents=True)
    (tmp_path / "link").symlink_to(real)
    file_in = tmp_path / "link" if where == "behind a link" else real
    assert exposure(file_in) == exposure(tmp_path / "none") == ""
    bad = real.parent if where == "above" else real
    expose(bad)
    assert why in exposure(file_in)
    assert exposure(file_in).endswith(f" {bad}")
    bad.chmod(0o1755 if why.startswith("belongs") else 0o1777)
    assert bool(exposure(file_in)) == why.startswith("belongs"), "the sticky bit binds all but the directory's owner"


@AS_ROOT
@pytest.mark.parametrize("to", ["a file", "nothing"])
def test_f99_a_link_of_the_directorys_owner_is_not_followed(to: str, tmp_path: Path) -> None:
    """The metrics' directory may be another user's, who must not have root write elsewhere."""
    (tmp_path / "collector").mkdir()
    os.chown(tmp_path / "collector", NOBODY, NOBODY)
    precious, path = tmp_path / "precious", tmp_path / "collector" / "x.prom"
    if to == "a file":
        precious.write_text("precious")
    path.symlink_to(precious)
    os.chown(path, NOBODY, NOBODY, follow_symlinks=False)
    put_file(path, "m 1\n")
    assert not path.is_symlink()
    assert (path.read_text(), path.stat().st_uid, stat.S_IMODE(path.stat().st_mode)) == ("m 1\n", 0, 0o644)
    assert precious.exists() == (to == "a file")
    assert to == "nothing" or precious.read_text() == "precious"
    assert names(tmp_path / "collector") == ["x.prom"]


@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir], ids=["fifo", "directory"])
def test_f97_what_is_no_file_is_refused_at_once(make: Callable[[Path], None], tmp_path: Path) -> None:
    """A FIFO that nobody reads would keep a writer waiting."""
    make(tmp_path / "x.prom")
    with pytest.raises(OSError, match="not a regular file"):
        put_file(tmp_path / "x.prom", "m 1\n")
    assert names(tmp_path) == ["x.prom"]


@pytest.mark.parametrize("old", [OLD, NEW[:-1], NEW + NEW, ""])
def test_another_text_is_replaced_by_a_new_file(old: str, tmp_path: Path) -> None:
    """A reader that has the old file open goes on reading the old text."""
    path = tmp_path / "subnet.env"
    path.write_text(old)
    with path.open() as reader:
        assert SubnetEnvFile(path).write(NEW) is True
        assert reader.read() == old
    assert path.read_text() == NEW


@pytest.mark.parametrize("content", [OLD, NEW])
def test_a_symbolic_link_is_replaced_and_not_followed(content: str, tmp_path: Path) -> None:
    """What the link points to keeps its content, even when it is the one to be written."""
    target, path = tmp_path / "target", tmp_path / "subnet.env"
    target.write_text(content)
    path.symlink_to(target)
    assert SubnetEnvFile(path).read() == content
    assert SubnetEnvFile(path).write(NEW) is True
    assert target.read_text() == content
    assert not path.is_symlink()
    assert path.read_text() == NEW


def test_a_linked_directory_is_followed(tmp_path: Path) -> None:
    """/opt/flannel is a link in the usual installation."""
    (tmp_path / "flannel-1").mkdir()
    (tmp_path / "flannel").symlink_to("flannel-1")
    SubnetEnvFile(tmp_path / "flannel" / "subnet.env").write(NEW)
    assert (tmp_path / "flannel-1" / "subnet.env").read_text() == NEW


@pytest.mark.parametrize(("mode", "fine"), [(0o777, False), (0o757, False), (0o1777, True), (0o775, True)])
def test_a_world_writable_directory_is_refused(mode: int, fine: bool, tmp_path: Path) -> None:
    """Root sources the file: no other user may be able to replace it. The message has the fix."""
    (tmp_path / "flannel").mkdir()
    (tmp_path / "flannel").chmod(mode)
    file = SubnetEnvFile(tmp_path / "flannel" / "subnet.env")
    if fine:
        assert file.write(NEW)
        return
    with pytest.raises(PermissionError) as refused:
        file.write(NEW)
    assert refused.value.strerror == f"everybody may write to its directory: chmod o-w {tmp_path}/flannel"
    assert names(tmp_path / "flannel") == []
    (tmp_path / "flannel").chmod(0o755)
    assert file.write(NEW)


def test_a_directory_swapped_for_a_link_is_not_followed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody can redirect the daemon between the check of the path and the opening of the directory."""
    (tmp_path / "flannel").mkdir()
    (tmp_path / "elsewhere").mkdir()
    real = os.open

    def swapped(path: str, flags: int, *args: int, **kwargs: int) -> int:
        if flags & os.O_DIRECTORY:
            (tmp_path / "flannel").rmdir()
            (tmp_path / "flannel").symlink_to("elsewhere")
        return real(path, flags, *args, **kwargs)

    monkeypatch.setattr(os, "open", swapped)
    with pytest.raises(NotADirectoryError):
        SubnetEnvFile(tmp_path / "flannel" / "subnet.env").write(NEW)
    assert names(tmp_path / "elsewhere") == []


def test_a_directory_in_its_place_is_an_error(tmp_path: Path) -> None:
    """It is neither read nor removed, and no temporary file stays."""
    (tmp_path / "subnet.env").mkdir()
    with pytest.raises(IsADirectoryError):
        SubnetEnvFile(tmp_path / "subnet.env").write(NEW)
    with pytest.raises(OSError, match="regular file"):
        SubnetEnvFile(tmp_path / "subnet.env").read()
    assert names(tmp_path) == ["subnet.env"]


def test_a_file_in_the_directorys_place_is_an_error(tmp_path: Path) -> None:
    """A parent that is a file is an OSError of its own kind, for reading as for writing."""
    (tmp_path / "run").write_text("")
    with pytest.raises(NotADirectoryError):
        SubnetEnvFile(tmp_path / "run" / "subnet.env").write(NEW)
    with pytest.raises(NotADirectoryError):
        SubnetEnvFile(tmp_path / "run" / "subnet.env").read()


def test_only_own_leftovers_are_removed(tmp_path: Path) -> None:
    """Temporary files of a killed process are removed, also when nothing has to be written; similar names stay."""
    stay = [".subnet.env.swp", ".subnet.env.0123", "subnet.env.0123456789abcdef", ".other.env.0123456789abcdef"]
    for name in [*stay, ".subnet.env.0123456789abcdef"]:
        (tmp_path / name).write_text("x")
    (tmp_path / "subnet.env").write_text(NEW)
    assert SubnetEnvFile(tmp_path / "subnet.env").write(NEW) is False
    assert names(tmp_path) == sorted([*stay, "subnet.env"])


def test_no_file_reads_as_none(tmp_path: Path) -> None:
    """Without the file, or its directory, the text is None."""
    assert SubnetEnvFile(tmp_path / "subnet.env").read() is None
    assert SubnetEnvFile(tmp_path / "none" / "subnet.env").read() is None


def test_reading_is_bounded_and_never_blocks(tmp_path: Path) -> None:
    """More than 64 KiB, a FIFO without a writer, and bytes that are not UTF-8 are errors."""
    path = tmp_path / "subnet.env"
    path.write_bytes(b"x" * 65536)
    assert SubnetEnvFile(path).read() == "x" * 65536
    path.write_bytes(b"x" * 65537)
    with pytest.raises(OSError, match="longer"):
        SubnetEnvFile(path).read()
    path.write_bytes(b"\xff")
    with pytest.raises(UnicodeDecodeError):
        SubnetEnvFile(path).read()
    path.unlink()
    os.mkfifo(path)
    with pytest.raises(OSError, match="regular"):
        SubnetEnvFile(path).read()
    assert SubnetEnvFile(path).write(NEW) is True


@pytest.mark.parametrize("call", ["write", "fchmod", "fsync", "rename", "open"])
def test_a_failing_system_call_changes_nothing(call: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whichever step fails: the old text is there, the temporary file is gone, the error is passed on."""
    path = tmp_path / "subnet.env"
    path.write_text(OLD)
    real_open = os.open

    def fail(*_args: object, **_kwargs: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    def fail_to_create(name: str, flags: int, *args: int, **kwargs: int) -> int:
        if flags & os.O_CREAT:
            fail()
        return real_open(name, flags, *args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(os, call, fail_to_create if call == "open" else fail)
        with pytest.raises(OSError, match="No space"):
            SubnetEnvFile(path).write(NEW)
    assert names(tmp_path) == ["subnet.env"]
    assert path.read_text() == OLD


def test_short_writes_are_continued(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A write that takes one byte at a time still gives the whole file."""
    real = os.write
    monkeypatch.setattr(os, "write", lambda fd, data: real(fd, data[:1]))
    SubnetEnvFile(tmp_path / "subnet.env").write(NEW)
    assert (tmp_path / "subnet.env").read_text() == NEW


def test_the_text_is_on_disk_before_it_has_the_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Order of the steps that a power cut must not swap: data, fsync of the file, rename, fsync of the directory."""
    steps: list[str] = []

    def noting(name: str, real: Callable[..., object]) -> Callable[..., object]:
        def call(*args: object, **kwargs: object) -> object:
            is_dir = name == "fsync" and stat.S_ISDIR(os.fstat(args[0]).st_mode)  # type: ignore[arg-type]
            steps.append(name + (" directory" if is_dir else ""))
            return real(*args, **kwargs)

        return call

    for name in ("write", "fsync", "rename"):
        monkeypatch.setattr(os, name, noting(name, getattr(os, name)))
    SubnetEnvFile(tmp_path / "subnet.env").write(NEW)
    assert steps == ["write", "fsync", "rename", "fsync directory"]


def test_no_descriptor_is_left_open(tmp_path: Path) -> None:
    """Neither success nor failure leaks a descriptor."""
    (tmp_path / "dir").mkdir()
    before = len(list(Path("/proc/self/fd").iterdir()))
    for _ in range(3):
        SubnetEnvFile(tmp_path / "subnet.env").write(NEW)
        SubnetEnvFile(tmp_path / "subnet.env").read()
        with pytest.raises(OSError, match="regular"):
            SubnetEnvFile(tmp_path / "dir").read()
        with pytest.raises(IsADirectoryError):
            SubnetEnvFile(tmp_path / "dir").write(NEW)
    assert len(list(Path("/proc/self/fd").iterdir())) == before
