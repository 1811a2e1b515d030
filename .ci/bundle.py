"""Build the archive that runs without an installation: unpack it in ``/opt``, then ``./pyflanneld --flags``.

    python .ci/bundle.py dist/pyflanneld-0.1.0-py3-none-any.whl --out dist

Inside, for hosts with the machine type of the one that builds:

    pyflanneld                            start script: finds a Python, nothing has to be on the path
    lib/shared/                           the project and the packages that suit every Python
    lib/cpython-311-x86_64-linux-gnu/     packages with machine code, one directory for each Python
    lib/pyflanneld.py                     puts these two on the path
    pyflanneld.8                          man page
    supervisor/ systemd/                  program sections, start scripts, units
    licenses/<package>/                   of all that is inside
    SHA256SUMS                            of all other files, for "sha256sum --check --quiet SHA256SUMS"

The packages are wheels, never built here, and each is checked against requirements.txt's hashes (by pip). The same
sources and ``SOURCE_DATE_EPOCH`` give the same bytes.
"""

import argparse
import gzip
import hashlib
import os
import platform
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Iterable, Iterator
from pathlib import Path, PurePosixPath

ROOT = Path(__file__).resolve().parents[1]
PYTHONS = ("3.11", "3.12", "3.13")
# glibc 2.17 is that of CentOS 7: whatever host has a Python this new has a C library this new.
PLATFORMS = ("manylinux_2_17", "manylinux2014")
MACHINE = platform.machine()
GO_MACHINE = {"x86_64": "amd64", "aarch64": "arm64"}.get(MACHINE, MACHINE)  # as in the names of flannel's archives
LONG_AGO = 1577836800  # 2020-01-01: the files' time when SOURCE_DATE_EPOCH is not given
# Sources and type stubs of the machine code beside them: nobody imports these.
USELESS = {".pyi", ".pyx", ".pxd", ".pxi", ".c", ".h", ".cc", ".typed"}
LICENSE = re.compile(r"(LICEN[CS]E|COPYING|NOTICE|AUTHORS)", re.IGNORECASE)
UNIT_START = "ExecStart=/opt/pyflanneld/bin/python -I -X faulthandler -m pyflanneld\n"
UNIT_PLACE = "# The program is expected in /opt/pyflanneld, a virtual environment.\n"


def main() -> None:
    """Build the archive and say where it is."""
    parser = argparse.ArgumentParser(description="Build the archive that runs without an installation.")
    parser.add_argument("wheel", type=Path, help="the project's own")
    parser.add_argument("--out", type=Path, default=Path("dist"), help="directory for the archive (default: dist)")
    parser.add_argument("--python", nargs="+", default=PYTHONS, help="versions (default: 3.11 3.12 3.13)")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        wheels, tree = Path(scratch, "wheels"), Path(scratch, "tree")
        for python in args.python:
            fetch(python, wheels)
        lay_out(tree, [args.wheel, *sorted(wheels.iterdir())])
        archive = args.out / f"pyflannel-v{args.wheel.name.split('-')[1]}-linux-{GO_MACHINE}.tar.gz"
        pack(tree, archive)
        unpacked = sum(path.stat().st_size for path in files(tree))
    print(
        f"{archive}: {archive.stat().st_size / 1e6:.1f} MB, unpacked {unpacked / 1e6:.0f} MB;"
        f" for {MACHINE} with glibc 2.17 or later and Python {', '.join(args.python)}"
    )


def fetch(python: str, into: Path) -> None:
    """Put the wheels of all locked requirements for *python* (``"3.11"``) there; pip compares their hashes.

    Raises:
        SystemExit: a requirement is for some Pythons only. pip would judge that by the Python that runs it.
    """
    requirements = ROOT / "requirements.txt"
    if found := re.search(r"^(\S+) ;.*\bpython_", requirements.read_text(), re.MULTILINE):
        raise SystemExit(f"bundle: {found[1]} depends on the version of Python: this script cannot tell for which")
    command = [sys.executable, "-m", "pip", "download", "-qq", "--no-deps", "--require-hashes"]
    command += ["--only-binary=:all:", "--implementation=cp", f"--python-version={python}"]
    command += [f"--platform={name}_{MACHINE}" for name in PLATFORMS]
    subprocess.run([*command, f"--requirement={requirements}", f"--dest={into}"], check=True)


def lay_out(tree: Path, wheels: Iterable[Path]) -> None:
    """Make the directory that the archive will hold."""
    for wheel in wheels:
        _unpack(wheel, tree)
    for source, name in (("start.sh", "pyflanneld"), ("start.py", "lib/pyflanneld.py")):
        shutil.copy(ROOT / ".ci" / source, tree / name)
    for name in ("LICENSE", "README.md"):
        shutil.copy(ROOT / name, tree)
    shutil.copy(ROOT / "docs" / "pyflanneld.8", tree)
    for name in ("supervisor", "systemd"):
        shutil.copytree(ROOT / name, tree / name)
    for name in ("pyflanneld.service", "pyflanneld@.service"):
        _adapt_unit(tree / "systemd" / name)
    sums = "".join(f"{sha256(path)}  {path.relative_to(tree)}\n" for path in files(tree))
    (tree / "SHA256SUMS").write_text(sums)


def _unpack(wheel: Path, tree: Path) -> None:
    """Lay a wheel's packages out below ``lib`` and copy its licences."""
    name, version, python, abi, _ = wheel.stem.split("-")
    any_python = abi in ("none", "abi3")
    lib = tree / "lib" / ("shared" if any_python else f"cpython-{python.removeprefix('cp')}-{MACHINE}-linux-gnu")
    with zipfile.ZipFile(wheel) as content:
        for member in content.infolist():
            path = PurePosixPath(member.filename)
            if member.is_dir() or path.suffix in USELESS:
                continue
            if path.is_absolute() or ".." in path.parts or path.parts[0].endswith(".data"):
                raise SystemExit(f"bundle: {wheel.name}: {path} does not belong into a directory of packages")
            _write(lib / path, content.read(member))
            if path.parts[0].endswith(".dist-info") and LICENSE.match(path.name):
                inner = path.relative_to(path.parts[0], *[p for p in path.parts[1:2] if p == "licenses"])
                _write(tree / "licenses" / f"{name}-{version}" / inner, content.read(member))


def _write(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)


def _adapt_unit(unit: Path) -> None:
    """Let the unit start what is in the archive; its place is the walkthrough's link."""
    text = unit.read_text()
    if UNIT_START not in text or UNIT_PLACE not in text:
        raise SystemExit(f"bundle: {unit.name} does not start the program as expected")
    text = text.replace(UNIT_START, "ExecStart=/opt/flannel/pyflanneld\n")
    unit.write_text(text.replace(UNIT_PLACE, "# /opt/flannel is expected to be a link to the unpacked archive.\n"))


def files(tree: Path) -> Iterator[Path]:
    """Yield the files below *tree* in a fixed order."""
    return (path for path in sorted(tree.rglob("*")) if path.is_file())


def sha256(path: Path) -> str:
    """Return a file's SHA-256 in hexadecimal."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def pack(tree: Path, archive: Path) -> None:
    """Write *tree* as ``.tar.gz``: root's, in a fixed order, with one time for all; only the scripts are executable."""
    epoch = int(os.environ.get("SOURCE_DATE_EPOCH", LONG_AGO))

    def plain(member: tarfile.TarInfo) -> tarfile.TarInfo:
        member.uid = member.gid = 0
        member.uname = member.gname = "root"
        member.mtime = epoch
        runnable = member.isdir() or member.name == "pyflanneld" or member.name.endswith(".sh")
        member.mode = 0o755 if runnable else 0o644
        return member

    archive.parent.mkdir(parents=True, exist_ok=True)
    with (
        archive.open("wb") as raw,
        gzip.GzipFile("", "wb", compresslevel=6, fileobj=raw, mtime=epoch) as zipped,
        tarfile.open(fileobj=zipped, mode="w", format=tarfile.GNU_FORMAT) as tar,
    ):
        for path in sorted(tree.rglob("*")):
            tar.add(path, str(path.relative_to(tree)), recursive=False, filter=plain)


if __name__ == "__main__":
    main()
