"""The documentation says what the code does, where that can be compared."""

import re
from pathlib import Path

import manpage
import pytest

import docs
from pyflanneld.commands.catalogue import COMMANDS
from pyflanneld.config.settings import FLAGS
from pyflanneld.config.usage import default_text

ROOT = Path(__file__).parents[2]


def test_what_is_made_is_up_to_date() -> None:
    """Flag table, man page and completion scripts are what the declarations of flags and commands make now."""
    made = docs.generated()
    assert len(made) == 5
    assert [path.name for path, text in made.items() if path.read_text("utf-8") != text] == [], 'run "make docs"'


def test_the_flag_table_has_one_row_for_each_flag() -> None:
    """It has a heading and one row per flag, with pipes escaped."""
    rows = docs.flag_table().splitlines()
    assert len(rows) == 2 + len(FLAGS)
    assert "| `--healthz-port=PORT` | `FLANNELD_HEALTHZ_PORT` | `2401` | Port of /healthz" in docs.flag_table()
    assert r"| `--iface=NAME\|IP` | `FLANNELD_IFACE` |  | Interface" in docs.flag_table()
    assert rows[-1] == "| `--help` |  |  | Print this text and exit. |"


def test_the_man_page_names_every_flag_and_command() -> None:
    """Each flag that ``--help`` lists, each sub-command, and each exit code of the error tree."""
    page = manpage.page().replace("\\-", "-")
    missing = [flag.name for flag in FLAGS if f"\n.B -{'-' * (len(flag.name) > 1)}{flag.name}" not in page]
    missing += [command.name for command in COMMANDS if f".SS {command.name}\n" not in page]
    assert missing == []
    assert {"1", "2", "73", "75"} <= set(re.findall(r"^\.B (\d+)$", page, re.MULTILINE))


def test_roff_shows_text_as_it_is() -> None:
    """A backslash, a hyphen, and a line that looks like a request come out as they went in."""
    assert manpage.roff_escaped(r".so \n-x") == r"\&.so \en\-x"


def test_the_readme_shows_ten_flags_with_their_defaults() -> None:
    """Each row of README.md's table of flags names a flag that exists, with its default if there is one."""
    rows = re.findall(r"^\| `--?([a-z-]+)` \| (.*?) ?\|", (ROOT / "README.md").read_text("utf-8"), re.MULTILINE)
    defaults = {flag.name: default_text(flag) for flag in FLAGS}
    assert [(name, default.strip("`")) for name, default in rows] == [(name, defaults[name]) for name, _ in rows]
    assert len(rows) == 10


@pytest.mark.parametrize("page", ["walkthrough.md", "walkthrough.zh.md"])
@pytest.mark.parametrize(("file", "comment"), [("flanneld.sh", "# "), ("flanneld.ini", ";")])
def test_the_walkthrough_shows_the_shipped_files(page: str, file: str, comment: str) -> None:
    """Start script and program section stand in both languages' pages as they are shipped, without the comments."""
    lines = (ROOT / "supervisor" / file).read_text("utf-8").splitlines()
    shown = "\n".join(line for line in lines if not line.startswith(comment))
    assert f"```\n{shown}\n```\n" in (ROOT / "docs" / page).read_text("utf-8")


def test_both_languages_of_the_walkthrough_show_the_same_commands() -> None:
    """Each code block of one page is in the other, in the same order."""
    pages = [(ROOT / "docs" / name).read_text("utf-8") for name in ("walkthrough.md", "walkthrough.zh.md")]
    english, chinese = (re.findall(r"^```\n(.*?)^```$", page, re.DOTALL | re.MULTILINE) for page in pages)
    assert english == chinese
