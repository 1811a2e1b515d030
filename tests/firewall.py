"""Both forms of iptables side by side, for tests."""

import os
import shutil
from pathlib import Path

FORMS = ("nft", "legacy")
_PROGRAMS = ("iptables", "ip6tables")


def form_directory(where: Path, form: str) -> str:
    """Return a new directory in *where* in which ``iptables`` and its kin are of *form*, and ``nft`` is nft."""
    directory = where / f"iptables-{form}"
    directory.mkdir()
    for program in _PROGRAMS:
        for suffix in ("", "-save", "-restore"):
            (directory / f"{program}{suffix}").symlink_to(_real(f"{program}-{form}{suffix}"))
    (directory / "nft").symlink_to(_real("nft"))
    return os.fspath(directory)


def _real(name: str) -> str:
    path = shutil.which(name, path=f"{os.environ['PATH']}:/usr/sbin:/sbin")
    if path is None:
        raise FileNotFoundError(f"{name}: install iptables and nftables")
    return path
