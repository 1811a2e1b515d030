"""The completion scripts in the shells that they are for: bash, zsh and fish themselves say what they would offer."""

import contextlib
import io
import os
import pty
import select
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from pyflanneld.cli import main
from pyflanneld.commands.catalogue import COMMANDS

CASES = {
    "mig": {"migrate"},
    "leases re": {"release", "reserve"},
    "lab ": {"up", "status", "exec", "down", "demo"},
    "completion ": {"bash", "zsh", "fish"},
    "--log-format ": {"console", "json"},
    "leases --output ": {"table", "json"},
    "migrate --dry": {"--dry-run"},
    "docker-opts --format ": {"env", "json", "network"},
    "--iface ": set(),
    "no-such-command --": set(),
}


def script(shell: str, folder: Path) -> Path:
    """Return a file with the script for *shell*."""
    said = io.StringIO()
    with contextlib.redirect_stdout(said):
        assert main(["completion", shell]) == 0
    path = folder / f"completion.{shell}"
    path.write_text(said.getvalue())
    return path


def bash(folder: Path, line: str) -> set[str]:
    """Return what bash offers at the end of *line*, which it has split into words."""
    words = " ".join(f"'{word}'" for word in f"pyflanneld {line}".split(" "))
    code = (
        f"source {script('bash', folder)}; COMP_WORDS=({words}); COMP_CWORD=$(( ${{#COMP_WORDS[@]}} - 1 )); "
        '_pyflanneld; printf "%s\\n" "${COMPREPLY[@]}"'
    )
    done = subprocess.run(["bash", "--norc", "-uc", code], capture_output=True, text=True, check=False, timeout=20)
    assert (done.returncode, done.stderr) == (0, "")
    return set(done.stdout.split())


def fish(folder: Path, line: str) -> set[str]:
    """Return what fish offers at the end of *line*."""
    code = f"source {script('fish', folder)}; complete -C 'pyflanneld {line}'"
    home = {**os.environ, "HOME": str(folder), "XDG_CONFIG_HOME": str(folder), "XDG_DATA_HOME": str(folder)}
    done = subprocess.run(
        ["fish", "--no-config", "-c", code], capture_output=True, text=True, check=False, timeout=20, env=home
    )
    assert (done.returncode, done.stderr) == (0, "")
    return {offer.split("\t")[0] for offer in done.stdout.splitlines()}


@pytest.mark.parametrize("shell", [bash, fish], ids=lambda shell: shell.__name__)
@pytest.mark.parametrize("line", CASES)
def test_what_is_offered(shell: object, line: str, tmp_path: Path) -> None:
    """Sub-commands, fixed words, flags and listed values; nothing where anything may stand."""
    assert callable(shell)
    assert shell(tmp_path, line) == CASES[line]


@pytest.mark.parametrize("shell", [bash, fish], ids=lambda shell: shell.__name__)
def test_files_are_offered(shell: object, tmp_path: Path) -> None:
    """A flag that takes a file offers those that are there."""
    (tmp_path / "some-ca.pem").touch()
    assert callable(shell)
    assert shell(tmp_path, f"--etcd-cafile {tmp_path}/some") == {f"{tmp_path}/some-ca.pem"}


def test_bash_takes_an_equals_sign_for_a_word(tmp_path: Path) -> None:
    """What follows ``--flag=`` is completed as after a space: bash hands the three parts over as three words."""
    assert bash(tmp_path, "--log-format =") == {"console", "json"}
    assert bash(tmp_path, "--log-format = j") == {"json"}
    assert bash(tmp_path, "leases --etcd-ca") == {"--etcd-cafile="}


class Zsh:
    """An interactive zsh on a terminal of its own; ``^X`` makes it print its command line."""

    def __init__(self, folder: Path) -> None:
        self._child, self._terminal = pty.fork()
        if self._child == 0:
            os.environ.update(TERM="dumb", HOME=str(folder), ZDOTDIR=str(folder))
            os.execvp("zsh", ["zsh", "-f", "-i"])  # noqa: S606 - the shell that is tested
        setup = (
            "PS1=''; unsetopt zle_bracketed_paste prompt_sp; autoload -Uz compinit; compinit -u -D; "
            f"source {script('zsh', folder)}; cd {folder}; "
            'show() { zle -I; print -r -- "<$BUFFER>"; BUFFER="" }; zle -N show; '
            "bindkey '^X' show; bindkey '^I' complete-word; print re''ady\n"
        )
        os.write(self._terminal, setup.encode())
        self.read_until("ready")

    def read_until(self, text: str, within_s: float = 20.0) -> str:
        said, end = "", time.monotonic() + within_s
        while text not in said:
            assert select.select([self._terminal], [], [], max(0.0, end - time.monotonic()))[0], said
            said += os.read(self._terminal, 65536).decode()
        return said

    def completed(self, line: str) -> str:
        """Return what ``Tab`` makes of *line*. ``show`` clears it: to the terminal, Ctrl-U may come at a bad moment."""
        os.write(self._terminal, f"pyflanneld {line}\t\x18".encode())
        said = self.read_until(">")
        return said[said.rindex("<") + 1 : said.rindex(">")].removeprefix("pyflanneld ")

    def close(self) -> None:
        os.close(self._terminal)
        os.waitpid(self._child, 0)


@pytest.fixture
def zsh(tmp_path: Path) -> Iterator[Zsh]:
    shell = Zsh(tmp_path)
    yield shell
    shell.close()


def test_zsh_completes(zsh: Zsh, tmp_path: Path) -> None:
    """Sub-commands, fixed words, flags, listed values and files, with zsh's own completion system."""
    (tmp_path / "some-ca.pem").touch()
    assert zsh.completed("mig") == "migrate "
    assert zsh.completed("leases rel") == "leases release "
    assert zsh.completed("lab st") == "lab status "
    assert zsh.completed("migrate --dry") == "migrate --dry-run "
    assert zsh.completed("leases --output t") == "leases --output table "
    assert zsh.completed("leases --output=t") == "leases --output=table "
    assert zsh.completed("--log-format=j") == "--log-format=json "
    assert zsh.completed("--etcd-caf") == "--etcd-cafile="
    assert zsh.completed("--etcd-cafile=so") == "--etcd-cafile=some-ca.pem "


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_every_command_is_in_the_script(shell: str, tmp_path: Path) -> None:
    """The shell reads the script without a word, and it knows each sub-command."""
    path = script(shell, tmp_path)
    done = subprocess.run([shell, "-n", str(path)], capture_output=True, text=True, check=False, timeout=20)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    text = path.read_text()
    assert [command.name for command in COMMANDS if command.name not in text] == []


@pytest.mark.parametrize("words", [[], ["tcsh"], ["bash", "zsh"]])
def test_another_shell(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """A shell that is not known, or none: exit code 2, and one line that names those that are."""
    assert main(["completion", *words]) == 2
    assert capsys.readouterr().err == "pyflanneld: completion needs the name of one shell: bash, zsh, fish\n"


def test_the_program_prints_it() -> None:
    """As an operator calls it; nothing but the script comes out."""
    command = [sys.executable, "-m", "pyflanneld", "completion", "bash"]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.startswith("# bash completion for pyflanneld")
    assert done.stderr == ""
