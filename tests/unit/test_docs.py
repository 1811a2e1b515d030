"""The documentation says what the code does, where that can be compared."""

import re
from pathlib import Path

import pytest

from pyflanneld.commands import manpage
from pyflanneld.commands.catalogue import COMMANDS
from pyflanneld.config.flags import FLAGS
from pyflanneld.config.settings import flag_table_markdown
from pyflanneld.config.usage import default_text

ROOT = Path(__file__).parents[2]


def test_the_flag_table_is_the_generated_one() -> None:
    """docs/configuration.md holds, between its marks, exactly what ``settings.flag_table_markdown`` returns."""
    text = (ROOT / "docs" / "configuration.md").read_text("utf-8")
    block = re.search(r"<!-- flags -->\n(.*?)\n*<!-- /flags -->", text, re.DOTALL)
    assert block is not None, "the marks <!-- flags --> and <!-- /flags --> are missing"
    assert block[1].strip() + "\n" == flag_table_markdown(), "put there what flag_table_markdown() returns now"


def test_the_man_page_is_the_generated_one() -> None:
    """docs/pyflanneld.8 is what the declarations of flags and sub-commands make now."""
    written = (ROOT / "docs" / "pyflanneld.8").read_text("utf-8")
    assert written == manpage.page(), '"make docs" writes it'


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
