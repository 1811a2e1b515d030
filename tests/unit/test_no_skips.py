"""The rule that CI runs every test with a real etcd or kernel, kept by ``tests/conftest.py``."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

SKIPS = {
    "mark": "@pytest.mark.skip(reason='no etcd here')\ndef test_it(): ...",
    "call": "def test_it():\n    pytest.skip('no etcd here')",
    "fixture": "@pytest.fixture\ndef etcd():\n    pytest.skip('no etcd here')\ndef test_it(etcd): ...",
    "module": "pytest.skip('no etcd here', allow_module_level=True)",
}


def run_skipping(folder: Path, room: str, kind: str, *, ci: str) -> subprocess.CompletedProcess[str]:
    (folder / room).mkdir()
    (folder / "conftest.py").write_text((Path(__file__).parents[1] / "conftest.py").read_text())
    (folder / room / "test_skipping.py").write_text(f"import pytest\n{SKIPS[kind]}\n")
    environ = {**os.environ, "CI": ci}
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--rootdir", str(folder), str(folder)]
    return subprocess.run(command, cwd=folder, env=environ, capture_output=True, text=True, timeout=60, check=False)


@pytest.mark.parametrize("kind", SKIPS)
def test_skip_fails_in_ci(tmp_path: Path, kind: str) -> None:
    """In CI, a skipped integration test fails the run, however it skips itself, and the reason is shown."""
    done = run_skipping(tmp_path, "integration", kind, ci="true")
    assert done.returncode in (1, 2), done.stdout
    assert "no etcd here" in done.stdout


def test_skip_is_fine_elsewhere(tmp_path: Path) -> None:
    """Outside CI the same test may skip, and in CI a unit test may."""
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    assert run_skipping(tmp_path / "a", "integration", "mark", ci="").returncode == 0
    assert run_skipping(tmp_path / "b", "unit", "mark", ci="true").returncode == 0
