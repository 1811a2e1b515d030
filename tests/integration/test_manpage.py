"""The man page, as the programs see it that show it."""

import re
import subprocess
from pathlib import Path

PAGE = Path(__file__).parents[2] / "docs" / "pyflanneld.8"


def test_mandoc_finds_nothing() -> None:
    """No error, no warning, no remark on style, but that there is no date: the page changes with the program alone."""
    done = subprocess.run(["mandoc", "-T", "lint", str(PAGE)], capture_output=True, text=True, check=False, timeout=30)
    said = [line for line in (done.stdout + done.stderr).splitlines() if 'missing date, using ""' not in line]
    assert said == []


def test_it_shows_flags_and_commands() -> None:
    """What a reader gets to see, without the roff."""
    done = subprocess.run(["mandoc", "-T", "ascii", str(PAGE)], capture_output=True, text=True, check=True, timeout=30)
    text = re.sub(".\x08", "", done.stdout)  # bold and underlined: a letter, a step back, and the letter again
    assert "--etcd-endpoints=URL,..." in text
    assert "pyflanneld leases reserve SUBNET PUBLIC_IP [flags]" in text
