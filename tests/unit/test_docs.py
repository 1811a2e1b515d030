"""The documentation says what the code does, where that can be compared."""

import re
from pathlib import Path

from pyflanneld.flaghelp import default_text
from pyflanneld.options import FLAGS
from pyflanneld.settings import flag_table_markdown

ROOT = Path(__file__).parents[2]


def test_the_flag_table_is_the_generated_one() -> None:
    """docs/configuration.md holds, between its marks, exactly what ``settings.flag_table_markdown`` returns."""
    text = (ROOT / "docs" / "configuration.md").read_text("utf-8")
    block = re.search(r"<!-- flags -->\n(.*?)\n*<!-- /flags -->", text, re.DOTALL)
    assert block is not None, "the marks <!-- flags --> and <!-- /flags --> are missing"
    assert block[1].strip() + "\n" == flag_table_markdown(), "put there what flag_table_markdown() returns now"


def test_the_readme_names_each_flag_with_its_default() -> None:
    """README.md has a table row for each flag, with its default if there is one."""
    rows = [row for row in (ROOT / "README.md").read_text("utf-8").splitlines() if row.startswith("|")]
    missing = []
    for flag in FLAGS:
        own = [row for row in rows if re.search(rf"`--?{re.escape(flag.name)}[`= ]", row)]
        if not own or (flag.from_env and default_text(flag) not in own[0]):
            missing.append(flag.name)
    assert missing == []
