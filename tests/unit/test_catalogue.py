"""The catalogue of the sub-commands, and what is made from it."""

import subprocess
import sys

import pytest
from manual import Form, Manual

from pyflanneld import cli
from pyflanneld.commands.catalogue import COMMANDS, Command
from pyflanneld.config.settings import FLAGS


def test_every_sub_command_has_an_entry() -> None:
    """What can be run is in the catalogue, with a summary of one line."""
    assert set(cli.sub_commands()) == {command.name for command in COMMANDS}
    for command in COMMANDS:
        assert command.summary, command.name
        assert "\n" not in command.summary
        assert not command.summary.endswith(".")


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command.name)
def test_every_manual_is_complete(command: Command) -> None:
    """A head, at least one form that begins with the command, and a text for each flag."""
    manual = Manual.of_command(command)
    assert manual.head
    assert manual.forms
    assert all(form.text.startswith(f"pyflanneld {command.name}") for form in manual.forms)
    assert [flag.name for flag in manual.flags if not flag.text] == []


def test_the_help_names_every_sub_command(capsys: pytest.CaptureFixture[str]) -> None:
    """``--help`` has a line for each, within 100 columns."""
    with pytest.raises(SystemExit):
        cli.main(["--help"])
    text = capsys.readouterr().out
    for command in COMMANDS:
        assert f"  pyflanneld {command.name} " in text
        assert command.summary in text
    assert max(map(len, text.splitlines())) <= 110


def test_the_fixed_words_come_from_the_forms() -> None:
    """Optional, alternative and missing words are told apart from arguments and flags."""
    text = "x y: z.\n\nUsage: x y [list] [flags]\n       x y put|get KEY\n       x y [flags]  all\n"
    manual = Manual.of_text(text, ())
    assert manual.words == ("list", "put", "get")
    assert manual.forms[2] == Form("x y [flags]", "all")


def test_the_catalogue_loads_no_command() -> None:
    """Knowing the names costs no import of what is behind them: ``pyflanneld --help`` stays quick."""
    code = "import sys, pyflanneld.cli; print(*sorted(m for m in sys.modules if m.startswith('pyflanneld.')))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    loaded = set(done.stdout.split())
    assert loaded <= {
        "pyflanneld.cli", "pyflanneld.commands", "pyflanneld.commands.catalogue", "pyflanneld.core",
        "pyflanneld.core.printable", "pyflanneld.errors",
    }  # fmt: skip


def test_choices_are_what_the_settings_take() -> None:
    """Each listed value is accepted, and another one refused."""
    from pyflanneld.config.load import load
    from pyflanneld.errors import UsageError

    listed = [flag for flag in FLAGS if flag.choices]
    assert {flag.name for flag in listed} >= {"etcd-api", "log-format"}
    for flag in listed:
        for choice in flag.choices:
            load([f"--{flag.name}={choice}"], {})
        with pytest.raises(UsageError):
            load([f"--{flag.name}=no-such-thing"], {})
